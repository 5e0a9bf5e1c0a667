//! `manifest.json`: everything about a model that is not a tensor.
//!
//! `scripts/export_onnx.py` writes it. No size, token id or rule of a model is a literal in Rust: it is read here. Every
//! file of the bundle is compared with its checksum before it is used.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::{Component, Path, PathBuf},
};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::blip::digest::{digest, hex};
use generation::{GenerationParameters, TokenId};
use image_processor::PreprocessConfig;

const FILE_NAME: &str = "manifest.json";
/// Larger than any manifest, so that a wrong file cannot fill the memory.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;
/// The only format that this version of the service reads.
const FORMAT_VERSION: u32 = 2;
/// Larger than any size of a model, so that products of sizes do not overflow.
const MAX_SIZE: usize = 1 << 24;

/// Why a bundle cannot be used. Each text names the file.
#[derive(Debug, Error)]
pub enum BundleError {
    /// A file is missing or cannot be read.
    #[error("bundle {path}: {source}; export it again with scripts/export_onnx.py")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The manifest is not what the exporter writes.
    #[error("bundle {path}: {reason}; export it again with scripts/export_onnx.py")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file differs from the one that was exported.
    #[error(
        "bundle {path}: the checksum differs from the manifest's; the file is damaged or was changed, export or copy it again"
    )]
    Checksum {
        /// The file.
        path: PathBuf,
    },
    /// ONNX Runtime refuses the graph, or an execution provider does not work.
    #[error("bundle {path}: {reason}")]
    Session {
        /// The graph.
        path: PathBuf,
        /// ONNX Runtime's error text, in one line.
        reason: String,
    },
}

/// A bundle's manifest.
#[derive(Clone, Debug, Deserialize)]
pub struct Manifest {
    format_version: u32,
    model_type: String,
    /// How the graphs compute: `fp32`, `fp16` or `int8`.
    pub precision: String,
    /// The checkpoint that was exported.
    pub source: Source,
    /// Sizes of the vision encoder.
    pub vision: Vision,
    /// Sizes and token ids of the text decoder.
    pub text: Text,
    /// How a prompt's ids become the decoder's.
    pub prompt: Prompt,
    /// How an image becomes `pixel_values`.
    pub preprocessor: PreprocessConfig,
    /// How ids become text.
    pub tokenizer: TokenizerRules,
    /// Generation defaults of the checkpoint.
    #[serde(default)]
    pub generation: GenerationParameters,
    files: BTreeMap<String, FileEntry>,
}

/// The checkpoint that was exported.
#[derive(Clone, Debug, Deserialize)]
pub struct Source {
    /// Hub id or folder of the checkpoint.
    pub model: String,
    /// Commit of the checkpoint on the hub.
    pub revision: Option<String>,
}

/// Sizes of the vision encoder.
#[derive(Clone, Debug, Deserialize)]
pub struct Vision {
    /// Vectors that cross-attention reads: patches + 1.
    pub num_tokens: usize,
}

/// Sizes and token ids of the text decoder.
#[derive(Clone, Debug, Deserialize)]
pub struct Text {
    /// Width of a row of logits.
    pub vocab_size: usize,
    /// Number of layers of the decoder.
    pub num_hidden_layers: usize,
    /// Number of attention heads of a layer.
    pub num_attention_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Longest sequence that the decoder takes, in positions.
    pub max_position_embeddings: usize,
    /// The first id of every sequence.
    pub bos_token_id: TokenId,
    /// The id that ends a sequence.
    pub eos_token_id: TokenId,
    /// The id that fills up a sequence.
    pub pad_token_id: TokenId,
}

/// How a prompt's ids become the decoder's.
#[derive(Clone, Debug, Deserialize)]
pub struct Prompt {
    /// The id that replaces the tokenizer's first (`[CLS]`).
    pub replace_first_with: TokenId,
    /// Whether the tokenizer's last id (`[SEP]`) is dropped.
    pub drop_last: bool,
}

/// How ids become text.
#[derive(Clone, Debug, Deserialize)]
pub struct TokenizerRules {
    /// The checkpoint's `clean_up_tokenization_spaces`.
    pub clean_up_tokenization_spaces: bool,
}

#[derive(Clone, Debug, Deserialize)]
struct FileEntry {
    sha256: String,
    bytes: u64,
}

impl Manifest {
    /// Reads and checks only the manifest, not the files that it lists.
    ///
    /// # Errors
    /// The manifest is missing, malformed, or of another format.
    pub fn load(bundle: &Path) -> Result<Self, BundleError> {
        let path = bundle.join(FILE_NAME);
        let unreadable = |source| BundleError::Unreadable { path: path.clone(), source };
        let mut text = String::new();
        File::open(&path)
            .map_err(unreadable)?
            .take(MAX_MANIFEST_BYTES)
            .read_to_string(&mut text)
            .map_err(unreadable)?;
        Self::parse(&text).map_err(|reason| BundleError::Malformed { path, reason })
    }

    /// Reads and checks the text of a manifest.
    ///
    /// # Errors
    /// The text is malformed, or a value is out of range; the error says which.
    pub fn parse(text: &str) -> Result<Self, String> {
        let manifest: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Compares every file of the bundle with its checksum.
    ///
    /// # Errors
    /// A file is missing or differs; the error names the first.
    pub fn verify_files(&self, bundle: &Path) -> Result<(), BundleError> {
        self.compare_files(bundle).try_for_each(|(_, result)| result)
    }

    /// Compares each file of the bundle, by name, with its checksum.
    pub fn compare_files(&self, bundle: &Path) -> impl Iterator<Item = (&str, Result<(), BundleError>)> {
        self.files.iter().map(|(name, entry)| (name.as_str(), entry.compare(bundle.join(name))))
    }

    /// Identifies the bundle by its files: equal files give equal ids, wherever they were exported.
    pub fn id(&self) -> String {
        let mut hash = Sha256::new();
        for (name, entry) in &self.files {
            hash.update(format!("{name} {}\n", entry.sha256));
        }
        hex(&hash.finalize()[..6])
    }

    /// Names of the files, relative to the bundle, without the manifest itself.
    pub fn file_names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Size of all files in bytes.
    pub fn size(&self) -> u64 {
        self.files.values().map(|entry| entry.bytes).sum()
    }

    /// Identifies the contents of a graph and of its weights; `graph` is the file's name.
    pub(super) fn fingerprint(&self, graph: &str) -> String {
        let checksum = |name: &str| self.files.get(name).map_or("", |entry| entry.sha256.as_str());
        format!("{} {}", checksum(graph), checksum(&format!("{graph}.data")))
    }

    fn check(&self) -> Result<(), String> {
        if self.format_version != FORMAT_VERSION {
            return Err(format!("format_version: must be {FORMAT_VERSION}, got {}", self.format_version));
        }
        if self.model_type != "blip" {
            return Err(format!("model_type: must be 'blip', got '{}'", self.model_type));
        }
        let text = &self.text;
        let sizes = [
            ("vision.num_tokens", self.vision.num_tokens),
            ("text.vocab_size", text.vocab_size),
            ("text.num_hidden_layers", text.num_hidden_layers),
            ("text.num_attention_heads", text.num_attention_heads),
            ("text.head_dim", text.head_dim),
            ("text.max_position_embeddings", text.max_position_embeddings),
        ];
        if let Some((name, size)) = sizes.into_iter().find(|(_, size)| !(1..=MAX_SIZE).contains(size)) {
            return Err(format!("{name}: must be between 1 and {MAX_SIZE}, got {size}"));
        }
        let ids = [text.bos_token_id, text.eos_token_id, text.pad_token_id, self.prompt.replace_first_with];
        if let Some(id) = ids.into_iter().find(|id| *id as usize >= text.vocab_size) {
            return Err(format!("token ids must be below text.vocab_size, got {id}"));
        }
        for name in ["vision_encoder.onnx", "text_decoder.onnx", "tokenizer.json"] {
            if !self.files.contains_key(name) {
                return Err(format!("files: must list {name}"));
            }
        }
        // A manifest must not make the service read files outside its folder.
        let inside = |name: &str| Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        match self.files.keys().find(|name| name.is_empty() || !inside(name)) {
            Some(name) => Err(format!("files: must lie inside the bundle, got '{name}'")),
            None => Ok(()),
        }
    }
}

impl FileEntry {
    fn compare(&self, path: PathBuf) -> Result<(), BundleError> {
        match digest(&path) {
            Err(source) => Err(BundleError::Unreadable { path, source }),
            Ok((sha256, bytes)) if bytes == self.bytes && sha256.eq_ignore_ascii_case(&self.sha256) => Ok(()),
            Ok(_) => Err(BundleError::Checksum { path }),
        }
    }
}
