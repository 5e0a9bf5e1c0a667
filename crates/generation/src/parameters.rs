//! The generation parameters as a client or an operator writes them: transformers' names, every one optional.
//!
//! Nothing is checked here; [`super::GenerationConfig`] does that once the layers (request, models.toml, manifest) are
//! merged with [`GenerationParameters::or`].

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What may be asked for. `None` leaves the choice to the next layer, in the end to transformers' default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerationParameters {
    /// At most so many ids after the prompt, the end token included. Default 20.
    pub max_new_tokens: Option<u32>,
    /// At most so many ids in all, prompt included. Only a default of models.toml; `max_new_tokens` wins over it.
    pub max_length: Option<u32>,
    /// No end token before so many ids after the prompt. Wins over `min_length`.
    pub min_new_tokens: Option<u32>,
    /// No end token before so many ids in all, prompt included.
    pub min_length: Option<u32>,
    /// Beams; 1 (the default) is greedy search or sampling.
    pub num_beams: Option<u32>,
    /// Sequences returned for each image: at most `num_beams`, or any number when sampling. Default 1.
    pub num_return_sequences: Option<u32>,
    /// Exponent of the length that beam scores are divided by; above 0 favours long sequences. Default 1.
    pub length_penalty: Option<f64>,
    /// When beam search stops. Default false.
    pub early_stopping: Option<EarlyStopping>,
    /// Divides (multiplies, if negative) the scores of ids already in the sequence. Default 1: off.
    pub repetition_penalty: Option<f64>,
    /// No sequence of so many ids appears twice. Default 0: off.
    pub no_repeat_ngram_size: Option<u32>,
    /// Words that may not be generated, each tokenised without special tokens.
    pub bad_words: Option<Vec<String>>,
    /// Draw ids at random instead of taking the most probable one. Default false.
    pub do_sample: Option<bool>,
    /// Sampling: scores are divided by it. Default 1.
    pub temperature: Option<f64>,
    /// Sampling: only the so many most probable ids. Default 50, 0 is off.
    pub top_k: Option<u32>,
    /// Sampling: only the most probable ids that add up to this probability. Default 1: off.
    pub top_p: Option<f64>,
    /// Sampling: the same seed, request and logits give the same ids. Default: random.
    pub seed: Option<u64>,
}

impl GenerationParameters {
    /// These parameters, and `defaults` for those not given.
    ///
    /// The two ways to say the longest and the shortest length go together: giving one hides the other in `defaults`,
    /// else a default `max_new_tokens` would beat a `max_length` of a layer above it.
    #[must_use]
    pub fn or(&self, defaults: &Self) -> Self {
        let longest = if self.max_new_tokens.or(self.max_length).is_some() { self } else { defaults };
        let shortest = if self.min_new_tokens.or(self.min_length).is_some() { self } else { defaults };
        Self {
            max_new_tokens: longest.max_new_tokens,
            max_length: longest.max_length,
            min_new_tokens: shortest.min_new_tokens,
            min_length: shortest.min_length,
            num_beams: self.num_beams.or(defaults.num_beams),
            num_return_sequences: self.num_return_sequences.or(defaults.num_return_sequences),
            length_penalty: self.length_penalty.or(defaults.length_penalty),
            early_stopping: self.early_stopping.or(defaults.early_stopping),
            repetition_penalty: self.repetition_penalty.or(defaults.repetition_penalty),
            no_repeat_ngram_size: self.no_repeat_ngram_size.or(defaults.no_repeat_ngram_size),
            bad_words: self.bad_words.as_ref().or(defaults.bad_words.as_ref()).cloned(),
            do_sample: self.do_sample.or(defaults.do_sample),
            temperature: self.temperature.or(defaults.temperature),
            top_k: self.top_k.or(defaults.top_k),
            top_p: self.top_p.or(defaults.top_p),
            seed: self.seed.or(defaults.seed),
        }
    }
}

/// When beam search stops. Written as a boolean or the word "never"; the words "true" and "false" are read too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EarlyStopping {
    /// When the best running beam, scored at its present length, cannot beat the worst finished one.
    #[default]
    False,
    /// As soon as `num_beams` sequences have finished.
    True,
    /// As `False`, but scored at the greatest length when `length_penalty` is above 0: never too early.
    Never,
}

/// What [`EarlyStopping`] can be, for error texts.
const EARLY_STOPPING_VALUES: &str = "true, false or \"never\"";

impl From<bool> for EarlyStopping {
    fn from(flag: bool) -> Self {
        if flag { Self::True } else { Self::False }
    }
}

impl FromStr for EarlyStopping {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "true" => Ok(Self::True),
            "false" => Ok(Self::False),
            "never" => Ok(Self::Never),
            other => Err(format!("must be {EARLY_STOPPING_VALUES}, got {other:?}")),
        }
    }
}

impl fmt::Display for EarlyStopping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::False => "false",
            Self::True => "true",
            Self::Never => "never",
        })
    }
}

impl Serialize for EarlyStopping {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::False => serializer.serialize_bool(false),
            Self::True => serializer.serialize_bool(true),
            Self::Never => serializer.serialize_str("never"),
        }
    }
}

impl<'de> Deserialize<'de> for EarlyStopping {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = EarlyStopping;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EARLY_STOPPING_VALUES)
            }

            fn visit_bool<E: de::Error>(self, flag: bool) -> Result<EarlyStopping, E> {
                Ok(flag.into())
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<EarlyStopping, E> {
                word.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> GenerationParameters {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn the_request_wins_over_the_defaults_field_by_field() {
        let defaults = parse(r#"{"num_beams": 3, "top_k": 7, "bad_words": ["cat"], "early_stopping": "never"}"#);
        let merged = parse(r#"{"num_beams": 5, "bad_words": [], "seed": 1}"#).or(&defaults);
        let expected = r#"{"num_beams": 5, "top_k": 7, "bad_words": [], "early_stopping": "never", "seed": 1}"#;
        assert_eq!(merged, parse(expected));
    }

    #[test]
    fn giving_one_length_hides_the_other_of_the_layer_below() {
        let manifest = parse(r#"{"max_new_tokens": 20, "min_new_tokens": 2}"#);
        let file = parse(r#"{"max_length": 30, "min_length": 4}"#);
        assert_eq!(file.or(&manifest), file);
        let request = parse(r#"{"max_new_tokens": 5, "min_new_tokens": 1}"#);
        assert_eq!(request.or(&file.or(&manifest)), request);
        assert_eq!(parse("{}").or(&manifest), manifest);
    }

    #[test]
    fn early_stopping_is_a_boolean_or_a_word() {
        for (json, value) in [
            ("true", EarlyStopping::True),
            ("\"true\"", EarlyStopping::True),
            ("false", EarlyStopping::False),
            ("\"false\"", EarlyStopping::False),
            ("\"never\"", EarlyStopping::Never),
        ] {
            assert_eq!(serde_json::from_str::<EarlyStopping>(json).unwrap(), value);
            assert_eq!(value.to_string(), json.trim_matches('"'));
        }
        assert_eq!(serde_json::to_string(&EarlyStopping::Never).unwrap(), "\"never\"");
        assert_eq!(serde_json::to_string(&EarlyStopping::True).unwrap(), "true");
    }

    #[test]
    fn a_bad_early_stopping_says_what_it_can_be() {
        for json in ["\"always\"", "1", "null"] {
            let error = serde_json::from_str::<EarlyStopping>(json).unwrap_err().to_string();
            assert!(error.contains("true, false or \"never\""), "{json}: {error}");
        }
    }
}
