//! The formats of results: text, JSON lines and CSV.

use std::{ffi::OsStr, io, os::unix::ffi::OsStrExt, path::Path};

use clap::ValueEnum;
use serde::Serialize;

use crate::caption::Caption;
use crate::cli::caption::names;
use generation::{FinishReason, TokenId};

/// The columns of CSV.
pub(super) const COLUMNS: [&str; 6] = ["image", "sequence_index", "caption", "score", "finish_reason", "error"];

/// The format of results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Image, tab, caption; errors go to standard error
    Text,
    /// One JSON object per line
    Jsonl,
    /// Comma-separated values with a header
    Csv,
}

#[derive(Serialize)]
struct CaptionLine<'a> {
    image: &'a str,
    sequence_index: usize,
    caption: &'a str,
    token_ids: &'a [TokenId],
    score: f32,
    finish_reason: &'static str,
}

#[derive(Serialize)]
struct ErrorLine<'a> {
    image: &'a str,
    error: &'a str,
}

impl Format {
    /// The format for the extension of a file name.
    pub(super) fn from_extension(path: &Path) -> Self {
        match path.extension().and_then(OsStr::to_str) {
            Some("csv") => Self::Csv,
            Some("jsonl" | "ndjson" | "json") => Self::Jsonl,
            _ => Self::Text,
        }
    }

    /// The first line of a file.
    pub(super) fn header(self) -> String {
        if self == Self::Csv { COLUMNS.join(",") + "\n" } else { String::new() }
    }

    /// Appends the captions of one image to `out`, one line each.
    pub(super) fn captions(self, name: &OsStr, captions: &[Caption], out: &mut Vec<u8>) -> io::Result<()> {
        let image = names::text(name);
        for (sequence_index, caption) in captions.iter().enumerate() {
            let Caption { text, token_ids, score, finish_reason } = caption;
            let (caption, score, finish_reason) = (text.as_str(), *score, FinishReason::as_str(*finish_reason));
            match self {
                // The name is written as it was given, byte for byte.
                Self::Text => out.extend([name.as_bytes(), b"\t", text.as_bytes(), b"\n"].concat()),
                Self::Jsonl => {
                    json(
                        &CaptionLine { image: &image, sequence_index, caption, token_ids, score, finish_reason },
                        out,
                    )?;
                }
                Self::Csv => csv(&(&image, sequence_index, caption, score, finish_reason, ""), out)?,
            }
        }
        Ok(())
    }

    /// Appends the error of one image to `out`; the text format has no line for it.
    pub(super) fn failure(self, name: &OsStr, error: &str, out: &mut Vec<u8>) -> io::Result<()> {
        let image = names::text(name);
        match self {
            Self::Text => Ok(()),
            Self::Jsonl => json(&ErrorLine { image: &image, error }, out),
            Self::Csv => csv(&(&image, "", "", "", "", error), out),
        }
    }
}

fn json(line: &impl Serialize, out: &mut Vec<u8>) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.push(b'\n');
    Ok(())
}

fn csv(row: &impl Serialize, out: &mut Vec<u8>) -> io::Result<()> {
    let mut writer = csv::WriterBuilder::new().has_headers(false).from_writer(out);
    writer.serialize(row)?;
    writer.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: Format) -> String {
        let caption = Caption {
            text: "a \"cat\", asleep".into(),
            token_ids: vec![1, 2],
            score: -0.25,
            finish_reason: FinishReason::Eos,
        };
        let mut out = format.header().into_bytes();
        format.captions(OsStr::from_bytes(b"\xff.png"), &[caption], &mut out).unwrap();
        format.failure(OsStr::new("b,\n.png"), "no such file", &mut out).unwrap();
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn each_format_quotes_by_its_rules() {
        assert_eq!(written(Format::Text), "\u{fffd}.png\ta \"cat\", asleep\n");
        assert_eq!(
            written(Format::Jsonl),
            concat!(
                r#"{"image":"\\xFF.png","sequence_index":0,"caption":"a \"cat\", asleep","token_ids":[1,2],"#,
                r#""score":-0.25,"finish_reason":"eos"}"#,
                "\n",
                r#"{"image":"b,\n.png","error":"no such file"}"#,
                "\n",
            )
        );
        assert_eq!(
            written(Format::Csv),
            "image,sequence_index,caption,score,finish_reason,error\n\
             \\xFF.png,0,\"a \"\"cat\"\", asleep\",-0.25,eos,\n\
             \"b,\n.png\",,,,,no such file\n"
        );
    }

    #[test]
    fn the_extension_selects_the_format() {
        let of = |name: &str| Format::from_extension(Path::new(name));
        assert_eq!([of("a.csv"), of("a.b.jsonl"), of("a.txt")], [Format::Csv, Format::Jsonl, Format::Text]);
    }
}
