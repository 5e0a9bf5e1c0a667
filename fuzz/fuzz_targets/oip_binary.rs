//! An infer request over REST with binary tensors behind its JSON.
//!
//! A NUL, which JSON never holds, stands between the two, and the header says where; without one, the first line is the
//! header. After a leading `s` a generated request must mean the same as JSON alone.

#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use blip_serve::server::fuzzing::infer;
use blip_serve_fuzz::{bytes_of, request::Request, verdict};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let [b's', bytes @ ..] = bytes {
        if let Ok(request) = Request::arbitrary_take_rest(Unstructured::new(bytes)) {
            same(&request);
        }
        return;
    }
    let split = |separator: u8| {
        let at = bytes.iter().position(|byte| *byte == separator)?;
        Some((&bytes[..at], &bytes[at + 1..]))
    };
    let (header, body) = if let Some((json, blobs)) = split(0) {
        (json.len().to_string().into_bytes(), [json, blobs].concat())
    } else {
        let (header, body) = split(b'\n').unwrap_or((bytes, b""));
        (header.to_vec(), body.to_vec())
    };
    verdict::many(&infer(Some(&header), body.into()));
});

fn same(request: &Request) {
    let (length, body) = bytes_of::binary(request);
    let binary = infer(Some(length.to_string().as_bytes()), body.into());
    verdict::many(&binary);
    verdict::alike(&[binary, infer(None, Bytes::from(bytes_of::json(request)))]);
}
