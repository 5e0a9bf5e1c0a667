//! `models.toml`: which models are served, and how.
//!
//! Unknown keys and bad values fail the start and name the key. Paths are relative to the file.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use thiserror::Error;

use crate::generation::GenerationParameters;

/// Why the catalogue cannot be used.
#[derive(Debug, Error)]
pub enum CatalogueError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong type.
    #[error("{path}: line {number} (`{line}`): {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where, from 1.
        number: usize,
        /// What stands there: the parser does not name the key of a value of the wrong type.
        line: String,
        /// What is wrong.
        reason: String,
    },
    /// A value that makes no sense.
    #[error("{path}: {key}: {reason}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// e.g. `models[0].name`.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// `--model` names no model of the catalogue and no folder.
    #[error("--model {0}: no model of this name in the catalogue, and no bundle folder")]
    UnknownModel(String),
}

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

/// The catalogue.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// Name of the model that requests without one get.
    pub default: String,
    /// At least one.
    pub models: Vec<ModelEntry>,
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
    /// Threads of a run; 0: as many as cores.
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

impl Catalogue {
    /// Reads and checks `models.toml`; paths of the entries become relative to where the process runs.
    ///
    /// # Errors
    /// Everything that is wrong with the file, with the key.
    pub fn load(path: &Path) -> Result<Self, CatalogueError> {
        let text = fs::read_to_string(path)
            .map_err(|source| CatalogueError::Unreadable { path: path.to_path_buf(), source })?;
        let mut catalogue = Self::parse(&text, path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for entry in &mut catalogue.models {
            entry.path = folder.join(&entry.path);
        }
        Ok(catalogue)
    }

    /// Reads and checks the text of `models.toml`; `path` is for the errors.
    ///
    /// # Errors
    /// Everything that is wrong with the text, with the key.
    pub fn parse(text: &str, path: &Path) -> Result<Self, CatalogueError> {
        let catalogue: Self = toml::from_str(text).map_err(|error| malformed(path, text, &error))?;
        catalogue.check().map_err(|(key, reason)| CatalogueError::Invalid { path: path.to_path_buf(), key, reason })?;
        Ok(catalogue)
    }

    /// The entry that `--model` means: the default, a name or alias, or a bundle's folder.
    ///
    /// # Errors
    /// There is none.
    pub fn select(catalogue_path: &Path, model: Option<&str>) -> Result<ModelEntry, CatalogueError> {
        if let Some(folder) = model.filter(|model| Path::new(model).join("manifest.json").is_file()) {
            return Ok(ModelEntry::of_folder(Path::new(folder)));
        }
        let catalogue = Self::load(catalogue_path)?;
        let name = model.unwrap_or(&catalogue.default);
        catalogue
            .models
            .iter()
            .find(|entry| entry.is_called(name))
            .cloned()
            .ok_or_else(|| CatalogueError::UnknownModel(name.into()))
    }

    fn check(&self) -> Result<(), (String, String)> {
        let mut names = HashSet::new();
        for (index, entry) in self.models.iter().enumerate() {
            let at = |key: &str| format!("models[{index}].{key}");
            for name in std::iter::once(&entry.name).chain(&entry.aliases) {
                if name.is_empty()
                    // A route of the server: /v2/models/stats.
                    || name == "stats"
                    || name.len() > 128
                    || name.contains(['/', '?', '#', '%'])
                    || name.contains(char::is_whitespace)
                {
                    return Err((at("name"), format!("'{name}' cannot be part of a URL")));
                }
                if !names.insert(name) {
                    return Err((at("name"), format!("'{name}' is taken by another model or alias")));
                }
            }
            if entry.version.parse::<u32>().ok().is_none_or(|version| version == 0) {
                return Err((at("version"), format!("'{}' is not a positive integer", entry.version)));
            }
            if entry.execution_providers.is_empty() {
                return Err((at("execution_providers"), "must name at least one of \"cuda\", \"cpu\"".into()));
            }
            if !(1..=1024).contains(&entry.max_rows) {
                return Err((at("max_rows"), format!("{} is not between 1 and 1024", entry.max_rows)));
            }
            if !(1..=64).contains(&entry.max_batch_size) {
                return Err((at("max_batch_size"), format!("{} is not between 1 and 64", entry.max_batch_size)));
            }
            if !(0.0..=1.0).contains(&entry.max_batch_delay) {
                return Err((
                    at("max_batch_delay"),
                    format!("{} is not between 0 and 1 second", entry.max_batch_delay),
                ));
            }
            if entry.threads > 1024 {
                return Err((at("threads"), format!("{} is more than 1024", entry.threads)));
            }
        }
        if !self.models.iter().any(|entry| entry.name == self.default) {
            return Err(("default".into(), format!("no model is called '{}'", self.default)));
        }
        Ok(())
    }
}

impl ModelEntry {
    /// Whether this is its name or an alias.
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.aliases.iter().any(|alias| alias == name)
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

fn malformed(path: &Path, text: &str, error: &toml::de::Error) -> CatalogueError {
    let before = text.get(..error.span().map_or(0, |span| span.start)).unwrap_or("");
    let index = before.matches('\n').count();
    CatalogueError::Malformed {
        path: path.to_path_buf(),
        number: index + 1,
        line: text.lines().nth(index).unwrap_or("").trim().chars().take(80).collect(),
        reason: error.message().replace('\n', " "),
    }
}

fn default_version() -> String {
    "1".into()
}

fn default_execution_providers() -> Vec<ExecutionProvider> {
    vec![ExecutionProvider::Cpu]
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

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        let catalogue: Result<Catalogue, _> = toml::from_str(text);
        match catalogue {
            Err(error) => error.to_string(),
            Ok(catalogue) => {
                catalogue.check().map_or_else(|(key, reason)| format!("{key}: {reason}"), |()| String::new())
            }
        }
    }

    #[test]
    fn names_the_key_that_is_wrong() {
        let ok = "default = \"a\"\n[[models]]\nname = \"a\"\npath = \"p\"\n";
        assert_eq!(problem(ok), "");
        assert!(problem(&format!("{ok}thread = 2\n")).contains("thread"));
        assert!(problem(&format!("{ok}max_rows = 0\n")).contains("models[0].max_rows"));
        assert!(problem(&format!("{ok}version = \"x\"\n")).contains("models[0].version"));
        assert!(problem(&format!("{ok}execution_providers = [\"rocm\"]\n")).contains("rocm"));
        assert!(problem(&format!("{ok}aliases = [\"a\"]\n")).contains("taken"));
        assert!(problem(&ok.replace("default = \"a\"", "default = \"b\"")).contains("default"));
        assert!(problem(&format!("{ok}[models.generation]\nnum_beam = 3\n")).contains("num_beam"));
    }
}
