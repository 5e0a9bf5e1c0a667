//! The two graphs without an engine: caches on a device equal those in the CPU's memory, and runs can be aborted.

use std::sync::Arc;

use blip_serve::{
    blip::{Abort, BlipModel, EncodedImage, KvCache, Manifest, SessionConfig},
    config::catalogue::ExecutionProvider,
};
use image_processor::PixelValues;
use ndarray::Array3;

use super::support::{LIBRARY, bundle};

const START: u32 = 30522;

fn load(caches_on_device: bool) -> BlipModel {
    let config = SessionConfig {
        execution_providers: vec![ExecutionProvider::Cpu],
        device_id: 0,
        gpu_mem_limit: None,
        threads: 2,
        caches_on_device,
    };
    let bundle = bundle();
    let manifest = Manifest::load(&bundle).unwrap();
    BlipModel::load(&LIBRARY, &bundle, &manifest, &config).unwrap()
}

/// Makes noise, different for each `seed`.
fn noise_image(seed: u32) -> PixelValues {
    let (height, width) = Manifest::load(&bundle()).unwrap().preprocessor.size();
    let mut state = seed.wrapping_mul(2_654_435_761).max(1);
    let noise = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 * 4.0 - 2.0
    };
    PixelValues::new(Array3::from_shape_simple_fn((3, height, width), noise))
}

fn encode(model: &mut BlipModel, seeds: &[u32]) -> Vec<Arc<EncodedImage>> {
    model.encode(seeds.iter().copied().map(noise_image).collect(), &Abort::new().unwrap()).unwrap()
}

fn step(model: &mut BlipModel, cache: &mut KvCache, input_ids: &[i64]) -> Vec<f32> {
    model.step(cache, input_ids).unwrap().view().unwrap().iter().copied().collect()
}

/// Returns the logits of steps between which images join, leave, get beams, reorder them and outgrow their cache.
fn logits_of_a_batch(model: &mut BlipModel) -> Vec<Vec<f32>> {
    let images: Vec<_> = (1..=4).map(|seed| encode(model, &[seed]).remove(0)).collect();
    let mut cache = model.new_cache();
    let mut logits = Vec::new();
    model.join_without_past(images[0].clone(), &mut cache).unwrap();
    logits.push(step(model, &mut cache, &[i64::from(START)]));
    // The first image gets three beams, all from its single row; the second joins.
    cache.reorder(0, &[0, 1, 2]).unwrap();
    model.join_without_past(images[1].clone(), &mut cache).unwrap();
    logits.push(step(model, &mut cache, &[1037, 2048, 2093, i64::from(START)]));
    cache.reorder(0, &[2, 0, 0]).unwrap();
    let prefill = model.prefill(&images[2], &[START, 1037, 3861]).unwrap();
    logits.push(prefill.logits.view().unwrap().iter().copied().collect());
    model.join(images[2].clone(), prefill, 2, &mut cache).unwrap();
    logits.push(step(model, &mut cache, &[1, 2, 3, 4, 5, 6]));
    cache.reorder(2, &[1, 0]).unwrap();
    // The first image leaves and the last takes its place; another joins.
    cache.swap_remove(0);
    model.join_without_past(images[3].clone(), &mut cache).unwrap();
    for token in 0..40 {
        logits.push(step(model, &mut cache, &[token, token + 1, token + 2, token + 3]));
    }
    cache.swap_remove(1);
    logits.push(step(model, &mut cache, &[7, 8, 9]));
    cache.swap_remove(0);
    logits.push(step(model, &mut cache, &[7]));
    cache.swap_remove(0);
    assert_eq!(cache.rows(), 0);
    model.join_without_past(images[0].clone(), &mut cache).unwrap();
    logits.push(step(model, &mut cache, &[i64::from(START)]));
    assert_eq!(logits.first(), logits.last());
    logits
}

#[test]
fn caches_on_a_device_give_the_logits_of_the_cpu() {
    let host = logits_of_a_batch(&mut load(false));
    let device = logits_of_a_batch(&mut load(true));
    assert_eq!(host.len(), device.len());
    for (number, (host, device)) in host.iter().zip(&device).enumerate() {
        assert!(host.iter().all(|logit| logit.is_finite()));
        assert_eq!(host, device, "run {number}");
    }
}

#[test]
fn beams_are_not_reordered_before_the_first_step() {
    let mut model = load(false);
    let image = encode(&mut model, &[1]).remove(0);
    let mut cache = model.new_cache();
    model.join_without_past(image, &mut cache).unwrap();
    assert!(cache.reorder(0, &[0, 0]).is_err());
    // Nothing has changed.
    assert_eq!(cache.rows(), 1);
    assert_eq!(step(&mut model, &mut cache, &[i64::from(START)]).len(), model.vocabulary().size);
}

#[test]
fn images_encoded_in_a_batch_equal_those_encoded_one_by_one() {
    for caches_on_device in [false, true] {
        let mut model = load(caches_on_device);
        let batch = encode(&mut model, &[1, 2, 3]);
        for (seed, image) in (1..).zip(batch) {
            let single = encode(&mut model, &[seed]).remove(0);
            let mut logits = [image, single].map(|image| {
                let mut cache = model.new_cache();
                model.join_without_past(image, &mut cache).unwrap();
                step(&mut model, &mut cache, &[i64::from(START)])
            });
            let [batch, single] = &mut logits;
            assert_eq!(batch, single);
        }
    }
}

#[test]
fn a_run_of_the_encoder_can_be_aborted() {
    let mut model = load(false);
    let abort = Abort::new().unwrap();
    abort.abort();
    assert!(model.encode(vec![noise_image(1)], &abort).is_err());
    assert_eq!(encode(&mut model, &[1]).len(), 1);
}
