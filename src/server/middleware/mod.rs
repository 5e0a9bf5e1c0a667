//! The layers that every request of both transports passes.

pub(crate) mod admission;
pub(crate) mod auth;
pub(crate) mod body;
pub(crate) mod compression;
pub(crate) mod context;
pub(crate) mod cors;
pub(crate) mod deadline;
pub(crate) mod layer_state;
pub(crate) mod layers;
pub(crate) mod request_log;
pub(crate) mod request_record;
