//! What greedy search, sampling and beam search share: the state of one image's search, and access to rows of logits.

use ndarray::{ArrayView2, Axis};

use super::{TokenId, Vocabulary, logits_processor::LogitsProcessor, logits_warper::LogitsWarper, sampler::Sampler};

/// The state that both strategies need.
#[derive(Debug)]
pub(super) struct SearchState {
    pub(super) vocabulary: Vocabulary,
    pub(super) processor: LogitsProcessor,
    /// `None` takes the best token instead of drawing one.
    pub(super) sampling: Option<Sampling>,
    /// Token ids, the start token first.
    pub(super) prompt: Vec<TokenId>,
    /// Maximum number of ids of a sequence, prompt included.
    pub(super) max_length: usize,
}

/// What sampling needs: the warper selects the candidates, the sampler draws one.
#[derive(Debug)]
pub(super) struct Sampling {
    pub(super) warper: LogitsWarper,
    pub(super) sampler: Sampler,
}

/// Row `row` of `logits`, which may be one row for all. It is a slice because loops over slices vectorise.
pub(super) fn logits_row<'a>(logits: &'a ArrayView2<'_, f32>, row: usize) -> &'a [f32] {
    let row = if logits.nrows() == 1 { 0 } else { row };
    // Never empty: `Search::advance` has checked that the rows are contiguous.
    logits.index_axis(Axis(0), row).to_slice().unwrap_or_default()
}
