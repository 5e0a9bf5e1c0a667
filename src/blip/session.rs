//! An ONNX Runtime session on the first configured execution provider that works.
//!
//! The graph must have exactly the expected inputs and outputs: names, element types and dimensions.

use std::path::{Path, PathBuf};

use ort::{
    ep::CUDA,
    memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType},
    session::{Session, builder::SessionBuilder},
    value::{Outlet, TensorElementType, ValueType},
};
use tracing::{info, warn};

use crate::blip::{
    kv::shape::KvShape,
    manifest::{BundleError, Manifest},
    runtime::Runtime,
};
use crate::config::catalogue::ExecutionProvider;

/// Settings for the sessions of a model.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Execution providers in order of preference.
    pub execution_providers: Vec<ExecutionProvider>,
    /// Index of the GPU.
    pub device_id: u32,
    /// Memory of the GPU in bytes; `None` means no limit.
    pub gpu_mem_limit: Option<u64>,
    /// Threads of one run; 0 means one per core.
    pub threads: usize,
    /// Whether the code for caches in a GPU's memory runs on the CPU, for its tests.
    pub caches_on_device: bool,
}

/// A tensor that the graph must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TensorSpec {
    pub(super) name: String,
    element: TensorElementType,
    /// Dimensions; -1 means any.
    shape: Vec<i64>,
}

impl TensorSpec {
    /// An f32 tensor; a dimension that varies is `None`.
    pub(super) fn f32(name: impl Into<String>, shape: impl IntoIterator<Item = Option<usize>>) -> Self {
        Self::new(name, TensorElementType::Float32, shape)
    }

    /// An i64 tensor; a dimension that varies is `None`.
    pub(super) fn i64(name: impl Into<String>, shape: impl IntoIterator<Item = Option<usize>>) -> Self {
        Self::new(name, TensorElementType::Int64, shape)
    }

    /// Cross-attention tensor `index` of any number of images.
    pub(super) fn cross_attention(name: impl Into<String>, shape: KvShape, index: usize) -> Self {
        let [_, heads, a, b] = shape.cross_attention(index, 0).map(Some);
        Self::f32(name, [None, heads, a, b])
    }

    fn new(
        name: impl Into<String>,
        element: TensorElementType,
        shape: impl IntoIterator<Item = Option<usize>>,
    ) -> Self {
        let shape = shape.into_iter().map(|dimension| dimension.map_or(-1, |size| size as i64)).collect();
        Self { name: name.into(), element, shape }
    }
}

/// A graph to load.
pub(super) struct Graph {
    pub(super) path: PathBuf,
    /// Identifies the contents of the graph and its weights.
    fingerprint: String,
}

impl Graph {
    pub(super) fn new(bundle: &Path, manifest: &Manifest, name: &str) -> Self {
        Self { path: bundle.join(name), fingerprint: manifest.fingerprint(name) }
    }
}

/// Loads a graph on the first execution provider that works, and checks its inputs and outputs.
pub(super) fn open(
    runtime: &Runtime,
    graph: Graph,
    config: &SessionConfig,
    inputs: &[TensorSpec],
    outputs: &[TensorSpec],
) -> Result<(Session, ExecutionProvider), BundleError> {
    let (session, provider) = commit(runtime, &graph, config)?;
    let path = graph.path;
    let problem =
        mismatch("input", session.inputs(), inputs).or_else(|| mismatch("output", session.outputs(), outputs));
    match problem {
        Some(reason) => Err(BundleError::Malformed { path, reason }),
        None => Ok((session, provider)),
    }
}

/// Tries the execution providers in order. The error is the last one's.
fn commit(
    runtime: &Runtime,
    graph: &Graph,
    config: &SessionConfig,
) -> Result<(Session, ExecutionProvider), BundleError> {
    let path = &graph.path;
    let mut failed = String::new();
    for (index, provider) in config.execution_providers.iter().enumerate() {
        match commit_on(*provider, runtime, graph, config) {
            Ok(session) => {
                info!(graph = %path.display(), ?provider, "session ready");
                return Ok((session, *provider));
            }
            Err(error) => {
                failed = match provider {
                    ExecutionProvider::Cpu => one_line(&error),
                    ExecutionProvider::Cuda => format!(
                        "execution provider \"cuda\" is not available (it needs an NVIDIA GPU and the library of the \
                         PyPI wheel onnxruntime-gpu 1.31.1): {}",
                        one_line(&error)
                    ),
                };
                if index + 1 < config.execution_providers.len() {
                    warn!(graph = %path.display(), reason = failed, "falling back to the next execution provider");
                }
            }
        }
    }
    Err(BundleError::Session { path: path.clone(), reason: failed })
}

fn commit_on(
    provider: ExecutionProvider,
    runtime: &Runtime,
    graph: &Graph,
    config: &SessionConfig,
) -> ort::Result<Session> {
    let builder = || new_builder(provider, runtime, config);
    match &runtime.graph_cache {
        // On a GPU the weights are copied to it anyway.
        Some(cache) if provider == ExecutionProvider::Cpu => cache.open(&graph.path, &graph.fingerprint, builder),
        _ => builder()?.commit_from_file(&graph.path),
    }
}

/// Makes a builder of sessions on this execution provider.
pub(super) fn new_builder(
    provider: ExecutionProvider,
    runtime: &Runtime,
    config: &SessionConfig,
) -> ort::Result<SessionBuilder> {
    let mut builder: SessionBuilder = Session::builder(&runtime.environment)?;
    if config.threads > 0 {
        builder = builder.with_intra_threads(config.threads)?;
    }
    // Encoder and decoder take turns on the same cores: an idle thread pool that spins would slow down the other.
    builder = builder.with_intra_op_spinning(false)?;
    // Without VNNI the fastest 8-bit kernels add in 16 bits, which can overflow; this selects exact kernels there.
    builder = builder.with_config_entry("session.x64quantprecision", "1")?;
    if provider == ExecutionProvider::Cuda {
        // TF32 rounds the inputs of matrix products to 10 bits: captions would differ from the CPU's.
        let mut cuda = CUDA::default().with_device_id(config.device_id as i32).with_tf32(false);
        if let Some(bytes) = config.gpu_mem_limit {
            cuda = cuda.with_memory_limit(bytes as usize);
        }
        builder = builder.with_execution_providers([cuda.build().error_on_failure()])?;
    }
    Ok(builder)
}

/// The memory that sessions on this execution provider work in.
pub(super) fn memory_info(provider: ExecutionProvider, config: &SessionConfig) -> ort::Result<MemoryInfo<'static>> {
    let (device, id) = match provider {
        ExecutionProvider::Cpu => (AllocationDevice::CPU, 0),
        ExecutionProvider::Cuda => (AllocationDevice::CUDA, config.device_id as i32),
    };
    MemoryInfo::new(device, id, AllocatorType::Device, MemoryType::Default)
}

fn mismatch(kind: &str, found: &[Outlet], expected: &[TensorSpec]) -> Option<String> {
    for want in expected {
        let Some(outlet) = found.iter().find(|outlet| outlet.name() == want.name) else {
            return Some(format!("the graph lacks the {kind} {}", want.name));
        };
        let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
            return Some(format!("{kind} {} is not a tensor", want.name));
        };
        let fits = |(found, want): (&i64, &i64)| *want == -1 || found == want;
        if *ty != want.element || shape.len() != want.shape.len() || !shape.iter().zip(&want.shape).all(fits) {
            let shape: &[i64] = shape;
            return Some(format!("{kind} {} is {ty} {shape:?}, must be {} {:?}", want.name, want.element, want.shape));
        }
    }
    let known = |outlet: &&Outlet| !expected.iter().any(|want| want.name == outlet.name());
    found.iter().find(known).map(|outlet| format!("the graph has an unknown {kind} {}", outlet.name()))
}

fn one_line(error: &ort::Error) -> String {
    error.to_string().replace('\n', " ")
}
