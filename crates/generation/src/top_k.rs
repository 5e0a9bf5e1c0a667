//! The best few of many scores, without sorting them.
//!
//! Equal scores keep the order of their indices, lowest first. NaN ranks with -inf.

use super::chunk_maxima::{CHUNK, ChunkMaxima};

/// A score and its index.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    /// The token id; in beam search `beam * vocab_size + token`.
    pub(super) index: usize,
    /// Logit or log-probability; in beam search accumulated over the sequence.
    pub(super) score: f32,
}

/// Collects the `capacity` best candidates.
#[derive(Debug)]
pub(super) struct TopK {
    capacity: usize,
    /// Best first.
    best: Vec<Candidate>,
}

impl TopK {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, best: Vec::with_capacity(capacity + 1) }
    }

    /// Offers `score(values[i])` as the score of index `first_index + i`. Indices must be offered in ascending order,
    /// `maxima` must be those of `values`, and `score` must be monotonic, or NaN for every value.
    pub(super) fn offer(
        &mut self,
        values: &[f32],
        maxima: &ChunkMaxima,
        first_index: usize,
        score: impl Fn(f32) -> f32,
    ) {
        for (number, (chunk, &max)) in values.chunks(CHUNK).zip(maxima.chunks()).enumerate() {
            // If the chunk's maximum is too small, so is every value.
            if !self.admits(score(max)) {
                continue;
            }
            for (i, value) in chunk.iter().enumerate() {
                let (index, score) = (first_index + number * CHUNK + i, score(*value));
                self.insert(Candidate { index, score: if score.is_nan() { f32::NEG_INFINITY } else { score } });
            }
        }
    }

    /// The candidates, best first; fewer than `capacity` if fewer were offered.
    pub(super) fn into_vec(self) -> Vec<Candidate> {
        self.best
    }

    fn admits(&self, score: f32) -> bool {
        self.best.len() < self.capacity || self.best.last().is_some_and(|worst| score > worst.score)
    }

    fn insert(&mut self, candidate: Candidate) {
        if self.admits(candidate.score) {
            let position = self.best.partition_point(|better| better.score >= candidate.score);
            self.best.insert(position, candidate);
            self.best.truncate(self.capacity);
        }
    }
}

/// Indices of the scores from the best to the worst; equal scores keep their order. For short lists.
pub(super) fn best_first(scores: &[f32]) -> impl Iterator<Item = usize> + use<> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order.into_iter()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn offer(top: &mut TopK, values: &[f32], offset: f32, first_index: usize) {
        let mut maxima = ChunkMaxima::default();
        maxima.scan(values);
        top.offer(values, &maxima, first_index, |value| value + offset);
    }

    proptest! {
        #[test]
        fn equals_a_stable_sort(
            values in prop::collection::vec((-4_i8..4).prop_map(f32::from), 0..200),
            capacity in 1_usize..12,
        ) {
            let mut top = TopK::new(capacity);
            let half = values.len() / 2;
            offer(&mut top, &values[..half], 0.5, 0);
            offer(&mut top, &values[half..], 0.5, half);
            let mut sorted: Vec<_> =
                values.iter().enumerate().map(|(index, value)| Candidate { index, score: value + 0.5 }).collect();
            sorted.sort_by(|a, b| b.score.total_cmp(&a.score));
            sorted.truncate(capacity);
            prop_assert_eq!(top.into_vec(), sorted);
        }
    }

    #[test]
    fn nan_ranks_with_minus_infinity() {
        let mut top = TopK::new(2);
        offer(&mut top, &[f32::NAN, 1.0, f32::NAN], 0.0, 0);
        let expected = [Candidate { index: 1, score: 1.0 }, Candidate { index: 0, score: f32::NEG_INFINITY }];
        assert_eq!(top.into_vec(), expected);
    }
}
