//! The bounds of single generation parameters, and the error that names the one that breaks its bound.

use thiserror::Error;

/// A generation parameter that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{field}: {reason}")]
pub struct InvalidParameter {
    /// transformers' name of the parameter.
    pub field: &'static str,
    /// What it must be, and the value given.
    pub reason: String,
}

impl InvalidParameter {
    pub(super) fn new(field: &'static str, reason: String) -> Self {
        Self { field, reason }
    }
}

/// The most a request may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GenerationLimits {
    /// Of `max_new_tokens`.
    pub max_new_tokens: u32,
    /// Of `num_beams`.
    pub max_num_beams: u32,
    /// Of `num_return_sequences`.
    pub max_num_return_sequences: u32,
    /// Entries of `bad_words`.
    pub max_bad_words: usize,
    /// Bytes of all of them: they are tokenised for each request.
    pub max_bad_words_bytes: usize,
}

impl Default for GenerationLimits {
    fn default() -> Self {
        Self {
            max_new_tokens: 512,
            max_num_beams: 32,
            max_num_return_sequences: 32,
            max_bad_words: 1000,
            max_bad_words_bytes: 16_384,
        }
    }
}

/// A number of things, at least 1; 1 if not given.
pub(super) fn count(field: &'static str, value: Option<u32>, max: u32) -> Result<usize, InvalidParameter> {
    match value.unwrap_or(1) {
        n if (1..=max).contains(&n) => Ok(n as usize),
        n => Err(InvalidParameter::new(field, format!("must be between 1 and {max}, got {n}"))),
    }
}

/// A factor that must survive as f32, the type scores are computed in; 1 if not given.
pub(super) fn positive(field: &'static str, value: Option<f64>) -> Result<f32, InvalidParameter> {
    let value = value.unwrap_or(1.0);
    let factor = value as f32;
    if factor.is_finite() && factor > 0.0 {
        Ok(factor)
    } else {
        Err(InvalidParameter::new(field, format!("must be a finite number greater than 0, got {value}")))
    }
}
