//! The report of a bundle as text: a line for each section of the manifest.

use std::fmt::Write;

use indicatif::BinaryBytes;
use serde_json::{Map, Value};

use crate::cli::bundle::report::Report;

/// Sections of a manifest in the order they are shown; others follow them.
const SECTIONS: [&str; 11] = [
    "source",
    "precision",
    "quantization",
    "vision",
    "text",
    "prompt",
    "tokenizer",
    "preprocessor",
    "generation",
    "verification",
    "exported_with",
];

/// Sections that are shown elsewhere, or equal in every bundle.
const OMITTED: [&str; 3] = ["files", "format_version", "model_type"];

/// Formats the whole report, without a final line break.
pub(super) fn text(report: &Report) -> String {
    let empty = Map::new();
    let manifest = report.manifest.as_object().unwrap_or(&empty);
    let others = manifest.keys().map(String::as_str).filter(|key| !SECTIONS.contains(key) && !OMITTED.contains(key));
    let mut text = line("bundle", &report.bundle.display().to_string());
    for section in SECTIONS.into_iter().chain(others) {
        match manifest.get(section) {
            None | Some(Value::Null) => {}
            Some(Value::Object(fields)) => text += &line(section, &list(fields)),
            Some(value) => text += &line(section, &short(value)),
        }
    }
    text += &line("size", &BinaryBytes(report.bytes).to_string());
    let width = report.files.iter().map(|file| file.name.len()).max().unwrap_or(0);
    for (index, file) in report.files.iter().enumerate() {
        let size = BinaryBytes(file.bytes).to_string();
        let label = if index == 0 { "files" } else { "" };
        text += &line(label, &format!("{:width$}  {size:>10}  {}", file.name, file.state.as_str()));
    }
    text.truncate(text.trim_end().len());
    text
}

fn line(label: &str, text: &str) -> String {
    format!("{:<14}{text}\n", label.replace('_', " "))
}

/// Formats `name value, name value`; null values are omitted.
fn list(fields: &Map<String, Value>) -> String {
    let mut text = String::new();
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        let separator = if text.is_empty() { "" } else { ", " };
        // Writing to a string cannot fail.
        let _ = write!(text, "{separator}{name} {}", short(value));
    }
    if text.is_empty() { "none".into() } else { text }
}

/// Formats a value: lists in brackets, strings without quotes.
fn short(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(short).collect::<Vec<_>>().join(" ")),
        Value::Object(fields) => format!("({})", list(fields)),
        _ => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::bundle::report::{FileReport, State};

    #[test]
    fn every_section_is_a_line() {
        let manifest = json!({
            "format_version": 2,
            "extra": {"new": true},
            "source": {"model": "m/x", "revision": null},
            "preprocessor": {"height": 96, "image_mean": [0.5, 0.25, 1]},
            "precision": "fp32",
            "files": {},
            "generation": {},
        });
        let file = |name: &str, bytes, state| FileReport { name: name.into(), bytes, state };
        let files = vec![file("a.onnx", 2048, State::Verified), file("tokenizer.json", 5, State::Changed)];
        let report = Report { bundle: "b".into(), verified: false, bytes: 2053, files, manifest };
        let expected = [
            "bundle        b",
            "source        model m/x",
            "precision     fp32",
            "preprocessor  height 96, image_mean [0.5 0.25 1]",
            "generation    none",
            "extra         new true",
            "size          2.00 KiB",
            "files         a.onnx            2.00 KiB  verified",
            "              tokenizer.json         5 B  CHANGED",
        ];
        assert_eq!(text(&report).lines().collect::<Vec<_>>(), expected);
    }
}
