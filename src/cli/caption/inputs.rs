//! The list of images of a command line: files, folders, patterns, URLs and lists.
//!
//! The list is complete before the first image is captioned, so that the progress has a total and `--resume` knows all
//! images. A name that cannot be listed is in it with the reason: it never stops the other images.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read},
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use clap::{Args, ValueHint};
use url::Url;

use crate::cli::caption::{
    input::{Input, Location},
    walk::{self, Rules},
};
use crate::{cli::command::CommandError, fetch::is_data_url};

/// The images to caption.
#[derive(Debug, Args)]
pub(super) struct InputArgs {
    /// Files, folders, quoted patterns and URLs; - reads one image from standard input
    ///
    /// A folder stands for the files in it that are images by content or extension; with --recursive its subfolders are
    /// searched, too. A quoted pattern such as 'photos/**/*.jpg' may contain *, ?, [a-z], {a,b} and **; hidden files
    /// match only a pattern that begins with a dot. URLs are http, https or data:. A file that is named is always read.
    #[arg(required_unless_present = "files_from", value_name = "IMAGE_OR_URL", value_hint = ValueHint::AnyPath, help_heading = None)]
    images: Vec<OsString>,

    /// Search subfolders, too
    #[arg(short, long)]
    recursive: bool,

    /// Only files of folders and patterns that match; may be repeated
    ///
    /// A pattern without a slash matches the file name, one with a slash the path below the folder.
    #[arg(long, value_name = "PATTERN")]
    include: Vec<String>,

    /// No files and folders of folders and patterns that match; may be repeated
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,

    /// Read files, folders and URLs from a list, one per line; - is standard input
    #[arg(long, value_name = "FILE")]
    files_from: Option<PathBuf>,

    /// The names in the list end with NUL, as `find -print0` writes them
    #[arg(short = '0', long, requires = "files_from")]
    null: bool,
}

impl InputArgs {
    /// Lists all images in the order of the command line, and those of a folder by name.
    pub(super) fn list(&self) -> Result<Vec<Input>, CommandError> {
        let list_on_stdin = self.files_from.as_deref() == Some(Path::new("-"));
        let images_on_stdin = self.images.iter().filter(|name| *name == "-").count();
        if images_on_stdin + usize::from(list_on_stdin) > 1 {
            return Err("standard input can be read only once: as one image (-) or as the list (--files-from -)".into());
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

/// The images of an argument.
fn argument(name: &OsStr, rules: &Rules) -> Vec<Input> {
    if name == "-" {
        return vec![Input { name: name.to_owned(), location: Location::StandardInput }];
    }
    // A file may be called photo[1].jpg: the name of an existing file is not a pattern.
    match name.to_str().filter(|text| url(text).is_none() && walk::is_pattern(text) && !Path::new(text).exists()) {
        Some(pattern) => walk::pattern(pattern, rules),
        None => listed(name.to_owned(), rules),
    }
}

/// The images of a name in a list, which is never a pattern or standard input.
fn listed(name: OsString, rules: &Rules) -> Vec<Input> {
    match name.to_str().and_then(url) {
        Some(location) => vec![Input { name, location }],
        None if Path::new(&name).is_dir() => walk::folder(Path::new(&name), rules),
        None => vec![Input::file(name)],
    }
}

fn url(name: &str) -> Option<Location> {
    if is_data_url(name) {
        return Some(Location::DataUrl);
    }
    let url = Url::parse(name).ok()?;
    matches!(url.scheme(), "http" | "https").then_some(Location::Url(url))
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
    // Lines of a list from Windows end with \r\n.
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
    fn a_list_has_one_name_per_line_or_before_each_nul() {
        let of = |list: &[u8], null| names(list, null).collect::<Vec<_>>();
        assert_eq!(of(b"a b.png\r\n\n*.jpg\nlast", false), ["a b.png", "*.jpg", "last"]);
        assert_eq!(of(b"a\nb.png\0c.png\0", true), ["a\nb.png", "c.png"]);
        assert_eq!(of(b"", false), [""; 0]);
        assert_eq!(of(b"\xff.png\n", false), [OsString::from_vec(b"\xff.png".to_vec())]);
    }

    #[test]
    fn a_name_is_a_url_a_file_or_a_pattern() {
        let location = |name: &str| argument(OsStr::new(name), &rules()).remove(0).location;
        assert!(matches!(location("https://example.com/a.jpg?w=1"), Location::Url(_)));
        assert_eq!(location("data:image/png;base64,AA=="), Location::DataUrl);
        assert_eq!(location("-"), Location::StandardInput);
        assert_eq!(location("c:/no.png"), Location::File);
        assert_eq!(location("no-such-file.png"), Location::File);
        assert!(matches!(location("no-such-folder/*.png"), Location::Unreadable(_)));
    }

    #[test]
    fn in_a_list_a_name_is_taken_literally() {
        for name in ["-", "no-such-folder/*.png"] {
            assert_eq!(listed(name.into(), &rules()), [Input::file(name)]);
        }
    }
}
