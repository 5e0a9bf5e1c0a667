//! The hot paths around the model: `cargo bench`.
//!
//! The benchmark scripts look for these names. `photo_640x480.jpg` is a synthetic picture with the spectrum of a
//! photograph (1/f noise, blurred edges, grain), saved by Pillow: quality 90, 4:2:0, 115 KB.

#![allow(missing_docs, reason = "criterion's macros make public functions")]
#![allow(clippy::unwrap_used, reason = "a failure ends the benchmark")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use generation::{GenerationConfig, GenerationLimits, GenerationParameters, Search, Vocabulary};
use image_processor::{AlphaPolicy, DecodeLimits, PreprocessConfig, RgbImage, decode, preprocess};
use ndarray::{Array2, ArrayView2, Axis};

const PHOTO: &[u8] = include_bytes!("photo_640x480.jpg");
const VOCAB_SIZE: usize = 30_524;
const NUM_BEAMS: usize = 3;

/// The preprocessing of the published checkpoints.
fn config() -> PreprocessConfig {
    let fields = r#"{
        "height": 384, "width": 384, "resample": "bicubic", "resize_order": "pillow13", "alpha": "white",
        "do_rescale": true, "rescale_factor": 0.00392156862745098, "do_normalize": true,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]
    }"#;
    serde_json::from_str(fields).unwrap()
}

fn photo() -> RgbImage {
    decode(PHOTO, &DecodeLimits { max_pixels: 1 << 20 }, AlphaPolicy::White).unwrap()
}

/// Logits `[rows, VOCAB_SIZE]` like those of a language model: a wide bell curve, and one id far above it.
fn logits(rows: usize) -> Array2<f32> {
    let mut seed = 1_u32;
    let mut uniform = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(seed >> 8) / f64::from(1 << 24)
    };
    let bell = || ((0..6).map(|_| uniform()).sum::<f64>() * 3.0 - 15.0) as f32;
    let mut logits = Array2::from_shape_simple_fn((rows, VOCAB_SIZE), bell);
    for (row, mut logits) in logits.outer_iter_mut().enumerate() {
        logits[9_000 + 7_000 * row] = 4.0;
    }
    logits
}

fn first_rows(logits: &Array2<f32>, rows: usize) -> ArrayView2<'_, f32> {
    logits.slice_axis(Axis(0), (..rows).into())
}

fn new_search(num_beams: usize) -> Search {
    let parameters = GenerationParameters { num_beams: Some(num_beams as u32), ..Default::default() };
    let config = GenerationConfig::new(&parameters, &GenerationLimits::default()).unwrap();
    let vocabulary = Vocabulary { size: VOCAB_SIZE, eos_token_id: 102, pad_token_id: 0 };
    Search::new(&config, vocabulary, Vec::new(), &[30_522, 1037, 3861, 1997], 24)
}

fn preprocessing(criterion: &mut Criterion) {
    let (config, image) = (config(), photo());
    let mut group = criterion.benchmark_group("preprocess");
    group.bench_function("jpeg_640x480", |bencher| bencher.iter(|| preprocess(&photo(), &config)));
    group.bench_function("resize_normalise_640x480", |bencher| {
        bencher.iter(|| preprocess(black_box(&image), &config));
    });
    group.finish();
}

fn search(criterion: &mut Criterion) {
    let logits = logits(NUM_BEAMS);
    let mut group = criterion.benchmark_group("search");
    for (name, num_beams) in [("greedy_step", 1), ("beam_step", NUM_BEAMS)] {
        let at_second_step = || {
            let mut search = new_search(num_beams);
            search.advance(first_rows(&logits, 1));
            search
        };
        let logits = first_rows(&logits, num_beams);
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(at_second_step, |search| search.advance(black_box(logits)), BatchSize::SmallInput);
        });
    }
    group.finish();
}

criterion_group!(benches, preprocessing, search);
criterion_main!(benches);
