//! The server as its clients see it: real sockets, a real model, an image server of our own.
//!
//! Captions themselves are compared with the oracle elsewhere; here a caption only has to be the same over every surface.

mod fetch;
mod grpc;
mod infer;
mod layering;
mod limits;
mod rest;
mod shutdown;
mod support;
