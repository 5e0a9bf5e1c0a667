//! The inner loops of both passes: weighted sums of samples, many side by side.
//!
//! It is plain arithmetic on arrays of fixed length, which the compiler turns into SIMD code: on x86-64 once for each kind of
//! processor named below, of which the best is chosen at run time. The sums are integers, so all give the same samples.

use std::ops::Range;

use multiversion::multiversion;

use super::kernel::{HALF, Kernels, clip};

/// Rows that are resized along x together.
pub(super) const BLOCK: usize = 8;
/// Source columns that are treated together: 12 KiB, so that they stay in the first-level cache.
const TILE: usize = 512;
/// Sums along y that stay in registers while rows are added.
const LANES: usize = 32;

/// One column of a block, `[BLOCK, 3]`.
type Column = [u8; 3 * BLOCK];

/// The pass along x.
#[derive(Debug)]
pub(super) struct HorizontalPass {
    kernels: Kernels,
    /// The columns of a tile, kept to save an allocation for each block.
    columns: Vec<Column>,
}

impl HorizontalPass {
    pub(super) fn new(kernels: Kernels) -> Self {
        Self { kernels, columns: Vec::new() }
    }

    /// The length of a resized row in bytes.
    pub(super) fn stride(&self) -> usize {
        self.kernels.len() * 3
    }

    /// Resizes `rows`, at most [`BLOCK`] of them with `stride` bytes each, into the first rows of `block`.
    pub(super) fn apply(&mut self, rows: &[u8], stride: usize, block: &mut [u8]) {
        let mut first = 0;
        while first < self.kernels.len() {
            let start = self.kernels.get(first).start;
            let fits = |&output: &usize| self.kernels.get(output).end() <= start + TILE;
            // One output sample at least, however many columns it is made of.
            let last = (first + 1..self.kernels.len()).take_while(fits).last().unwrap_or(first);
            let end = self.kernels.get(last).end();
            self.columns.resize(self.columns.len().max(end - start), [0; 3 * BLOCK]);
            gather(&rows[3 * start..], stride, &mut self.columns[..end - start]);
            weight_columns(&self.columns, start, &self.kernels, first..last + 1, block);
            first = last + 1;
        }
    }
}

/// Transposes the start of the rows, which are `stride` bytes apart, into columns.
#[multiversion(targets("x86_64+avx2", "x86_64+sse4.1"))]
fn gather(rows: &[u8], stride: usize, columns: &mut [Column]) {
    for (number, row) in rows.chunks(stride).take(BLOCK).enumerate() {
        for (column, pixel) in columns.iter_mut().zip(row.as_chunks::<3>().0) {
            column.as_chunks_mut::<3>().0[number] = *pixel;
        }
    }
}

/// Computes the output columns `outputs` from source columns, of which the first is number `offset`.
#[multiversion(targets("x86_64+avx2", "x86_64+sse4.1"))]
fn weight_columns(columns: &[Column], offset: usize, kernels: &Kernels, outputs: Range<usize>, block: &mut [u8]) {
    let stride = 3 * kernels.len();
    for x in outputs {
        let kernel = kernels.get(x);
        let mut sums = [HALF; 3 * BLOCK];
        for (column, &weight) in columns[kernel.start - offset..].iter().zip(kernel.weights) {
            for (sum, &sample) in sums.iter_mut().zip(column) {
                *sum += i32::from(sample) * weight;
            }
        }
        let samples = sums.map(clip);
        for (row, pixel) in block.chunks_exact_mut(stride).zip(samples.as_chunks::<3>().0) {
            row[3 * x..][..3].copy_from_slice(pixel);
        }
    }
}

/// Adds to each sum the samples of its column in `rows`, `stride` bytes each, multiplied with the weight of their row.
#[multiversion(targets("x86_64+avx2", "x86_64+sse4.1"))]
pub(super) fn add_rows(sums: &mut [i32], rows: &[u8], stride: usize, weights: &[i32]) {
    let (chunks, rest) = sums.as_chunks_mut::<LANES>();
    let whole = chunks.len() * LANES;
    for (number, chunk) in chunks.iter_mut().enumerate() {
        let mut lanes = *chunk;
        let mut at = number * LANES;
        for &weight in weights {
            let Some(samples) = rows[at..].first_chunk::<LANES>() else { break };
            for (lane, &sample) in lanes.iter_mut().zip(samples) {
                *lane += i32::from(sample) * weight;
            }
            at += stride;
        }
        *chunk = lanes;
    }
    for (row, &weight) in rows.chunks_exact(stride).zip(weights) {
        for (sum, &sample) in rest.iter_mut().zip(&row[whole..]) {
            *sum += i32::from(sample) * weight;
        }
    }
}

/// Turns complete sums into samples.
#[multiversion(targets("x86_64+avx2", "x86_64+sse4.1"))]
pub(super) fn clip_row(sums: &[i32], row: &mut [u8]) {
    for (sample, &sum) in row.iter_mut().zip(sums) {
        *sample = clip(sum);
    }
}
