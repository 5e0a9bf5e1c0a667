//! What the process reports about itself: metrics and statistics, logs on stderr, traces.

mod collector;
mod logs;
pub mod prometheus;
mod recorder;
mod traces;
mod triton_statistics;

pub use collector::{Collector, TraceConfig};
pub use logs::*;
pub use prometheus::Stage;
pub use recorder::{InstanceLoad, ModelRecorder, RequestTimer};
pub(crate) use traces::{Attribute, begin_request, end_request, record_stage, stage};
pub use triton_statistics::{DecoderRun, DecoderRuns, Total, TritonStatistics};
