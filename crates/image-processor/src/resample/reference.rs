//! The resize in its simplest form, one sample after the other; the fast one must give equal samples.

use proptest::prelude::*;

use super::kernel::{HALF, Kernels, clip};
use super::{Filter, ResizeOrder, Target, resize, vertical_first};
use crate::RgbImage;

/// One pass; the other one is the same on the transposed image.
fn along_x(image: &RgbImage, width: u32, filter: Filter) -> RgbImage {
    let kernels = Kernels::new(image.width, width, filter);
    let sample = |x: u32, y: u32, channel: usize| {
        let kernel = kernels.get(x as usize);
        let weighed = kernel.weights.iter().enumerate().map(|(i, weight)| {
            let pixel = y as usize * image.width as usize + kernel.start + i;
            i32::from(image.data[3 * pixel + channel]) * weight
        });
        clip(HALF + weighed.sum::<i32>())
    };
    let data = (0..image.height).flat_map(|y| (0..width).flat_map(move |x| [(x, y, 0), (x, y, 1), (x, y, 2)]));
    RgbImage { width, height: image.height, data: data.map(|(x, y, channel)| sample(x, y, channel)).collect() }
}

fn transposed(image: &RgbImage) -> RgbImage {
    let pixel = |x: u32, y: u32| &image.data[3 * (y as usize * image.width as usize + x as usize)..][..3];
    let data = (0..image.width).flat_map(|x| (0..image.height).flat_map(move |y| pixel(x, y)));
    RgbImage { width: image.height, height: image.width, data: data.copied().collect() }
}

fn along_y(image: &RgbImage, height: u32, filter: Filter) -> RgbImage {
    transposed(&along_x(&transposed(image), height, filter))
}

proptest! {
    #[test]
    fn gives_the_samples_of_the_plain_resize(
        (width, height) in (1_u32..90, 1_u32..90),
        (to_width, to_height) in (1_u32..60, 1_u32..60),
        wide in prop::sample::select(vec![1_u32, 1, 1, 40]),
        filter in prop::sample::select(vec![
            Filter::Bilinear, Filter::Bicubic, Filter::Lanczos, Filter::Box, Filter::Hamming,
        ]),
        order in prop::sample::select(vec![ResizeOrder::Pillow13, ResizeOrder::Pillow12]),
        seed: u32,
    ) {
        let width = width * wide;
        // Black and white among the samples, so that sums leave the range on both sides.
        let noise = |i: u32| ((i ^ seed).wrapping_mul(2_654_435_761) >> 23).saturating_sub(128).min(255) as u8;
        let image = RgbImage { width, height, data: (0..3 * width * height).map(noise).collect() };
        let target = Target { width: to_width, height: to_height, filter, order };
        let expected = if vertical_first(&image, &target) {
            along_x(&along_y(&image, to_height, filter), to_width, filter)
        } else {
            along_y(&along_x(&image, to_width, filter), to_height, filter)
        };
        let mut rows = Vec::new();
        resize(&image, &target, |row| rows.extend_from_slice(row));
        prop_assert!(rows == expected.data);
    }
}
