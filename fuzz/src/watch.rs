//! What must hold at every step of a search and for its result, whatever the logits.

use std::collections::HashSet;

use generation::{Advance, FinishReason, Sequence, TokenId};
use ndarray::{Array2, Axis};

use crate::search::{Case, ValidCase};

/// Runs a search to its end, beside a second one that gets the first logits as a single row.
pub fn run(case: &Case) {
    let Some(checked) = case.validate() else { return };
    let mut search = checked.search();
    let mut single_row = checked.search();
    let (rows, vocab_size) = (search.rows(), checked.vocabulary.size);
    let mut watch = Watch::new(&checked, rows);
    for step in 0..checked.max_length {
        let logits = case.logits(step, rows, vocab_size);
        let advance = search.advance(logits.view());
        let same = single_row.advance(logits.slice_axis(Axis(0), (..if step == 0 { 1 } else { rows }).into()));
        // As text, since a score can be NaN.
        assert_eq!(format!("{advance:?}"), format!("{same:?}"));
        match advance {
            Advance::Continue { beam_idx, token_ids } => {
                assert_eq!((search.rows(), beam_idx.len(), token_ids.len()), (rows, rows, rows));
                watch.step(&logits, &beam_idx, &token_ids);
                if let Some(stable) = search.stable_prefix() {
                    assert_eq!(stable, watch.running[0]);
                }
            }
            Advance::Done(sequences) => {
                watch.end(&logits, &sequences);
                return;
            }
        }
    }
    panic!("still running at the maximum length");
}

/// The rows as the caller, which runs the decoder, sees them.
struct Watch<'a> {
    checked: &'a ValidCase,
    has_beams: bool,
    /// `[rows]`: the ids of each row, prompt included.
    running: Vec<Vec<TokenId>>,
    /// `[rows]`: whether the row has finished and is fed the pad token; never true in beam search.
    ended: Vec<bool>,
    /// Every row of every step: each returned sequence continues one of them.
    seen: HashSet<Vec<TokenId>>,
}

impl<'a> Watch<'a> {
    fn new(checked: &'a ValidCase, rows: usize) -> Self {
        let prompt = checked.prompt.clone();
        let has_beams = checked.parameters.num_beams > Some(1);
        let seen = HashSet::from([prompt.clone()]);
        Self { checked, has_beams, running: vec![prompt; rows], ended: vec![false; rows], seen }
    }

    fn step(&mut self, logits: &Array2<f32>, beam_idx: &[usize], token_ids: &[TokenId]) {
        let vocabulary = self.checked.vocabulary;
        let mut next = vec![];
        for (row, (parent, token)) in beam_idx.iter().zip(token_ids).enumerate() {
            assert!(*parent < self.running.len() && (*token as usize) < vocabulary.size);
            if !self.has_beams {
                assert_eq!(*parent, row);
                self.choose(logits, row, *token);
            }
            next.push([&self.running[*parent][..], &[*token]].concat());
        }
        assert!(next[0].len() < self.checked.max_length);
        self.seen.extend(next.iter().cloned());
        self.running = next;
    }

    /// A row without beams takes `token`: the best allowed one, or any allowed one when sampling.
    fn choose(&mut self, logits: &Array2<f32>, row: usize, token: TokenId) {
        let (checked, prefix) = (self.checked, &self.running[row]);
        if self.ended[row] {
            assert_eq!(token, checked.vocabulary.pad_token_id);
            return;
        }
        self.ended[row] = token == checked.vocabulary.eos_token_id;
        let score = |id: TokenId| checked.penalised(prefix, id, logits[[row, id as usize]]);
        let usable = |id: &TokenId| score(*id) > f32::NEG_INFINITY && !checked.forbids(prefix, *id);
        let best = (0..checked.vocabulary.size as TokenId).filter(usable).map(score).reduce(f32::max);
        let Some(best) = best else { return };
        assert!(usable(&token), "{token} is forbidden after {prefix:?}, others are not");
        if checked.parameters.do_sample != Some(true) {
            assert!(score(token) >= best, "{token} is not the best");
        }
    }

    fn end(&mut self, logits: &Array2<f32>, sequences: &[Sequence]) {
        let wanted = self.checked.parameters.num_return_sequences.unwrap_or(1) as usize;
        assert_eq!(sequences.len(), wanted);
        for (row, sequence) in sequences.iter().enumerate() {
            self.check(sequence);
            if !self.has_beams && !self.ended[row] {
                // The token of the last step is never fed.
                assert_eq!(sequence.token_ids.len(), self.running[row].len() + 1);
                self.choose(logits, row, sequence.token_ids[self.running[row].len()]);
            }
        }
        if self.has_beams {
            let is_ordered = |pair: &[Sequence]| pair[0].score.total_cmp(&pair[1].score).is_ge();
            assert!(sequences.windows(2).all(is_ordered), "the best is not the first");
        }
    }

    fn check(&self, sequence: &Sequence) {
        let (checked, ids) = (self.checked, &sequence.token_ids);
        let prompt_len = checked.prompt.len();
        assert!(ids.starts_with(&checked.prompt) && ids.len() <= checked.max_length);
        assert!(ids.iter().all(|id| (*id as usize) < checked.vocabulary.size));
        let generated = &ids[prompt_len..];
        let is_ended = generated.last() == Some(&checked.vocabulary.eos_token_id);
        assert_eq!(sequence.finish_reason == FinishReason::Eos, is_ended);
        let Some((_, before)) = ids.split_last() else { return };
        // A place among the hypotheses that no sequence took holds the prompt alone.
        assert!((generated.is_empty() && self.has_beams) || self.seen.contains(before), "{ids:?} came out of nothing");
        if self.has_beams && sequence.score.is_finite() {
            for end in prompt_len..ids.len() {
                assert!(!checked.forbids(&ids[..end], ids[end]), "{ids:?} has what is forbidden at {end}");
            }
        }
        if !self.has_beams {
            let ends = generated.iter().filter(|id| **id == checked.vocabulary.eos_token_id).count();
            assert_eq!(ends, usize::from(is_ended), "{ids:?} goes on after its end");
        }
    }
}
