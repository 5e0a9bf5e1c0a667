//! The finished sequences of a beam search, and whether the running beams can still improve on them.
//!
//! Follows transformers' `_update_finished_beams`, `_check_early_stop_heuristic` and `_beam_search_has_unfinished_sequences`.
//! Where these add -1e9 to a score that may not win, the same is done here, so that degenerate cases end alike.

use super::{EarlyStopping, TokenId, config::GenerationConfig, top_k::best_first};

/// What transformers adds to a score that may not win.
pub(super) const EXCLUDED_SCORE: f32 = -1e9;

/// The best finished sequences of one image.
#[derive(Debug)]
pub(super) struct BeamHypotheses {
    /// `[num_beams]`, best first.
    best: Vec<Hypothesis>,
    length_penalty: f64,
    early_stopping: EarlyStopping,
    /// Maximum number of generated ids.
    max_new_tokens: usize,
}

/// A finished sequence, or an empty slot.
#[derive(Clone, Debug)]
pub(super) struct Hypothesis {
    /// The prompt is included.
    pub(super) token_ids: Vec<TokenId>,
    /// Accumulated log-probability / length^`length_penalty`.
    pub(super) score: f32,
    /// False for an empty slot.
    is_finished: bool,
}

/// One of the `2 * num_beams` best continuations of the running beams.
#[derive(Clone, Copy, Debug)]
pub(super) struct Continuation {
    /// Index of the running beam that it continues.
    pub(super) beam: usize,
    pub(super) token: TokenId,
    /// Accumulated log-probability.
    pub(super) score: f32,
    /// Whether it ends the sequence: by the end token, or at the maximum length.
    pub(super) ends: bool,
}

impl BeamHypotheses {
    pub(super) fn new(config: &GenerationConfig, prompt: &[TokenId], max_length: usize) -> Self {
        let slot = Hypothesis { token_ids: prompt.to_vec(), score: EXCLUDED_SCORE, is_finished: false };
        Self {
            best: vec![slot; config.num_beams],
            length_penalty: config.length_penalty,
            early_stopping: config.early_stopping,
            max_new_tokens: max_length.saturating_sub(prompt.len()),
        }
    }

    /// Keeps the best `num_beams` of the finished sequences and of the `continuations` that end with `generated_len` ids
    /// after the prompt. Only the first `num_beams` continuations may enter; the others serve to keep enough beams running.
    pub(super) fn update(
        &mut self,
        continuations: &[Continuation],
        generated_len: usize,
        token_ids: impl Fn(&Continuation) -> Vec<TokenId>,
    ) {
        let num_beams = self.best.len();
        let divisor = self.length_divisor(generated_len);
        let may_enter = |rank: usize| continuations[rank].ends && rank < num_beams;

        let mut scores: Vec<f32> = self.best.iter().map(|hypothesis| hypothesis.score).collect();
        for (rank, continuation) in continuations.iter().enumerate() {
            let score = continuation.score / divisor;
            scores.push(if may_enter(rank) { score } else { score + EXCLUDED_SCORE });
        }
        let hypothesis = |i: usize| match i.checked_sub(num_beams) {
            None => self.best[i].clone(),
            Some(rank) => Hypothesis {
                token_ids: token_ids(&continuations[rank]),
                score: scores[i],
                is_finished: may_enter(rank),
            },
        };
        self.best = best_first(&scores).take(num_beams).map(hypothesis).collect();
    }

    /// Whether a later step may change the finished sequences, when the best running beam has the score `running_score` and
    /// `generated_len` ids after the prompt. transformers' heuristic scores this beam at its current length, or at the
    /// maximum length for "never" when that favours it.
    pub(super) fn can_improve(&self, running_score: f32, generated_len: usize) -> bool {
        let all_finished = self.best.iter().all(|hypothesis| hypothesis.is_finished);
        if self.early_stopping == EarlyStopping::True && all_finished {
            return false;
        }
        let at_max_length = self.early_stopping == EarlyStopping::Never && self.length_penalty > 0.0;
        let len = if at_max_length { self.max_new_tokens } else { generated_len };
        let best_possible = running_score / self.length_divisor(len);
        let worst = self.best.iter().map(|hypothesis| hypothesis.score).fold(f32::INFINITY, f32::min);
        self.best.iter().any(|hypothesis| best_possible > if hypothesis.is_finished { worst } else { EXCLUDED_SCORE })
    }

    /// All `num_beams` slots, best first.
    pub(super) fn best(&self) -> &[Hypothesis] {
        &self.best
    }

    /// length^`length_penalty`, which Python computes as a double and which divides f32 scores.
    fn length_divisor(&self, len: usize) -> f32 {
        (len as f64).powf(self.length_penalty) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GenerationLimits, GenerationParameters, golden::GOLDEN};

    #[test]
    fn a_search_goes_on_as_long_as_that_of_transformers() {
        assert!(GOLDEN.early_stops.iter().any(|row| row.is_open) && GOLDEN.early_stops.iter().any(|row| !row.is_open));
        for row in &GOLDEN.early_stops {
            let config = GenerationConfig::new(&row.parameters, &GenerationLimits::default()).unwrap();
            let mut hypotheses = BeamHypotheses::new(&config, &[9, 8, 7], config.max_length(3, 512).unwrap());
            let to_hypothesis =
                |&(score, is_finished): &(f32, bool)| Hypothesis { token_ids: vec![9, 8, 7], score, is_finished };
            hypotheses.best = row.finished.iter().map(to_hypothesis).collect();
            assert_eq!(hypotheses.can_improve(row.running_score, row.generated_len), row.is_open, "{row:?}");
        }
    }

    #[test]
    fn a_running_beam_that_only_equals_the_worst_finished_one_cannot_improve() {
        let parameters = GenerationParameters { num_beams: Some(2), length_penalty: Some(0.0), ..Default::default() };
        let config = GenerationConfig::new(&parameters, &GenerationLimits::default()).unwrap();
        let mut hypotheses = BeamHypotheses::new(&config, &[1], 9);
        let finished = |score| Hypothesis { token_ids: vec![1, 2], score, is_finished: true };
        hypotheses.best = vec![finished(-1.0), finished(-2.0)];
        assert!(!hypotheses.can_improve(-2.0, 3));
        assert!(hypotheses.can_improve((-2.0_f32).next_up(), 3));
    }
}
