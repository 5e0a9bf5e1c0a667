//! Beam search, with or without sampling: transformers' vectorised `_beam_search`, step for step.
//!
//! Scores accumulate in f32 on log-probabilities that are not renormalised after the logits processor. torch does not
//! define the order of equal scores; here they keep the order of their flat index.

use ndarray::ArrayView2;

use super::{
    Advance, FinishReason, Sequence, TokenId,
    beam_hypotheses::{BeamHypotheses, Continuation, EXCLUDED_SCORE},
    chunk_maxima::ChunkMaxima,
    config::GenerationConfig,
    log_softmax::LogSoftmax,
    search_state::{Sampling, SearchState, logits_row},
    top_k::{Candidate, TopK, best_first},
};

/// The beams of one image.
#[derive(Debug)]
pub(super) struct BeamSearch {
    state: SearchState,
    num_return_sequences: usize,
    /// `[num_beams]`, best first.
    running: Vec<Beam>,
    finished: BeamHypotheses,
    /// `[vocab_size]`: log-probabilities of one beam after the logits processor.
    log_probs: Vec<f32>,
    /// Chunk maxima of the row that was scanned last.
    maxima: ChunkMaxima,
    /// The candidates of all beams that sampling can draw.
    candidates: Vec<Candidate>,
}

/// A sequence that is still running.
#[derive(Clone, Debug)]
struct Beam {
    /// The prompt is included.
    token_ids: Vec<TokenId>,
    /// Accumulated log-probability.
    score: f32,
}

impl BeamSearch {
    pub(super) fn new(config: &GenerationConfig, state: SearchState) -> Self {
        // Every beam starts as the prompt. Only the first may continue, else all beams would stay the same.
        let beam = |i| Beam { token_ids: state.prompt.clone(), score: if i == 0 { 0.0 } else { EXCLUDED_SCORE } };
        Self {
            running: (0..config.num_beams).map(beam).collect(),
            finished: BeamHypotheses::new(config, &state.prompt, state.max_length),
            num_return_sequences: config.num_return_sequences,
            log_probs: Vec::new(),
            maxima: ChunkMaxima::default(),
            candidates: Vec::new(),
            state,
        }
    }

    pub(super) fn num_beams(&self) -> usize {
        self.running.len()
    }

    pub(super) fn is_first_step(&self) -> bool {
        self.generated_len() == 0
    }

    pub(super) fn advance(&mut self, logits: &ArrayView2<'_, f32>) -> Advance {
        let continuations = self.top_continuations(logits);
        let next = self.next_running(&continuations);
        let running = &self.running;
        let generated_len = self.generated_len() + 1;
        self.finished.update(&continuations, generated_len, |ended| ended.token_ids(running));
        let beams = next.iter().map(|next| Beam { token_ids: next.token_ids(running), score: next.score });
        self.running = beams.collect();

        let can_improve = self.finished.can_improve(self.running[0].score, self.generated_len());
        if can_improve && continuations.iter().any(|continuation| !continuation.ends) {
            Advance::Continue {
                beam_idx: next.iter().map(|next| next.beam).collect(),
                token_ids: next.iter().map(|next| next.token).collect(),
            }
        } else {
            Advance::Done(self.sequences())
        }
    }

    /// transformers' `_get_top_k_continuations`: the `2 * num_beams` best, so that `num_beams` continue even if as many end.
    fn top_continuations(&mut self, logits: &ArrayView2<'_, f32>) -> Vec<Continuation> {
        let vocabulary = self.state.vocabulary;
        let count = 2 * self.num_beams();
        let mut candidates = match self.state.sampling.take() {
            None => self.best_candidates(logits, count),
            Some(mut sampling) => {
                let drawn = self.draw_candidates(logits, count, &mut sampling);
                self.state.sampling = Some(sampling);
                drawn
            }
        };
        // With (almost) every token banned there are too few. A beam at -inf is never returned but fills its row.
        candidates.resize(count, Candidate { index: 0, score: f32::NEG_INFINITY });
        let at_max_length = self.running[0].token_ids.len() + 1 >= self.state.max_length;
        let continuation = |candidate: Candidate| {
            let (beam, token) = (candidate.index / vocabulary.size, (candidate.index % vocabulary.size) as TokenId);
            let ends = at_max_length || token == vocabulary.eos_token_id;
            Continuation { beam, token, score: candidate.score, ends }
        };
        candidates.into_iter().map(continuation).collect()
    }

    fn best_candidates(&mut self, logits: &ArrayView2<'_, f32>, count: usize) -> Vec<Candidate> {
        // All beams have the same length.
        let needs_processor = !self.state.processor.is_idle(self.running[0].token_ids.len());
        let mut top = TopK::new(count);
        let mut log_softmax = None;
        for i in 0..self.num_beams() {
            let (first_index, score) = (i * self.state.vocabulary.size, self.running[i].score);
            if needs_processor {
                self.update_log_probs(logits, i);
                self.maxima.scan(&self.log_probs);
                top.offer(&self.log_probs, &self.maxima, first_index, |log_prob| log_prob + score);
                continue;
            }
            // The order is that of the logits, so log-probabilities are needed of the best few only.
            let row = logits_row(logits, i);
            let log_softmax = match log_softmax {
                Some(of_the_only_row) if logits.nrows() == 1 => of_the_only_row,
                _ => *log_softmax.insert(self.log_softmax(row)),
            };
            top.offer(row, &self.maxima, first_index, |logit| log_softmax.apply(logit) + score);
        }
        top.into_vec()
    }

    /// Candidates in the order of their draw, which decides which of them may end.
    fn draw_candidates(
        &mut self,
        logits: &ArrayView2<'_, f32>,
        count: usize,
        sampling: &mut Sampling,
    ) -> Vec<Candidate> {
        self.candidates.clear();
        for i in 0..self.num_beams() {
            self.update_log_probs(logits, i);
            let (first_index, score) = (i * self.state.vocabulary.size, self.running[i].score);
            let accumulated = |c: &Candidate| Candidate { index: first_index + c.index, score: c.score + score };
            self.candidates.extend(sampling.warper.apply(&self.log_probs).iter().map(accumulated));
        }
        sampling.sampler.draw_without_replacement(&self.candidates, count)
    }

    /// Sets `log_probs` to the log-probabilities of beam `i` after the logits processor.
    fn update_log_probs(&mut self, logits: &ArrayView2<'_, f32>, i: usize) {
        if i > 0 && logits.nrows() == 1 {
            // All beams are the prompt and share the row of logits, so they share the log-probabilities.
            return;
        }
        let row = logits_row(logits, i);
        let log_softmax = self.log_softmax(row);
        self.log_probs.clear();
        self.log_probs.extend(row.iter().map(|logit| log_softmax.apply(*logit)));
        self.state.processor.apply(&self.running[i].token_ids, &mut self.log_probs);
    }

    fn log_softmax(&mut self, row: &[f32]) -> LogSoftmax {
        self.maxima.scan(row);
        LogSoftmax::new(row, self.maxima.max())
    }

    /// transformers' `_get_running_beams_for_next_iteration`: the best `num_beams` continuations that do not end.
    fn next_running(&self, continuations: &[Continuation]) -> Vec<Continuation> {
        let score = |c: &Continuation| if c.ends { c.score + EXCLUDED_SCORE } else { c.score };
        let scores: Vec<f32> = continuations.iter().map(score).collect();
        let next = best_first(&scores).take(self.num_beams());
        next.map(|i| Continuation { score: scores[i], ..continuations[i] }).collect()
    }

    fn sequences(&self) -> Vec<Sequence> {
        let SearchState { vocabulary, prompt, .. } = &self.state;
        let hypotheses = self.finished.best().iter().take(self.num_return_sequences);
        let sequences = hypotheses.map(|hypothesis| Sequence {
            token_ids: hypothesis.token_ids.clone(),
            score: hypothesis.score,
            finish_reason: FinishReason::from_generated(&hypothesis.token_ids[prompt.len()..], vocabulary.eos_token_id),
        });
        sequences.collect()
    }

    fn generated_len(&self) -> usize {
        self.running[0].token_ids.len() - self.state.prompt.len()
    }
}

impl Continuation {
    /// The ids of its beam and its token.
    fn token_ids(&self, running: &[Beam]) -> Vec<TokenId> {
        running[self.beam].token_ids.iter().copied().chain([self.token]).collect()
    }
}
