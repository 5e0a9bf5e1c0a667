//! The weights of Pillow's resampling filters, in fixed point.
//!
//! Computed in f64 in Pillow's order of operations, then rounded to 22 bits; independent of images.

use std::ops::Range;

use super::filter::Filter;

const PRECISION_BITS: u32 = 22;

/// One half in fixed point: where each sum starts, so that it rounds.
pub(super) const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// The source samples of one output sample, and their weights.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernel<'a> {
    /// Position of the first source sample.
    pub(super) start: usize,
    /// One for each source sample from `start` on, times 2^22.
    pub(super) weights: &'a [i32],
}

impl Kernel<'_> {
    /// The position after the last source sample.
    pub(super) fn end(&self) -> usize {
        self.start + self.weights.len()
    }
}

/// The kernels of all output samples, in order: neither their starts nor their ends decrease.
#[derive(Debug)]
pub(super) struct Kernels {
    /// [`Kernel::start`] of each, and the range of its weights in `weights`.
    spans: Vec<(usize, Range<usize>)>,
    weights: Vec<i32>,
}

impl Kernels {
    /// One kernel for each of `output` positions over `input` samples, both >= 1.
    pub(super) fn new(input: u32, output: u32, filter: Filter) -> Self {
        let scale = f64::from(input) / f64::from(output);
        let mut kernels = Self { spans: Vec::with_capacity(output as usize), weights: Vec::new() };
        let mut exact = Vec::new();
        for position in 0..output {
            let from = kernels.weights.len();
            let start = if input == output {
                // Pillow leaves such a pass out; a single weight of 1 does the same.
                kernels.weights.push(1 << PRECISION_BITS);
                position
            } else {
                let start = compute_weights(input, position, scale, filter, &mut exact);
                kernels.weights.extend(exact.iter().copied().map(fixed_point));
                start
            };
            kernels.spans.push((start as usize, from..kernels.weights.len()));
        }
        kernels
    }

    /// The number of output samples.
    pub(super) fn len(&self) -> usize {
        self.spans.len()
    }

    /// The kernel of the output sample at `position`.
    pub(super) fn get(&self, position: usize) -> Kernel<'_> {
        let (start, weights) = &self.spans[position];
        Kernel { start: *start, weights: &self.weights[weights.clone()] }
    }
}

/// The sample of a fixed-point sum.
#[inline]
pub(super) fn clip(sum: i32) -> u8 {
    // Clamped to what fits.
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Fills `weights`, which add up to 1; returns the position of their first source sample.
fn compute_weights(input: u32, position: u32, scale: f64, filter: Filter, weights: &mut Vec<f64>) -> u32 {
    let (function, support) = filter.function_and_support();
    let stretch = scale.max(1.0);
    let support = support * stretch;
    let center = (f64::from(position) + 0.5) * scale;
    // Float to integer conversion truncates, and cuts negative values to 0.
    let start = (center - support + 0.5) as u32;
    let end = ((center + support + 0.5) as u32).min(input);
    let inverse = 1.0 / stretch;
    weights.clear();
    weights.extend((start..end).map(|x| function((f64::from(x) - center + 0.5) * inverse)));
    let total: f64 = weights.iter().sum();
    if total != 0.0 {
        for weight in weights {
            *weight /= total;
        }
    }
    start
}

/// Rounds half away from zero.
fn fixed_point(weight: f64) -> i32 {
    let scaled = weight * f64::from(1 << PRECISION_BITS);
    (if weight < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
}
