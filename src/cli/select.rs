//! Which model a command means, and what to do when there is none.

use std::{fs, io, path::Path};

use crate::cli::similar::nearest;
use crate::config::catalogue::{Catalogue, CatalogueError, ModelEntry};

/// The entry that `--model` means: the catalogue's default, a name or alias, or a bundle's folder.
pub(super) fn model(models: &Path, model: Option<&str>) -> Result<ModelEntry, String> {
    Catalogue::select(models, model).map_err(|error| match error {
        CatalogueError::UnknownModel(name) if Path::new(&name).is_dir() => {
            format!("{name}: the folder holds no manifest.json, so it is no bundle; scripts/export_onnx.py makes one")
        }
        CatalogueError::UnknownModel(name) => {
            format!("{name}: neither a bundle's folder nor a model of {}{}", models.display(), offer(models, &name))
        }
        error => explain(&error, "name a bundle's folder, or the catalogue with --models"),
    })
}

/// The catalogue at `models`.
pub(super) fn catalogue(models: &Path) -> Result<Catalogue, String> {
    Catalogue::load(models).map_err(|error| explain(&error, "name the catalogue with --models"))
}

fn explain(error: &CatalogueError, hint: &str) -> String {
    match error {
        CatalogueError::Unreadable { path, source } if source.kind() == io::ErrorKind::NotFound => {
            format!("{}: there is no such file; {hint}", path.display())
        }
        _ => error.to_string(),
    }
}

/// The model that was meant, or else all there are.
fn offer(models: &Path, name: &str) -> String {
    let entries = Catalogue::load(models).map_or_else(|_| Vec::new(), |catalogue| catalogue.models);
    let known = entries.into_iter().flat_map(|entry| std::iter::once(entry.name).chain(entry.aliases));
    let known: Vec<String> = known.collect();
    match nearest(name, known.iter().cloned()) {
        Some(near) => format!("; did you mean {near}?"),
        None => format!(", which has {}", known.join(", ")),
    }
}

/// The file beside it that a path to nowhere most likely meant.
pub(super) fn similar_file(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let entries = fs::read_dir(folder.unwrap_or(Path::new("."))).ok()?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let near = nearest(name, names.take(LOOKED_AT))?;
    Some(folder.map_or(near.clone(), |folder| folder.join(&near).display().to_string()))
}

/// Files of a folder that are compared with a wrong name: a folder of millions must not hold up an error.
const LOOKED_AT: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_model_is_told_what_there_is() {
        let folder = tempfile::tempdir().unwrap();
        let models = folder.path().join("models.toml");
        let said = |name: &str| model(&models, Some(name)).unwrap_err();
        assert!(said("x").contains("there is no such file") && said("x").contains("--models"));
        fs::write(&models, "default = \"scenes\"\n[[models]]\nname = \"scenes\"\npath = \"p\"\naliases = [\"s\"]\n")
            .unwrap();
        assert!(said("sceens").ends_with("did you mean scenes?"), "{}", said("sceens"));
        assert!(said("photos").ends_with("which has scenes, s"), "{}", said("photos"));
        assert!(said(folder.path().to_str().unwrap()).contains("no manifest.json"));
        assert_eq!(model(&models, None).unwrap().name, "scenes");
    }
}
