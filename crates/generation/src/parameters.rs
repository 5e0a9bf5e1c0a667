//! The generation parameters as clients and operators write them: their definition. `config.rs` and the service's conversion
//! of `blip.v1` name the fields once more.
//!
//! From the one struct follow the flags of `blip-serve caption` (clap), the keys of models.toml and of the manifest
//! (serde), the OpenAPI schema (utoipa) and access by name for JSON, forms and tensors. [`super::GenerationConfig`] checks
//! the values once the layers (request, models.toml, manifest) are merged with [`GenerationParameters::or`].

use serde::{Deserialize, Serialize};

use super::EarlyStopping;

/// Defines the struct, and what follows from the list of its fields: merging and access by name.
macro_rules! define_parameters {
    (
        $(#[$attribute:meta])*
        pub struct $Parameters:ident {
            $($(#[$field_attribute:meta])* pub $name:ident: Option<$type:ty>,)*
        }
    ) => {
        $(#[$attribute])*
        pub struct $Parameters {
            $($(#[$field_attribute])* pub $name: Option<$type>,)*
        }

        impl $Parameters {
            fn or_each(&self, defaults: &Self) -> Self {
                Self { $($name: self.$name.clone().or_else(|| defaults.$name.clone()),)* }
            }

            fn by_name(&mut self, name: &str) -> Option<ParameterMut<'_>> {
                match name {
                    $(stringify!($name) => Some(ParameterMut::from(&mut self.$name)),)*
                    _ => None,
                }
            }
        }
    };
}

define_parameters! {
    /// How to generate, under transformers' names. A parameter that is not given comes from models.toml, the bundle, and
    /// in the end from transformers' default.
    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, clap::Args, utoipa::ToSchema)]
    #[serde(default, deny_unknown_fields)]
    #[command(next_help_heading = "Generation")]
    pub struct GenerationParameters {
        /// Maximum number of new tokens; the prompt does not count.
        #[arg(long, value_name = "N")]
        #[schema(minimum = 1, maximum = 512)]
        pub max_new_tokens: Option<u32>,
        /// Maximum number of tokens with prompt and start token, unless `max_new_tokens` is given.
        // Only models.toml and bundles may set it.
        #[arg(skip)]
        #[schema(ignore)]
        pub max_length: Option<u32>,
        /// Minimum number of new tokens before the end token; wins over `min_length`.
        #[arg(long, value_name = "N")]
        pub min_new_tokens: Option<u32>,
        /// Minimum number of tokens before the end token, prompt and start token counted.
        #[arg(long, value_name = "N")]
        pub min_length: Option<u32>,
        /// Number of beams; 1 is greedy search, or sampling.
        #[arg(long, value_name = "N")]
        #[schema(minimum = 1, maximum = 32)]
        pub num_beams: Option<u32>,
        /// Number of captions per image: at most `num_beams`, or any number when sampling.
        #[arg(long, value_name = "N")]
        #[schema(minimum = 1, maximum = 32)]
        pub num_return_sequences: Option<u32>,
        /// Exponent of the length by which beam scores are divided; above 0 favours long captions.
        #[arg(long, value_name = "X", allow_negative_numbers = true)]
        pub length_penalty: Option<f64>,
        /// When beam search stops: `true`, `false` or `"never"`.
        #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
        #[schema(value_type = Option<Value>)]
        pub early_stopping: Option<EarlyStopping>,
        /// Penalty on tokens that the sequence already has: above 1 they are less likely, 1 is off.
        #[arg(long, value_name = "X", allow_negative_numbers = true)]
        #[schema(exclusive_minimum = 0)]
        pub repetition_penalty: Option<f64>,
        /// Size of n-grams that may not occur twice; 0 is off.
        #[arg(long, value_name = "N")]
        pub no_repeat_ngram_size: Option<u32>,
        /// Words that may not be generated.
        #[arg(long, value_name = "WORD", help = "Word that may not be generated; may be repeated")]
        #[schema(max_items = 1000)]
        pub bad_words: Option<Vec<String>>,
        /// Whether tokens are drawn at random instead of taking the most probable one.
        #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
        pub do_sample: Option<bool>,
        /// Divisor of the scores before sampling; below 1 is more careful, above 1 bolder.
        #[arg(long, value_name = "X", allow_negative_numbers = true)]
        #[schema(exclusive_minimum = 0)]
        pub temperature: Option<f64>,
        /// Number of most probable tokens to sample from; 0 is off.
        #[arg(long, value_name = "N")]
        pub top_k: Option<u32>,
        /// Probability that the most probable tokens to sample from must reach together; 1 is off.
        #[arg(long, value_name = "X", allow_negative_numbers = true)]
        #[schema(minimum = 0, maximum = 1)]
        pub top_p: Option<f64>,
        /// Seed of sampling: the same seed and request give the same captions.
        #[arg(long, value_name = "N")]
        pub seed: Option<u64>,
    }
}

impl GenerationParameters {
    /// These parameters, and `defaults` for those not given.
    ///
    /// The two ways to give the longest and the shortest length go together: giving one hides the other in `defaults`,
    /// else a default `max_new_tokens` would win over a `max_length` of a layer above it.
    #[must_use]
    pub fn or(&self, defaults: &Self) -> Self {
        let mut merged = self.or_each(defaults);
        if self.max_new_tokens.or(self.max_length).is_some() {
            merged.max_new_tokens = self.max_new_tokens;
            merged.max_length = self.max_length;
        }
        if self.min_new_tokens.or(self.min_length).is_some() {
            merged.min_new_tokens = self.min_new_tokens;
            merged.min_length = self.min_length;
        }
        merged
    }

    /// The parameter `name` of a request, for parsers that learn the name at run time; `None` if there is no such
    /// parameter or requests may not set it (`max_length`).
    ///
    /// A parser matches on the type and fills the slot; a slot that is already `Some` was given twice:
    /// ```
    /// # use generation::{GenerationParameters, ParameterMut};
    /// let mut parameters = GenerationParameters::default();
    /// match parameters.request_parameter("num_beams") {
    ///     Some(ParameterMut::U32(slot)) => *slot = Some(3),
    ///     _ => unreachable!("num_beams is an integer"),
    /// }
    /// assert_eq!(parameters.num_beams, Some(3));
    /// assert!(parameters.request_parameter("max_length").is_none());
    /// ```
    pub fn request_parameter(&mut self, name: &str) -> Option<ParameterMut<'_>> {
        if name == "max_length" { None } else { self.by_name(name) }
    }
}

/// The slot of one parameter, by its type.
#[derive(Debug, PartialEq)]
pub enum ParameterMut<'a> {
    /// A count.
    U32(&'a mut Option<u32>),
    /// A seed.
    U64(&'a mut Option<u64>),
    /// A penalty, a divisor or a probability.
    F64(&'a mut Option<f64>),
    /// A switch.
    Bool(&'a mut Option<bool>),
    /// `early_stopping`.
    EarlyStopping(&'a mut Option<EarlyStopping>),
    /// `bad_words`.
    Strings(&'a mut Option<Vec<String>>),
}

macro_rules! from_slots {
    ($($Kind:ident($type:ty)),*) => {
        $(impl<'a> From<&'a mut Option<$type>> for ParameterMut<'a> {
            fn from(slot: &'a mut Option<$type>) -> Self {
                Self::$Kind(slot)
            }
        })*
    };
}

from_slots!(U32(u32), U64(u64), F64(f64), Bool(bool), EarlyStopping(EarlyStopping), Strings(Vec<String>));

#[cfg(test)]
mod tests {
    use clap::{Args, FromArgMatches};
    use utoipa::PartialSchema;

    use super::*;
    use crate::GenerationLimits;

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
    fn a_layer_without_lengths_takes_both_from_the_layer_below() {
        let below = parse(r#"{"max_length": 30, "min_length": 4}"#);
        assert_eq!(parse(r#"{"top_k": 1}"#).or(&below), parse(r#"{"max_length": 30, "min_length": 4, "top_k": 1}"#));
        let short = parse(r#"{"min_length": 2}"#);
        assert_eq!(short.or(&parse(r#"{"min_new_tokens": 9}"#)), short);
    }

    #[test]
    fn a_request_finds_every_parameter_but_max_length_by_its_name() {
        let all = serde_json::to_value(GenerationParameters::default()).unwrap();
        let names: Vec<&String> = all.as_object().unwrap().keys().collect();
        assert_eq!(names.len(), 16);
        for name in names {
            let mut parameters = GenerationParameters::default();
            match parameters.request_parameter(name) {
                Some(ParameterMut::U32(slot)) => *slot = Some(1),
                Some(ParameterMut::U64(slot)) => *slot = Some(1),
                Some(ParameterMut::F64(slot)) => *slot = Some(1.0),
                Some(ParameterMut::Bool(slot)) => *slot = Some(true),
                Some(ParameterMut::EarlyStopping(slot)) => *slot = Some(EarlyStopping::Never),
                Some(ParameterMut::Strings(slot)) => *slot = Some(Vec::new()),
                None => assert_eq!(name, "max_length"),
            }
            let given = serde_json::to_value(parameters).unwrap();
            let set: Vec<&String> =
                given.as_object().unwrap().iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name).collect();
            assert!(set == [name] || name == "max_length", "{name} set {set:?}");
        }
        assert_eq!(GenerationParameters::default().request_parameter("num_beam"), None);
    }

    #[test]
    fn the_schema_has_every_parameter_of_a_request_with_the_bounds_of_the_limits() {
        let limits = GenerationLimits::default();
        let schema = serde_json::to_value(GenerationParameters::schema()).unwrap();
        let properties = schema["properties"].as_object().unwrap();
        for (name, property) in properties {
            assert!(GenerationParameters::default().request_parameter(name).is_some(), "{name}");
            assert!(property["description"].as_str().is_some_and(|text| text.ends_with('.')), "{name}: {property}");
        }
        assert_eq!(properties.len(), 15);
        assert_eq!(properties["max_new_tokens"]["maximum"], limits.max_new_tokens);
        assert_eq!(properties["num_beams"]["maximum"], limits.max_num_beams);
        assert_eq!(properties["num_return_sequences"]["maximum"], limits.max_num_return_sequences);
        assert_eq!(properties["bad_words"]["maxItems"], limits.max_bad_words);
    }

    #[test]
    fn the_flags_are_the_names_in_kebab_case() {
        let command = GenerationParameters::augment_args(clap::Command::new("test"));
        let flags: Vec<String> =
            command.get_arguments().filter_map(|flag| flag.get_long()).map(str::to_owned).collect();
        assert_eq!(flags.len(), 15);
        for flag in flags {
            assert!(GenerationParameters::default().request_parameter(&flag.replace('-', "_")).is_some(), "{flag}");
        }
        let line =
            ["test", "--num-beams=3", "--bad-words=cat", "--bad-words=dog", "--do-sample", "--length-penalty", "-1"];
        let matches = command.get_matches_from(line);
        let given = GenerationParameters::from_arg_matches(&matches).unwrap();
        let expected = r#"{"num_beams": 3, "bad_words": ["cat", "dog"], "do_sample": true, "length_penalty": -1}"#;
        assert_eq!(given, parse(expected));
    }
}
