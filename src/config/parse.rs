//! Values of settings that are plain numbers, each with its bounds.

use std::time::Duration;

/// A year: a longer time is a mistake, and would overflow when added to a clock.
const MAX_SECONDS: f64 = 31_536_000.0;

/// Parses a duration in seconds.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("'{text}' is not a number of seconds"))?;
    if (0.0..=MAX_SECONDS).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("must be between 0 and {MAX_SECONDS} seconds, got {text}"))
    }
}

/// Parses a duration in seconds that is not zero.
pub(crate) fn positive_seconds(text: &str) -> Result<Duration, String> {
    match seconds(text)? {
        Duration::ZERO => Err("must be more than 0 seconds".into()),
        duration => Ok(duration),
    }
}

/// Parses a number of requests per second.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| format!("'{text}' is not a number of requests per second"))?;
    let is_valid = rate == 0.0 || (0.001..=1e6).contains(&rate);
    is_valid.then_some(rate).ok_or_else(|| format!("must be 0 or between 0.001 and 1000000, got {text}"))
}

/// Parses a share of the whole.
pub(crate) fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| format!("must be between 0 and 1, got '{text}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_bounded() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(seconds("31536000"), Ok(Duration::from_hours(8760)));
        for bad in ["-1", "NaN", "1e99", "31536001", "x"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn positive_seconds_are_not_zero() {
        assert!(positive_seconds("0").is_err() && positive_seconds("0.0").is_err());
        assert_eq!(positive_seconds("0.1"), Ok(Duration::from_millis(100)));
    }

    #[test]
    fn a_rate_is_bounded() {
        for (text, number) in [("0", 0.0), ("0.001", 0.001), ("0.5", 0.5), ("1e6", 1e6)] {
            assert_eq!(rate(text), Ok(number));
        }
        for bad in ["-1", "NaN", "inf", "1e-9", "1e7", "ten"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_ratio_is_between_zero_and_one() {
        assert_eq!((ratio("0"), ratio("0.25"), ratio("1")), (Ok(0.0), Ok(0.25), Ok(1.0)));
        assert!(ratio("1.1").is_err() && ratio("-0.1").is_err() && ratio("NaN").is_err());
    }
}
