//! API keys: each is stored as a digest, with a label for logs and metrics and an optional rate limit.
//!
//! A line of the file is a key, or `label:sha256:<hex>`, optionally followed by `rate=<requests per second>`. The second
//! form contains no secret; SHA-256 is sufficient for random keys, such as those of `blip-serve hash-key`.

use std::{fmt, fmt::Write as _, sync::Arc, time::Duration};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter, clock::Clock, clock::DefaultClock};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::config::parse::rate;

/// Marks a digest in a line.
const SCHEME: &str = "sha256";
/// Maximum length of a label in characters.
const MAX_LABEL: usize = 64;

/// One API key.
pub struct ApiKey {
    /// Name of the key in logs and metrics.
    pub label: String,
    digest: [u8; 32],
    /// Requests per second; 0 means no limit.
    rate: f64,
    limiter: Option<DefaultDirectRateLimiter>,
}

/// The API keys of the server.
#[derive(Clone, Debug, Default)]
pub struct ApiKeys {
    keys: Vec<Arc<ApiKey>>,
}

impl ApiKeys {
    /// Parses the lines of a file or setting; empty lines and those that begin with # are skipped.
    ///
    /// # Errors
    /// The number of the first line that is not valid, and why; never the line itself.
    pub fn parse<'a>(lines: impl Iterator<Item = &'a str>, default_rate: f64) -> Result<Self, String> {
        let mut keys: Vec<Arc<ApiKey>> = Vec::new();
        for (index, line) in lines.map(str::trim).enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let at = |reason: String| format!("line {}: {reason}", index + 1);
            let key = ApiKey::parse(line, index + 1, default_rate).map_err(at)?;
            if keys.iter().any(|other| other.label == key.label || other.digest == key.digest) {
                return Err(at("another key has the same label or digest".to_owned()));
            }
            keys.push(Arc::new(key));
        }
        Ok(Self { keys })
    }

    /// Whether there is no key, so that every client may call.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether there is more than one key, so that they share the capacity.
    pub fn has_several(&self) -> bool {
        self.keys.len() > 1
    }

    /// Finds a key in a time that does not depend on how much of it is right.
    pub fn find(&self, key: &str) -> Option<&Arc<ApiKey>> {
        let digest: [u8; 32] = Sha256::digest(key).into();
        // Every key is compared, even after a match.
        self.keys
            .iter()
            .fold(None, |found, other| if bool::from(other.digest.ct_eq(&digest)) { Some(other) } else { found })
    }

    /// Takes over the limiters of unchanged keys from `before`, so that a reload does not reset their limits.
    #[must_use]
    pub fn carry_over_limits(mut self, before: &Self) -> Self {
        for key in &mut self.keys {
            if let Some(same) = before.keys.iter().find(|old| old.is_same(key)) {
                *key = same.clone();
            }
        }
        self
    }
}

impl ApiKey {
    fn parse(line: &str, number: usize, default_rate: f64) -> Result<Self, String> {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        let (label, digest) = match first.split(':').collect::<Vec<_>>()[..] {
            [label, SCHEME, hex] => {
                check_label(label)?;
                (label.to_owned(), from_hex(hex).ok_or("sha256: must be followed by 64 hexadecimal digits")?)
            }
            _ => (format!("key-{number}"), Sha256::digest(first).into()),
        };
        let mut key_rate = default_rate;
        for word in words {
            let text =
                word.strip_prefix("rate=").ok_or("white space in a key, or something other than rate= after it")?;
            key_rate = rate(text)?;
        }
        Ok(Self { label, digest, rate: key_rate, limiter: limiter(key_rate) })
    }

    fn is_same(&self, other: &Self) -> bool {
        self.label == other.label && self.digest == other.digest && self.rate.to_bits() == other.rate.to_bits()
    }

    /// A number that is the same for the same key and never 0.
    pub fn number(&self) -> u64 {
        let [first, ..] = self.digest.as_chunks::<8>().0 else { return 1 };
        u64::from_le_bytes(*first).max(1)
    }

    /// Counts a request against the rate limit.
    ///
    /// # Errors
    /// The limit is reached: the time until the next request is accepted, in whole seconds.
    pub fn count(&self) -> Result<(), Duration> {
        let Some(limiter) = &self.limiter else { return Ok(()) };
        limiter.check().map_err(|wait| {
            let wait = wait.wait_time_from(DefaultClock::default().now());
            // REST's Retry-After has whole seconds: both transports answer the same.
            Duration::from_secs(wait.as_secs_f64().ceil() as u64)
        })
    }
}

/// Checks the characters and the length of a label.
///
/// # Errors
/// What a label must be.
pub fn check_label(label: &str) -> Result<(), String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    if label.is_empty() || label.len() > MAX_LABEL || !label.chars().all(is_plain) {
        return Err(format!("the label must have 1 to {MAX_LABEL} characters of a-z, A-Z, 0-9, - _ . @"));
    }
    Ok(())
}

/// The line of a key in the file.
pub fn hashed_line(label: &str, key: &str) -> String {
    let digest = Sha256::digest(key).iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    format!("{label}:{SCHEME}:{digest}")
}

/// Creates a limiter whose burst is the requests of one second, at least one.
fn limiter(rate: f64) -> Option<DefaultDirectRateLimiter> {
    let quota = (rate > 0.0).then(|| Quota::with_period(Duration::from_secs_f64(rate.recip())))??;
    let burst = (rate.ceil() as u32).try_into().unwrap_or(std::num::NonZero::<u32>::MIN);
    Some(RateLimiter::direct(quota.allow_burst(burst)))
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(bytes)
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey").field("label", &self.label).field("rate", &self.rate).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Result<ApiKeys, String> {
        ApiKeys::parse(text.lines(), 0.0)
    }

    fn label(keys: &ApiKeys, key: &str) -> Option<String> {
        keys.find(key).map(|key| key.label.clone())
    }

    #[test]
    fn finds_its_keys_and_no_others() {
        let text = format!("# keys\nalpha\n\n{}\n", hashed_line("team-b", "beta"));
        let keys = keys(&text).unwrap();
        assert_eq!((label(&keys, "alpha"), label(&keys, "beta")), (Some("key-2".into()), Some("team-b".into())));
        for wrong in ["alph", "", "ALPHA", "team-b", &hashed_line("team-b", "beta")] {
            assert_eq!(label(&keys, wrong), None, "{wrong}");
        }
        assert!(ApiKeys::default().find("").is_none());
    }

    #[test]
    fn an_invalid_line_is_named_by_its_number_and_not_shown() {
        let hashed = hashed_line("a", "x");
        for (text, reason) in [
            ("good\nse cret", "line 2: white space in a key, or something other than rate= after it"),
            ("a:sha256:12", "line 1: sha256: must be followed by 64 hexadecimal digits"),
            (&*format!("{hashed} rate=fast"), "line 1: 'fast' is not a number of requests per second"),
            (&*format!("{hashed}\n{hashed}"), "line 2: another key has the same label or digest"),
            (
                &*hashed.replace("a:", "a/b:"),
                "line 1: the label must have 1 to 64 characters of a-z, A-Z, 0-9, - _ . @",
            ),
        ] {
            assert_eq!(keys(text).unwrap_err(), reason);
        }
    }

    #[test]
    fn an_unchanged_key_keeps_its_limit_over_a_reload() {
        let line = format!("{} rate=0.01", hashed_line("a", "x"));
        let first = keys(&line).unwrap();
        assert!(first.find("x").unwrap().count().is_ok());
        let wait = first.find("x").unwrap().count().unwrap_err();
        assert!(wait > Duration::from_mins(1) && wait <= Duration::from_secs(100), "{wait:?}");
        let reloaded = keys(&line).unwrap().carry_over_limits(&first);
        assert!(reloaded.find("x").unwrap().count().is_err());
        let faster = keys(&line.replace("0.01", "0.02")).unwrap().carry_over_limits(&first);
        assert!(faster.find("x").unwrap().count().is_ok());
    }

    #[test]
    fn a_key_is_not_shown() {
        assert!(!format!("{:?}", keys("secret").unwrap()).contains("secret"));
    }
}
