//! One model of the catalogue, and how it is served.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use generation::GenerationParameters;

/// Where a session runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExecutionProvider {
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU; needs the library of the onnxruntime-gpu wheel.
    Cuda,
}

impl ExecutionProvider {
    /// As in the catalogue.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}

/// One model.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelEntry {
    /// Name in URLs and requests.
    pub name: String,
    /// The bundle's folder.
    pub path: PathBuf,
    /// A positive integer, as Triton's clients want it.
    #[serde(default = "default_version")]
    pub version: String,
    /// Other names it answers to.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// In order of preference; the next is tried if one is missing.
    #[serde(default = "default_execution_providers")]
    pub execution_providers: Vec<ExecutionProvider>,
    /// Which GPU.
    #[serde(default)]
    pub device_id: u32,
    /// Bytes of GPU memory ONNX Runtime may take; unset: no limit.
    #[serde(default)]
    pub gpu_mem_limit: Option<u64>,
    /// Engines side by side, each with sessions and a batch of its own.
    #[serde(default = "default_instances")]
    pub instances: usize,
    /// Threads of a run; 0: as many as cores, divided among the instances.
    #[serde(default)]
    pub threads: usize,
    /// Rows (images x beams) that one decoder step takes at most.
    #[serde(default = "default_max_rows")]
    pub max_rows: usize,
    /// Images that one run of the encoder takes at most.
    #[serde(default = "default_max_batch_size")]
    pub max_batch_size: usize,
    /// Seconds that an idle encoder waits for more images than one.
    #[serde(default)]
    pub max_batch_delay: f64,
    /// Bytes of captions that are kept for equal requests; 0: none.
    #[serde(default = "default_caption_cache_bytes")]
    pub caption_cache_bytes: u64,
    /// Bytes of encoded images that are kept for other prompts on them; 0: none.
    #[serde(default = "default_image_cache_bytes")]
    pub image_cache_bytes: u64,
    /// Whether equal requests at the same time are computed once.
    #[serde(default = "default_single_flight")]
    pub single_flight: bool,
    /// Generation defaults; what is unset comes from the bundle's manifest.
    #[serde(default)]
    pub generation: GenerationParameters,
}

impl ModelEntry {
    /// Whether this is its name or an alias.
    pub fn is_called(&self, name: &str) -> bool {
        self.names().any(|own| own == name)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.name).chain(&self.aliases).map(String::as_str)
    }

    /// The key that is wrong, and what is wrong with it.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        if let Some(name) = self.names().find(|name| !is_part_of_url(name)) {
            return Err(("name", format!("'{name}' cannot be part of a URL")));
        }
        if self.version.parse::<u32>().ok().is_none_or(|version| version == 0) {
            return Err(("version", format!("'{}' is not a positive integer", self.version)));
        }
        if self.execution_providers.is_empty() {
            return Err(("execution_providers", "must name at least one of \"cuda\", \"cpu\"".into()));
        }
        if !(1..=1024).contains(&self.max_rows) {
            return Err(("max_rows", format!("{} is not between 1 and 1024", self.max_rows)));
        }
        if !(1..=64).contains(&self.max_batch_size) {
            return Err(("max_batch_size", format!("{} is not between 1 and 64", self.max_batch_size)));
        }
        if !(0.0..=1.0).contains(&self.max_batch_delay) {
            return Err(("max_batch_delay", format!("{} is not between 0 and 1 second", self.max_batch_delay)));
        }
        if !(1..=64).contains(&self.instances) {
            return Err(("instances", format!("{} is not between 1 and 64", self.instances)));
        }
        if self.threads > 1024 {
            return Err(("threads", format!("{} is more than 1024", self.threads)));
        }
        Ok(())
    }

    /// A bundle's folder served as it is, on the CPU.
    pub fn of_folder(folder: &Path) -> Self {
        let name = folder.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned());
        Self {
            name,
            path: folder.to_path_buf(),
            version: default_version(),
            aliases: Vec::new(),
            execution_providers: default_execution_providers(),
            device_id: 0,
            gpu_mem_limit: None,
            instances: default_instances(),
            threads: 0,
            max_rows: default_max_rows(),
            max_batch_size: default_max_batch_size(),
            max_batch_delay: 0.0,
            caption_cache_bytes: default_caption_cache_bytes(),
            image_cache_bytes: default_image_cache_bytes(),
            single_flight: default_single_flight(),
            generation: GenerationParameters::default(),
        }
    }
}

/// As in `/v2/models/{name}`, beside `/v2/models/stats`.
fn is_part_of_url(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name != "stats"
        && !name.contains(['/', '?', '#', '%'])
        && !name.contains(char::is_whitespace)
}

fn default_version() -> String {
    "1".into()
}

fn default_execution_providers() -> Vec<ExecutionProvider> {
    vec![ExecutionProvider::Cpu]
}

fn default_instances() -> usize {
    1
}

fn default_max_rows() -> usize {
    16
}

fn default_max_batch_size() -> usize {
    1
}

fn default_caption_cache_bytes() -> u64 {
    16 << 20
}

fn default_image_cache_bytes() -> u64 {
    128 << 20
}

fn default_single_flight() -> bool {
    true
}
