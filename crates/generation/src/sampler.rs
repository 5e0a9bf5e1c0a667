//! Random draws among candidates, reproducible by seed.
//!
//! Every search has one `ChaCha8` stream, keyed with the seed's eight bytes (little-endian, then zeros), read as 53-bit fractions.
//! A draw walks the cumulative probabilities in order of the candidates, so the same seed and scores give the same ids on
//! every platform, whatever else is decoded at the same time.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

use super::{
    logits_warper,
    top_k::{Candidate, best_first},
};

/// The source of randomness of one search.
#[derive(Debug)]
pub(super) struct Sampler {
    rng: ChaCha8Rng,
    /// One weight for each candidate; the allocation is reused.
    weights: Vec<f32>,
}

impl Sampler {
    /// A sampler with a random seed if none is given.
    pub(super) fn new(seed: Option<u64>) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.unwrap_or_else(rand::random).to_le_bytes());
        Self { rng: ChaCha8Rng::from_seed(key), weights: Vec::new() }
    }

    /// Draws one candidate by softmax of the scores; `None` if there are no candidates.
    pub(super) fn draw(&mut self, candidates: &[Candidate]) -> Option<Candidate> {
        self.set_weights(candidates);
        self.draw_by_weight().map(|position| candidates[position])
    }

    /// Draws up to `count` different candidates one after the other, each by softmax of the scores of those left, as
    /// `torch.multinomial` does. Returns them in the order of the draws. Once only candidates whose probability is 0 in f32
    /// are left, the best come first.
    pub(super) fn draw_without_replacement(&mut self, candidates: &[Candidate], count: usize) -> Vec<Candidate> {
        self.set_weights(candidates);
        let mut drawn = Vec::with_capacity(count);
        while drawn.len() < count
            && let Some(position) = self.draw_by_weight()
        {
            self.weights[position] = 0.0;
            drawn.push(position);
        }
        if drawn.len() < count {
            let scores: Vec<f32> = candidates.iter().map(|candidate| candidate.score).collect();
            let rest: Vec<usize> = best_first(&scores).filter(|position| !drawn.contains(position)).collect();
            drawn.extend(rest.into_iter().take(count - drawn.len()));
        }
        drawn.into_iter().map(|position| candidates[position]).collect()
    }

    fn set_weights(&mut self, candidates: &[Candidate]) {
        self.weights.clear();
        self.weights.extend(logits_warper::weights(candidates));
    }

    /// Draws a position by weight; `None` if all weights are 0.
    fn draw_by_weight(&mut self) -> Option<usize> {
        let total: f64 = self.weights.iter().copied().map(f64::from).sum();
        let target = self.uniform() * total;
        let mut cumulative = 0.0;
        // The same sum in the same order is `total`, so a position is found: target < total unless both are 0.
        self.weights.iter().position(|&weight| {
            cumulative += f64::from(weight);
            cumulative > target
        })
    }

    /// A random number in [0, 1), a multiple of 2^-53.
    fn uniform(&mut self) -> f64 {
        (self.rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn candidates(scores: &[f32]) -> Vec<Candidate> {
        scores.iter().enumerate().map(|(index, &score)| Candidate { index, score }).collect()
    }

    #[test]
    fn seed_0_reads_the_published_key_stream_of_chacha8() {
        // ECRYPT test vector, 256-bit key and IV of zeros: 3e00ef2f895f40d6 7f5bb8e81f09a5a1 ...
        let mut sampler = Sampler::new(Some(0));
        for word in [0xd640_5f89_2fef_003e_u64, 0xa1a5_091f_e8b8_5b7f] {
            assert_eq!(sampler.uniform(), (word >> 11) as f64 / 2_f64.powi(53));
        }
    }

    #[test]
    fn a_draw_takes_the_first_candidate_whose_cumulative_probability_exceeds_the_fraction() {
        // The first fraction of seed 0 is 0.8369; weights 4 : 1 : 1 put the first bound below it, the second above.
        let drawn = Sampler::new(Some(0)).draw(&candidates(&[4_f32.ln(), 0.0, 0.0]));
        assert_eq!(drawn.map(|candidate| candidate.index), Some(2));
        let drawn = Sampler::new(Some(0)).draw(&candidates(&[4_f32.ln(), 1_f32.ln(), 0.1_f32.ln()]));
        assert_eq!(drawn.map(|candidate| candidate.index), Some(1));
    }

    #[test]
    fn without_a_seed_no_two_samplers_agree() {
        let first: Vec<f64> = (0..4).map(|_| Sampler::new(None).uniform()).collect();
        assert!(first.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn nothing_is_drawn_twice_and_what_has_no_probability_comes_last_best_first() {
        let scores = [-1e9, 0.0, -2e9, -1.0, -1e9];
        for seed in 0..50 {
            let drawn = Sampler::new(Some(seed)).draw_without_replacement(&candidates(&scores), 9);
            let mut order: Vec<usize> = drawn.iter().map(|candidate| candidate.index).collect();
            assert_eq!(order.split_off(2), [0, 4, 2]);
            order.sort_unstable();
            assert_eq!(order, [1, 3]);
        }
    }

    #[test]
    fn the_number_drawn_is_the_number_asked_for() {
        for scores in [[0.0, 0.5, 0.2, -1e9, -2e9], [0.0, -1e9, -2e9, -3e9, -4e9]] {
            for count in 0..=5 {
                let drawn = Sampler::new(Some(1)).draw_without_replacement(&candidates(&scores), count);
                assert_eq!(drawn.len(), count, "{scores:?}");
            }
        }
    }

    #[test]
    fn every_probable_candidate_is_drawn_first_by_some_seed() {
        let first = |seed| {
            let drawn = Sampler::new(Some(seed)).draw_without_replacement(&candidates(&[0.0, 0.5, 0.2]), 2);
            drawn[0].index
        };
        assert_eq!((0..50).map(first).collect::<BTreeSet<_>>(), BTreeSet::from([0, 1, 2]));
    }

    #[test]
    fn an_infinite_score_takes_all() {
        for seed in 0..20 {
            let drawn = Sampler::new(Some(seed)).draw(&candidates(&[0.0, f32::INFINITY, 3.0]));
            assert_eq!(drawn.map(|candidate| candidate.index), Some(1));
        }
        assert_eq!(Sampler::new(Some(0)).draw(&[]), None);
    }
}
