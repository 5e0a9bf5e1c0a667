//! How long things took so far, to decide how many images are encoded before the first step of any of them.

use std::time::Duration;

/// Images of a burst at most: a decoder step costs little more for four rows than for one, more for more.
const MAX_BURST: usize = 4;

/// Weight of the newest time in an average.
const NEWEST: f64 = 0.2;

/// Averages in seconds; none before the first.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Of an image in the encoder.
    encode: Option<f64>,
    /// Of a decoder step with one row.
    step: Option<f64>,
    /// Steps of an image.
    steps: Option<f64>,
}

impl Pace {
    /// The encoder ran for one image.
    pub(super) fn encoded(&mut self, time: Duration) {
        update(&mut self.encode, time.as_secs_f64());
    }

    /// The decoder ran for so many rows.
    pub(super) fn stepped(&mut self, rows: usize, time: Duration) {
        if rows == 1 {
            update(&mut self.step, time.as_secs_f64());
        }
    }

    /// An image is finished.
    pub(super) fn finished(&mut self, steps: usize) {
        update(&mut self.steps, steps as f64);
    }

    /// How many of `waiting` images are encoded before they share their steps, at least one.
    ///
    /// An image takes `e` to encode and `d` to decode. In groups of `b` whose company is free, the mean of `n` waiting images
    /// is ready after `(e + d / b) * (n + b) / 2`; one by one after `(e + d) * (n + 1) / 2`. That is no later if
    /// `b <= n * d / e`. Company is not quite free, so groups are of half of those who wait at most.
    pub(super) fn burst(&self, waiting: usize) -> usize {
        let most = waiting.div_ceil(2).min(MAX_BURST);
        let (Some(encode), Some(step), Some(steps)) = (self.encode, self.step, self.steps) else { return most };
        let no_later = waiting as f64 * step * steps / encode;
        // A float to integer conversion saturates.
        most.min(no_later as usize).max(1)
    }
}

fn update(average: &mut Option<f64>, newest: f64) {
    let old = average.unwrap_or(newest);
    *average = Some(old + NEWEST * (newest - old));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(encode: u64, step: u64) -> Pace {
        let mut pace = Pace::default();
        for _ in 0..3 {
            pace.encoded(Duration::from_millis(encode));
            pace.stepped(1, Duration::from_millis(step));
            // Not what a row alone takes.
            pace.stepped(4, Duration::from_secs(9));
            pace.finished(20);
        }
        pace
    }

    #[test]
    fn images_that_are_quickly_encoded_share_their_steps() {
        assert_eq!(pace(800, 16).burst(16), 4);
        assert_eq!(pace(2, 2).burst(16), 4);
        // Never more than half of those who wait.
        assert_eq!(pace(2, 2).burst(5), 3);
        assert_eq!(pace(2, 2).burst(1), 1);
    }

    #[test]
    fn an_encoder_that_takes_nearly_all_the_time_lets_nobody_wait_for_company() {
        assert_eq!(pace(2400, 16).burst(16), 2);
        assert_eq!(pace(2400, 16).burst(4), 1);
    }

    #[test]
    fn a_pace_that_is_not_known_does_not_count() {
        assert_eq!(Pace::default().burst(16), 4);
    }
}
