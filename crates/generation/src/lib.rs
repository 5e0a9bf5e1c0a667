//! Generation: from the logits of each decoder step to finished sequences of token ids.
//!
//! This is pure arithmetic that follows `generate()` of transformers (version in `tests/golden/generation.json`), so that
//! token ids equal the reference. It knows nothing of ONNX Runtime, images or text.
//!
//! [`GenerationParameters`] are what a client asks for, [`GenerationConfig`] is their checked form, and a [`Search`] is the
//! state of one image between two decoder steps. The caller runs the decoder, gives [`Search::advance`] the logits
//! `[rows, vocab_size]`, and may put the rows of many searches into one step.

#![allow(clippy::float_cmp, reason = "ties and the values that switch a parameter off are exact")]

mod beam_hypotheses;
mod beam_search;
mod bounds;
mod chunk_maxima;
mod config;
mod early_stopping;
#[cfg(test)]
mod golden;
mod greedy_or_sample;
mod log_softmax;
mod logits_processor;
mod logits_warper;
mod parameters;
mod sampler;
mod search;
mod search_state;
mod top_k;

use std::fmt;

pub use bounds::{GenerationLimits, InvalidParameter};
pub use config::GenerationConfig;
pub use early_stopping::EarlyStopping;
pub use parameters::{GenerationParameters, ParameterMut};
pub use search::Search;

/// Index of a token in the vocabulary.
pub type TokenId = u32;

/// What a search needs to know about the model's vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    /// Number of logits per row.
    pub size: usize,
    /// The token that ends a sequence.
    pub eos_token_id: TokenId,
    /// The token that is fed to the decoder for finished rows while others continue.
    pub pad_token_id: TokenId,
}

/// What the caller does after a step.
#[derive(Clone, Debug, PartialEq)]
pub enum Advance {
    /// It runs the decoder again.
    Continue {
        /// `[rows]`: for each row, the row of the last step whose K/V cache it continues.
        beam_idx: Vec<usize>,
        /// `[rows]`: the token to feed to each row.
        token_ids: Vec<TokenId>,
    },
    /// The search is over. There are `num_return_sequences` sequences; those of beam search are ordered, best first.
    Done(Vec<Sequence>),
}

/// One finished sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequence {
    /// The prompt (start token first) and the generated ids, with the end token if it was generated, without padding.
    pub token_ids: Vec<TokenId>,
    /// In beam search transformers' `sequences_scores`; else the sum of `log_softmax(logits)` of the generated ids, before
    /// any processor, divided by (number of generated ids)^`length_penalty`.
    pub score: f32,
    /// Why the sequence ended.
    pub finish_reason: FinishReason,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The end token was generated.
    Eos,
    /// The length limit was reached.
    Length,
}

impl FinishReason {
    /// The name in every API: `eos` or `length`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Eos => "eos",
            Self::Length => "length",
        }
    }

    /// The reason why `generated`, the ids after the prompt, ended.
    fn from_generated(generated: &[TokenId], eos_token_id: TokenId) -> Self {
        if generated.last() == Some(&eos_token_id) { Self::Eos } else { Self::Length }
    }
}

impl fmt::Display for FinishReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::FinishReason;

    #[test]
    fn a_finish_reason_is_displayed_as_its_name_in_every_api() {
        assert_eq!(FinishReason::Eos.to_string(), "eos");
        assert_eq!(FinishReason::Length.to_string(), "length");
    }
}
