//! Beam search, with or without sampling: transformers' vectorised `_beam_search`, step for step.
//!
//! Scores accumulate in f32 on log-probabilities that are not normalised again after the processors. Equal scores, whose
//! order torch leaves open, keep the order of their flat index.

use ndarray::ArrayView2;

use super::{
    Advance, FinishReason, Sequence, TokenId,
    config::GenerationConfig,
    hypotheses::{Hypotheses, OUT_OF_REACH},
    log_softmax::LogSoftmax,
    maxima::Maxima,
    sampler::Sampler,
    search::{Parts, row_of},
    top_k::{Candidate, TopK, best_first},
    warper::Warpers,
};

/// The beams of one image.
#[derive(Debug)]
pub(super) struct BeamSearch {
    parts: Parts,
    num_return_sequences: usize,
    /// `[num_beams]`, best first.
    running: Vec<Beam>,
    finished: Hypotheses,
    /// `[vocab_size]`: log-probabilities after the processors.
    log_probs: Vec<f32>,
    /// Of the row looked at last.
    maxima: Maxima,
    /// What can be drawn, of all beams.
    drawable: Vec<Candidate>,
}

/// A sequence that goes on.
#[derive(Clone, Debug)]
struct Beam {
    /// Prompt included.
    token_ids: Vec<TokenId>,
    /// Accumulated log-probability.
    score: f32,
}

/// One of the `2 * num_beams` best ways to go on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Continuation {
    /// Index of the running beam.
    beam: usize,
    token: TokenId,
    /// Accumulated log-probability.
    pub(super) score: f32,
    /// By the end token, or at the greatest length.
    pub(super) ends: bool,
}

impl BeamSearch {
    pub(super) fn new(config: &GenerationConfig, parts: Parts) -> Self {
        // All beams are the prompt at first; only one may go on, else all would stay the same.
        let beam = |i| Beam { token_ids: parts.prompt.clone(), score: if i == 0 { 0.0 } else { OUT_OF_REACH } };
        Self {
            running: (0..config.num_beams).map(beam).collect(),
            finished: Hypotheses::new(config, &parts.prompt, parts.max_length),
            num_return_sequences: config.num_return_sequences,
            log_probs: Vec::new(),
            maxima: Maxima::default(),
            drawable: Vec::new(),
            parts,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.running.len()
    }

    pub(super) fn is_first_step(&self) -> bool {
        self.generated_len() == 0
    }

    pub(super) fn advance(&mut self, logits: &ArrayView2<'_, f32>) -> Advance {
        let continuations = self.continuations(logits);
        let (running, parents): (Vec<_>, Vec<_>) = self.next_running(&continuations).into_iter().unzip();
        self.finished.update(&continuations, self.generated_len() + 1, |continuation| {
            self.running[continuation.beam].followed_by(continuation.token)
        });
        self.running = running;

        let open = self.finished.is_open(self.running[0].score, self.generated_len());
        if open && continuations.iter().any(|continuation| !continuation.ends) {
            let (beam_idx, token_ids) = parents.into_iter().unzip();
            Advance::Continue { beam_idx, token_ids }
        } else {
            Advance::Done(self.sequences())
        }
    }

    /// The `2 * num_beams` best continuations, so that `num_beams` go on even if as many end.
    fn continuations(&mut self, logits: &ArrayView2<'_, f32>) -> Vec<Continuation> {
        let vocabulary = self.parts.vocabulary;
        let count = 2 * self.running.len();
        let mut candidates = match self.parts.sampling.take() {
            None => self.best_candidates(logits, count),
            Some((mut warpers, mut sampler)) => {
                let drawn = self.drawn_candidates(logits, count, &mut warpers, &mut sampler);
                self.parts.sampling = Some((warpers, sampler));
                drawn
            }
        };
        // With (almost) every token banned there are too few; a beam at -inf has no future but fills its row.
        candidates.resize(count, Candidate { index: 0, score: f32::NEG_INFINITY });
        let at_greatest_length = self.running[0].token_ids.len() + 1 >= self.parts.max_length;
        let continuation = |candidate: Candidate| {
            let (beam, token) = (candidate.index / vocabulary.size, (candidate.index % vocabulary.size) as TokenId);
            let ends = at_greatest_length || token == vocabulary.eos_token_id;
            Continuation { beam, token, score: candidate.score, ends }
        };
        candidates.into_iter().map(continuation).collect()
    }

    fn best_candidates(&mut self, logits: &ArrayView2<'_, f32>, count: usize) -> Vec<Candidate> {
        let vocab_size = self.parts.vocabulary.size;
        // All beams are equally long.
        let edited = !self.parts.processors.is_idle(self.running[0].token_ids.len());
        let mut top = TopK::new(count);
        let mut log_softmax = None;
        for i in 0..self.running.len() {
            let (first_index, score) = (i * vocab_size, self.running[i].score);
            if edited {
                self.update_log_probs(logits, i);
                self.maxima.scan(&self.log_probs);
                top.offer(&self.log_probs, &self.maxima, first_index, |log_prob| log_prob + score);
                continue;
            }
            // Order is that of the logits, so log-probabilities are needed of the best few only.
            let row = row_of(logits, i);
            let log_softmax = match log_softmax {
                Some(of_all) if logits.nrows() == 1 => of_all,
                _ => *log_softmax.insert(self.log_softmax(row)),
            };
            top.offer(row, &self.maxima, first_index, |logit| log_softmax.apply(logit) + score);
        }
        top.into_vec()
    }

    /// In the order drawn, which decides which of them may end.
    fn drawn_candidates(
        &mut self,
        logits: &ArrayView2<'_, f32>,
        count: usize,
        warpers: &mut Warpers,
        sampler: &mut Sampler,
    ) -> Vec<Candidate> {
        self.drawable.clear();
        for i in 0..self.running.len() {
            self.update_log_probs(logits, i);
            let (first_index, score) = (i * self.parts.vocabulary.size, self.running[i].score);
            let accumulated = |c: &Candidate| Candidate { index: first_index + c.index, score: c.score + score };
            self.drawable.extend(warpers.apply(&self.log_probs).iter().map(accumulated));
        }
        sampler.draw_without_replacement(&self.drawable, count)
    }

    /// Log-probabilities of beam `i` after the processors.
    fn update_log_probs(&mut self, logits: &ArrayView2<'_, f32>, i: usize) {
        if i > 0 && logits.nrows() == 1 {
            // One row of logits for all beams, which are still equal: what holds for the first holds for each.
            return;
        }
        let row = row_of(logits, i);
        let log_softmax = self.log_softmax(row);
        self.log_probs.clear();
        self.log_probs.extend(row.iter().map(|logit| log_softmax.apply(*logit)));
        self.parts.processors.apply(&self.running[i].token_ids, &mut self.log_probs);
    }

    fn log_softmax(&mut self, row: &[f32]) -> LogSoftmax {
        self.maxima.scan(row);
        LogSoftmax::new(row, self.maxima.max())
    }

    /// The best `num_beams` continuations that do not end, each with its parent beam and token.
    fn next_running(&self, continuations: &[Continuation]) -> Vec<(Beam, (usize, TokenId))> {
        let score = |c: &Continuation| if c.ends { c.score + OUT_OF_REACH } else { c.score };
        let scores: Vec<f32> = continuations.iter().map(score).collect();
        let next = best_first(&scores).take(self.running.len()).map(|i| {
            let Continuation { beam, token, .. } = continuations[i];
            (Beam { token_ids: self.running[beam].followed_by(token), score: scores[i] }, (beam, token))
        });
        next.collect()
    }

    fn sequences(&self) -> Vec<Sequence> {
        let Parts { vocabulary, prompt, .. } = &self.parts;
        let hypotheses = self.finished.best().iter().take(self.num_return_sequences);
        let sequences = hypotheses.map(|hypothesis| Sequence {
            token_ids: hypothesis.token_ids.clone(),
            score: hypothesis.score,
            finish_reason: FinishReason::of(&hypothesis.token_ids[prompt.len()..], vocabulary.eos_token_id),
        });
        sequences.collect()
    }

    fn generated_len(&self) -> usize {
        self.running[0].token_ids.len() - self.parts.prompt.len()
    }
}

impl Beam {
    fn followed_by(&self, token: TokenId) -> Vec<TokenId> {
        self.token_ids.iter().copied().chain([token]).collect()
    }
}
