//! Greedy search and sampling: rows that do not look at each other.
//!
//! Processors work on raw logits. A row that has ended is fed the pad token until the last one ends.

use ndarray::ArrayView2;

use super::{
    Advance, FinishReason, Sequence, TokenId,
    config::GenerationConfig,
    log_softmax::LogSoftmax,
    maxima::Maxima,
    search::{Parts, row_of},
};

/// All sequences of one image.
#[derive(Debug)]
pub(super) struct IndependentRows {
    parts: Parts,
    length_penalty: f64,
    rows: Vec<Row>,
    /// `[vocab_size]`: logits after the processors.
    scores: Vec<f32>,
    /// Of the row looked at last.
    maxima: Maxima,
}

#[derive(Clone, Debug)]
struct Row {
    /// Prompt included.
    token_ids: Vec<TokenId>,
    /// Sum over the generated ids.
    log_prob: f64,
    finished: bool,
}

impl IndependentRows {
    pub(super) fn new(config: &GenerationConfig, parts: Parts) -> Self {
        let row = Row { token_ids: parts.prompt.clone(), log_prob: 0.0, finished: false };
        Self {
            rows: vec![row; config.num_return_sequences],
            length_penalty: config.length_penalty,
            scores: Vec::new(),
            maxima: Maxima::default(),
            parts,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn is_first_step(&self) -> bool {
        self.rows.iter().all(|row| row.token_ids.len() == self.parts.prompt.len())
    }

    /// The ids of the only row.
    pub(super) fn only(&self) -> Option<&[TokenId]> {
        if let [row] = &self.rows[..] { Some(&row.token_ids) } else { None }
    }

    pub(super) fn advance(&mut self, logits: &ArrayView2<'_, f32>) -> Advance {
        let vocabulary = self.parts.vocabulary;
        let mut token_ids = vec![vocabulary.pad_token_id; self.rows.len()];
        for (i, next) in token_ids.iter_mut().enumerate() {
            if self.rows[i].finished {
                continue;
            }
            let logits = row_of(logits, i);
            self.maxima.scan(logits);
            let log_softmax = LogSoftmax::new(logits, self.maxima.max());
            let token = self.pick(i, logits);
            let row = &mut self.rows[i];
            row.log_prob += f64::from(log_softmax.apply(logits[token]));
            *next = token as TokenId;
            row.token_ids.push(*next);
            row.finished = *next == vocabulary.eos_token_id || row.token_ids.len() >= self.parts.max_length;
        }
        if self.rows.iter().all(|row| row.finished) {
            Advance::Done(self.sequences())
        } else {
            Advance::Continue { beam_idx: (0..self.rows.len()).collect(), token_ids }
        }
    }

    /// The next token of a row, whose logits were scanned last.
    fn pick(&mut self, row: usize, logits: &[f32]) -> usize {
        let Parts { processors, sampling, .. } = &mut self.parts;
        let token_ids = &self.rows[row].token_ids;
        let edited = !processors.is_idle(token_ids.len());
        let scores = if edited {
            self.scores.clear();
            self.scores.extend_from_slice(logits);
            processors.apply(token_ids, &mut self.scores);
            &self.scores
        } else {
            logits
        };
        if let Some((warpers, sampler)) = sampling
            && let Some(candidate) = sampler.draw(warpers.apply(scores))
        {
            return candidate.index;
        }
        // With every token banned torch refuses to draw; the greedy choice is as good as any.
        if edited {
            self.maxima.scan(scores);
        }
        self.maxima.argmax(scores)
    }

    fn sequences(&self) -> Vec<Sequence> {
        let Parts { vocabulary, prompt, .. } = &self.parts;
        let sequence = |row: &Row| {
            let generated = &row.token_ids[prompt.len()..];
            Sequence {
                score: (row.log_prob / (generated.len() as f64).powf(self.length_penalty)) as f32,
                finish_reason: FinishReason::of(generated, vocabulary.eos_token_id),
                token_ids: row.token_ids.clone(),
            }
        };
        self.rows.iter().map(sequence).collect()
    }
}
