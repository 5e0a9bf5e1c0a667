//! `--resume`: which images an output file already has, and its repair.
//!
//! An image is done if the file holds as many captions of it as are asked for. Failures of images that are asked for, a
//! line that a crash tore, and an image of which it left only some captions are taken out, so that each image is in the
//! file once in the end. The repaired file takes the old one's place in one step.

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

/// What a file holds.
#[derive(Debug, Default)]
struct Ledger {
    /// Captions of each image.
    captions: HashMap<String, usize>,
    failed: HashSet<String>,
    torn: bool,
}

/// The images of `wanted` that the file has already, `sequences` captions of each. What else it has of `wanted` is
/// removed, with what a crash left.
pub(super) fn resume(
    path: &Path,
    format: Format,
    wanted: &HashSet<String>,
    sequences: usize,
) -> Result<HashSet<String>, String> {
    let ledger = Ledger::read(path, format)?;
    let known = ledger.captions.iter().filter(|(image, _)| wanted.contains(*image));
    let (done, partial): (HashMap<&String, &usize>, HashMap<&String, &usize>) =
        known.partition(|(_, count)| **count >= sequences);
    let is_kept = |content: &Content| match content {
        Content::Header => true,
        Content::Caption(image) => !partial.contains_key(image),
        Content::Failure(image) => !wanted.contains(image),
        Content::Torn => false,
    };
    if ledger.torn || !partial.is_empty() || !ledger.failed.is_disjoint(wanted) {
        rewrite(path, format, is_kept)?;
    }
    Ok(done.into_keys().cloned().collect())
}

impl Ledger {
    fn read(path: &Path, format: Format) -> Result<Self, String> {
        let file = File::open(path).map_err(|error| error.to_string())?;
        let mut ledger = Self::default();
        for record in Records::new(BufReader::new(file), format) {
            match record?.content {
                Content::Header => {}
                Content::Caption(image) => *ledger.captions.entry(image).or_default() += 1,
                Content::Failure(image) => {
                    ledger.failed.insert(image);
                }
                Content::Torn => ledger.torn = true,
            }
        }
        Ok(ledger)
    }
}

/// Leaves only the records that are kept.
fn rewrite(path: &Path, format: Format, is_kept: impl Fn(&Content) -> bool) -> Result<(), String> {
    let failed = |error: io::Error| error.to_string();
    // Not the link's place but the file's.
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

    /// What is done, sorted, and what the file holds then.
    fn resumed(lines: &[String], wanted: &[&str], sequences: usize) -> (String, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("captions.jsonl");
        fs::write(&path, lines.concat()).unwrap();
        let wanted = wanted.iter().map(ToString::to_string).collect();
        let done = resume(&path, Format::Jsonl, &wanted, sequences).unwrap();
        let mut done: Vec<_> = done.into_iter().collect();
        done.sort();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        (done.concat(), fs::read_to_string(path).unwrap())
    }

    #[test]
    fn failures_that_are_wanted_are_tried_again_and_others_stay() {
        let lines = [caption("a"), failure("b"), failure("z"), caption("y")];
        let kept = [caption("a"), failure("z"), caption("y")].concat();
        assert_eq!(resumed(&lines, &["a", "b", "c"], 1), ("a".into(), kept));
    }

    #[test]
    fn a_torn_line_is_cut_off() {
        let lines = [caption("a"), caption("b"), caption("c")[..12].into()];
        assert_eq!(resumed(&lines, &["a", "b", "c"], 1), ("ab".into(), caption("a") + &caption("b")));
        assert_eq!(resumed(&lines[2..], &["c"], 1), (String::new(), String::new()));
    }

    #[test]
    fn an_image_with_some_of_its_captions_is_done_anew() {
        let two = caption("a") + &caption("a");
        assert_eq!(resumed(&[two.clone(), caption("b")], &["a", "b"], 2), ("a".into(), two.clone()));
        assert_eq!(resumed(&[caption("b"), "{".into()], &["a"], 2), (String::new(), caption("b")));
        assert_eq!(resumed(&[two.clone(), caption("b")], &["a", "b"], 1), ("ab".into(), two + &caption("b")));
    }

    #[test]
    fn a_file_of_something_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.jsonl");
        fs::write(&path, "dear diary\n").unwrap();
        assert!(resume(&path, Format::Jsonl, &HashSet::new(), 1).unwrap_err().contains("line 1"));
        assert_eq!(fs::read_to_string(path).unwrap(), "dear diary\n");
    }
}
