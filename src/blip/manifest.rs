//! `manifest.json`: everything about a model that is not a tensor.
//!
//! Written by `scripts/export_onnx.py`. No size, token id or rule of a model is a literal in Rust; it is read here, and
//! every file of the bundle is checked against its checksum before it is used.

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
/// Larger than any manifest; a wrong file must not fill the memory.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;
/// What this version of the service reads.
const FORMAT_VERSION: u32 = 2;

/// Why a bundle cannot be used; each text names the file.
#[derive(Debug, Error)]
pub enum BundleError {
    /// A file is missing or unreadable.
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
    /// A file is not the one that was exported.
    #[error(
        "bundle {path}: the checksum is not the manifest's; the file is damaged or was changed, export or copy it again"
    )]
    Checksum {
        /// The file.
        path: PathBuf,
    },
    /// ONNX Runtime refuses the graph, or an execution provider is not there.
    #[error("bundle {path}: {reason}")]
    Session {
        /// The graph.
        path: PathBuf,
        /// ONNX Runtime's words, in one line.
        reason: String,
    },
}

/// A bundle's manifest.
#[derive(Clone, Debug, Deserialize)]
pub struct Manifest {
    format_version: u32,
    model_type: String,
    /// What the graphs compute in: `fp32`.
    pub precision: String,
    /// What was exported.
    pub source: Source,
    /// The image side.
    pub vision: Vision,
    /// The text side.
    pub text: Text,
    /// From the tokenizer's ids to the decoder's.
    pub prompt: Prompt,
    /// From an image to `pixel_values`.
    pub preprocessor: PreprocessConfig,
    /// How ids become text.
    pub tokenizer: TokenizerRules,
    /// Defaults of the checkpoint.
    #[serde(default)]
    pub generation: GenerationParameters,
    files: BTreeMap<String, FileEntry>,
}

/// What was exported.
#[derive(Clone, Debug, Deserialize)]
pub struct Source {
    /// Hub id or folder.
    pub model: String,
    /// Commit on the hub.
    pub revision: Option<String>,
}

/// The image side.
#[derive(Clone, Debug, Deserialize)]
pub struct Vision {
    /// Vectors that cross-attention looks at: patches + 1.
    pub num_tokens: usize,
}

/// The text side.
#[derive(Clone, Debug, Deserialize)]
pub struct Text {
    /// Width of a row of logits.
    pub vocab_size: usize,
    /// Layers of the decoder.
    pub num_hidden_layers: usize,
    /// Heads of a layer.
    pub num_attention_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Positions that the decoder knows.
    pub max_position_embeddings: usize,
    /// First id of every sequence.
    pub bos_token_id: TokenId,
    /// Ends a sequence.
    pub eos_token_id: TokenId,
    /// Fills a sequence.
    pub pad_token_id: TokenId,
}

/// From the tokenizer's ids to the decoder's.
#[derive(Clone, Debug, Deserialize)]
pub struct Prompt {
    /// Takes the place of the tokenizer's first id (`[CLS]`).
    pub replace_first_with: TokenId,
    /// The tokenizer's last id (`[SEP]`) is dropped.
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
    /// Reads and checks the manifest alone.
    ///
    /// # Errors
    /// It is missing, malformed, or of another format.
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
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let manifest: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Compares every file of the bundle with its checksum.
    ///
    /// # Errors
    /// The first file that is missing or different.
    pub fn verify_files(&self, bundle: &Path) -> Result<(), BundleError> {
        self.compare_files(bundle).try_for_each(|(_, result)| result)
    }

    /// Each file of the bundle by name, and whether it is the one that was exported.
    pub fn compare_files(&self, bundle: &Path) -> impl Iterator<Item = (&str, Result<(), BundleError>)> {
        self.files.iter().map(|(name, entry)| (name.as_str(), entry.compare(bundle.join(name))))
    }

    /// The bundle in one word: the same files give the same, whoever exported them.
    pub fn id(&self) -> String {
        let mut hash = Sha256::new();
        for (name, entry) in &self.files {
            hash.update(format!("{name} {}\n", entry.sha256));
        }
        hex(&hash.finalize()[..6])
    }

    /// Names of the files, relative to the bundle, without the manifest's own.
    pub fn file_names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Bytes of all files.
    pub fn size(&self) -> u64 {
        self.files.values().map(|entry| entry.bytes).sum()
    }

    /// What the graph of this file name and its weights are.
    pub(super) fn fingerprint(&self, graph: &str) -> String {
        let of = |name: &str| self.files.get(name).map_or("", |entry| entry.sha256.as_str());
        format!("{} {}", of(graph), of(&format!("{graph}.data")))
    }

    fn check(&self) -> Result<(), String> {
        if self.format_version != FORMAT_VERSION {
            return Err(format!("format_version is {}, this version reads {FORMAT_VERSION}", self.format_version));
        }
        if self.model_type != "blip" {
            return Err(format!("model_type is '{}', not 'blip'", self.model_type));
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
        if let Some((name, size)) = sizes.into_iter().find(|(_, size)| !(1..=1 << 24).contains(size)) {
            return Err(format!("{name} is {size}"));
        }
        let ids = [text.bos_token_id, text.eos_token_id, text.pad_token_id, self.prompt.replace_first_with];
        if let Some(id) = ids.into_iter().find(|id| *id as usize >= text.vocab_size) {
            return Err(format!("token id {id} is not below text.vocab_size"));
        }
        for name in ["vision_encoder.onnx", "text_decoder.onnx", "tokenizer.json"] {
            if !self.files.contains_key(name) {
                return Err(format!("files has no {name}"));
            }
        }
        // A manifest must not make us read files outside its folder.
        let inside = |name: &str| Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        match self.files.keys().find(|name| name.is_empty() || !inside(name)) {
            Some(name) => Err(format!("files: '{name}' is not inside the bundle")),
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
