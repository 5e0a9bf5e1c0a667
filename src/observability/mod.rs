//! What the process reports about itself: statistics and Prometheus metrics of its work, logs on stderr, traces.

mod collector;
mod logs;
pub mod prometheus;
pub mod statistics;
mod traces;

pub use collector::{Collector, TraceConfig};
pub use logs::*;
pub(crate) use traces::{Attribute, begin_request, end_request, record_stage, stage};
