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
    /// The name in the catalogue.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}

/// One model of the catalogue.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelEntry {
    /// Name of the model in URLs and requests.
    pub name: String,
    /// Folder of the bundle.
    pub path: PathBuf,
    /// Version, a positive integer, as Triton's clients expect.
    #[serde(default = "default_version")]
    pub version: String,
    /// Other names of the model.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Execution providers in order of preference; the next is tried if one is not available.
    #[serde(default = "default_execution_providers")]
    pub execution_providers: Vec<ExecutionProvider>,
    /// Index of the GPU.
    #[serde(default)]
    pub device_id: u32,
    /// Maximum GPU memory of ONNX Runtime in bytes; no limit if not set.
    #[serde(default)]
    pub gpu_mem_limit: Option<u64>,
    /// Number of engine instances. Each has one thread, its sessions and its batch.
    #[serde(default = "default_instances")]
    pub instances: usize,
    /// Threads of one run of a graph; 0 means one per core, divided among the instances.
    #[serde(default)]
    pub threads: usize,
    /// Maximum number of rows (images x beams) in one decoder step.
    #[serde(default = "default_max_rows")]
    pub max_rows: usize,
    /// Maximum number of images in one run of the encoder. With the default of 1 each image is encoded alone.
    #[serde(default = "default_max_batch_size")]
    pub max_batch_size: usize,
    /// Seconds that an idle engine waits for further images to fill a batch of the encoder.
    #[serde(default)]
    pub max_batch_delay: f64,
    /// Size of the cache of captions in bytes; 0 disables it.
    #[serde(default = "default_caption_cache_bytes")]
    pub caption_cache_bytes: u64,
    /// Size of the cache of encoded images in bytes, which serves other prompts on the same image; 0 disables it.
    #[serde(default = "default_image_cache_bytes")]
    pub image_cache_bytes: u64,
    /// Whether equal concurrent requests are computed once.
    #[serde(default = "default_single_flight")]
    pub single_flight: bool,
    /// Defaults of generation parameters; those that are not set come from the bundle's manifest.
    #[serde(default)]
    pub generation: GenerationParameters,
}

impl ModelEntry {
    /// Whether `name` is the model's name or an alias.
    pub fn is_called(&self, name: &str) -> bool {
        self.names().any(|known| known == name)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.name).chain(&self.aliases).map(String::as_str)
    }

    /// Checks the values.
    ///
    /// # Errors
    /// The first key that is not valid, and why.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        if let Some(name) = self.names().find(|name| !is_path_segment(name)) {
            return Err((
                "name",
                format!("must be 1 to 128 characters without white space and / ? # %, and not 'stats', got '{name}'"),
            ));
        }
        if self.version.parse::<u32>().ok().is_none_or(|version| version == 0) {
            return Err(("version", format!("must be a positive integer, got '{}'", self.version)));
        }
        if self.execution_providers.is_empty() {
            return Err(("execution_providers", "must name at least one of \"cuda\", \"cpu\"".into()));
        }
        if !(1..=1024).contains(&self.max_rows) {
            return Err(("max_rows", format!("must be between 1 and 1024, got {}", self.max_rows)));
        }
        if !(1..=64).contains(&self.max_batch_size) {
            return Err(("max_batch_size", format!("must be between 1 and 64, got {}", self.max_batch_size)));
        }
        if !(0.0..=1.0).contains(&self.max_batch_delay) {
            return Err(("max_batch_delay", format!("must be between 0 and 1 second, got {}", self.max_batch_delay)));
        }
        if !(1..=64).contains(&self.instances) {
            return Err(("instances", format!("must be between 1 and 64, got {}", self.instances)));
        }
        if self.threads > 1024 {
            return Err(("threads", format!("must be at most 1024, got {}", self.threads)));
        }
        Ok(())
    }

    /// An entry with the defaults for a bundle's folder.
    pub fn from_folder(folder: &Path) -> Self {
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

/// Whether a name can be a segment of `/v2/models/{name}`, where `stats` is taken.
fn is_path_segment(name: &str) -> bool {
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
