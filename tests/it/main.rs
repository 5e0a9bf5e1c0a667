//! The server as its clients see it: real sockets, a real model and an image server in the test process.
//!
//! Captions themselves are compared with the oracle elsewhere; here a caption only has to be the same over every surface.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a helper that fails, fails its test")]

mod blip;
mod fetch;
mod grpc;
mod infer;
mod layering;
mod limits;
mod playground;
mod rest;
mod services;
mod shutdown;
mod streaming;
mod support;
