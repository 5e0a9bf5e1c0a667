//! `models.toml`: which models are served, and how.
//!
//! Unknown keys and bad values fail the start and name the key. Paths are relative to the file.

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

/// The catalogue.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// Name of the model that requests without one get.
    pub default: String,
    /// At least one.
    pub models: Vec<ModelEntry>,
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

    /// The key that is wrong, and what is wrong with it.
    fn check(&self) -> Result<(), (String, String)> {
        let mut names = HashSet::new();
        for (index, entry) in self.models.iter().enumerate() {
            let at = |(key, reason): (&str, String)| (format!("models[{index}].{key}"), reason);
            entry.check().map_err(at)?;
            if let Some(name) = entry.names().find(|name| !names.insert(*name)) {
                return Err(at(("name", format!("'{name}' is taken by another model or alias"))));
            }
        }
        if !self.models.iter().any(|entry| entry.name == self.default) {
            return Err(("default".into(), format!("no model is called '{}'", self.default)));
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
    fn names_the_key_that_is_wrong() {
        let ok = "default = \"a\"\n[[models]]\nname = \"a\"\npath = \"p\"\n";
        assert_eq!(problem(ok), "");
        assert!(problem(&format!("{ok}thread = 2\n")).contains("thread"));
        assert!(problem(&format!("{ok}max_rows = 0\n")).contains("models[0].max_rows"));
        assert!(problem(&format!("{ok}instances = 0\n")).contains("models[0].instances"));
        assert!(problem(&format!("{ok}version = \"x\"\n")).contains("models[0].version"));
        assert!(problem(&format!("{ok}execution_providers = [\"rocm\"]\n")).contains("rocm"));
        assert!(problem(&format!("{ok}aliases = [\"a\"]\n")).contains("taken"));
        assert!(problem(&ok.replace("default = \"a\"", "default = \"b\"")).contains("default"));
        assert!(problem(&format!("{ok}[models.generation]\nnum_beam = 3\n")).contains("num_beam"));
    }
}
