//! The search of one image: the one type that the engine drives, whatever the strategy.

use ndarray::ArrayView2;

use super::{
    Advance, TokenId, Vocabulary,
    beam_search::BeamSearch,
    config::GenerationConfig,
    greedy_or_sample::GreedyOrSample,
    logits_processor::LogitsProcessor,
    logits_warper::LogitsWarper,
    sampler::Sampler,
    search_state::{Sampling, SearchState},
};

/// State of the search of one image between two decoder steps.
#[derive(Debug)]
pub struct Search {
    vocab_size: usize,
    strategy: Strategy,
}

#[derive(Debug)]
enum Strategy {
    /// Greedy search and sampling.
    GreedyOrSample(GreedyOrSample),
    /// Beam search, with or without sampling.
    BeamSearch(BeamSearch),
}

impl Search {
    /// Starts a search that continues `prompt` (start token first) up to `max_length` ids in all, as
    /// [`GenerationConfig::max_length`] computes them. `bad_words_ids` are the ids of each of
    /// [`GenerationConfig::bad_words`].
    pub fn new(
        config: &GenerationConfig,
        vocabulary: Vocabulary,
        bad_words_ids: Vec<Vec<TokenId>>,
        prompt: &[TokenId],
        max_length: usize,
    ) -> Self {
        let state = SearchState {
            vocabulary,
            processor: LogitsProcessor::new(config, &vocabulary, bad_words_ids, prompt.len()),
            sampling: config.sampling.as_ref().map(|sampling| Sampling {
                // transformers keeps two candidates among beams: one token besides the end token must remain.
                warper: LogitsWarper::new(sampling, if config.num_beams > 1 { 2 } else { 1 }),
                sampler: Sampler::new(sampling.seed),
            }),
            prompt: prompt.to_vec(),
            max_length,
        };
        let strategy = if config.num_beams > 1 {
            Strategy::BeamSearch(BeamSearch::new(config, state))
        } else {
            Strategy::GreedyOrSample(GreedyOrSample::new(config, state))
        };
        Self { vocab_size: vocabulary.size, strategy }
    }

    /// Number of decoder rows that this search takes. It never changes.
    pub fn rows(&self) -> usize {
        match &self.strategy {
            Strategy::GreedyOrSample(search) => search.num_rows(),
            Strategy::BeamSearch(search) => search.num_beams(),
        }
    }

    /// Takes the raw logits of the last position, `[rows, vocab_size]`. At the first step, when all rows are the prompt, a
    /// single row, `[1, vocab_size]`, may stand for all.
    ///
    /// # Panics
    /// If `logits` has another shape, or is not contiguous in row-major order.
    #[expect(clippy::needless_pass_by_value, reason = "views are passed by value, as ndarray does")]
    pub fn advance(&mut self, logits: ArrayView2<'_, f32>) -> Advance {
        let (rows, vocab_size) = (self.rows(), self.vocab_size);
        assert!(
            logits.dim() == (rows, vocab_size) || (logits.dim() == (1, vocab_size) && self.is_first_step()),
            "the shape of the logits must be [{rows}, {vocab_size}], got {:?}",
            logits.shape(),
        );
        assert!(logits.is_standard_layout(), "the logits must be contiguous in row-major order");
        match &mut self.strategy {
            Strategy::GreedyOrSample(search) => search.advance(&logits),
            Strategy::BeamSearch(search) => search.advance(&logits),
        }
    }

    /// The ids so far, prompt included, if no later step can change them: those of a single row without beams.
    pub fn stable_prefix(&self) -> Option<&[TokenId]> {
        match &self.strategy {
            Strategy::GreedyOrSample(search) => search.only_row(),
            Strategy::BeamSearch(_) => None,
        }
    }

    fn is_first_step(&self) -> bool {
        match &self.strategy {
            Strategy::GreedyOrSample(search) => search.is_first_step(),
            Strategy::BeamSearch(search) => search.is_first_step(),
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Axis;

    use std::panic::{AssertUnwindSafe, catch_unwind};

    use ndarray::{Array2, Array3, ShapeBuilder};
    use proptest::{prelude::*, strategy};

    use super::*;
    use crate::{FinishReason, GenerationLimits, GenerationParameters};

    const VOCABULARY: Vocabulary = Vocabulary { size: 7, eos_token_id: 2, pad_token_id: 0 };
    const PROMPT: [TokenId; 3] = [5, 1, 4];

    fn search(parameters: &GenerationParameters) -> Search {
        let config = GenerationConfig::new(parameters, &GenerationLimits::default()).unwrap();
        let max_length = config.max_length(PROMPT.len(), 512).unwrap();
        Search::new(
            &config,
            VOCABULARY,
            vec![vec![3], vec![6, 1], vec![], vec![900], vec![900, 4]],
            &PROMPT,
            max_length,
        )
    }

    fn logit() -> impl strategy::Strategy<Value = f32> {
        let special = prop::sample::select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 0.0]);
        prop_oneof![4 => -9.0_f32..9.0, 1 => special]
    }

    prop_compose! {
        fn parameters()(
            num_beams in 1_u32..5, do_sample: bool, max_new_tokens in 1_u32..6, top_k in 0_u32..4, top_p in 0.0..1.0,
            length_penalty in prop::sample::select(vec![1.0, 0.0, -400.0, 400.0]), repetition_penalty in 0.5..2.0,
            no_repeat_ngram_size in 0_u32..3, min_new_tokens in 0_u32..9, early_stopping: bool,
        ) -> GenerationParameters {
            GenerationParameters {
                num_beams: Some(num_beams),
                num_return_sequences: Some(if num_beams > 1 || do_sample { num_beams.max(2) } else { 1 }),
                do_sample: Some(do_sample),
                max_new_tokens: Some(max_new_tokens),
                top_k: Some(top_k),
                top_p: Some(top_p),
                length_penalty: Some(length_penalty),
                repetition_penalty: Some(repetition_penalty),
                no_repeat_ngram_size: Some(no_repeat_ngram_size),
                min_new_tokens: Some(min_new_tokens),
                early_stopping: Some(early_stopping.into()),
                ..Default::default()
            }
        }
    }

    proptest! {
        #[test]
        fn any_logits_end_in_sequences_of_the_prompt_within_the_length(
            parameters in parameters(),
            logits in prop::collection::vec(logit(), 6 * 4 * 7),
        ) {
            let mut search = search(&parameters);
            let rows = search.rows();
            let logits = Array3::from_shape_vec((6, 4, VOCABULARY.size), logits).unwrap();
            for step in logits.outer_iter() {
                match search.advance(step.slice_axis(Axis(0), (..rows).into())) {
                    Advance::Continue { beam_idx, token_ids } => {
                        prop_assert_eq!(search.rows(), rows);
                        prop_assert_eq!(token_ids.len(), rows);
                        prop_assert_eq!(beam_idx.len(), rows);
                        prop_assert!(beam_idx.iter().all(|row| *row < rows));
                        prop_assert!(token_ids.iter().all(|id| (*id as usize) < VOCABULARY.size));
                    }
                    Advance::Done(sequences) => {
                        prop_assert_eq!(sequences.len(), parameters.num_return_sequences.unwrap() as usize);
                        for sequence in sequences {
                            prop_assert_eq!(&sequence.token_ids[..3], &PROMPT);
                            prop_assert!(sequence.token_ids.len() - 3 <= parameters.max_new_tokens.unwrap() as usize);
                        }
                        return Ok(());
                    }
                }
            }
            prop_assert!(false, "still running after max_new_tokens steps");
        }
    }

    fn search_with_rows(num_beams: u32) -> Search {
        search(&GenerationParameters {
            num_beams: Some(num_beams),
            do_sample: Some(true),
            num_return_sequences: Some(2),
            ..Default::default()
        })
    }

    #[test]
    fn one_row_of_logits_may_stand_for_all_at_the_first_step_only() {
        for num_beams in [1, 2] {
            let mut search = search_with_rows(num_beams);
            search.advance(Array2::ones((1, 7)).view());
            let second = catch_unwind(AssertUnwindSafe(|| search.advance(Array2::ones((1, 7)).view())));
            assert!(second.is_err(), "{num_beams} beams took one row at the second step");
        }
    }

    #[test]
    fn the_stable_prefix_is_that_of_a_single_row_without_beams() {
        let mut greedy = search(&GenerationParameters::default());
        assert_eq!(greedy.stable_prefix(), Some(&PROMPT[..]));
        let mut logits = Array2::zeros((1, 7));
        logits[[0, 5]] = 1.0;
        greedy.advance(logits.view());
        assert_eq!(greedy.stable_prefix(), Some(&[5, 1, 4, 5][..]));
        assert_eq!(search_with_rows(1).stable_prefix(), None);
        assert_eq!(search_with_rows(2).stable_prefix(), None);
    }

    #[test]
    fn a_beam_that_ended_is_out_of_reach_when_nothing_else_can_continue() {
        let parameters = GenerationParameters { num_beams: Some(2), ..Default::default() };
        let config = GenerationConfig::new(&parameters, &GenerationLimits::default()).unwrap();
        let all_but_the_end_token = [0, 1, 3, 4, 5, 6].map(|id| vec![id]).to_vec();
        let mut search = Search::new(&config, VOCABULARY, all_but_the_end_token, &PROMPT, 9);
        let Advance::Done(sequences) = search.advance(Array2::zeros((1, 7)).view()) else {
            panic!("no beam can continue")
        };
        assert_eq!(sequences[0].token_ids, [5, 1, 4, 2]);
    }

    #[test]
    fn logits_of_another_shape_or_order_are_rejected() {
        for num_beams in [1, 2] {
            for logits in [Array2::ones((3, 7)), Array2::ones((2, 6)), Array2::ones((1, 14)), Array2::ones((2, 7).f())]
            {
                let mut search = search_with_rows(num_beams);
                let outcome = catch_unwind(AssertUnwindSafe(|| search.advance(logits.view())));
                assert!(outcome.is_err(), "{:?} with strides {:?}", logits.shape(), logits.strides());
            }
        }
    }

    #[test]
    fn a_row_that_ended_is_fed_the_pad_token_and_keeps_its_score() {
        let mut search = search(&GenerationParameters {
            do_sample: Some(true),
            num_return_sequences: Some(2),
            max_new_tokens: Some(3),
            top_k: Some(1),
            ..Default::default()
        });
        let certain = |token: usize| (0..7).map(move |id| if id == token { 90.0 } else { 0.0 });
        let logits = Array2::from_shape_vec((2, 7), certain(2).chain(certain(4)).collect()).unwrap();
        for fed in [2, 0] {
            let expected = Advance::Continue { beam_idx: vec![0, 1], token_ids: vec![fed, 4] };
            assert_eq!(search.advance(logits.view()), expected);
            assert_eq!(search.stable_prefix(), None);
        }
        let Advance::Done(sequences) = search.advance(logits.view()) else { panic!("both rows have ended") };
        assert_eq!(sequences[0].token_ids, [5, 1, 4, 2]);
        assert_eq!(sequences[0].finish_reason, FinishReason::Eos);
        assert_eq!(sequences[1].token_ids, [5, 1, 4, 4, 4, 4]);
        assert_eq!(sequences[1].finish_reason, FinishReason::Length);
        assert_eq!(sequences[0].score, 0.0);
    }

    #[test]
    fn the_same_seed_gives_the_same_sequences_and_another_seed_others() {
        let sample = |seed| {
            let mut search = search(&GenerationParameters {
                do_sample: Some(true),
                num_return_sequences: Some(3),
                max_new_tokens: Some(12),
                min_new_tokens: Some(12),
                seed: Some(seed),
                ..Default::default()
            });
            loop {
                if let Advance::Done(sequences) = search.advance(Array2::ones((3, 7)).view()) {
                    return sequences;
                }
            }
        };
        assert_eq!(sample(7), sample(7));
        assert_ne!(sample(7), sample(8));
        let sequences = sample(7);
        assert_ne!(sequences[0].token_ids, sequences[1].token_ids);
    }
}
