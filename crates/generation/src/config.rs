//! The checked generation parameters.
//!
//! The bounds are those of transformers' `GenerationConfig.validate()` and of its logits processors, plus the limits of
//! this service. What transformers only warns about is accepted with the same effect: sampling parameters without
//! `do_sample` and beam parameters without beams are ignored, and a minimum length above the maximum ends at the maximum.

use super::{
    EarlyStopping, GenerationParameters,
    bounds::{GenerationLimits, InvalidParameter, check_count, check_positive},
};

/// transformers' default number of ids after the prompt.
const DEFAULT_NEW_TOKENS: usize = 20;
/// transformers' default `top_k` when sampling.
const DEFAULT_TOP_K: u32 = 50;

/// Generation parameters that every search accepts.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationConfig {
    pub(super) max_length: MaxLength,
    /// `None` when only `min_length` counts.
    pub(super) min_new_tokens: Option<usize>,
    pub(super) min_length: usize,
    pub(super) num_beams: usize,
    pub(super) num_return_sequences: usize,
    pub(super) length_penalty: f64,
    pub(super) early_stopping: EarlyStopping,
    pub(super) repetition_penalty: f32,
    pub(super) no_repeat_ngram_size: usize,
    pub(super) sampling: Option<SamplingConfig>,
    bad_words: Vec<String>,
}

/// The parameter that gives the maximum length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MaxLength {
    /// `max_new_tokens`.
    New(usize),
    /// `max_length`, prompt included.
    Total(usize),
    /// Neither is given.
    Default,
}

/// The parameters of sampling.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SamplingConfig {
    pub(super) temperature: f32,
    /// 0 is off.
    pub(super) top_k: usize,
    /// In [0, 1]; 1 is off.
    pub(super) top_p: f64,
    pub(super) seed: Option<u64>,
}

impl GenerationConfig {
    /// Whether the same image and prompt always get the same captions.
    pub fn is_reproducible(&self) -> bool {
        self.sampling.as_ref().is_none_or(|sampling| sampling.seed.is_some())
    }

    /// Checks the merged `parameters` of all layers.
    pub fn new(parameters: &GenerationParameters, limits: &GenerationLimits) -> Result<Self, InvalidParameter> {
        let p = parameters;
        let length_penalty = p.length_penalty.unwrap_or(1.0);
        if !length_penalty.is_finite() {
            return Err(InvalidParameter::new("length_penalty", format!("must be finite, got {length_penalty}")));
        }
        let bad_words = p.bad_words.clone().unwrap_or_default();
        if bad_words.len() > limits.max_bad_words {
            let reason = format!("must have at most {} entries, got {}", limits.max_bad_words, bad_words.len());
            return Err(InvalidParameter::new("bad_words", reason));
        }
        let bytes: usize = bad_words.iter().map(String::len).sum();
        if bytes > limits.max_bad_words_bytes {
            let reason = format!("must be at most {} bytes together, got {bytes}", limits.max_bad_words_bytes);
            return Err(InvalidParameter::new("bad_words", reason));
        }
        let config = Self {
            max_length: max_length(p, limits)?,
            min_new_tokens: p.min_new_tokens.map(|n| n as usize),
            min_length: p.min_length.unwrap_or(0) as usize,
            num_beams: check_count("num_beams", p.num_beams, limits.max_num_beams)?,
            num_return_sequences: check_count(
                "num_return_sequences",
                p.num_return_sequences,
                limits.max_num_return_sequences,
            )?,
            length_penalty,
            early_stopping: p.early_stopping.unwrap_or_default(),
            repetition_penalty: check_positive("repetition_penalty", p.repetition_penalty)?,
            no_repeat_ngram_size: p.no_repeat_ngram_size.unwrap_or(0) as usize,
            sampling: sampling(p)?,
            bad_words,
        };
        config.check_num_return_sequences()?;
        Ok(config)
    }

    /// Number of decoder rows that a search with these parameters takes.
    pub fn rows(&self) -> usize {
        // Beam search returns some of its beams; without beams every sequence has a row.
        self.num_beams.max(self.num_return_sequences)
    }

    /// The words that may not be generated. The caller tokenises them without special tokens.
    pub fn bad_words(&self) -> &[String] {
        &self.bad_words
    }

    /// Maximum length in ids, prompt included, for a prompt of `prompt_len` ids (start token included) and a model with
    /// `max_positions` positions. The last generated id is never fed to the decoder, so it needs no position.
    pub fn max_length(&self, prompt_len: usize, max_positions: usize) -> Result<usize, InvalidParameter> {
        let (field, length) = match self.max_length {
            MaxLength::New(n) => ("max_new_tokens", prompt_len + n),
            MaxLength::Total(n) => ("max_length", n),
            MaxLength::Default => ("max_length", (prompt_len + DEFAULT_NEW_TOKENS).min(max_positions)),
        };
        if prompt_len >= length {
            let reason = format!("leaves nothing to generate: the prompt has {prompt_len} ids of at most {length}");
            return Err(InvalidParameter::new(field, reason));
        }
        if length > max_positions + 1 {
            let reason = format!(
                "a prompt of {prompt_len} ids and {} new ones exceed the model's {max_positions} positions",
                length - prompt_len
            );
            return Err(InvalidParameter::new(field, reason));
        }
        Ok(length)
    }

    fn check_num_return_sequences(&self) -> Result<(), InvalidParameter> {
        let given = self.num_return_sequences;
        let reason = if self.num_beams > 1 && given > self.num_beams {
            format!("must be at most num_beams ({}), got {given}", self.num_beams)
        } else if self.num_beams == 1 && self.sampling.is_none() && given > 1 {
            format!("must be 1 without beams and without do_sample, got {given}")
        } else {
            return Ok(());
        };
        Err(InvalidParameter::new("num_return_sequences", reason))
    }
}

fn max_length(p: &GenerationParameters, limits: &GenerationLimits) -> Result<MaxLength, InvalidParameter> {
    Ok(match (p.max_new_tokens, p.max_length) {
        (Some(_), _) => MaxLength::New(check_count("max_new_tokens", p.max_new_tokens, limits.max_new_tokens)?),
        (None, Some(n)) => MaxLength::Total(n as usize),
        (None, None) => MaxLength::Default,
    })
}

fn sampling(p: &GenerationParameters) -> Result<Option<SamplingConfig>, InvalidParameter> {
    if !p.do_sample.unwrap_or(false) {
        return Ok(None);
    }
    let top_p = p.top_p.unwrap_or(1.0);
    if !(0.0..=1.0).contains(&top_p) {
        return Err(InvalidParameter::new("top_p", format!("must be between 0 and 1, got {top_p}")));
    }
    Ok(Some(SamplingConfig {
        temperature: check_positive("temperature", p.temperature)?,
        top_k: p.top_k.unwrap_or(DEFAULT_TOP_K) as usize,
        top_p,
        seed: p.seed,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: GenerationLimits = GenerationLimits {
        max_new_tokens: 50,
        max_num_beams: 8,
        max_num_return_sequences: 6,
        max_bad_words: 2,
        max_bad_words_bytes: 9,
    };

    fn config(json: &str) -> Result<GenerationConfig, InvalidParameter> {
        GenerationConfig::new(&serde_json::from_str(json).unwrap(), &LIMITS)
    }

    #[test]
    fn errors_name_the_field_the_bound_and_the_value() {
        for (json, text) in [
            (r#"{"max_new_tokens": 51}"#, "max_new_tokens: must be between 1 and 50, got 51"),
            (r#"{"bad_words": ["12345", "67890"]}"#, "bad_words: must be at most 9 bytes together, got 10"),
            (r#"{"num_beams": 0}"#, "num_beams: must be between 1 and 8, got 0"),
            (r#"{"num_beams": 9}"#, "num_beams: must be between 1 and 8, got 9"),
            (
                r#"{"num_return_sequences": 7, "do_sample": true}"#,
                "num_return_sequences: must be between 1 and 6, got 7",
            ),
            (
                r#"{"num_return_sequences": 3, "num_beams": 2}"#,
                "num_return_sequences: must be at most num_beams (2), got 3",
            ),
            (r#"{"bad_words": ["a", "b", "c"]}"#, "bad_words: must have at most 2 entries, got 3"),
            (r#"{"repetition_penalty": 0}"#, "repetition_penalty: must be a finite number greater than 0, got 0"),
            (r#"{"do_sample": true, "top_p": 1.5}"#, "top_p: must be between 0 and 1, got 1.5"),
        ] {
            assert_eq!(config(json).unwrap_err().to_string(), text);
        }
    }

    #[test]
    fn the_bounds_themselves_are_accepted() {
        for json in [
            r#"{"max_new_tokens": 1}"#,
            r#"{"max_new_tokens": 50}"#,
            r#"{"num_beams": 1}"#,
            r#"{"num_beams": 8}"#,
            r#"{"num_beams": 2, "num_return_sequences": 2}"#,
            r#"{"num_return_sequences": 6, "do_sample": true}"#,
            r#"{"bad_words": ["12345", "6789"]}"#,
            r#"{"do_sample": true, "top_p": 0}"#,
            r#"{"do_sample": true, "top_p": 1}"#,
        ] {
            assert!(config(json).is_ok(), "{json}: {:?}", config(json));
        }
    }

    #[test]
    fn sampling_without_a_seed_is_not_reproducible() {
        assert!(config("{}").unwrap().is_reproducible());
        assert!(config(r#"{"do_sample": true, "seed": 1}"#).unwrap().is_reproducible());
        assert!(!config(r#"{"do_sample": true}"#).unwrap().is_reproducible());
    }

    #[test]
    fn a_search_takes_a_row_per_beam_or_per_sequence() {
        assert_eq!(config("{}").unwrap().rows(), 1);
        assert_eq!(config(r#"{"num_beams": 5, "num_return_sequences": 2}"#).unwrap().rows(), 5);
        assert_eq!(config(r#"{"do_sample": true, "num_return_sequences": 4}"#).unwrap().rows(), 4);
    }

    #[test]
    fn bad_words_are_kept_as_given() {
        assert_eq!(config(r#"{"bad_words": ["cat", "dog"]}"#).unwrap().bad_words(), ["cat", "dog"]);
    }

    #[test]
    fn numbers_that_are_not_finite_are_refused() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1e300] {
            let value = Some(value);
            let sampling = GenerationParameters { do_sample: Some(true), ..Default::default() };
            for (field, parameters) in [
                ("temperature", GenerationParameters { temperature: value, ..sampling.clone() }),
                ("top_p", GenerationParameters { top_p: value, ..sampling.clone() }),
                ("repetition_penalty", GenerationParameters { repetition_penalty: value, ..sampling.clone() }),
            ] {
                assert_eq!(GenerationConfig::new(&parameters, &LIMITS).unwrap_err().field, field);
            }
        }
        let parameters = GenerationParameters { length_penalty: Some(f64::NAN), ..Default::default() };
        assert_eq!(GenerationConfig::new(&parameters, &LIMITS).unwrap_err().field, "length_penalty");
    }

    #[test]
    fn a_factor_that_vanishes_in_f32_is_refused() {
        assert_eq!(config(r#"{"do_sample": true, "temperature": 1e-60}"#).unwrap_err().field, "temperature");
        assert_eq!(config(r#"{"repetition_penalty": 1e60}"#).unwrap_err().field, "repetition_penalty");
    }

    #[test]
    fn the_maximum_length_counts_the_prompt_and_fits_the_positions() {
        assert_eq!(config("{}").unwrap().max_length(4, 512), Ok(24));
        assert_eq!(config("{}").unwrap().max_length(500, 512), Ok(512));
        assert_eq!(config(r#"{"max_length": 30}"#).unwrap().max_length(4, 512), Ok(30));
        let ten = config(r#"{"max_new_tokens": 10, "max_length": 3}"#).unwrap();
        assert_eq!(ten.max_length(4, 512), Ok(14));
        // The last id is never fed.
        assert_eq!(ten.max_length(4, 13), Ok(14));
        assert_eq!(
            ten.max_length(4, 12).unwrap_err().to_string(),
            "max_new_tokens: a prompt of 4 ids and 10 new ones exceed the model's 12 positions"
        );
        assert_eq!(
            config(r#"{"max_length": 4}"#).unwrap().max_length(4, 512).unwrap_err().to_string(),
            "max_length: leaves nothing to generate: the prompt has 4 ids of at most 4"
        );
    }
}
