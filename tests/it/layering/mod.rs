//! Who may import whom. The compiler enforces it between crates; inside `src`, this test reads the sources.
//!
//! The flow is main, cli, server, captioner, registry, engine, blip: no module imports one before it, except that `blip`
//! implements the trait `Backend` of `engine`, which does not know it. Around the flow are the modules that all may use.
//! No two files import each other, directly or not.

mod imports;

use std::{collections::BTreeSet, path::Path};

use imports::{Sources, cycles};

/// The modules of `src` and the workspace's crates, each with those that it may use besides itself.
const MAY_USE: [(&str, &[&str]); 14] = [
    ("main", &["cli"]),
    ("cli", &["server", "captioner", "registry", "blip", "fetch", "config", "observability", "caption", "error"]),
    ("server", &["captioner", "registry", "fetch", "config", "observability", "caption", "error"]),
    ("captioner", &["registry", "fetch", "config", "observability", "caption", "error"]),
    ("registry", &["engine", "blip", "config", "observability", "caption", "error"]),
    ("engine", &["observability", "error"]),
    ("blip", &["engine", "config"]),
    ("fetch", &["config", "error"]),
    ("observability", &["config", "caption"]),
    ("config", &[]),
    ("caption", &[]),
    ("error", &[]),
    ("generation", &[]),
    ("image_processor", &[]),
];

/// Modules that may use the workspace's crates.
const MAY_USE_CRATES: [(&str, &[&str]); 2] = [
    ("generation", &["cli", "server", "captioner", "registry", "engine", "blip", "config", "caption", "error"]),
    ("image_processor", &["cli", "server", "captioner", "registry", "engine", "blip", "error"]),
];

/// Libraries that only some modules may use.
const LIBRARIES: [(&str, &[&str]); 12] = [
    ("ort", &["blip"]),
    ("tokenizers", &["blip"]),
    ("axum", &["server"]),
    ("hyper", &["server"]),
    ("tonic", &["server"]),
    ("prost", &["server"]),
    ("reqwest", &["cli", "fetch", "observability"]),
    ("opentelemetry", &["observability"]),
    ("opentelemetry_sdk", &["observability"]),
    ("opentelemetry_otlp", &["observability"]),
    ("clap", &["cli", "config", "generation"]),
    ("tokio", &["cli", "server", "captioner", "registry", "engine", "fetch"]),
];

fn sources() -> Sources {
    Sources::read(Path::new(env!("CARGO_MANIFEST_DIR")))
}

/// The module or crate that rules are made for.
fn layer(path: &[String]) -> Option<&str> {
    match path {
        [krate, module, ..] if krate == "blip_serve" => Some(module),
        [krate, ..] if krate != "blip_serve" => Some(krate),
        _ => None,
    }
}

/// Every layer, file and path that it names.
fn check(is_wrong: impl Fn(&str, &[String]) -> bool) {
    let sources = sources();
    let mut wrong = Vec::new();
    for (module, file, paths) in sources.paths() {
        let Some(layer) = layer(module) else { continue };
        let named = paths.iter().filter(|path| is_wrong(layer, path));
        wrong.extend(named.map(|path| format!("{file} names {}", path.join("::"))));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn no_module_imports_one_that_it_must_not_know() {
    check(|from, path| {
        let rule = MAY_USE.iter().find(|(name, _)| *name == from);
        let (_, allowed) = rule.unwrap_or_else(|| panic!("{from} is not in the list of modules"));
        let is_module = |name: &str| MAY_USE.iter().any(|(module, _)| *module == name);
        match layer(path).filter(|to| *to != from && is_module(to)) {
            Some(to) => match MAY_USE_CRATES.iter().find(|(name, _)| *name == to) {
                Some((_, users)) => !users.contains(&from),
                None => !allowed.contains(&to),
            },
            None => false,
        }
    });
}

#[test]
fn each_library_stays_in_its_modules() {
    check(|from, path| LIBRARIES.iter().any(|(library, users)| path[0] == *library && !users.contains(&from)));
}

#[test]
fn no_two_files_import_each_other() {
    let sources = sources();
    let graph = sources.graph();
    assert!(graph.len() > 100, "the sources were not found");
    let cycles = cycles(&graph);
    let show = |cycle: &BTreeSet<String>| {
        let targets = |file: &str| graph[file].iter().filter(|to| cycle.contains(**to)).copied().collect::<Vec<_>>();
        cycle.iter().map(|file| format!("  {file} imports {}", targets(file).join(", "))).collect::<Vec<_>>().join("\n")
    };
    let cycles: Vec<_> = cycles.iter().map(show).collect();
    assert!(cycles.is_empty(), "{} cycles:\n{}", cycles.len(), cycles.join("\n\n"));
}
