//! Lists the files of folders and patterns.
//!
//! Only files that look like images are listed, sorted by name, so that two runs give the same list. Hidden files are
//! skipped, as a shell does: next to photos they belong to other programs.

use std::{ffi::OsStr, fs::File, io::Read, path::Path};

use globset::{GlobBuilder, GlobMatcher, GlobSet, GlobSetBuilder};
use walkdir::{DirEntry, WalkDir};

use crate::cli::caption::{input::Input, source::explain_io};

/// Length of the longest signature of a format: RIFF, size, WEBP, VP8X.
const HEAD_BYTES: u64 = 16;

/// Extensions of image files; those that are not decoded are refused by name instead of passed over.
const EXTENSIONS: [&str; 17] = [
    "apng", "avif", "bmp", "dib", "gif", "heic", "heif", "jfif", "jp2", "jpe", "jpeg", "jpg", "jxl", "png", "tif",
    "tiff", "webp",
];

/// Which files of folders and patterns are listed.
#[derive(Debug)]
pub(super) struct Rules {
    recursive: bool,
    /// `None` means every image.
    include: Option<GlobSet>,
    exclude: GlobSet,
}

impl Rules {
    pub(super) fn new(recursive: bool, include: &[String], exclude: &[String]) -> Result<Self, String> {
        let set = |flag: &str, patterns: &[String]| set(patterns).map_err(|error| format!("{flag}: {error}"));
        Ok(Self {
            recursive,
            include: if include.is_empty() { None } else { Some(set("--include", include)?) },
            exclude: set("--exclude", exclude)?,
        })
    }

    fn include(&self, below: &Path) -> bool {
        self.include.as_ref().is_none_or(|set| set.is_match(below))
    }
}

/// Whether a name can be a pattern.
pub(super) fn is_pattern(name: &str) -> bool {
    name.contains(META)
}

const META: [char; 4] = ['*', '?', '[', '{'];

/// Lists the images of a folder.
pub(super) fn folder(folder: &Path, rules: &Rules) -> Vec<Input> {
    let depth = if rules.recursive { usize::MAX } else { 1 };
    let found = walk(folder, Extent { depth, hidden: false }, rules, |_| true);
    if found.is_empty() {
        let hint = if rules.recursive { "" } else { "; --recursive searches its subfolders, too" };
        return vec![Input::unreadable(folder, format!("no image in this folder{hint}"))];
    }
    found
}

/// Lists the images that match a pattern.
pub(super) fn pattern(pattern: &str, rules: &Rules) -> Vec<Input> {
    let (base, rest) = split(pattern);
    let glob = match matcher(&rest) {
        Ok(glob) => glob,
        Err(error) => return vec![Input::unreadable(pattern, format!("neither a file nor a pattern: {error}"))],
    };
    let root = Path::new(if base.is_empty() { "." } else { base });
    if !root.is_dir() {
        return vec![Input::unreadable(pattern, format!("there is no folder {}", root.display()))];
    }
    let depth = if rest.contains("**") { usize::MAX } else { rest.split('/').count() };
    let hidden = rest.split('/').any(|part| part.starts_with('.'));
    let mut found = walk(root, Extent { depth, hidden }, rules, |below| glob.is_match(below));
    if base.is_empty() {
        for input in &mut found {
            if let Ok(inside) = Path::new(&input.name).strip_prefix(".") {
                input.name = inside.into();
            }
        }
    }
    if found.is_empty() {
        found.push(Input::unreadable(pattern, "no image matches this pattern"));
    }
    found
}

/// Splits a pattern into the folder before its first special character, and the rest.
fn split(pattern: &str) -> (&str, String) {
    let end = pattern.find(META).unwrap_or(pattern.len());
    let slash = pattern[..end].rfind('/').map_or(0, |slash| slash + 1);
    let (base, rest) = pattern.split_at(slash);
    (base, rest.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/"))
}

/// How far a walk goes.
#[derive(Clone, Copy, Debug)]
struct Extent {
    /// Maximum depth below the root.
    depth: usize,
    /// Whether hidden files are listed.
    hidden: bool,
}

/// Lists the images below `root` that match.
fn walk(root: &Path, extent: Extent, rules: &Rules, matches: impl Fn(&Path) -> bool) -> Vec<Input> {
    let Extent { depth, hidden } = extent;
    let below = |path: &Path| path.strip_prefix(root).unwrap_or(path).to_owned();
    let visible = |name: &OsStr| hidden || !name.as_encoded_bytes().starts_with(b".");
    let entered = |entry: &DirEntry| visible(entry.file_name()) && !rules.exclude.is_match(below(entry.path()));
    let is_wanted = |path: &Path| rules.include(&below(path)) && matches(&below(path));
    let entries = WalkDir::new(root).min_depth(1).max_depth(depth).follow_links(true).sort_by_file_name();
    let mut found = Vec::new();
    for entry in entries.into_iter().filter_entry(entered) {
        match entry {
            Ok(entry) if entry.file_type().is_file() => {
                if is_wanted(entry.path()) && looks_like_image(entry.path()) {
                    found.push(Input::file(entry.into_path()));
                }
            }
            Ok(_) => {}
            Err(error) => {
                let path = error.path().unwrap_or(root).to_owned();
                let is_visible = path.file_name().is_some_and(visible);
                let reason = match error.io_error() {
                    // A broken link that does not match is not an error.
                    Some(_) if path.is_symlink() && !is_wanted(&path) => continue,
                    Some(cause) => explain_io(&path, cause),
                    None => "a link to one of its parent folders".into(),
                };
                if is_visible {
                    found.push(Input::unreadable(path, reason));
                }
            }
        }
    }
    found
}

fn looks_like_image(path: &Path) -> bool {
    let known = |extension: &OsStr| EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known));
    path.extension().is_some_and(known) || head(path).is_ok_and(|head| image_processor::is_image(&head))
}

fn head(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    File::open(path)?.take(HEAD_BYTES).read_to_end(&mut head)?;
    Ok(head)
}

/// Patterns of `--include` and `--exclude`.
fn set(patterns: &[String]) -> Result<GlobSet, globset::Error> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let anywhere = if pattern.contains('/') { String::new() } else { "**/".into() };
        set.add(GlobBuilder::new(&(anywhere + pattern.trim_end_matches('/'))).literal_separator(true).build()?);
    }
    set.build()
}

fn matcher(pattern: &str) -> Result<GlobMatcher, globset::Error> {
    Ok(GlobBuilder::new(pattern).literal_separator(true).build()?.compile_matcher())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    const FILES: [&str; 7] = ["b.JPG", "a.png", "sub/c.webp", "sub/deep/d.gif", ".hidden/e.png", ".f.png", "notes.txt"];

    fn tree() -> tempfile::TempDir {
        let tree = tempfile::tempdir().unwrap();
        for name in FILES {
            let path = tree.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "text").unwrap();
        }
        fs::write(tree.path().join("scan"), b"\x89PNG\r\n\x1a\n").unwrap();
        tree
    }

    fn rules(recursive: bool, include: &[&str], exclude: &[&str]) -> Rules {
        let owned = |patterns: &[&str]| patterns.iter().map(ToString::to_string).collect::<Vec<_>>();
        Rules::new(recursive, &owned(include), &owned(exclude)).unwrap()
    }

    fn below(tree: &tempfile::TempDir, found: &[Input]) -> Vec<String> {
        let name = |input: &Input| Path::new(&input.name).strip_prefix(tree.path()).unwrap().display().to_string();
        found.iter().map(name).collect()
    }

    #[test]
    fn a_folder_stands_for_its_images_by_name_or_content() {
        let tree = tree();
        let of = |rules: Rules| below(&tree, &folder(tree.path(), &rules));
        assert_eq!(of(rules(false, &[], &[])), ["a.png", "b.JPG", "scan"]);
        assert_eq!(of(rules(true, &[], &[])), ["a.png", "b.JPG", "scan", "sub/c.webp", "sub/deep/d.gif"]);
        assert_eq!(of(rules(true, &["*.png", "sub/*"], &[])), ["a.png", "sub/c.webp"]);
        assert_eq!(of(rules(true, &[], &["deep", "s*n", "sub/*.webp"])), ["a.png", "b.JPG"]);
    }

    #[test]
    fn a_pattern_stands_for_the_images_that_match() {
        let tree = tree();
        let of = |rest: &str| {
            let name = tree.path().join(rest);
            below(&tree, &pattern(name.to_str().unwrap(), &rules(false, &[], &[])))
        };
        assert_eq!(of("*.png"), ["a.png"]);
        assert_eq!(of("**/*.{png,gif}"), ["a.png", "sub/deep/d.gif"]);
        assert_eq!(of("s?b//*/*"), ["sub/deep/d.gif"]);
        assert_eq!(of("**/.*.png"), [".f.png"]);
    }

    #[test]
    fn a_folder_or_pattern_without_images_is_an_error() {
        let tree = tree();
        let reason = |mut found: Vec<Input>| match (found.remove(0).location, found.len()) {
            (super::super::input::Location::Unreadable(reason), 0) => reason,
            other => panic!("{other:?}"),
        };
        let at = |rest: &str| tree.path().join(rest).display().to_string();
        assert!(reason(pattern(&at("*.txt"), &rules(false, &[], &[]))).contains("no image matches"));
        assert!(reason(pattern(&at("no/*.png"), &rules(false, &[], &[]))).contains("no folder"));
        assert!(reason(pattern(&at("[z-a].png"), &rules(false, &[], &[]))).contains("pattern"));
        assert!(reason(folder(&tree.path().join("sub/deep"), &rules(false, &["*.png"], &[]))).contains("--recursive"));
    }

    #[test]
    fn a_cyclic_link_ends() {
        let tree = tree();
        symlink(tree.path(), tree.path().join("sub/again")).unwrap();
        let found = folder(tree.path(), &rules(true, &[], &[]));
        let unreadable = found.iter().filter(|input| input.location != super::super::input::Location::File);
        assert_eq!(unreadable.count(), 1);
        assert_eq!(found.len(), 6);
    }
}
