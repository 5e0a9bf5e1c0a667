//! Pillow's resize of 8-bit RGB, bit for bit.
//!
//! Weights are fixed point with 22 bits, each of the two passes rounds and clamps to 8 bits, and the order of the passes is
//! that of the Pillow version asked for. No whole intermediate image is kept: whatever the size of the input, the memory
//! used is that of the output plus a few rows. Without SIMD it is `reference.rs`, with which the tests compare it.

mod kernel;
mod pass;
#[cfg(test)]
mod reference;

use std::collections::VecDeque;

use serde::Deserialize;

use self::kernel::{HALF, Kernel, Kernels};
use self::pass::{Across, BLOCK, add_rows, clip_row};
use crate::rgb_image::RgbImage;

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

/// Resizes to `width` x `height`, each >= 1, without keeping the aspect ratio; hands over row after row.
pub(super) fn resize(
    image: &RgbImage,
    (width, height): (u32, u32),
    filter: Filter,
    order: ResizeOrder,
    mut row_done: impl FnMut(&[u8]),
) {
    if (width, height) == (image.width, image.height) {
        image.data.chunks_exact(width as usize * 3).for_each(row_done);
    } else if filter == Filter::Nearest {
        nearest(image, width, height, row_done);
    } else {
        let across = Across::new(Kernels::new(image.width, width, filter));
        let down = Kernels::new(image.height, height, filter);
        if vertical_first(image, width, height, order) {
            columns_first(image, across, &down, &mut row_done);
        } else {
            rows_first(image, across, &down, &mut row_done);
        }
    }
}

fn vertical_first(image: &RgbImage, width: u32, height: u32, order: ResizeOrder) -> bool {
    let removed_rows = i64::from(image.height) - i64::from(height);
    let removed_columns = i64::from(image.width) - i64::from(width);
    order == ResizeOrder::Pillow13 && removed_rows > 0 && removed_rows > 2 * removed_columns
}

/// Vertical pass first: a block of output rows is weighed from source rows, then resized along x.
fn columns_first(image: &RgbImage, mut across: Across, down: &Kernels, row_done: &mut dyn FnMut(&[u8])) {
    let stride = image.width as usize * 3;
    let mut sums = vec![0; stride];
    let mut block = vec![0; BLOCK * stride];
    let mut resized = vec![0; BLOCK * across.stride()];
    for first in (0..down.len()).step_by(BLOCK) {
        let rows = BLOCK.min(down.len() - first);
        for (y, row) in block.chunks_exact_mut(stride).take(rows).enumerate() {
            let kernel = down.get(first + y);
            sums.fill(HALF);
            add_rows(&mut sums, &image.data[kernel.start * stride..], stride, kernel.weights);
            clip_row(&sums, row);
        }
        across.apply(&block[..rows * stride], stride, &mut resized);
        resized.chunks_exact(across.stride()).take(rows).for_each(&mut *row_done);
    }
}

/// Horizontal pass first: a block of source rows is resized along x, then added to the output rows it has weight in.
fn rows_first(image: &RgbImage, mut across: Across, down: &Kernels, row_done: &mut dyn FnMut(&[u8])) {
    let (source_stride, stride) = (image.width as usize * 3, across.stride());
    let mut block = vec![0; BLOCK * stride];
    let mut line = vec![0; stride];
    // Sums of output rows from `next` on, of which earlier blocks may be a part.
    let mut open = VecDeque::new();
    let mut next = 0;
    for (number, rows) in image.data.chunks(BLOCK * source_stride).enumerate() {
        across.apply(rows, source_stride, &mut block);
        let top = number * BLOCK;
        let bottom = top + rows.len() / source_stride;
        // Neither end of the kernels goes back, so the output rows that use this block are neighbours.
        let using = (next..down.len()).take_while(|&y| down.get(y).start < bottom);
        for (i, y) in using.enumerate() {
            if open.len() == i {
                open.push_back(vec![HALF; stride]);
            }
            let Kernel { start, weights } = down.get(y);
            let (from, to) = (start.max(top), down.get(y).end().min(bottom));
            add_rows(&mut open[i], &block[(from - top) * stride..], stride, &weights[from - start..to - start]);
        }
        while next < down.len()
            && down.get(next).end() <= bottom
            && let Some(mut sums) = open.pop_front()
        {
            clip_row(&sums, &mut line);
            row_done(&line);
            next += 1;
            sums.fill(HALF);
            open.push_back(sums);
        }
    }
}

fn nearest(image: &RgbImage, width: u32, height: u32, mut row_done: impl FnMut(&[u8])) {
    let columns = nearest_positions(image.width, width);
    let (pixels, _) = image.data.as_chunks::<3>();
    let mut line = Vec::with_capacity(width as usize * 3);
    for y in nearest_positions(image.height, height) {
        let row = &pixels[y * image.width as usize..];
        line.clear();
        line.extend(columns.iter().flat_map(|&x| row[x]));
        row_done(&line);
    }
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
