//! Who may import whom: one crate has no compiler wall between its rooms, so this reads the sources.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A room and the rooms of this crate that it may name, besides itself.
const MAY_USE: [(&str, &[&str]); 20] = [
    (
        "server",
        &[
            "api_keys",
            "caption",
            "captioner",
            "config",
            "error",
            "fetch",
            "generation",
            "limits",
            "metrics",
            "registry",
            "statistics",
            "telemetry",
        ],
    ),
    ("captioner", &["caption", "config", "error", "fetch", "generation", "image", "registry", "telemetry"]),
    ("api_keys", &["limits"]),
    ("limits", &["config", "generation"]),
    ("metrics", &[]),
    ("fetch", &["config", "error", "fetch_config"]),
    ("image", &[]),
    ("generation", &[]),
    (
        "registry",
        &[
            "blip",
            "caption",
            "catalogue",
            "engine",
            "error",
            "generation",
            "image",
            "metrics",
            "statistics",
            "telemetry",
        ],
    ),
    ("engine", &["blip", "error", "generation", "image", "statistics", "telemetry"]),
    ("statistics", &["caption", "metrics"]),
    ("blip", &["catalogue", "generation", "image"]),
    ("catalogue", &["generation"]),
    ("config", &["api_keys", "fetch_config", "limits"]),
    ("fetch_config", &["config"]),
    ("caption", &["generation"]),
    ("error", &["generation", "image"]),
    ("telemetry", &[]),
    (
        "cli",
        &[
            "api_keys",
            "blip",
            "caption",
            "captioner",
            "catalogue",
            "config",
            "error",
            "fetch",
            "generation",
            "image",
            "limits",
            "metrics",
            "registry",
            "server",
            "telemetry",
        ],
    ),
    ("main", &[]),
];

/// Libraries that only one room may name.
const ONLY_IN: [(&str, &[&str]); 11] = [
    ("ort::", &["blip"]),
    ("tokenizers::", &["blip"]),
    ("axum::", &["server"]),
    ("tonic::", &["server", "error"]),
    ("prost::", &["server"]),
    ("reqwest::", &["cli", "fetch", "telemetry"]),
    ("opentelemetry::", &["telemetry"]),
    ("opentelemetry_sdk::", &["telemetry"]),
    ("opentelemetry_otlp::", &["telemetry"]),
    ("clap::", &["cli", "config", "fetch_config", "limits", "telemetry"]),
    ("mozjpeg::", &["image"]),
];

#[test]
fn no_room_names_a_room_it_must_not_know() {
    for (room, file, line) in source_lines() {
        let allowed = MAY_USE.iter().find(|(name, _)| *name == room).map(|(_, rooms)| *rooms);
        let allowed = allowed.unwrap_or_else(|| panic!("{} is in no room of the list", file.display()));
        for named in rooms_named(&line) {
            assert!(
                named == room || allowed.contains(&named.as_str()),
                "{}: {room} names {named}: {line}",
                file.display()
            );
        }
    }
}

#[test]
fn each_library_stays_in_its_room() {
    for (room, file, line) in source_lines() {
        // Not what stands inside quotes: a log filter names crates too.
        let line = line.split('"').step_by(2).collect::<Vec<_>>().join("\"");
        for (library, rooms) in ONLY_IN {
            let names_it = line
                .split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
                .any(|word| word.starts_with(library));
            assert!(!names_it || rooms.contains(&room.as_str()), "{}: {room} uses {library} {line}", file.display());
        }
    }
}

/// Room, file and text of every line of code under `src/` that is not a comment.
fn source_lines() -> Vec<(String, PathBuf, String)> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&source, &mut files);
    assert!(files.len() > 30, "the sources were not found");
    let mut lines = Vec::new();
    for file in files {
        let inside = file.strip_prefix(&source).unwrap();
        let room = inside.components().next().unwrap().as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned();
        if room == "lib" {
            continue;
        }
        // One statement a line, however rustfmt broke it.
        let text: String =
            fs::read_to_string(&file).unwrap().lines().filter(|l| !l.trim_start().starts_with("//")).collect();
        lines.extend(text.split(';').map(|statement| (room.clone(), file.clone(), statement.trim().to_owned())));
    }
    lines
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The rooms behind each `crate::` of a statement: `crate::a::B`, or `crate::{a::B, c}`.
fn rooms_named(statement: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for rest in statement.split("crate::").skip(1) {
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut item = String::new();
            for c in list.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => rooms.push(std::mem::take(&mut item)),
                    _ if depth == 0 => item.push(c),
                    _ => {}
                }
            }
            rooms.push(item);
        } else {
            rooms.push(rest.to_owned());
        }
    }
    let first =
        |path: String| path.trim().split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or("").to_owned();
    rooms.into_iter().map(first).filter(|room| !room.is_empty()).collect()
}

#[test]
fn the_reader_of_imports_sees_what_is_there() {
    assert_eq!(rooms_named("use crate::{a::{B, C}, d, e::F}"), ["a", "d", "e"]);
    assert_eq!(rooms_named("let x = crate::a::b(crate::c::D)"), ["a", "c"]);
}
