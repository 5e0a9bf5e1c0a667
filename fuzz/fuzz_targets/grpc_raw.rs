//! Messages of gRPC, after a letter: `m` `ModelInferRequest`, `c` `blip.v1.CaptionRequest`, `s` a generated request that
//! must mean the same as JSON.

#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use blip_serve::server::fuzzing::{caption, infer, model_infer};
use blip_serve_fuzz::{bytes_of, request::Request, verdict};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match bytes {
        [b's', rest @ ..] => {
            if let Ok(request) = Request::arbitrary_take_rest(Unstructured::new(rest)) {
                same(&request);
            }
        }
        [b'c', rest @ ..] => {
            if let Some(outcome) = caption(Bytes::copy_from_slice(rest)) {
                verdict::one(&outcome);
            }
        }
        [_, rest @ ..] => {
            if let Some(outcome) = model_infer(Bytes::copy_from_slice(rest)) {
                verdict::many(&outcome);
            }
        }
        [] => {}
    }
});

fn same(request: &Request) {
    let grpc = model_infer(bytes_of::message(request).into()).expect("a message");
    verdict::many(&grpc);
    verdict::alike(&[grpc, infer(None, bytes_of::json(request).into())]);
}
