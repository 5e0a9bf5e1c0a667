//! `--resume`: finds the images that an output file already has, and repairs the file.
//!
//! An image is done if the file has as many captions of it as requested. Failures of requested images, an incomplete line
//! and images with only some of their captions are removed, so that each image is in the file once at the end. The
//! repaired file replaces the old one atomically.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{self, BufReader, BufWriter, Write},
    path::Path,
};

use crate::cli::caption::{
    format::Format,
    records::{Content, Records},
};

/// The content of a file.
#[derive(Debug, Default)]
struct FileContent {
    /// Number of captions of each image.
    captions: HashMap<String, usize>,
    failed: HashSet<String>,
    is_incomplete: bool,
}

/// Returns the `requested` images that the file already has, with `sequences` captions each. Other records of requested
/// images are removed, as is an incomplete line.
pub(super) fn resume(
    path: &Path,
    format: Format,
    requested: &HashSet<String>,
    sequences: usize,
) -> Result<HashSet<String>, String> {
    let file_content = FileContent::read(path, format)?;
    let known = file_content.captions.iter().filter(|(image, _)| requested.contains(*image));
    let (done, partial): (HashMap<&String, &usize>, HashMap<&String, &usize>) =
        known.partition(|(_, count)| **count >= sequences);
    let is_kept = |content: &Content| match content {
        Content::Header => true,
        Content::Caption(image) => !partial.contains_key(image),
        Content::Failure(image) => !requested.contains(image),
        Content::Incomplete => false,
    };
    if file_content.is_incomplete || !partial.is_empty() || !file_content.failed.is_disjoint(requested) {
        rewrite(path, format, is_kept)?;
    }
    Ok(done.into_keys().cloned().collect())
}

impl FileContent {
    fn read(path: &Path, format: Format) -> Result<Self, String> {
        let file = File::open(path).map_err(|error| error.to_string())?;
        let mut file_content = Self::default();
        for record in Records::new(BufReader::new(file), format) {
            match record?.content {
                Content::Header => {}
                Content::Caption(image) => *file_content.captions.entry(image).or_default() += 1,
                Content::Failure(image) => {
                    file_content.failed.insert(image);
                }
                Content::Incomplete => file_content.is_incomplete = true,
            }
        }
        Ok(file_content)
    }
}

/// Rewrites the file with the records that are kept.
fn rewrite(path: &Path, format: Format, is_kept: impl Fn(&Content) -> bool) -> Result<(), String> {
    let failed = |error: io::Error| error.to_string();
    // A symbolic link stays: the file that it points to is replaced.
    let path = path.canonicalize().map_err(failed)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".repaired");
    let repaired = path.with_file_name(name);
    let source = File::open(&path).map_err(failed)?;
    let permissions = source.metadata().map_err(failed)?.permissions();
    let mut out = BufWriter::new(File::create(&repaired).map_err(failed)?);
    for record in Records::new(BufReader::new(source), format) {
        let record = record?;
        if is_kept(&record.content) {
            out.write_all(&record.bytes).map_err(failed)?;
        }
    }
    let file = out.into_inner().map_err(|error| error.to_string())?;
    file.set_permissions(permissions).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&repaired, &path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caption(image: &str) -> String {
        format!("{{\"image\":\"{image}\",\"caption\":\"x\"}}\n")
    }

    fn failure(image: &str) -> String {
        format!("{{\"image\":\"{image}\",\"error\":\"x\"}}\n")
    }

    /// The images that are done, sorted, and the content of the repaired file.
    fn resumed(lines: &[String], requested: &[&str], sequences: usize) -> (String, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("captions.jsonl");
        fs::write(&path, lines.concat()).unwrap();
        let requested = requested.iter().map(ToString::to_string).collect();
        let done = resume(&path, Format::Jsonl, &requested, sequences).unwrap();
        let mut done: Vec<_> = done.into_iter().collect();
        done.sort();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        (done.concat(), fs::read_to_string(path).unwrap())
    }

    #[test]
    fn requested_failures_are_removed_and_others_stay() {
        let lines = [caption("a"), failure("b"), failure("z"), caption("y")];
        let kept = [caption("a"), failure("z"), caption("y")].concat();
        assert_eq!(resumed(&lines, &["a", "b", "c"], 1), ("a".into(), kept));
    }

    #[test]
    fn an_incomplete_line_is_removed() {
        let lines = [caption("a"), caption("b"), caption("c")[..12].into()];
        assert_eq!(resumed(&lines, &["a", "b", "c"], 1), ("ab".into(), caption("a") + &caption("b")));
        assert_eq!(resumed(&lines[2..], &["c"], 1), (String::new(), String::new()));
    }

    #[test]
    fn an_image_with_some_of_its_captions_is_removed() {
        let two = caption("a") + &caption("a");
        assert_eq!(resumed(&[two.clone(), caption("b")], &["a", "b"], 2), ("a".into(), two.clone()));
        assert_eq!(resumed(&[caption("b"), "{".into()], &["a"], 2), (String::new(), caption("b")));
        assert_eq!(resumed(&[two.clone(), caption("b")], &["a", "b"], 1), ("ab".into(), two + &caption("b")));
    }

    #[test]
    fn a_file_of_another_format_is_not_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.jsonl");
        fs::write(&path, "not JSON\n").unwrap();
        assert!(resume(&path, Format::Jsonl, &HashSet::new(), 1).unwrap_err().contains("line 1"));
        assert_eq!(fs::read_to_string(path).unwrap(), "not JSON\n");
    }
}
