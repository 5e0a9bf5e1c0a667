//! Pillow's resize of 8-bit RGB, bit for bit.
//!
//! Weights are fixed point with 22 bits, each of the two passes rounds and clamps to 8 bits, and the order of the passes is
//! that of the Pillow version asked for. No whole intermediate image is kept: whatever the size of the input, the memory
//! used is that of the output plus one row.

mod kernel;

use serde::Deserialize;

use self::kernel::{Kernel, clip, kernels};
use super::RgbImage;

/// Kernel of the resize, by Pillow's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// The nearest source pixel; no weights.
    Nearest,
    /// Windowed sinc, 3 lobes.
    Lanczos,
    /// Triangle.
    Bilinear,
    /// Cubic convolution with a = -0.5.
    Bicubic,
    /// Average of the pixels covered.
    Box,
    /// Hamming-windowed sinc, 1 lobe.
    Hamming,
}

/// Which pass comes first; it shows in the pixels, because each pass rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResizeOrder {
    /// Pillow 13: the vertical pass, when it shrinks the image and takes away over twice what the horizontal one does.
    Pillow13,
    /// Pillow 12 and before: the horizontal pass, always.
    Pillow12,
}

/// Resizes to `width` x `height`, each >= 1, without keeping the aspect ratio.
pub(super) fn resize(image: &RgbImage, width: u32, height: u32, filter: Filter, order: ResizeOrder) -> RgbImage {
    let data = if (width, height) == (image.width, image.height) {
        image.data.clone()
    } else if filter == Filter::Nearest {
        nearest(image, width, height)
    } else if vertical_first(image, width, height, order) {
        resize_columns_first(image, width, height, filter)
    } else {
        resize_rows_first(image, width, height, filter)
    };
    RgbImage { width, height, data }
}

fn vertical_first(image: &RgbImage, width: u32, height: u32, order: ResizeOrder) -> bool {
    let removed_rows = i64::from(image.height) - i64::from(height);
    let removed_columns = i64::from(image.width) - i64::from(width);
    order == ResizeOrder::Pillow13 && removed_rows > 0 && removed_rows > 2 * removed_columns
}

/// Vertical pass first: each output row is weighed from source rows, then resized along x.
fn resize_columns_first(image: &RgbImage, width: u32, height: u32, filter: Filter) -> Vec<u8> {
    let across = kernels(image.width, width, filter);
    let down = kernels(image.height, height, filter);
    let stride = image.width as usize * 3;
    let mut output = vec![0; width as usize * height as usize * 3];
    let mut sums = vec![0; stride];
    let mut line = vec![0; stride];
    for (row, kernel) in output.chunks_exact_mut(width as usize * 3).zip(&down) {
        sums.fill(kernel::HALF);
        let sources = image.data[kernel.start * stride..].chunks_exact(stride);
        for (source, &weight) in sources.zip(&kernel.weights) {
            add_weighted(&mut sums, source, weight);
        }
        clip_row(&sums, &mut line);
        resize_row(&line, &across, row);
    }
    output
}

/// Horizontal pass first: each source row is resized along x, then added to the output rows it has weight in.
fn resize_rows_first(image: &RgbImage, width: u32, height: u32, filter: Filter) -> Vec<u8> {
    let across = kernels(image.width, width, filter);
    let down = kernels(image.height, height, filter);
    let stride = width as usize * 3;
    let mut sums = vec![kernel::HALF; stride * height as usize];
    let mut line = vec![0; stride];
    let mut first = 0;
    for (y, source) in image.data.chunks_exact(image.width as usize * 3).enumerate() {
        resize_row(source, &across, &mut line);
        // Both ends of the kernels grow with the output row, so the rows that use `y` are neighbours.
        while down.get(first).is_some_and(|kernel| kernel.start + kernel.weights.len() <= y) {
            first += 1;
        }
        for (kernel, sums) in down[first..].iter().zip(sums.chunks_exact_mut(stride).skip(first)) {
            if kernel.start > y {
                break;
            }
            if let Some(&weight) = kernel.weights.get(y - kernel.start) {
                add_weighted(sums, &line, weight);
            }
        }
    }
    let mut output = vec![0; sums.len()];
    clip_row(&sums, &mut output);
    output
}

/// `sums += row * weight`, sample by sample.
fn add_weighted(sums: &mut [i32], row: &[u8], weight: i32) {
    for (sum, &sample) in sums.iter_mut().zip(row) {
        *sum += i32::from(sample) * weight;
    }
}

fn clip_row(sums: &[i32], row: &mut [u8]) {
    for (sample, &sum) in row.iter_mut().zip(sums) {
        *sample = clip(sum);
    }
}

/// One row along x.
fn resize_row(source: &[u8], kernels: &[Kernel], row: &mut [u8]) {
    for (pixel, kernel) in row.chunks_exact_mut(3).zip(kernels) {
        let mut sums = [kernel::HALF; 3];
        let (samples, _) = source[kernel.start * 3..].as_chunks::<3>();
        for (sample, &weight) in samples.iter().zip(&kernel.weights) {
            for (sum, &value) in sums.iter_mut().zip(sample) {
                *sum += i32::from(value) * weight;
            }
        }
        for (value, sum) in pixel.iter_mut().zip(sums) {
            *value = clip(sum);
        }
    }
}

fn nearest(image: &RgbImage, width: u32, height: u32) -> Vec<u8> {
    let columns = nearest_positions(image.width, width);
    let (pixels, _) = image.data.as_chunks::<3>();
    let mut output = Vec::with_capacity(width as usize * height as usize * 3);
    for y in nearest_positions(image.height, height) {
        let row = &pixels[y * image.width as usize..];
        output.extend(columns.iter().flat_map(|&x| row[x]));
    }
    output
}

/// Source position of each output position. The sum of steps, not a product, as Pillow's rounding errors count too.
fn nearest_positions(input: u32, output: u32) -> Vec<usize> {
    let step = f64::from(input) / f64::from(output);
    let last = input as usize - 1;
    let mut position = step * 0.5;
    let mut next = || {
        let whole = position as usize;
        position += step;
        whole.min(last)
    };
    (0..output).map(|_| next()).collect()
}
