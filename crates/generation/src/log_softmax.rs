//! Log-softmax over one row of logits, in f32 as torch computes it: `(x - max) - log(sum(exp(x - max)))`.
//!
//! `exp` is a polynomial in plain IEEE operations, so loops over a vocabulary vectorise and the result is the same on
//! every platform. The sum is f32 in torch's order: with a large vocabulary its rounding error exceeds all others, and an
//! exact sum would be further from the reference (over 30,524 ids 68 % of the log-probabilities would be bit-equal instead of
//! 99.9 %).

use multiversion::multiversion;

/// Number of partial sums side by side. `sum_of_exp` adds them as a tree: by halves of this number.
const LANES: usize = 16;

/// Turns the logits of one row into log-probabilities.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogSoftmax {
    max: f32,
    log_sum: f32,
}

impl LogSoftmax {
    /// `max` must be the maximum of `logits` `[vocab_size]`.
    pub(super) fn new(logits: &[f32], max: f32) -> Self {
        Self { max, log_sum: sum_of_exp(logits, max).ln() }
    }

    /// Log-probability of a token with the logit `logit`.
    pub(super) fn apply(self, logit: f32) -> f32 {
        (logit - self.max) - self.log_sum
    }
}

/// e^x for x <= 0 with a relative error below 2e-7; 0 for x < -87, where f32 underflows.
#[inline]
pub(super) fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer, which is then in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts: the first has few enough bits for `n * LN_2_HIGH` to be exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;

    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    // Taylor's series to r^6 with the last terms fitted to |r| <= ln(2) / 2.
    let series =
        ((((1.987_569_2e-4 * r + 1.398_199_9e-3) * r + 8.333_452e-3) * r + 4.166_579_6e-2) * r + 1.666_666_5e-1) * r
            + 5.0e-1;
    let mantissa = series * r * r + r + 1.0;
    let exponent = rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    if x < -87.0 { 0.0 } else { mantissa * f32::from_bits(exponent) }
}

/// In [`LANES`] partial sums that are then added as a tree, which is torch's order where it has 512-bit vectors.
#[multiversion(targets("x86_64+avx2"))]
fn sum_of_exp(values: &[f32], max: f32) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += exp(value - max);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane += exp(value - max);
    }
    for width in [8, 4, 2, 1] {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The sum of the lanes by halves, as a recursion.
    fn tree_sum(lanes: &[f32]) -> f32 {
        if let [sum] = lanes {
            return *sum;
        }
        let (low, high) = lanes.split_at(lanes.len() / 2);
        tree_sum(&low.iter().zip(high).map(|(a, b)| a + b).collect::<Vec<_>>())
    }

    proptest! {
        #[test]
        fn the_sum_has_the_order_of_torch(values in prop::collection::vec(-30.0_f32..0.0, 0..100), max in 0.0_f32..2.0) {
            let lane = |lane| values.iter().skip(lane).step_by(16).fold(0.0, |sum, value| sum + exp(value - max));
            let lanes: Vec<f32> = (0..16).map(lane).collect();
            prop_assert_eq!(sum_of_exp(&values, max).to_bits(), tree_sum(&lanes).to_bits());
        }
    }

    #[test]
    fn log_probabilities_add_up_to_one() {
        let logits = [1.0, -2.0, 3.0, 0.5];
        let log_softmax = LogSoftmax::new(&logits, 3.0);
        let sum: f32 = logits.iter().map(|logit| log_softmax.apply(*logit).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6, "{sum}");
    }

    #[test]
    fn exp_is_within_two_in_ten_million() {
        for step in 0..87_000_u32 {
            let x = -(step as f32) * 1e-3;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) / exact - 1.0).abs();
            assert!(error < 2e-7, "exp({x}) has the relative error {error:e}");
        }
        assert!(exp(-87.0) > 0.0);
        assert_eq!(exp((-87.0_f32).next_down()), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-1e9), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::NAN).is_nan());
    }
}
