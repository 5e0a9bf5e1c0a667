//! How long runs of the model have taken, to decide how many images are encoded before the first decoder step.

use std::time::Duration;

/// The largest burst: a decoder step costs little more with four rows than with one, and clearly more with more rows.
const MAX_BURST: usize = 4;

/// Weight of the newest measurement in an average.
const NEWEST_WEIGHT: f64 = 0.2;

/// Moving averages; `None` before the first measurement.
#[derive(Clone, Debug, Default)]
pub(super) struct LatencyModel {
    /// Seconds to encode an image.
    encode: Option<f64>,
    /// Seconds of a decoder step with one row.
    step: Option<f64>,
    /// Decoder steps of an image.
    steps_per_image: Option<f64>,
}

impl LatencyModel {
    /// Records how long the encoder took for an image.
    pub(super) fn record_encode(&mut self, time: Duration) {
        update(&mut self.encode, time.as_secs_f64());
    }

    /// Records how long a decoder step took. Only a step with one row counts.
    pub(super) fn record_step(&mut self, rows: usize, time: Duration) {
        if rows == 1 {
            update(&mut self.step, time.as_secs_f64());
        }
    }

    /// Records how many decoder steps a finished image took.
    pub(super) fn record_image(&mut self, steps: usize) {
        update(&mut self.steps_per_image, steps as f64);
    }

    /// Returns how many of `waiting` images to encode before they share their decoder steps, at least one.
    ///
    /// An image takes `e` seconds to encode and `d` to decode. In groups of `b` that decode in the time of one image, the mean of
    /// `n` waiting images is ready after `(e + d / b) * (n + b) / 2`; one by one after `(e + d) * (n + 1) / 2`. The first
    /// is no later if `b <= n * d / e`. As a group does take a little longer than one image, no group holds more than half
    /// of the waiting images.
    pub(super) fn burst(&self, waiting: usize) -> usize {
        let most = waiting.div_ceil(2).min(MAX_BURST);
        let (Some(encode), Some(step), Some(steps)) = (self.encode, self.step, self.steps_per_image) else {
            return most;
        };
        let no_later = waiting as f64 * step * steps / encode;
        // The conversion saturates.
        most.min(no_later as usize).max(1)
    }
}

fn update(average: &mut Option<f64>, newest: f64) {
    let old = average.unwrap_or(newest);
    *average = Some(old + NEWEST_WEIGHT * (newest - old));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model that has measured these times, in milliseconds, and 20 steps for each image.
    fn measured(encode: u64, step: u64) -> LatencyModel {
        let mut latency = LatencyModel::default();
        for _ in 0..3 {
            latency.record_encode(Duration::from_millis(encode));
            latency.record_step(1, Duration::from_millis(step));
            latency.record_image(20);
        }
        latency
    }

    #[test]
    fn images_that_encode_quickly_share_their_decoder_steps() {
        assert_eq!(measured(800, 16).burst(16), 4);
        assert_eq!(measured(2, 2).burst(16), 4);
    }

    #[test]
    fn a_burst_takes_at_most_half_of_the_waiting_images() {
        assert_eq!(measured(2, 2).burst(5), 3);
        assert_eq!(measured(2, 2).burst(2), 1);
        assert_eq!(measured(2, 2).burst(1), 1);
    }

    #[test]
    fn an_encoder_that_takes_nearly_all_the_time_makes_bursts_short() {
        assert_eq!(measured(2400, 16).burst(16), 2);
        assert_eq!(measured(2400, 16).burst(4), 1);
    }

    #[test]
    fn a_burst_is_as_large_as_allowed_before_anything_was_measured() {
        assert_eq!(LatencyModel::default().burst(16), 4);
    }

    #[test]
    fn steps_with_several_rows_do_not_count_as_steps_with_one() {
        let mut latency = measured(2400, 16);
        latency.record_step(4, Duration::from_secs(9));
        assert_eq!(latency.burst(16), 2);
    }

    #[test]
    fn the_averages_follow_a_model_that_becomes_slower() {
        let mut latency = measured(800, 16);
        for _ in 0..20 {
            latency.record_encode(Duration::from_mins(1));
        }
        assert_eq!(latency.burst(16), 1);
    }
}
