//! The layers that every request of both transports passes; [`stack`] is their order.

pub(crate) mod admission;
pub(crate) mod auth;
pub(crate) mod body;
pub(crate) mod capacity;
pub(crate) mod compression;
pub(crate) mod context;
pub(crate) mod cors;
pub(crate) mod deadline;
pub(crate) mod layer_state;
pub(crate) mod request_log;
pub(crate) mod stack;
