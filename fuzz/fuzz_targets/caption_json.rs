//! The bodies of one image, after a letter: `c` the JSON of `/v1/captions`, `g` that of `generate`, `f` a form whose boundary is
//! `x`, `b` base64.

#![no_main]

use base64::{Engine, engine::general_purpose::STANDARD};
use blip_serve::server::fuzzing::{base64, captions, captions_form, generate};
use blip_serve_fuzz::verdict;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match bytes {
        [b'g', rest @ ..] => verdict::one(&generate(rest)),
        [b'f', rest @ ..] => verdict::one(&captions_form("x", Bytes::copy_from_slice(rest))),
        [b'b', rest @ ..] => {
            // What is decoded is decoded from any encoder's text, too.
            if let Some(decoded) = base64(rest) {
                assert_eq!(base64(STANDARD.encode(&decoded).as_bytes()), Some(decoded));
            }
        }
        [_, rest @ ..] => verdict::one(&captions(rest)),
        [] => {}
    }
});
