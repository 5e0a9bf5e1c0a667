//! Keys and values of the attention layers: of each image (cross-attention) and of each row (self-attention).

pub(crate) mod cache;
pub(crate) mod cross_attention;
pub(crate) mod device;
pub(crate) mod self_attention;
pub(crate) mod shape;
