//! The statistics of a model as Triton defines them: counts and total durations since it was loaded.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use crate::caption::Timings;

/// The statistics of one model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TritonStatistics {
    /// Requests answered with captions, from the captioner's receipt to the last caption.
    pub success: Total,
    /// Requests that failed, were cancelled or passed their deadline.
    pub fail: Total,
    /// Time of successful requests in the engine's queue.
    pub queue: Total,
    /// Time of successful requests for fetching, decoding and resizing.
    pub compute_input: Total,
    /// Time of successful requests from the first run of a graph to the last token.
    pub compute_infer: Total,
    /// Time of successful requests from token ids to text.
    pub compute_output: Total,
    /// Number of images captioned.
    pub images: u64,
    /// When the last image was captioned.
    pub last_inference: Option<SystemTime>,
    /// Images that the encoder ran for.
    pub encoder_runs: Total,
    /// Runs of the decoder (prompts and steps) by their number of rows.
    pub decoder_runs: BTreeMap<usize, DecoderRuns>,
    /// Captions from the cache, or shared with an equal request that ran at the same time.
    pub cache_hit: Total,
    /// Captions that were not in the cache.
    pub cache_miss: Total,
}

/// One run of the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecoderRun {
    /// Number of rows.
    pub rows: usize,
    /// Time to arrange the input.
    pub input: Duration,
    /// Time inside ONNX Runtime.
    pub infer: Duration,
    /// Time to choose the tokens.
    pub output: Duration,
}

/// All runs of the decoder with the same number of rows; the three counts are equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecoderRuns {
    /// Time to arrange the input.
    pub input: Total,
    /// Time inside ONNX Runtime.
    pub infer: Total,
    /// Time to choose the tokens.
    pub output: Total,
}

/// A number of events and their total duration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// Number of events.
    pub count: u64,
    /// Sum of their durations.
    pub time: Duration,
}

impl TritonStatistics {
    pub(super) fn add_success(&mut self, time: Duration, images: &[Timings], now: SystemTime) {
        // The images of a request run together: the client waited for the slowest.
        let slowest = |stage: fn(&Timings) -> Duration| images.iter().map(stage).max().unwrap_or_default();
        self.success.add(time);
        self.queue.add(slowest(|timings| timings.queue));
        self.compute_input.add(slowest(|timings| timings.compute_input));
        self.compute_infer.add(slowest(|timings| timings.compute_infer));
        self.compute_output.add(slowest(|timings| timings.compute_output));
        self.images += images.len() as u64;
        self.last_inference = Some(now);
    }

    pub(super) fn add_decoder_run(&mut self, run: DecoderRun) {
        let runs = self.decoder_runs.entry(run.rows).or_default();
        runs.input.add(run.input);
        runs.infer.add(run.infer);
        runs.output.add(run.output);
    }
}

impl Total {
    pub(super) fn add(&mut self, time: Duration) {
        self.count += 1;
        self.time += time;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_several_images_takes_as_long_as_the_slowest() {
        let mut statistics = TritonStatistics::default();
        let timings = |ms| Timings { queue: Duration::from_millis(ms), ..Timings::default() };
        let images = [timings(1), timings(3), timings(2)];
        statistics.add_success(Duration::from_millis(9), &images, SystemTime::UNIX_EPOCH);
        assert_eq!(statistics.success, Total { count: 1, time: Duration::from_millis(9) });
        assert_eq!(statistics.queue, Total { count: 1, time: Duration::from_millis(3) });
        assert_eq!((statistics.images, statistics.last_inference), (3, Some(SystemTime::UNIX_EPOCH)));
    }
}
