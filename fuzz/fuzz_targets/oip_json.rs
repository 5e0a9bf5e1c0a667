//! The JSON of an infer request over REST, up to the requests for the captioner.

#![no_main]

use blip_serve::server::fuzzing::infer;
use blip_serve_fuzz::verdict;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| verdict::many(&infer(None, Bytes::copy_from_slice(body))));
