//! What the handlers of REST and gRPC share.

pub(crate) mod inference;
pub(crate) mod model_control;
