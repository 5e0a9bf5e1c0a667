//! Greedy search and sampling: transformers' `_sample`, in which the rows do not depend on each other.
//!
//! The logits processor works on raw logits. A finished row is fed the pad token until the last row finishes.

use ndarray::ArrayView2;

use super::{
    Advance, FinishReason, Sequence, TokenId,
    chunk_maxima::ChunkMaxima,
    config::GenerationConfig,
    log_softmax::LogSoftmax,
    search_state::{Sampling, SearchState, logits_row},
};

/// The sequences of one image, each of which takes a row.
#[derive(Debug)]
pub(super) struct GreedyOrSample {
    state: SearchState,
    length_penalty: f64,
    rows: Vec<Row>,
    /// `[vocab_size]`: logits of one row after the logits processor.
    scores: Vec<f32>,
    /// Chunk maxima of the row that was scanned last.
    maxima: ChunkMaxima,
}

/// A sequence, running or finished.
#[derive(Clone, Debug)]
struct Row {
    /// The prompt is included.
    token_ids: Vec<TokenId>,
    /// Sum over the generated ids.
    log_prob: f64,
    is_finished: bool,
}

impl GreedyOrSample {
    pub(super) fn new(config: &GenerationConfig, state: SearchState) -> Self {
        let row = Row { token_ids: state.prompt.clone(), log_prob: 0.0, is_finished: false };
        Self {
            rows: vec![row; config.num_return_sequences],
            length_penalty: config.length_penalty,
            scores: Vec::new(),
            maxima: ChunkMaxima::default(),
            state,
        }
    }

    pub(super) fn num_rows(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn is_first_step(&self) -> bool {
        self.rows.iter().all(|row| row.token_ids.len() == self.state.prompt.len())
    }

    /// The ids of the row, if there is only one.
    pub(super) fn only_row(&self) -> Option<&[TokenId]> {
        if let [row] = &self.rows[..] { Some(&row.token_ids) } else { None }
    }

    pub(super) fn advance(&mut self, logits: &ArrayView2<'_, f32>) -> Advance {
        let vocabulary = self.state.vocabulary;
        let mut token_ids = vec![vocabulary.pad_token_id; self.rows.len()];
        for (i, next) in token_ids.iter_mut().enumerate() {
            if self.rows[i].is_finished {
                continue;
            }
            let logits = logits_row(logits, i);
            self.maxima.scan(logits);
            let log_softmax = LogSoftmax::new(logits, self.maxima.max());
            let token = self.next_token(i, logits);
            let row = &mut self.rows[i];
            row.log_prob += f64::from(log_softmax.apply(logits[token]));
            *next = token as TokenId;
            row.token_ids.push(*next);
            row.is_finished = *next == vocabulary.eos_token_id || row.token_ids.len() >= self.state.max_length;
        }
        if self.rows.iter().all(|row| row.is_finished) {
            Advance::Done(self.sequences())
        } else {
            Advance::Continue { beam_idx: (0..self.rows.len()).collect(), token_ids }
        }
    }

    /// The next token of `row`, whose logits were scanned last.
    fn next_token(&mut self, row: usize, logits: &[f32]) -> usize {
        let SearchState { processor, sampling, .. } = &mut self.state;
        let token_ids = &self.rows[row].token_ids;
        let needs_processor = !processor.is_idle(token_ids.len());
        let scores = if needs_processor {
            self.scores.clear();
            self.scores.extend_from_slice(logits);
            processor.apply(token_ids, &mut self.scores);
            &self.scores
        } else {
            logits
        };
        if let Some(Sampling { warper, sampler }) = sampling
            && let Some(candidate) = sampler.draw(warper.apply(scores))
        {
            return candidate.index;
        }
        // With every token banned torch raises an error; here the greedy choice answers.
        if needs_processor {
            self.maxima.scan(scores);
        }
        self.maxima.argmax(scores)
    }

    fn sequences(&self) -> Vec<Sequence> {
        let SearchState { vocabulary, prompt, .. } = &self.state;
        let sequence = |row: &Row| {
            let generated = &row.token_ids[prompt.len()..];
            Sequence {
                score: (row.log_prob / (generated.len() as f64).powf(self.length_penalty)) as f32,
                finish_reason: FinishReason::from_generated(generated, vocabulary.eos_token_id),
                token_ids: row.token_ids.clone(),
            }
        };
        self.rows.iter().map(sequence).collect()
    }
}
