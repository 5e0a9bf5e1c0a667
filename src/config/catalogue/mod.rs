//! `models.toml`: which models are served, and how.
//!
//! Unknown keys and values that are not valid fail the start with an error that names the key. Paths are relative to the
//! file.

mod entry;

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use thiserror::Error;

pub use entry::{ExecutionProvider, ModelEntry};

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
        /// The line, counted from 1.
        number: usize,
        /// Text of the line: the parser does not name the key of a value of the wrong type.
        line: String,
        /// What is wrong.
        reason: String,
    },
    /// A value that is not valid.
    #[error("{path}: {key}: {reason}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The key, e.g. `models[0].name`.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// `--model` is neither a model of the catalogue nor the folder of a bundle.
    #[error("--model {0}: neither a model of the catalogue nor the folder of a bundle")]
    UnknownModel(String),
}

/// The catalogue.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// Name of the model for requests that name none.
    pub default: String,
    /// The models, at least one.
    pub models: Vec<ModelEntry>,
}

impl Catalogue {
    /// Reads and checks `models.toml`; paths of the entries become relative to the working directory.
    ///
    /// # Errors
    /// The first key that is not valid, and why.
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

    /// Parses and checks the text of `models.toml`; `path` is for the errors.
    ///
    /// # Errors
    /// The first key that is not valid, and why.
    pub fn parse(text: &str, path: &Path) -> Result<Self, CatalogueError> {
        let catalogue: Self = toml::from_str(text).map_err(|error| malformed(path, text, &error))?;
        catalogue.check().map_err(|(key, reason)| CatalogueError::Invalid { path: path.to_path_buf(), key, reason })?;
        Ok(catalogue)
    }

    /// Selects the entry for `--model`: the default, a name or alias, or the folder of a bundle.
    ///
    /// # Errors
    /// There is none, or the catalogue cannot be read.
    pub fn select(catalogue_path: &Path, model: Option<&str>) -> Result<ModelEntry, CatalogueError> {
        if let Some(folder) = model.filter(|model| Path::new(model).join("manifest.json").is_file()) {
            return Ok(ModelEntry::from_folder(Path::new(folder)));
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

    /// Checks the values.
    ///
    /// # Errors
    /// The first key that is not valid, and why.
    fn check(&self) -> Result<(), (String, String)> {
        let mut names = HashSet::new();
        for (index, entry) in self.models.iter().enumerate() {
            let at = |(key, reason): (&str, String)| (format!("models[{index}].{key}"), reason);
            entry.check().map_err(at)?;
            if let Some(name) = entry.names().find(|name| !names.insert(*name)) {
                return Err(at(("name", format!("'{name}' is already the name or alias of a model"))));
            }
        }
        if !self.models.iter().any(|entry| entry.name == self.default) {
            return Err(("default".into(), format!("must be the name of a model, got '{}'", self.default)));
        }
        Ok(())
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
    fn names_the_key_that_is_not_valid() {
        let ok = "default = \"a\"\n[[models]]\nname = \"a\"\npath = \"p\"\n";
        assert_eq!(problem(ok), "");
        assert!(problem(&format!("{ok}thread = 2\n")).contains("thread"));
        assert!(problem(&format!("{ok}max_rows = 0\n")).contains("models[0].max_rows"));
        assert!(problem(&format!("{ok}instances = 0\n")).contains("models[0].instances"));
        assert!(problem(&format!("{ok}version = \"x\"\n")).contains("models[0].version"));
        assert!(problem(&format!("{ok}execution_providers = [\"rocm\"]\n")).contains("rocm"));
        assert!(problem(&format!("{ok}aliases = [\"a\"]\n")).contains("already the name"));
        assert!(problem(&ok.replace("default = \"a\"", "default = \"b\"")).contains("default"));
        assert!(problem(&format!("{ok}[models.generation]\nnum_beam = 3\n")).contains("num_beam"));
    }
}
