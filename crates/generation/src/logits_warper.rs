//! transformers' `TemperatureLogitsWarper`, `TopKLogitsWarper` and `TopPLogitsWarper`, in this order, for one row.
//!
//! The result is the short list of candidates that can still be drawn; all other tokens have probability 0.

use super::{config::SamplingConfig, log_softmax, top_k::Candidate};

/// The three warpers of one search.
#[derive(Debug)]
pub(super) struct LogitsWarper {
    temperature: f32,
    /// 0 is off.
    top_k: usize,
    /// The least probable tokens are dropped while their cumulative probability is at most this; `None` is off.
    dropped_probability: Option<f32>,
    min_tokens_to_keep: usize,
    /// `[vocab_size]`: scores in the order in which the search for the k-th best left them.
    scratch: Vec<f32>,
    /// The candidates of the last row.
    kept: Vec<Candidate>,
}

impl LogitsWarper {
    /// `min_tokens_to_keep` is the number of candidates that `top_k` and `top_p` leave at least.
    pub(super) fn new(sampling: &SamplingConfig, min_tokens_to_keep: usize) -> Self {
        Self {
            temperature: sampling.temperature,
            top_k: if sampling.top_k == 0 { 0 } else { sampling.top_k.max(min_tokens_to_keep) },
            dropped_probability: (sampling.top_p < 1.0).then_some((1.0 - sampling.top_p) as f32),
            min_tokens_to_keep,
            scratch: Vec::new(),
            kept: Vec::new(),
        }
    }

    /// The candidates among `scores` `[vocab_size]`, in order of their index, with warped scores. Banned (-inf) and NaN
    /// scores are never candidates, so the list can be empty.
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

    /// The k-th best score after temperature, or -inf if every score is kept.
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

/// Drops the least probable candidates while their probabilities add up to `probability` or less, but keeps the best
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

/// Probabilities of the candidates before the division by their sum: the best has 1.
pub(super) fn weights(candidates: &[Candidate]) -> impl Iterator<Item = f32> {
    let best = candidates.iter().map(|candidate| candidate.score).fold(f32::NEG_INFINITY, f32::max);
    // A score of +inf gets all probability; inf - inf would be NaN.
    candidates.iter().map(move |c| if c.score == best { 1.0 } else { log_softmax::exp(c.score - best) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kept(sampling: &SamplingConfig, scores: &[f32]) -> Vec<usize> {
        LogitsWarper::new(sampling, 1).apply(scores).iter().map(|candidate| candidate.index).collect()
    }

    /// transformers' three warpers in f64 and by full sorts: the indices that they leave; `None` if rounding decides.
    fn expected(sampling: &SamplingConfig, min_tokens_to_keep: usize, scores: &[f32]) -> Option<Vec<usize>> {
        let warped: Vec<f32> = scores.iter().map(|score| score / sampling.temperature).collect();
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| warped[b].total_cmp(&warped[a]).then(b.cmp(&a)));
        if sampling.top_k > 0 {
            let worst = warped[order[sampling.top_k.max(min_tokens_to_keep).min(order.len()) - 1]];
            order.retain(|&i| warped[i] >= worst);
        }
        let weight = |i: usize| f64::from(warped[i] - warped[order[0]]).exp();
        let total: f64 = order.iter().map(|&i| weight(i)).sum();
        let mut kept = 0;
        let mut before = 0.0;
        // The best are kept until their probability exceeds top_p.
        while kept < order.len() && (kept < min_tokens_to_keep || before / total < sampling.top_p) {
            before += weight(order[kept]);
            kept += 1;
            if sampling.top_p < 1.0 && (before / total - sampling.top_p).abs() < 1e-6 && kept < order.len() {
                return None;
            }
        }
        order.truncate(if sampling.top_p < 1.0 { kept } else { order.len() });
        order.sort_unstable();
        Some(order)
    }

    proptest! {
        #[test]
        fn the_candidates_are_those_of_full_sorts(
            scores in prop::collection::vec((-20_i8..20).prop_map(|n| f32::from(n) / 4.0), 1..30),
            temperature in prop::sample::select(vec![0.5_f32, 1.0, 2.0]),
            top_k in 0_usize..40,
            top_p in prop::sample::select(vec![0.0, 0.123, 0.517, 0.931, 1.0]),
            min_tokens_to_keep in 1_usize..3,
        ) {
            let sampling = SamplingConfig { temperature, top_k, top_p, seed: None };
            let mut warper = LogitsWarper::new(&sampling, min_tokens_to_keep);
            // The second row must not depend on the first.
            warper.apply(&[1.0, 2.0, 3.0]);
            let candidates = warper.apply(&scores);
            let indices: Vec<usize> = candidates.iter().map(|candidate| candidate.index).collect();
            let expected = expected(&sampling, min_tokens_to_keep, &scores);
            prop_assume!(expected.is_some());
            prop_assert_eq!(Some(indices), expected);
            for candidate in candidates {
                prop_assert_eq!(candidate.score, scores[candidate.index] / temperature);
            }
        }
    }

    #[test]
    fn scores_equal_to_the_kth_are_all_kept() {
        let sampling = SamplingConfig { temperature: 1.0, top_k: 2, top_p: 1.0, seed: None };
        assert_eq!(kept(&sampling, &[1.0, 3.0, 1.0, 0.5, 1.0]), [0, 1, 2, 4]);
    }

    #[test]
    fn top_p_keeps_the_candidates_in_order_of_index() {
        let sampling = SamplingConfig { temperature: 1.0, top_k: 0, top_p: 0.9, seed: None };
        assert_eq!(kept(&sampling, &[4.0, -9.0, 5.0, 4.5, -8.0, 3.9]), [0, 2, 3, 5]);
    }

    #[test]
    fn banned_and_nan_scores_are_never_candidates() {
        let sampling = SamplingConfig { temperature: 1.0, top_k: 50, top_p: 0.0, seed: None };
        assert_eq!(kept(&sampling, &[f32::NEG_INFINITY, f32::NAN]), [0; 0]);
        let sampling = SamplingConfig { top_k: 2, top_p: 1.0, ..sampling };
        assert_eq!(kept(&sampling, &[f32::NAN, 1.0, f32::NAN, 2.0, 0.0]), [1, 3]);
    }
}
