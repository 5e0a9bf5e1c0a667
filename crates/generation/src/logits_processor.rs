//! Edits of the scores before a token is chosen: transformers' `RepetitionPenaltyLogitsProcessor`,
//! `NoRepeatNGramLogitsProcessor`, `NoBadWordsLogitsProcessor` and `MinLengthLogitsProcessor` (or
//! `MinNewTokensLengthLogitsProcessor`), in this order.
//!
//! Scores are logits in greedy search and sampling, and log-probabilities in beam search (not renormalised).

use super::{TokenId, Vocabulary, config::GenerationConfig};

/// All logits processors of one search.
#[derive(Debug)]
pub(super) struct LogitsProcessor {
    /// 1 is off.
    repetition_penalty: f32,
    /// 0 is off.
    no_repeat_ngram_size: usize,
    /// Token ids of each word; no word is empty or only the end token.
    bad_words_ids: Vec<Vec<TokenId>>,
    /// The end token is banned while a sequence, prompt included, is shorter.
    min_length: usize,
    eos_token_id: TokenId,
}

impl LogitsProcessor {
    /// The processors of sequences that start with a prompt of `prompt_len` ids.
    pub(super) fn new(
        config: &GenerationConfig,
        vocabulary: &Vocabulary,
        mut bad_words_ids: Vec<Vec<TokenId>>,
        prompt_len: usize,
    ) -> Self {
        bad_words_ids.retain(|ids| !ids.is_empty() && ids[..] != [vocabulary.eos_token_id]);
        Self {
            repetition_penalty: config.repetition_penalty,
            no_repeat_ngram_size: config.no_repeat_ngram_size,
            bad_words_ids,
            // transformers lets min_new_tokens replace min_length, even when it is shorter.
            min_length: config.min_new_tokens.map_or(config.min_length, |n| prompt_len.saturating_add(n)),
            eos_token_id: vocabulary.eos_token_id,
        }
    }

    /// Whether [`Self::apply`] changes nothing for a sequence of `len` ids.
    pub(super) fn is_idle(&self, len: usize) -> bool {
        self.repetition_penalty == 1.0
            && self.no_repeat_ngram_size == 0
            && self.bad_words_ids.is_empty()
            && len >= self.min_length
    }

    /// Edits the `scores` `[vocab_size]` of the token that follows `token_ids` (prompt included).
    pub(super) fn apply(&self, token_ids: &[TokenId], scores: &mut [f32]) {
        self.penalise_repetition(token_ids, scores);
        self.ban_repeated_ngrams(token_ids, scores);
        self.ban_bad_words(token_ids, scores);
        if token_ids.len() < self.min_length {
            ban(self.eos_token_id, scores);
        }
    }

    fn penalise_repetition(&self, token_ids: &[TokenId], scores: &mut [f32]) {
        if self.repetition_penalty == 1.0 {
            return;
        }
        for (position, id) in token_ids.iter().enumerate() {
            // Each distinct id is penalised once, however often it occurs.
            if token_ids[..position].contains(id) {
                continue;
            }
            if let Some(score) = scores.get_mut(*id as usize) {
                *score = if *score < 0.0 { *score * self.repetition_penalty } else { *score / self.repetition_penalty };
            }
        }
    }

    fn ban_repeated_ngrams(&self, token_ids: &[TokenId], scores: &mut [f32]) {
        let size = self.no_repeat_ngram_size;
        if size == 0 || token_ids.len() < size {
            return;
        }
        let prefix = &token_ids[token_ids.len() + 1 - size..];
        for window in token_ids.windows(size) {
            if let Some((last, first)) = window.split_last()
                && first == prefix
            {
                ban(*last, scores);
            }
        }
    }

    fn ban_bad_words(&self, token_ids: &[TokenId], scores: &mut [f32]) {
        for word in &self.bad_words_ids {
            if let Some((last, first)) = word.split_last()
                && token_ids.ends_with(first)
            {
                ban(*last, scores);
            }
        }
    }
}

fn ban(id: TokenId, scores: &mut [f32]) {
    if let Some(score) = scores.get_mut(id as usize) {
        *score = f32::NEG_INFINITY;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{GenerationLimits, GenerationParameters};

    proptest! {
        #[test]
        fn idle_processors_change_nothing_and_others_something(
            repetition_penalty in prop::sample::select(vec![1.0, 1.5]),
            no_repeat_ngram_size in 0_u32..2,
            min_length in prop::sample::select(vec![0_u32, 2, 3]),
            bad_word in prop::sample::select(vec![vec![], vec![2], vec![4]]),
        ) {
            let parameters = GenerationParameters {
                repetition_penalty: Some(repetition_penalty),
                no_repeat_ngram_size: Some(no_repeat_ngram_size),
                min_length: Some(min_length),
                ..Default::default()
            };
            let config = GenerationConfig::new(&parameters, &GenerationLimits::default()).unwrap();
            let vocabulary = Vocabulary { size: 5, eos_token_id: 2, pad_token_id: 0 };
            let processor = LogitsProcessor::new(&config, &vocabulary, vec![bad_word], 1);
            let mut scores = [1.0; 5];
            processor.apply(&[3, 1], &mut scores);
            prop_assert_eq!(processor.is_idle(2), scores == [1.0; 5]);
        }
    }

    /// The score of `token` after `prefix`, by the definitions of the parameters.
    fn expected(
        parameters: &GenerationParameters,
        words: &[Vec<TokenId>],
        prefix: &[TokenId],
        token: TokenId,
        score: f32,
    ) -> f32 {
        let ids = [prefix, &[token]].concat();
        let size = parameters.no_repeat_ngram_size.unwrap() as usize;
        let repeats = size > 0 && prefix.windows(size).any(|ngram| ids.ends_with(ngram));
        let ends_with_bad_word = words.iter().any(|word| !word.is_empty() && word[..] != [2] && ids.ends_with(word));
        let too_short = token == 2 && prefix.len() < parameters.min_length.unwrap() as usize;
        let penalty = parameters.repetition_penalty.unwrap() as f32;
        if repeats || ends_with_bad_word || too_short {
            f32::NEG_INFINITY
        } else if prefix.contains(&token) {
            if score < 0.0 { score * penalty } else { score / penalty }
        } else {
            score
        }
    }

    proptest! {
        #[test]
        fn scores_follow_from_the_definitions_of_the_parameters(
            prefix in prop::collection::vec(0_u32..5, 1..9),
            scores in prop::collection::vec(-2.0_f32..2.0, 5),
            words in prop::collection::vec(prop::collection::vec(0_u32..5, 0..4), 0..4),
            repetition_penalty in prop::sample::select(vec![1.0, 1.5, 0.5]),
            no_repeat_ngram_size in 0_u32..4,
            min_length in 0_u32..9,
        ) {
            let parameters = GenerationParameters {
                repetition_penalty: Some(repetition_penalty),
                no_repeat_ngram_size: Some(no_repeat_ngram_size),
                min_length: Some(min_length),
                ..Default::default()
            };
            let config = GenerationConfig::new(&parameters, &GenerationLimits::default()).unwrap();
            let vocabulary = Vocabulary { size: 5, eos_token_id: 2, pad_token_id: 0 };
            let mut processed = scores.clone();
            LogitsProcessor::new(&config, &vocabulary, words.clone(), 1).apply(&prefix, &mut processed);
            for (token, (score, processed)) in (0..).zip(scores.into_iter().zip(processed)) {
                prop_assert_eq!(processed, expected(&parameters, &words, &prefix, token, score), "token {}", token);
            }
        }
    }

    #[test]
    fn min_new_tokens_replaces_min_length() {
        let parameters = GenerationParameters { min_new_tokens: Some(2), min_length: Some(9), ..Default::default() };
        let config = GenerationConfig::new(&parameters, &GenerationLimits::default()).unwrap();
        let vocabulary = Vocabulary { size: 5, eos_token_id: 2, pad_token_id: 0 };
        let processor = LogitsProcessor::new(&config, &vocabulary, Vec::new(), 3);
        assert!(!processor.is_idle(4) && processor.is_idle(5));
    }

    #[test]
    fn ids_beyond_the_vocabulary_are_ignored() {
        let parameters =
            GenerationParameters { repetition_penalty: Some(2.0), no_repeat_ngram_size: Some(1), ..Default::default() };
        let config = GenerationConfig::new(&parameters, &GenerationLimits::default()).unwrap();
        let vocabulary = Vocabulary { size: 3, eos_token_id: 99, pad_token_id: 0 };
        let mut scores = [1.0; 3];
        LogitsProcessor::new(&config, &vocabulary, vec![vec![7]], 1).apply(&[7, 1], &mut scores);
        assert_eq!(scores, [1.0, f32::NEG_INFINITY, 1.0]);
    }
}
