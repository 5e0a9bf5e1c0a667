//! Files of the operator: `m` and a `manifest.json`, or `t` and a `models.toml`.

#![no_main]

use std::path::{Component, Path};

use blip_serve::{
    blip::{BundleError, Manifest},
    config::catalogue::Catalogue,
};
use generation::{GenerationConfig, GenerationLimits};
use image_processor::{RgbImage, preprocess};
use libfuzzer_sys::fuzz_target;

/// A folder that does not exist.
const FOLDER: &str = "/no/such/bundle";
/// Larger images take too long for a fuzz target.
const MAX_SIDE: usize = 64;

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, text)) = bytes.split_first() else { return };
    let Ok(text) = str::from_utf8(text) else { return };
    if *kind == b't' {
        if let Ok(catalogue) =
            Catalogue::parse(text, Path::new("models.toml")).inspect_err(|error| drop(error.to_string()))
        {
            check_catalogue(&catalogue);
        }
    } else if let Ok(manifest) = Manifest::parse(text) {
        check_manifest(&manifest);
    }
});

fn check_catalogue(catalogue: &Catalogue) {
    assert!(catalogue.models.iter().any(|entry| entry.name == catalogue.default));
    for entry in &catalogue.models {
        assert!(entry.version.parse::<u32>().is_ok_and(|version| version > 0));
        assert!(!entry.execution_providers.is_empty() && entry.max_rows > 0 && entry.max_batch_size > 0);
        assert!((0.0..=1.0).contains(&entry.max_batch_delay));
        let _ = GenerationConfig::new(&entry.generation, &GenerationLimits::default());
    }
}

fn check_manifest(manifest: &Manifest) {
    let text = &manifest.text;
    let ids = [text.bos_token_id, text.eos_token_id, text.pad_token_id, manifest.prompt.replace_first_with];
    assert!(ids.iter().all(|id| (*id as usize) < text.vocab_size));
    // The folder does not exist, so the first file is missing: it must be one inside the folder.
    let Err(BundleError::Unreadable { path, .. }) = manifest.verify_files(Path::new(FOLDER)) else {
        panic!("a file outside the bundle was read");
    };
    assert!(path.starts_with(FOLDER) && !path.components().any(|part| part == Component::ParentDir));
    let _ = GenerationConfig::new(&manifest.generation, &GenerationLimits::default());
    let (height, width) = manifest.preprocessor.size();
    if height.max(width) <= MAX_SIDE {
        let image = RgbImage { width: 2, height: 1, data: vec![0, 0, 0, 255, 255, 255] };
        let values = preprocess(&image, &manifest.preprocessor);
        assert!(values.view().iter().all(|value| value.is_finite()), "{:?}", manifest.preprocessor);
    }
}
