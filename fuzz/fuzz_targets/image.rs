//! The bytes of an image file, as far as `pixel_values`.

#![no_main]

use std::sync::LazyLock;

use image_processor::{DecodeLimits, PreprocessConfig, decode, preprocess};
use libfuzzer_sys::fuzz_target;
use serde_json::json;

const LIMITS: DecodeLimits = DecodeLimits { max_pixels: 1 << 16 };
const HEIGHT: usize = 20;
const WIDTH: usize = 24;

static CONFIGS: LazyLock<Vec<PreprocessConfig>> = LazyLock::new(|| {
    let choices = [
        ("bicubic", "pillow13", "white"),
        ("bicubic", "pillow12", "drop"),
        ("lanczos", "pillow13", "drop"),
        ("nearest", "pillow13", "white"),
        ("box", "pillow13", "white"),
    ];
    let config = |(resample, order, alpha)| {
        serde_json::from_value(json!({
            "height": HEIGHT, "width": WIDTH, "resample": resample, "resize_order": order, "alpha": alpha,
            "do_rescale": true, "rescale_factor": 1.0 / 255.0,
            "do_normalize": true, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
        }))
    };
    choices.map(|choice| config(choice).expect("fields that are right")).to_vec()
});

fuzz_target!(|bytes: &[u8]| {
    // Mutations change the length, so a file meets all of them.
    let config = &CONFIGS[bytes.len() % CONFIGS.len()];
    let Ok(image) = decode(bytes, &LIMITS, config.alpha()) else { return };
    let pixels = u64::from(image.width) * u64::from(image.height);
    assert!((1..=LIMITS.max_pixels).contains(&pixels), "{} x {}", image.width, image.height);
    assert_eq!(image.data.len() as u64, 3 * pixels);
    let values = preprocess(&image, config);
    assert_eq!(values.view().dim(), (3, HEIGHT, WIDTH));
    assert!(values.view().iter().all(|value| (-1.0..=1.0).contains(value)));
});
