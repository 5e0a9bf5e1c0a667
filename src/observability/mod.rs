//! What the process reports about itself: metrics and statistics, logs on stderr, traces.

mod collector;
mod logs;
pub mod prometheus;
mod recorder;
mod traces;
mod triton_statistics;

pub use collector::Collector;
pub(crate) use logs::print_status;
pub use logs::{ObservabilityError, Verbosity, init, init_service};
pub use prometheus::Stage;
pub use recorder::{InstanceLoad, ModelRecorder, RequestTimer};
pub(crate) use traces::{Attribute, RequestEnd, begin_request, end_request, record_stage, stage};
pub use triton_statistics::{DecoderRun, DecoderRuns, Total, TritonStatistics};
