//! From the command line to the list of images: files, folders, patterns, URLs, lists.
//!
//! The list is complete before the first image is captioned, so that progress has an end and `--resume` knows what is
//! asked for. What cannot be listed stays in it, with the reason: one bad name never stops the rest.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read},
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use clap::{Args, ValueHint};
use url::Url;

use crate::cli::caption::walk::{self, Rules};
use crate::{cli::CommandError, fetch::is_data_url};

/// Which images.
#[derive(Debug, Args)]
pub(super) struct InputArgs {
    /// Files, folders, quoted patterns, URLs; - is one image on standard input
    ///
    /// Of a folder, the files in it that are images by content or extension (--recursive: of all folders in it). A
    /// quoted pattern such as 'photos/**/*.jpg' knows *, ?, [a-z], {a,b} and **; hidden files match only a pattern that
    /// begins with a dot. URLs are http, https or data:. Files that are named are always tried.
    #[arg(required_unless_present = "files_from", value_name = "IMAGE_OR_URL", value_hint = ValueHint::AnyPath, help_heading = None)]
    images: Vec<OsString>,

    /// Look into the folders inside folders, too
    #[arg(short, long)]
    recursive: bool,

    /// Of folders and patterns, only files that match; may be given several times
    ///
    /// Without a slash the pattern is for the file's name, with one for the path below the folder.
    #[arg(long, value_name = "PATTERN")]
    include: Vec<String>,

    /// Of folders and patterns, no files or folders that match; may be given several times
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,

    /// A list of files, folders and URLs, one a line; - is standard input
    #[arg(long, value_name = "FILE")]
    files_from: Option<PathBuf>,

    /// The list has a NUL after each name, as `find -print0` writes it
    #[arg(short = '0', long, requires = "files_from")]
    null: bool,
}

/// One image to caption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Input {
    /// As given, or as found in a folder: what is printed.
    pub(super) name: OsString,
    /// What the name means.
    pub(super) place: Place,
}

/// Where an image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// http or https.
    Url(Url),
    /// The name is a `data:` URL.
    DataUrl,
    /// The name is a path.
    File,
    /// Standard input.
    StandardInput,
    /// Nowhere; the text says why.
    Nowhere(String),
}

impl Input {
    pub(super) fn file(path: impl Into<OsString>) -> Self {
        Self { name: path.into(), place: Place::File }
    }

    pub(super) fn nowhere(name: impl Into<OsString>, reason: impl Into<String>) -> Self {
        Self { name: name.into(), place: Place::Nowhere(reason.into()) }
    }
}

impl InputArgs {
    /// All images, in the order of the command line; those of folders sorted by name.
    pub(super) fn list(&self) -> Result<Vec<Input>, CommandError> {
        let list_on_stdin = self.files_from.as_deref() == Some(Path::new("-"));
        let images_on_stdin = self.images.iter().filter(|name| *name == "-").count();
        if images_on_stdin + usize::from(list_on_stdin) > 1 {
            return Err("standard input can be read once: as one image (-), or as the list (--files-from -)".into());
        }
        let rules = Rules::new(self.recursive, &self.include, &self.exclude)?;
        let mut inputs: Vec<Input> = self.images.iter().flat_map(|name| argument(name, &rules)).collect();
        if let Some(path) = &self.files_from {
            let list = read_list(path).map_err(|error| format!("--files-from {}: {error}", path.display()))?;
            inputs.extend(names(&list, self.null).flat_map(|name| listed(name, &rules)));
        }
        Ok(inputs)
    }
}

/// What an argument means.
fn argument(name: &OsStr, rules: &Rules) -> Vec<Input> {
    if name == "-" {
        return vec![Input { name: name.to_owned(), place: Place::StandardInput }];
    }
    // A file may be called photo[1].jpg: what is there is no pattern.
    match name.to_str().filter(|text| url(text).is_none() && walk::is_pattern(text) && !Path::new(text).exists()) {
        Some(pattern) => walk::pattern(pattern, rules),
        None => listed(name.to_owned(), rules),
    }
}

/// What a name of a list means: never a pattern, never standard input.
fn listed(name: OsString, rules: &Rules) -> Vec<Input> {
    match name.to_str().and_then(url) {
        Some(place) => vec![Input { name, place }],
        None if Path::new(&name).is_dir() => walk::folder(Path::new(&name), rules),
        None => vec![Input::file(name)],
    }
}

fn url(name: &str) -> Option<Place> {
    if is_data_url(name) {
        return Some(Place::DataUrl);
    }
    let url = Url::parse(name).ok()?;
    matches!(url.scheme(), "http" | "https").then_some(Place::Url(url))
}

fn read_list(path: &Path) -> io::Result<Vec<u8>> {
    let mut list = Vec::new();
    if path == Path::new("-") {
        io::stdin().lock().read_to_end(&mut list)?;
    } else {
        File::open(path)?.read_to_end(&mut list)?;
    }
    Ok(list)
}

fn names(list: &[u8], null: bool) -> impl Iterator<Item = OsString> {
    let separator = if null { b'\0' } else { b'\n' };
    let names = list.split(move |byte| *byte == separator);
    // A list from Windows ends its lines with both.
    let names = names.map(move |name| if null { name } else { name.strip_suffix(b"\r").unwrap_or(name) });
    names.filter(|name| !name.is_empty()).map(|name| OsString::from_vec(name.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules::new(false, &[], &[]).unwrap()
    }

    #[test]
    fn a_list_has_one_name_a_line_or_one_before_each_nul() {
        let of = |list: &[u8], null| names(list, null).collect::<Vec<_>>();
        assert_eq!(of(b"a b.png\r\n\n*.jpg\nlast", false), ["a b.png", "*.jpg", "last"]);
        assert_eq!(of(b"a\nb.png\0c.png\0", true), ["a\nb.png", "c.png"]);
        assert_eq!(of(b"", false), [""; 0]);
        assert_eq!(of(b"\xff.png\n", false), [OsString::from_vec(b"\xff.png".to_vec())]);
    }

    #[test]
    fn a_name_is_a_url_a_file_or_a_pattern() {
        let place = |name: &str| argument(OsStr::new(name), &rules()).remove(0).place;
        assert!(matches!(place("https://example.com/a.jpg?w=1"), Place::Url(_)));
        assert_eq!(place("data:image/png;base64,AA=="), Place::DataUrl);
        assert_eq!(place("-"), Place::StandardInput);
        assert_eq!(place("c:/no.png"), Place::File);
        assert_eq!(place("no-such-file.png"), Place::File);
        assert!(matches!(place("no-such-folder/*.png"), Place::Nowhere(_)));
    }

    #[test]
    fn in_a_list_a_name_is_taken_literally() {
        for name in ["-", "no-such-folder/*.png"] {
            assert_eq!(listed(name.into(), &rules()), [Input::file(name)]);
        }
    }
}
