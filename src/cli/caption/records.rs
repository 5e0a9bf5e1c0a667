//! Reads the records that `format` wrote, as JSON lines or CSV, with the bytes of each.

use std::{fmt, io::BufRead};

use serde::Deserialize;

use crate::cli::caption::format::{COLUMNS, Format};

/// Maximum lines of a record: an unclosed quote must not read the rest of a large file into memory.
const MAX_LINES: usize = 1000;

/// One record of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// The bytes in the file, including the line end.
    pub(super) bytes: Vec<u8>,
    /// Their meaning.
    pub(super) content: Content,
}

/// The meaning of a record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// The names of the columns.
    Header,
    /// A caption of this image.
    Caption(String),
    /// This image failed.
    Failure(String),
    /// A record that the end of the file cuts off.
    Incomplete,
}

/// The records of a file.
pub(super) struct Records<R> {
    reader: R,
    format: Format,
    /// Number of lines read so far.
    line: usize,
}

#[derive(Deserialize)]
struct JsonLine {
    image: String,
    error: Option<String>,
}

impl<R: BufRead> Records<R> {
    pub(super) fn new(reader: R, format: Format) -> Self {
        Self { reader, format, line: 0 }
    }

    /// Reads the next record; an error names the line.
    fn read(&mut self) -> Result<Option<Record>, String> {
        let (mut bytes, first) = (Vec::new(), self.line + 1);
        loop {
            let read = self.reader.read_until(b'\n', &mut bytes).map_err(|error| error.to_string())?;
            if bytes.is_empty() {
                return Ok(None);
            }
            self.line += 1;
            if self.is_complete(&bytes) {
                break;
            }
            if read == 0 || !bytes.ends_with(b"\n") {
                return Ok(Some(Record { bytes, content: Content::Incomplete }));
            }
            if self.line - first > MAX_LINES {
                return Err(invalid(first, &"the quotes are not closed"));
            }
        }
        let content = match self.format {
            Format::Csv => csv(&bytes, first),
            _ => json(&bytes, first),
        };
        Ok(Some(Record { content: content?, bytes }))
    }

    fn is_complete(&self, bytes: &[u8]) -> bool {
        let quotes = || memchr::memchr_iter(b'"', bytes).count();
        bytes.ends_with(b"\n") && (self.format != Format::Csv || quotes() % 2 == 0)
    }
}

impl<R: BufRead> Iterator for Records<R> {
    type Item = Result<Record, String>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

fn csv(bytes: &[u8], line: usize) -> Result<Content, String> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(bytes);
    let record = reader.records().next().transpose().map_err(|error| invalid(line, &error))?.unwrap_or_default();
    if line == 1 {
        return if record == COLUMNS[..] { Ok(Content::Header) } else { Err(invalid(1, &"its columns are different")) };
    }
    match (record.len(), record.get(0), record.get(COLUMNS.len() - 1)) {
        (6, Some(image), Some("")) => Ok(Content::Caption(image.into())),
        (6, Some(image), Some(_)) => Ok(Content::Failure(image.into())),
        (columns, ..) => Err(invalid(line, &format!("{columns} columns instead of {}", COLUMNS.len()))),
    }
}

fn json(bytes: &[u8], line: usize) -> Result<Content, String> {
    let read: JsonLine = serde_json::from_slice(bytes).map_err(|error| invalid(line, &error))?;
    Ok(if read.error.is_some() { Content::Failure(read.image) } else { Content::Caption(read.image) })
}

fn invalid(line: usize, reason: &dyn fmt::Display) -> String {
    format!("line {line} was not written by this command: {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(text: &str, format: Format) -> Result<Vec<Content>, String> {
        let records: Result<Vec<_>, _> = Records::new(text.as_bytes(), format).collect();
        let records = records?;
        assert_eq!(records.iter().flat_map(|record| record.bytes.clone()).collect::<Vec<_>>(), text.as_bytes());
        Ok(records.into_iter().map(|record| record.content).collect())
    }

    #[test]
    fn json_lines_are_captions_failures_or_incomplete() {
        let text = "{\"image\":\"a\",\"caption\":\"x\"}\n{\"image\":\"b\",\"error\":\"y\"}\n{\"image\":\"c\",\"ca";
        let expected = [Content::Caption("a".into()), Content::Failure("b".into()), Content::Incomplete];
        assert_eq!(contents(text, Format::Jsonl).unwrap(), expected);
        assert!(contents("{\"image\":\"a\"}\nhello\n", Format::Jsonl).unwrap_err().starts_with("line 2 "));
    }

    #[test]
    fn csv_records_may_have_several_lines() {
        let header = COLUMNS.join(",") + "\n";
        let text = header.clone() + "\"a\nb\",0,\"x, \"\"y\"\"\",-0.5,eos,\nc,,,,,gone\n\"d\ne";
        let expected =
            [Content::Header, Content::Caption("a\nb".into()), Content::Failure("c".into()), Content::Incomplete];
        assert_eq!(contents(&text, Format::Csv).unwrap(), expected);
        assert_eq!(contents("image,seq", Format::Csv).unwrap(), [Content::Incomplete]);
        assert!(contents("a,b\n", Format::Csv).unwrap_err().contains("columns"));
        assert!(contents(&(header.clone() + "a,b\n"), Format::Csv).unwrap_err().contains("line 2"));
        assert!(contents(&(header + "\"" + &"\n".repeat(5000)), Format::Csv).unwrap_err().contains("quotes"));
    }
}
