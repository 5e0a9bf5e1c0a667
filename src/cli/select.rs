//! Selects the model of a command, and suggests similar names if there is none.

use std::{fs, io, path::Path};

use crate::config::catalogue::{Catalogue, CatalogueError, ModelEntry};

/// Selects the entry for `--model`: the catalogue's default, a name or alias, or the folder of a bundle.
pub(super) fn model(models: &Path, model: Option<&str>) -> Result<ModelEntry, String> {
    Catalogue::select(models, model).map_err(|error| match error {
        CatalogueError::UnknownModel(name) if Path::new(&name).is_dir() => {
            format!("{name}: the folder is not a bundle, as it has no manifest.json; scripts/export_onnx.py writes one")
        }
        CatalogueError::UnknownModel(name) => {
            format!(
                "{name}: neither the folder of a bundle nor a model of {}{}",
                models.display(),
                suggest(models, &name)
            )
        }
        error => explain(&error, "specify the folder of a bundle, or the catalogue with --models"),
    })
}

/// Loads the catalogue at `models`.
pub(super) fn catalogue(models: &Path) -> Result<Catalogue, String> {
    Catalogue::load(models).map_err(|error| explain(&error, "specify the catalogue with --models"))
}

fn explain(error: &CatalogueError, hint: &str) -> String {
    match error {
        CatalogueError::Unreadable { path, source } if source.kind() == io::ErrorKind::NotFound => {
            format!("{}: there is no such file; {hint}", path.display())
        }
        _ => error.to_string(),
    }
}

/// Suggests a similar name, or else lists all models.
fn suggest(models: &Path, name: &str) -> String {
    let entries = Catalogue::load(models).map_or_else(|_| Vec::new(), |catalogue| catalogue.models);
    let known = entries.into_iter().flat_map(|entry| std::iter::once(entry.name).chain(entry.aliases));
    let known: Vec<String> = known.collect();
    match nearest(name, known.iter().cloned()) {
        Some(near) => format!("; did you mean {near}?"),
        None => format!(", which has {}", known.join(", ")),
    }
}

/// An existing file in the same folder whose name is similar to that of `path`.
pub(super) fn similar_file(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let entries = fs::read_dir(folder.unwrap_or(Path::new("."))).ok()?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let near = nearest(name, names.take(MAX_COMPARED_FILES))?;
    Some(folder.map_or(near.clone(), |folder| folder.join(&near).display().to_string()))
}

/// Maximum number of files that are compared with a wrong name: a folder of millions must not delay an error.
const MAX_COMPARED_FILES: usize = 10_000;

/// Similarity from which a name is suggested.
const MIN_SIMILARITY: f64 = 0.85;

/// The candidate most similar to `name`, if one is similar.
fn nearest(name: &str, candidates: impl IntoIterator<Item = String>) -> Option<String> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(name, &candidate), candidate))
        .filter(|(similarity, _)| *similarity >= MIN_SIMILARITY)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_model_is_answered_with_a_suggestion() {
        let folder = tempfile::tempdir().unwrap();
        let models = folder.path().join("models.toml");
        let error = |name: &str| model(&models, Some(name)).unwrap_err();
        assert!(error("x").contains("there is no such file") && error("x").contains("--models"));
        fs::write(&models, "default = \"scenes\"\n[[models]]\nname = \"scenes\"\npath = \"p\"\naliases = [\"s\"]\n")
            .unwrap();
        assert!(error("sceens").ends_with("did you mean scenes?"), "{}", error("sceens"));
        assert!(error("photos").ends_with("which has scenes, s"), "{}", error("photos"));
        assert!(error(folder.path().to_str().unwrap()).contains("it has no manifest.json"));
        assert_eq!(model(&models, None).unwrap().name, "scenes");
    }

    #[test]
    fn a_typing_error_is_similar_and_another_word_is_not() {
        let nearest = |name| nearest(name, ["scenes", "blip-large"].map(String::from));
        assert_eq!(nearest("sceens").as_deref(), Some("scenes"));
        assert_eq!(nearest("blip_large").as_deref(), Some("blip-large"));
        assert_eq!(nearest("photos"), None);
    }
}
