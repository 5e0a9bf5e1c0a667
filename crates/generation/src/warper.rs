//! What sampling does to the scores of one row before it draws: temperature, then `top_k`, then `top_p`.
//!
//! The result is the short list of tokens that can still be drawn; all others have probability 0.

use super::{config::Sampling, log_softmax, top_k::Candidate};

/// The warpers of one search.
#[derive(Debug)]
pub(super) struct Warpers {
    temperature: f32,
    /// 0 is off.
    top_k: usize,
    /// Tokens whose cumulative probability, from the least probable on, is not above this are dropped; `None` is off.
    dropped_probability: Option<f32>,
    min_tokens_to_keep: usize,
    /// `[vocab_size]`, reordered to find the k-th best.
    scratch: Vec<f32>,
    /// What is left of the row looked at last.
    kept: Vec<Candidate>,
}

impl Warpers {
    /// `min_tokens_to_keep`: 1, or 2 among beams, so that one token besides the end token remains.
    pub(super) fn new(sampling: &Sampling, min_tokens_to_keep: usize) -> Self {
        Self {
            temperature: sampling.temperature,
            top_k: if sampling.top_k == 0 { 0 } else { sampling.top_k.max(min_tokens_to_keep) },
            dropped_probability: (sampling.top_p < 1.0).then_some((1.0 - sampling.top_p) as f32),
            min_tokens_to_keep,
            scratch: Vec::new(),
            kept: Vec::new(),
        }
    }

    /// The tokens left of `scores` `[vocab_size]`, in order of their index, with warped scores. Banned (-inf) and NaN
    /// scores are never left, so nothing may be.
    pub(super) fn apply(&mut self, scores: &[f32]) -> &[Candidate] {
        let threshold = self.kth_best(scores);
        self.kept.clear();
        for (index, score) in scores.iter().enumerate() {
            let score = score / self.temperature;
            if score > f32::NEG_INFINITY && score >= threshold {
                self.kept.push(Candidate { index, score });
            }
        }
        if let Some(probability) = self.dropped_probability {
            drop_improbable(&mut self.kept, probability, self.min_tokens_to_keep);
        }
        &self.kept
    }

    /// The k-th best score after temperature; equal scores all stay. -inf if everything stays.
    fn kth_best(&mut self, scores: &[f32]) -> f32 {
        if self.top_k == 0 || self.top_k >= scores.len() {
            return f32::NEG_INFINITY;
        }
        self.scratch.clear();
        let number = |score: &f32| if score.is_nan() { f32::NEG_INFINITY } else { *score / self.temperature };
        self.scratch.extend(scores.iter().map(number));
        let (_, kth, _) = self.scratch.select_nth_unstable_by(self.top_k - 1, |a, b| b.total_cmp(a));
        *kth
    }
}

/// Drops the least probable candidates as long as their probabilities add up to `probability` or less, but keeps the best
/// `min_tokens_to_keep`.
fn drop_improbable(kept: &mut Vec<Candidate>, probability: f32, min_tokens_to_keep: usize) {
    // Stable, so of equal scores the lowest index goes first.
    kept.sort_by(|a, b| a.score.total_cmp(&b.score));
    let weights: Vec<f32> = weights(kept).collect();
    let total: f64 = weights.iter().copied().map(f64::from).sum();
    let mut cumulative = 0.0;
    let improbable = weights.iter().take_while(|&&weight| {
        cumulative += f64::from((f64::from(weight) / total) as f32);
        cumulative as f32 <= probability
    });
    let dropped = improbable.count().min(kept.len().saturating_sub(min_tokens_to_keep));
    kept.drain(..dropped);
    kept.sort_unstable_by_key(|candidate| candidate.index);
}

/// Probabilities of the candidates before they are divided by their sum: the best has 1.
pub(super) fn weights(candidates: &[Candidate]) -> impl Iterator<Item = f32> {
    let best = candidates.iter().map(|candidate| candidate.score).fold(f32::NEG_INFINITY, f32::max);
    // A score of +inf takes all, instead of inf - inf = NaN.
    candidates.iter().map(move |c| if c.score == best { 1.0 } else { log_softmax::exp(c.score - best) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(sampling: &Sampling, scores: &[f32]) -> Vec<usize> {
        Warpers::new(sampling, 1).apply(scores).iter().map(|candidate| candidate.index).collect()
    }

    #[test]
    fn scores_equal_to_the_kth_all_stay() {
        let sampling = Sampling { temperature: 1.0, top_k: 2, top_p: 1.0, seed: None };
        assert_eq!(kept(&sampling, &[1.0, 3.0, 1.0, 0.5, 1.0]), [0, 1, 2, 4]);
    }

    #[test]
    fn top_p_leaves_the_rest_in_order_of_index() {
        let sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 0.9, seed: None };
        assert_eq!(kept(&sampling, &[4.0, -9.0, 5.0, 4.5, -8.0, 3.9]), [0, 2, 3, 5]);
    }

    #[test]
    fn what_is_banned_or_no_number_is_never_left() {
        let sampling = Sampling { temperature: 1.0, top_k: 50, top_p: 0.0, seed: None };
        assert_eq!(kept(&sampling, &[f32::NEG_INFINITY, f32::NAN]), [0; 0]);
        let sampling = Sampling { top_k: 2, top_p: 1.0, ..sampling };
        assert_eq!(kept(&sampling, &[f32::NAN, 1.0, f32::NAN, 2.0, 0.0]), [1, 3]);
    }
}
