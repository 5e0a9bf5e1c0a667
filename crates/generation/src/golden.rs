//! Replays tests/golden/generation.json, which `scripts/golden/generation.py` wrote with transformers: the toy
//! models of that file stand in for the decoder.

use std::{collections::HashMap, sync::LazyLock};

use ndarray::Array2;
use serde::Deserialize;

use super::{
    Advance, GenerationConfig, GenerationLimits, GenerationParameters, InvalidParameter, Search, Sequence, TokenId,
    Vocabulary,
    chunk_maxima::ChunkMaxima,
    log_softmax::LogSoftmax,
    logits_processor::LogitsProcessor,
    logits_warper::{self, LogitsWarper},
};

/// Number of positions of the toy models: as many as any case needs.
const MAX_POSITIONS: usize = 512;
/// Number of tables of logits of a toy model: one for each position modulo this number.
const POSITIONS: usize = 3;

/// The file.
pub(super) static GOLDEN: LazyLock<Golden> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../../tests/golden/generation.json")).unwrap());

#[derive(Deserialize)]
pub(super) struct Golden {
    eos_token_id: TokenId,
    pad_token_id: TokenId,
    /// `[POSITIONS * vocab_size, vocab_size]` each.
    models: Vec<Vec<Vec<f32>>>,
    cases: Vec<Case>,
    warped: Vec<Case>,
    sampled: Vec<Case>,
    pub(super) early_stops: Vec<EarlyStop>,
    log_softmax: Vec<LogSoftmaxRow>,
    verdicts: Vec<(GenerationParameters, bool)>,
}

#[derive(Deserialize)]
struct Case {
    model: usize,
    prompt: Vec<TokenId>,
    #[serde(default)]
    eos_bias: f32,
    #[serde(default)]
    bad_words_ids: Vec<Vec<TokenId>>,
    parameters: GenerationParameters,
    #[serde(default)]
    sequences: Vec<Expected>,
    #[serde(default)]
    probabilities: Vec<f64>,
    #[serde(default)]
    frequencies: Vec<(Vec<TokenId>, f64)>,
}

/// A state of a beam search, and whether transformers continues it.
#[derive(Debug, Deserialize)]
pub(super) struct EarlyStop {
    pub(super) parameters: GenerationParameters,
    pub(super) running_score: f32,
    pub(super) generated_len: usize,
    /// Score, and whether the slot is taken.
    pub(super) finished: Vec<(f32, bool)>,
    pub(super) is_open: bool,
}

#[derive(Deserialize)]
struct LogSoftmaxRow {
    spread: f64,
    log_probs: Vec<(usize, f32)>,
}

#[derive(Debug, Deserialize)]
struct Expected {
    token_ids: Vec<TokenId>,
    score: f32,
    finish_reason: String,
}

impl Case {
    fn vocabulary(&self) -> Vocabulary {
        let size = GOLDEN.models[self.model][0].len();
        Vocabulary { size, eos_token_id: GOLDEN.eos_token_id, pad_token_id: GOLDEN.pad_token_id }
    }

    fn logits(&self, token_ids: &[TokenId]) -> Vec<f32> {
        let table = &GOLDEN.models[self.model];
        let (vocab_size, position) = (table[0].len(), (token_ids.len() - 1) % POSITIONS);
        let before_last = token_ids.iter().rev().nth(1).map_or(0, |id| *id as usize);
        let last = token_ids[token_ids.len() - 1] as usize;
        let state = (last * 5 + before_last * 3 + token_ids.len() * 7) % vocab_size;
        let mut logits = table[position * vocab_size + state].clone();
        logits[GOLDEN.eos_token_id as usize] += self.eos_bias;
        logits
    }

    /// `[rows, vocab_size]`
    fn stacked_logits(&self, rows: &[Vec<TokenId>]) -> Array2<f32> {
        let logits = rows.iter().flat_map(|row| self.logits(row)).collect();
        Array2::from_shape_vec((rows.len(), self.vocabulary().size), logits).unwrap()
    }

    fn search(&self, parameters: &GenerationParameters) -> Search {
        let config = GenerationConfig::new(parameters, &GenerationLimits::default()).unwrap();
        let max_length = config.max_length(self.prompt.len(), MAX_POSITIONS).unwrap();
        Search::new(&config, self.vocabulary(), self.bad_words_ids.clone(), &self.prompt, max_length)
    }

    /// Runs the search, with one row of logits for all rows at the first step if `shared`.
    fn run(&self, parameters: &GenerationParameters, shared: bool) -> Vec<Sequence> {
        let mut search = self.search(parameters);
        let mut rows = vec![self.prompt.clone(); search.rows()];
        let mut logits = self.stacked_logits(if shared { &rows[..1] } else { &rows });
        loop {
            match search.advance(logits.view()) {
                Advance::Done(sequences) => return sequences,
                Advance::Continue { beam_idx, token_ids } => {
                    let follow = |(parent, id): (&usize, &TokenId)| [&rows[*parent][..], &[*id]].concat();
                    rows = beam_idx.iter().zip(&token_ids).map(follow).collect();
                    if let Some(stable) = search.stable_prefix() {
                        assert_eq!(stable, rows[0]);
                    }
                    logits = self.stacked_logits(&rows);
                }
            }
        }
    }

    /// Probability of each id as the first one drawn.
    fn warped_probabilities(&self) -> Vec<f64> {
        let config = GenerationConfig::new(&self.parameters, &GenerationLimits::default()).unwrap();
        let processor =
            LogitsProcessor::new(&config, &self.vocabulary(), self.bad_words_ids.clone(), self.prompt.len());
        let mut scores = self.logits(&self.prompt);
        if self.parameters.num_beams.is_some() {
            let log_softmax = log_softmax_of(&scores);
            for score in &mut scores {
                *score = log_softmax.apply(*score);
            }
        }
        processor.apply(&self.prompt, &mut scores);
        let min_tokens_to_keep = if self.parameters.num_beams.is_some() { 2 } else { 1 };
        let mut warper = LogitsWarper::new(config.sampling.as_ref().unwrap(), min_tokens_to_keep);
        let kept = warper.apply(&scores);
        let total: f64 = logits_warper::weights(kept).map(f64::from).sum();
        let mut probabilities = vec![0.0; scores.len()];
        for (candidate, weight) in kept.iter().zip(logits_warper::weights(kept)) {
            probabilities[candidate.index] = f64::from(weight) / total;
        }
        probabilities
    }
}

fn log_softmax_of(logits: &[f32]) -> LogSoftmax {
    let mut maxima = ChunkMaxima::default();
    maxima.scan(logits);
    LogSoftmax::new(logits, maxima.max())
}

#[test]
fn ids_scores_and_finish_reasons_equal_those_of_transformers() {
    assert!(GOLDEN.cases.len() >= 1000);
    for (number, case) in GOLDEN.cases.iter().enumerate() {
        for shared in [true, false] {
            let sequences = case.run(&case.parameters, shared);
            assert_eq!(sequences.len(), case.sequences.len(), "case {number}: {:?}", case.parameters);
            for (ours, theirs) in sequences.iter().zip(&case.sequences) {
                let context = format!("case {number}: {:?}\n{ours:?}\n{theirs:?}", case.parameters);
                assert_eq!(ours.token_ids, theirs.token_ids, "{context}");
                assert_eq!(ours.finish_reason.as_str(), theirs.finish_reason, "{context}");
                assert!((ours.score - theirs.score).abs() <= 1e-5 * theirs.score.abs().max(1e-2), "{context}");
            }
        }
    }
}

#[test]
fn probabilities_after_the_warpers_equal_those_of_transformers() {
    assert!(GOLDEN.warped.len() >= 100);
    for case in &GOLDEN.warped {
        let ours = case.warped_probabilities();
        assert_eq!(ours.len(), case.probabilities.len());
        for (id, (ours, theirs)) in ours.iter().zip(&case.probabilities).enumerate() {
            assert!((ours - theirs).abs() < 1e-6, "{:?}: id {id}: {ours} not {theirs}", case.parameters);
        }
    }
}

#[test]
fn sampled_sequences_are_as_frequent_as_those_of_transformers() {
    const RUNS: u64 = 10_000;
    for case in &GOLDEN.sampled {
        let mut counts: HashMap<Vec<TokenId>, f64> = HashMap::new();
        for seed in 0..RUNS {
            let parameters = GenerationParameters { seed: Some(seed), ..case.parameters.clone() };
            for sequence in case.run(&parameters, true) {
                *counts.entry(sequence.token_ids).or_default() += 1.0 / RUNS as f64;
            }
        }
        let mut distance = 0.0;
        for (token_ids, frequency) in &case.frequencies {
            distance += (counts.remove(token_ids).unwrap_or_default() - frequency).abs() / 2.0;
        }
        distance += counts.values().sum::<f64>() / 2.0;
        assert!(distance < 0.03, "{:?}: total variation distance {distance}", case.parameters);
    }
}

#[test]
fn log_probabilities_of_a_large_vocabulary_equal_those_of_torch() {
    for row in &GOLDEN.log_softmax {
        let fraction = |i: u32| f64::from(i.wrapping_mul(2_654_435_761) >> 8) / 2_f64.powi(24);
        let logits: Vec<f32> = (0..30_524).map(|i| (fraction(i) * row.spread) as f32).collect();
        let log_softmax = log_softmax_of(&logits);
        for (i, expected) in &row.log_probs {
            let ours = log_softmax.apply(logits[*i]);
            // Two units in the last place of the sum's logarithm.
            assert!((ours - expected).abs() <= 2e-6, "spread {}: {ours} not {expected}", row.spread);
        }
    }
}

#[test]
fn rejects_what_transformers_rejects_and_nothing_else() {
    for (parameters, accepted) in &GOLDEN.verdicts {
        let verdict = GenerationConfig::new(parameters, &GenerationLimits { max_num_beams: 9, ..Default::default() })
            .and_then(|config| config.max_length(2, MAX_POSITIONS));
        assert_eq!(verdict.is_ok(), *accepted, "{parameters:?}: {verdict:?}");
        if let Err(InvalidParameter { field, .. }) = verdict {
            let given = serde_json::to_value(parameters).unwrap();
            assert!(!given[field].is_null(), "{parameters:?}: the error names {field}, which was not given");
        }
    }
}
