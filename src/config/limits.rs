//! Every bound on what strangers may send, as a setting of `serve`.
//!
//! A request above one is answered 413, 400 or 429 with the bound's name; a peer that is too slow is disconnected.

use std::{fs, time::Duration};

use clap::Args;

use crate::config::seconds;
use generation::GenerationLimits;

/// File descriptors that are not for connections: models, logs, fetched images.
const RESERVED_DESCRIPTORS: usize = 64;

/// The bounds; see `blip-serve serve --help`.
#[derive(Clone, Copy, Debug, Args)]
pub struct Limits {
    /// Largest request body or message, bytes
    #[arg(long, env = "BLIP_MAX_BODY_BYTES", default_value_t = 32 << 20)]
    pub max_body_bytes: usize,

    /// Bytes of all request bodies in the house; a request that brings more is answered 429 / RESOURCE_EXHAUSTED
    #[arg(long, env = "BLIP_MAX_INFLIGHT_BYTES", default_value_t = 256 << 20)]
    pub max_inflight_bytes: usize,

    /// Requests in the house at most; one more is answered 429 / RESOURCE_EXHAUSTED
    #[arg(long, env = "BLIP_QUEUE_CAPACITY", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub queue_capacity: u32,

    /// Requests per second of one API key, on average; 0: no limit. A line of the keys' file can say otherwise
    #[arg(long, env = "BLIP_RATE_LIMIT", default_value = "0", value_parser = rate)]
    pub rate_limit: f64,

    /// Seconds after which a request is given up, unless the client's own deadline is shorter
    #[arg(long, env = "BLIP_REQUEST_TIMEOUT", default_value = "120", value_parser = seconds)]
    pub request_timeout: Duration,

    /// Open connections at most; further ones wait in the kernel
    #[arg(long, env = "BLIP_MAX_CONNECTIONS", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections: u32,

    /// Requests at a time on one HTTP/2 connection
    #[arg(long, env = "BLIP_MAX_STREAMS", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub max_streams: u32,

    /// Bytes of the headers of a request
    #[arg(long, env = "BLIP_MAX_HEADER_BYTES", default_value_t = 32 << 10, value_parser = clap::value_parser!(u32).range(8192..=1 << 20))]
    pub max_header_bytes: u32,

    /// Seconds from connecting to the end of the first request's headers
    #[arg(long, env = "BLIP_HEADER_TIMEOUT", default_value = "10", value_parser = seconds)]
    pub header_timeout: Duration,

    /// Seconds without a request after which a connection is closed
    #[arg(long, env = "BLIP_IDLE_TIMEOUT", default_value = "75", value_parser = seconds)]
    pub idle_timeout: Duration,

    /// Seconds of silence inside a body after which its request is refused
    #[arg(long, env = "BLIP_BODY_TIMEOUT", default_value = "10", value_parser = seconds)]
    pub body_timeout: Duration,

    /// Seconds that a client may take no piece of an answer before its connection is closed
    #[arg(long, env = "BLIP_WRITE_TIMEOUT", default_value = "30", value_parser = seconds)]
    pub write_timeout: Duration,

    /// Seconds after which a connection is told to come back on a new one, ±10 %, so that clients spread over replicas; 0: never
    #[arg(long, env = "BLIP_CONNECTION_AGE", default_value = "0", value_parser = seconds)]
    pub connection_age: Duration,

    /// Images of one request
    #[arg(long, env = "BLIP_MAX_IMAGES", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub max_images: u32,

    /// Bytes of a prompt
    #[arg(long, env = "BLIP_MAX_PROMPT_BYTES", default_value_t = 16_384)]
    pub max_prompt_bytes: usize,

    /// Largest max_new_tokens of a request
    #[arg(long, env = "BLIP_MAX_GENERATED_TOKENS", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub max_generated_tokens: u32,

    /// Largest num_beams of a request
    #[arg(long, env = "BLIP_MAX_NUM_BEAMS", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub max_num_beams: u32,

    /// Largest num_return_sequences of a request
    #[arg(long, env = "BLIP_MAX_NUM_RETURN_SEQUENCES", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub max_num_return_sequences: u32,
}

impl Limits {
    /// Those of a command line without flags.
    #[cfg(test)]
    pub(crate) fn defaults() -> Self {
        use clap::FromArgMatches;
        let command = Self::augment_args(clap::Command::new("test"));
        Self::from_arg_matches(&command.get_matches_from(["test"])).unwrap()
    }

    /// What a request may ask the generation for.
    pub fn generation(&self) -> GenerationLimits {
        GenerationLimits {
            max_new_tokens: self.max_generated_tokens,
            max_num_beams: self.max_num_beams,
            max_num_return_sequences: self.max_num_return_sequences,
            ..GenerationLimits::default()
        }
    }

    /// Connections that the process has file descriptors for.
    pub fn connections(&self) -> usize {
        let wanted = self.max_connections as usize;
        open_files().map_or(wanted, |most| wanted.min(most.saturating_sub(RESERVED_DESCRIPTORS).max(1)))
    }
}

/// How many files this process may have open, where the system says so.
fn open_files() -> Option<usize> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?.parse().ok()
}

/// Requests per second.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| format!("'{text}' is not a number of requests per second"))?;
    let is_sane = rate == 0.0 || (0.001..=1e6).contains(&rate);
    is_sane.then_some(rate).ok_or_else(|| format!("{text} is neither 0 nor between 0.001 and 1000000"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_bounded() {
        assert_eq!((rate("0"), rate("0.5")), (Ok(0.0), Ok(0.5)));
        for bad in ["-1", "NaN", "inf", "1e-9", "ten"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_system_says_how_many_files_may_be_open() {
        assert!(open_files().is_none_or(|most| most > 0));
    }
}
