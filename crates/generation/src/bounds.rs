//! The limits of a request, the checks of single parameters, and the error that names the parameter at fault.

use thiserror::Error;

/// A generation parameter that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{field}: {reason}")]
pub struct InvalidParameter {
    /// transformers' name of the parameter.
    pub field: &'static str,
    /// What the value must be, and what it is.
    pub reason: String,
}

impl InvalidParameter {
    pub(super) fn new(field: &'static str, reason: String) -> Self {
        Self { field, reason }
    }
}

/// The operator's upper bounds on what one request may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GenerationLimits {
    /// Largest `max_new_tokens`.
    pub max_new_tokens: u32,
    /// Largest `num_beams`.
    pub max_num_beams: u32,
    /// Largest `num_return_sequences`.
    pub max_num_return_sequences: u32,
    /// Largest number of entries of `bad_words`.
    pub max_bad_words: usize,
    /// Largest size of all `bad_words` together in bytes, as they are tokenised for each request.
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

/// Checks a count, which must be between 1 and `max`; 1 if it is not given.
pub(super) fn check_count(field: &'static str, value: Option<u32>, max: u32) -> Result<usize, InvalidParameter> {
    match value.unwrap_or(1) {
        n if (1..=max).contains(&n) => Ok(n as usize),
        n => Err(InvalidParameter::new(field, format!("must be between 1 and {max}, got {n}"))),
    }
}

/// Checks a factor, which must be finite and positive as f32, the type of the scores; 1 if it is not given.
pub(super) fn check_positive(field: &'static str, value: Option<f64>) -> Result<f32, InvalidParameter> {
    let value = value.unwrap_or(1.0);
    let factor = value as f32;
    if factor.is_finite() && factor > 0.0 {
        Ok(factor)
    } else {
        Err(InvalidParameter::new(field, format!("must be a finite number greater than 0, got {value}")))
    }
}
