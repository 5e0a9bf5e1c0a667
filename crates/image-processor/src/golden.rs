//! Replays tests/golden/images.json, which `scripts/golden/images.py` wrote with Pillow and transformers: well-formed JPEG
//! files, resizes in both orders, and `pixel_values`.

use std::sync::LazyLock;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::resample::{self, Target};
use super::{
    AlphaPolicy, DecodeError, DecodeLimits, Filter, PreprocessConfig, ResizeOrder, RgbImage, decode, preprocess,
};

static GOLDEN: LazyLock<Golden> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../../tests/golden/images.json")).unwrap());

#[derive(Deserialize)]
struct Golden {
    jpegs: Vec<Jpeg>,
    resizes: Vec<Resize>,
    pixel_values: Vec<Pixels>,
}

#[derive(Deserialize)]
struct Jpeg {
    name: String,
    file: String,
    #[serde(flatten)]
    decoded: Decoded,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Decoded {
    width: u32,
    height: u32,
    sha256: String,
}

#[derive(Debug, Deserialize)]
struct Resize {
    /// Width and height before and after.
    size: [u32; 4],
    filter: Filter,
    order: ResizeOrder,
    sha256: String,
}

#[derive(Deserialize)]
struct Pixels {
    config: PreprocessConfig,
    /// Bits of the first three values, to see at a glance what is wrong.
    first: [u32; 3],
    sha256: String,
}

impl Jpeg {
    fn decode(&self) -> Result<RgbImage, DecodeError> {
        let bytes = STANDARD.decode(&self.file).unwrap();
        decode(&bytes, &DecodeLimits { max_pixels: 1_000_000 }, AlphaPolicy::White)
    }
}

fn resize(image: &RgbImage, target: &Target) -> Vec<u8> {
    let mut data = Vec::new();
    resample::resize(image, target, |row| data.extend_from_slice(row));
    data
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// The image of the script's `noise`.
fn noise(width: u32, height: u32) -> RgbImage {
    let samples = (0..width * height * 3).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8);
    RgbImage { width, height, data: samples.collect() }
}

#[test]
fn jpegs_decode_to_the_bytes_of_pillow() {
    for jpeg in &GOLDEN.jpegs {
        let RgbImage { width, height, data } = jpeg.decode().unwrap();
        assert_eq!(Decoded { width, height, sha256: sha256(&data) }, jpeg.decoded, "{}", jpeg.name);
    }
    assert!(GOLDEN.jpegs.len() > 65, "{}", GOLDEN.jpegs.len());
}

#[test]
fn resizes_give_the_bytes_of_pillow_in_both_orders() {
    for case in &GOLDEN.resizes {
        let [width, height, to_width, to_height] = case.size;
        let target = Target { width: to_width, height: to_height, filter: case.filter, order: case.order };
        let resized = resize(&noise(width, height), &target);
        assert_eq!(sha256(&resized), case.sha256, "{case:?}");
    }
}

#[test]
fn the_two_orders_differ_on_a_portrait_image() {
    let target = |order| Target { width: 96, height: 96, filter: Filter::Bicubic, order };
    let resized = |order| resize(&noise(100, 300), &target(order));
    assert_ne!(resized(ResizeOrder::Pillow13), resized(ResizeOrder::Pillow12));
}

#[test]
fn pixel_values_equal_those_of_transformers_to_the_last_bit() {
    for case in &GOLDEN.pixel_values {
        let Pixels { config, first, sha256: expected } = case;
        let values = preprocess(&noise(40, 20), config);
        assert_eq!((values.height(), values.width()), config.size());
        let values = values.into_array();
        assert_eq!([0, 1, 2].map(|x| values[[0, 0, x]].to_bits()), *first, "{config:?}");
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(sha256(&bytes), *expected, "{config:?}");
    }
}
