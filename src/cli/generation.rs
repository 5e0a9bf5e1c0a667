//! Generation parameters as flags: transformers' names in kebab case.

use std::ffi::OsString;

use clap::Args;

use generation::{EarlyStopping, GenerationParameters};

/// How to generate; what is not given comes from models.toml and the bundle.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Generation")]
pub(super) struct GenerationArgs {
    /// New tokens at most, prompt not counted
    #[arg(long, value_name = "N")]
    max_new_tokens: Option<u32>,
    /// New tokens before the end token may come
    #[arg(long, value_name = "N")]
    min_new_tokens: Option<u32>,
    /// Tokens, prompt and start token counted, before the end token may come
    #[arg(long, value_name = "N")]
    min_length: Option<u32>,
    /// 1 is greedy (or sampling), more is beam search
    #[arg(long, value_name = "N")]
    num_beams: Option<u32>,
    /// Captions per image
    #[arg(long, value_name = "N")]
    num_return_sequences: Option<u32>,
    /// Beam scores are divided by length ^ length_penalty
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    length_penalty: Option<f64>,
    /// When beam search stops: true, false or never
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    early_stopping: Option<EarlyStopping>,
    /// Divides the scores of tokens that are already there; 1 does nothing
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    repetition_penalty: Option<f64>,
    /// No n-gram of this size comes twice; 0 does nothing
    #[arg(long, value_name = "N")]
    no_repeat_ngram_size: Option<u32>,
    /// A word that never comes; may be given several times
    #[arg(long, value_name = "WORD")]
    bad_words: Vec<String>,
    /// Sample instead of taking the most probable token
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    do_sample: Option<bool>,
    /// Scores are divided by it before sampling
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    temperature: Option<f64>,
    /// Sample from the N most probable tokens; 0 is off
    #[arg(long, value_name = "N")]
    top_k: Option<u32>,
    /// Sample from the smallest set of tokens with this probability
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    top_p: Option<f64>,
    /// Makes sampling reproducible
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

impl From<GenerationArgs> for GenerationParameters {
    fn from(args: GenerationArgs) -> Self {
        Self {
            max_new_tokens: args.max_new_tokens,
            max_length: None,
            min_new_tokens: args.min_new_tokens,
            min_length: args.min_length,
            num_beams: args.num_beams,
            num_return_sequences: args.num_return_sequences,
            length_penalty: args.length_penalty,
            early_stopping: args.early_stopping,
            repetition_penalty: args.repetition_penalty,
            no_repeat_ngram_size: args.no_repeat_ngram_size,
            bad_words: (!args.bad_words.is_empty()).then_some(args.bad_words),
            do_sample: args.do_sample,
            temperature: args.temperature,
            top_k: args.top_k,
            top_p: args.top_p,
            seed: args.seed,
        }
    }
}

/// `--do-sample` and `--early-stopping` work bare and with a value behind `=` or a space: `--do-sample picture.png` must
/// not take the picture for a value, and `--early-stopping never picture.png` must not take the value for a picture.
pub(super) fn with_explicit_values(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut result: Vec<OsString> = Vec::new();
    for argument in arguments {
        let optional = |flag: &OsString| flag == "--do-sample" || flag == "--early-stopping";
        let is_value = argument == "true" || argument == "false" || argument == "never";
        match result.last_mut().filter(|flag| is_value && optional(flag)) {
            Some(flag) => {
                flag.push("=");
                flag.push(argument);
            }
            None => result.push(argument),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn optional_values_take_only_their_own_words() {
        let explicit = |line: &str| {
            let words = with_explicit_values(line.split(' ').map(OsString::from));
            words.into_iter().map(|word| word.into_string().unwrap()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(explicit("caption --do-sample a.png"), "caption --do-sample a.png");
        assert_eq!(explicit("caption --do-sample false a.png"), "caption --do-sample=false a.png");
        assert_eq!(explicit("caption --early-stopping never a.png"), "caption --early-stopping=never a.png");
        assert_eq!(explicit("caption true --do-sample"), "caption true --do-sample");
    }
}
