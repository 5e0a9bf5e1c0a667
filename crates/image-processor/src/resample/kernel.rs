//! The weights of Pillow's resampling filters, in fixed point.
//!
//! Computed in f64 in Pillow's order of operations, then rounded to 22 bits; knows nothing of images.

use std::{f64::consts::PI, ops::Range};

use super::Filter;

const PRECISION_BITS: u32 = 22;

/// One half in fixed point: where each sum starts, so that it rounds.
pub(super) const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// The source samples that make one output sample.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernel<'a> {
    /// Position of the first source sample.
    pub(super) start: usize,
    /// One for each source sample from `start` on, times 2^22.
    pub(super) weights: &'a [i32],
}

impl Kernel<'_> {
    /// Behind the last source sample.
    pub(super) fn end(&self) -> usize {
        self.start + self.weights.len()
    }
}

/// The kernels of all output samples; from each to the next neither end goes back.
#[derive(Debug)]
pub(super) struct Kernels {
    /// [`Kernel::start`], and where in `weights` its own lie.
    places: Vec<(usize, Range<usize>)>,
    weights: Vec<i32>,
}

impl Kernels {
    /// One kernel for each of `output` positions over `input` samples, both >= 1.
    pub(super) fn new(input: u32, output: u32, filter: Filter) -> Self {
        let scale = f64::from(input) / f64::from(output);
        let mut kernels = Self { places: Vec::with_capacity(output as usize), weights: Vec::new() };
        let mut exact = Vec::new();
        for position in 0..output {
            let from = kernels.weights.len();
            let start = if input == output {
                // Pillow leaves such a pass out; a single weight of 1 does the same.
                kernels.weights.push(1 << PRECISION_BITS);
                position
            } else {
                let start = weigh(input, position, scale, filter, &mut exact);
                kernels.weights.extend(exact.iter().copied().map(fixed_point));
                start
            };
            kernels.places.push((start as usize, from..kernels.weights.len()));
        }
        kernels
    }

    /// How many output samples there are.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// The kernel of the output sample at `position`.
    pub(super) fn get(&self, position: usize) -> Kernel<'_> {
        let (start, weights) = &self.places[position];
        Kernel { start: *start, weights: &self.weights[weights.clone()] }
    }
}

/// A fixed-point sum as a sample.
#[inline]
pub(super) fn clip(sum: i32) -> u8 {
    // Clamped to what fits.
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Fills `weights`, which add up to 1, and tells their first source sample.
fn weigh(input: u32, position: u32, scale: f64, filter: Filter, weights: &mut Vec<f64>) -> u32 {
    let (function, support) = function_and_support(filter);
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

fn function_and_support(filter: Filter) -> (fn(f64) -> f64, f64) {
    match filter {
        Filter::Nearest | Filter::Box => (box_filter, 0.5),
        Filter::Bilinear => (bilinear, 1.0),
        Filter::Hamming => (hamming, 1.0),
        Filter::Bicubic => (bicubic, 2.0),
        Filter::Lanczos => (lanczos, 3.0),
    }
}

fn box_filter(x: f64) -> f64 {
    if x > -0.5 && x <= 0.5 { 1.0 } else { 0.0 }
}

fn bilinear(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

fn hamming(x: f64) -> f64 {
    let x = x.abs();
    if x == 0.0 {
        return 1.0;
    }
    if x >= 1.0 {
        return 0.0;
    }
    let x = x * PI;
    // Pillow's constants are single precision.
    x.sin() / x * (f64::from(0.54_f32) + f64::from(0.46_f32) * x.cos())
}

fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn lanczos(x: f64) -> f64 {
    if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * PI;
    x.sin() / x
}
