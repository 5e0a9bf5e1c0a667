//! Pillow's resampling filters: the choices in a model's manifest, and their functions.

use std::f64::consts::PI;

use serde::Deserialize;

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
    /// Pillow 13: the vertical pass, if it removes rows, and more than twice as many rows as columns are removed.
    Pillow13,
    /// Pillow 12 and before: the horizontal pass, always.
    Pillow12,
}

impl Filter {
    /// The weight of a sample at a distance, and the distance beyond which it is 0.
    pub(super) fn function_and_support(self) -> (fn(f64) -> f64, f64) {
        match self {
            // A kernel holds no sample beyond the distance, and all others weigh the same.
            Self::Nearest | Self::Box => (|_| 1.0, 0.5),
            Self::Bilinear => (bilinear, 1.0),
            Self::Hamming => (hamming, 1.0),
            Self::Bicubic => (bicubic, 2.0),
            Self::Lanczos => (lanczos, 3.0),
        }
    }
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
