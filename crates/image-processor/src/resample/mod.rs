//! Pillow's resize of 8-bit RGB, bit for bit.
//!
//! Weights are fixed-point numbers with 22 bits, each of the two passes rounds and clamps to 8 bits, and the order of the
//! passes is that of the chosen Pillow version. No intermediate image is kept: the memory used is a few rows, whatever the
//! size of the input. `reference.rs` is the same without SIMD; the tests compare the two.

mod filter;
mod kernel;
mod pass;
#[cfg(test)]
mod reference;

use std::collections::VecDeque;

pub use self::filter::{Filter, ResizeOrder};
use self::kernel::{HALF, Kernel, Kernels};
use self::pass::{BLOCK, HorizontalPass, add_rows, clip_row};
use crate::rgb_image::RgbImage;

/// What to resize to, and how. The aspect ratio is not preserved.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    /// Columns, >= 1.
    pub(super) width: u32,
    /// Rows, >= 1.
    pub(super) height: u32,
    pub(super) filter: Filter,
    pub(super) order: ResizeOrder,
}

/// Resizes an image, and calls `row_done` with one row after the other, `[width, 3]` each.
pub(super) fn resize(image: &RgbImage, target: &Target, mut row_done: impl FnMut(&[u8])) {
    let Target { width, height, filter, .. } = *target;
    if (width, height) == (image.width, image.height) {
        image.data.chunks_exact(width as usize * 3).for_each(row_done);
    } else if filter == Filter::Nearest {
        nearest(image, width, height, row_done);
    } else {
        let across = HorizontalPass::new(Kernels::new(image.width, width, filter));
        let down = Kernels::new(image.height, height, filter);
        if vertical_first(image, target) {
            columns_first(image, across, &down, &mut row_done);
        } else {
            rows_first(image, across, &down, &mut row_done);
        }
    }
}

fn vertical_first(image: &RgbImage, target: &Target) -> bool {
    let removed_rows = i64::from(image.height) - i64::from(target.height);
    let removed_columns = i64::from(image.width) - i64::from(target.width);
    target.order == ResizeOrder::Pillow13 && removed_rows > 0 && removed_rows > 2 * removed_columns
}

/// Resizes with the vertical pass first: a block of output rows is weighted from source rows, then resized along x.
fn columns_first(image: &RgbImage, mut across: HorizontalPass, down: &Kernels, row_done: &mut dyn FnMut(&[u8])) {
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

/// Resizes with the horizontal pass first: a block of source rows is resized along x, then added to the output rows in which
/// it has weight.
fn rows_first(image: &RgbImage, mut across: HorizontalPass, down: &Kernels, row_done: &mut dyn FnMut(&[u8])) {
    let (source_stride, stride) = (image.width as usize * 3, across.stride());
    let mut block = vec![0; BLOCK * stride];
    let mut line = vec![0; stride];
    // The sums of output rows from `next` on, begun with earlier blocks.
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

/// The source position of each output position: a sum of steps, not a product, because Pillow's rounding errors count too.
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
