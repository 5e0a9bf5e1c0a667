//! Searches with random parameters over random logits.

#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use blip_serve_fuzz::{search::Case, watch};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(case) = Case::arbitrary_take_rest(Unstructured::new(bytes)) {
        watch::run(&case);
    }
});
