//! What `benches/hot.rs` measures of this room and cannot reach from outside.

use super::{
    log_softmax::LogSoftmax,
    maxima::Maxima,
    top_k::{Candidate, TopK},
};

/// What is kept from one row to the next.
#[derive(Debug, Default)]
pub struct Scan {
    maxima: Maxima,
}

impl Scan {
    /// Greedy search: the best token of a row and its log-probability.
    pub fn greedy(&mut self, logits: &[f32]) -> (usize, f32) {
        self.maxima.scan(logits);
        let token = self.maxima.argmax(logits);
        (token, LogSoftmax::new(logits, self.maxima.max()).apply(logits[token]))
    }

    /// Beam search: of a row for each beam, `[num_beams, vocab_size]`, the best `2 * num_beams` by log-probability.
    pub fn beams(&mut self, logits: &[f32], vocab_size: usize) -> Vec<(usize, f32)> {
        let mut top = TopK::new(2 * logits.len() / vocab_size);
        for (beam, row) in logits.chunks_exact(vocab_size).enumerate() {
            self.maxima.scan(row);
            let log_softmax = LogSoftmax::new(row, self.maxima.max());
            top.offer(row, &self.maxima, beam * vocab_size, |logit| log_softmax.apply(logit));
        }
        top.into_vec().iter().map(|&Candidate { index, score }| (index, score)).collect()
    }
}
