//! The finished sequences of a beam search, and the question whether the running ones can still improve on them.
//!
//! Where transformers pushes a score out of reach by adding -1e9 the same is done here, so that degenerate cases end alike.

use super::{
    TokenId, beam_search::Continuation, config::GenerationConfig, early_stopping::EarlyStopping, top_k::best_first,
};

/// What transformers adds to a score that may not win.
pub(super) const OUT_OF_REACH: f32 = -1e9;

/// The best finished sequences of one image.
#[derive(Debug)]
pub(super) struct Hypotheses {
    /// `[num_beams]`, best first.
    best: Vec<Hypothesis>,
    length_penalty: f64,
    early_stopping: EarlyStopping,
    /// Ids that can be generated at most.
    max_new_tokens: usize,
}

/// A sequence to return, or a place for one.
#[derive(Clone, Debug)]
pub(super) struct Hypothesis {
    /// Prompt included.
    pub(super) token_ids: Vec<TokenId>,
    /// Accumulated log-probability / length^`length_penalty`.
    pub(super) score: f32,
    /// False for a place not taken yet.
    done: bool,
}

impl Hypotheses {
    pub(super) fn new(config: &GenerationConfig, prompt: &[TokenId], max_length: usize) -> Self {
        let place = Hypothesis { token_ids: prompt.to_vec(), score: OUT_OF_REACH, done: false };
        Self {
            best: vec![place; config.num_beams],
            length_penalty: config.length_penalty,
            early_stopping: config.early_stopping,
            max_new_tokens: max_length.saturating_sub(prompt.len()),
        }
    }

    /// Keeps the best of what is here and the `continuations` that end, which have `generated_len` ids after the prompt.
    /// Of these only the first `num_beams` may enter; the others are there to keep enough beams running.
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
            scores.push(if may_enter(rank) { score } else { score + OUT_OF_REACH });
        }
        let hypothesis = |i: usize| match i.checked_sub(num_beams) {
            None => self.best[i].clone(),
            Some(rank) => {
                Hypothesis { token_ids: token_ids(&continuations[rank]), score: scores[i], done: may_enter(rank) }
            }
        };
        self.best = best_first(&scores).take(num_beams).map(hypothesis).collect();
    }

    /// Whether a later step may still change what is here, when the best running beam has this score and so many ids
    /// after the prompt. This is transformers' heuristic: the beam is judged at its present length, or at the greatest
    /// for "never" when that favours it.
    pub(super) fn is_open(&self, running_score: f32, generated_len: usize) -> bool {
        let all_done = self.best.iter().all(|hypothesis| hypothesis.done);
        if self.early_stopping == EarlyStopping::True && all_done {
            return false;
        }
        let at_greatest_length = self.early_stopping == EarlyStopping::Never && self.length_penalty > 0.0;
        let len = if at_greatest_length { self.max_new_tokens } else { generated_len };
        let best_possible = running_score / self.length_divisor(len);
        let worst = self.best.iter().map(|hypothesis| hypothesis.score).fold(f32::INFINITY, f32::min);
        self.best.iter().any(|hypothesis| best_possible > if hypothesis.done { worst } else { OUT_OF_REACH })
    }

    /// Best first, all `num_beams`.
    pub(super) fn best(&self) -> &[Hypothesis] {
        &self.best
    }

    /// length^`length_penalty`: a double in Python that divides f32 scores.
    fn length_divisor(&self, len: usize) -> f32 {
        (len as f64).powf(self.length_penalty) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GenerationLimits, golden::GOLDEN};

    #[test]
    fn a_search_stays_open_as_long_as_that_of_transformers() {
        assert!(GOLDEN.early_stops.iter().any(|row| row.is_open) && GOLDEN.early_stops.iter().any(|row| !row.is_open));
        for row in &GOLDEN.early_stops {
            let config = GenerationConfig::new(&row.parameters, &GenerationLimits::default()).unwrap();
            let mut hypotheses = Hypotheses::new(&config, &[9, 8, 7], config.max_length(3, 512).unwrap());
            let place = |&(score, done): &(f32, bool)| Hypothesis { token_ids: vec![9, 8, 7], score, done };
            hypotheses.best = row.finished.iter().map(place).collect();
            assert_eq!(hypotheses.is_open(row.running_score, row.generated_len), row.is_open, "{row:?}");
        }
    }
}
