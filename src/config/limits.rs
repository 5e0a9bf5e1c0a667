//! Limits of what clients may send, as settings of `serve`.
//!
//! A request beyond a limit is answered 413, 400 or 429; a body that is too slow is answered 400, and a silent connection is
//! closed.

use std::{fs, time::Duration};

use clap::{Args, value_parser};

use crate::config::parse::{rate, seconds};
use generation::GenerationLimits;

/// File descriptors that are reserved for models, logs and fetched images.
const RESERVED_DESCRIPTORS: usize = 64;

/// The limits; see `blip-serve serve --help`.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct Limits {
    /// Maximum size of a request body or gRPC message in bytes
    #[arg(long, env = "BLIP_MAX_BODY_BYTES", value_name = "BYTES", default_value_t = 32 << 20)]
    pub max_body_bytes: usize,

    /// Maximum total size in bytes of the bodies of all in-flight requests; beyond it a request is answered 429 / RESOURCE_EXHAUSTED
    #[arg(long, env = "BLIP_MAX_INFLIGHT_BYTES", value_name = "BYTES", default_value_t = 256 << 20)]
    pub max_inflight_bytes: usize,

    /// Maximum number of in-flight requests; beyond it a request is answered 429 / RESOURCE_EXHAUSTED
    #[arg(long, env = "BLIP_QUEUE_CAPACITY", value_name = "NUMBER", default_value_t = 64, value_parser = value_parser!(u32).range(1..=65_536))]
    pub queue_capacity: u32,

    /// Average number of requests per second for each API key, 0 for no limit; a line of the key file can set its own
    #[arg(long, env = "BLIP_RATE_LIMIT", value_name = "RATE", default_value = "0", value_parser = rate)]
    pub rate_limit: f64,

    /// Seconds after which a request is aborted, unless the client's own deadline is shorter
    #[arg(long, env = "BLIP_REQUEST_TIMEOUT", value_name = "SECONDS", default_value = "120", value_parser = seconds)]
    pub request_timeout: Duration,

    /// Maximum number of images in a request
    #[arg(long, env = "BLIP_MAX_IMAGES", value_name = "NUMBER", default_value_t = 32, value_parser = value_parser!(u32).range(1..=1024))]
    pub max_images: u32,

    /// Maximum size of a prompt in bytes
    #[arg(long, env = "BLIP_MAX_PROMPT_BYTES", value_name = "BYTES", default_value_t = 16_384)]
    pub max_prompt_bytes: usize,

    /// Maximum max_new_tokens of a request
    #[arg(long, env = "BLIP_MAX_GENERATED_TOKENS", value_name = "NUMBER", default_value_t = 512, value_parser = value_parser!(u32).range(1..=65_536))]
    pub max_generated_tokens: u32,

    /// Maximum num_beams of a request
    #[arg(long, env = "BLIP_MAX_NUM_BEAMS", value_name = "NUMBER", default_value_t = 32, value_parser = value_parser!(u32).range(1..=1024))]
    pub max_num_beams: u32,

    /// Maximum num_return_sequences of a request
    #[arg(long, env = "BLIP_MAX_NUM_RETURN_SEQUENCES", value_name = "NUMBER", default_value_t = 32, value_parser = value_parser!(u32).range(1..=1024))]
    pub max_num_return_sequences: u32,

    /// Maximum number of open connections; further clients wait in the kernel's backlog
    #[arg(long, env = "BLIP_MAX_CONNECTIONS", value_name = "NUMBER", default_value_t = 4096, value_parser = value_parser!(u32).range(1..=1_000_000), help_heading = "Connections")]
    pub max_connections: u32,

    /// Maximum number of concurrent requests on one HTTP/2 connection
    #[arg(long, env = "BLIP_MAX_STREAMS", value_name = "NUMBER", default_value_t = 128, value_parser = value_parser!(u32).range(1..=65_536), help_heading = "Connections")]
    pub max_streams: u32,

    /// Maximum size of a request's headers in bytes
    #[arg(long, env = "BLIP_MAX_HEADER_BYTES", value_name = "BYTES", default_value_t = 32 << 10, value_parser = value_parser!(u32).range(8192..=1 << 20), help_heading = "Connections")]
    pub max_header_bytes: u32,

    /// Seconds from connecting to the end of the first request's headers
    #[arg(long, env = "BLIP_HEADER_TIMEOUT", value_name = "SECONDS", default_value = "10", value_parser = seconds, help_heading = "Connections")]
    pub header_timeout: Duration,

    /// Seconds without a request after which a connection is closed
    #[arg(long, env = "BLIP_IDLE_TIMEOUT", value_name = "SECONDS", default_value = "75", value_parser = seconds, help_heading = "Connections")]
    pub idle_timeout: Duration,

    /// Seconds without data inside a request body after which the request is refused
    #[arg(long, env = "BLIP_BODY_TIMEOUT", value_name = "SECONDS", default_value = "10", value_parser = seconds, help_heading = "Connections")]
    pub body_timeout: Duration,

    /// Seconds that a client may accept no data of a response before its connection is closed
    #[arg(long, env = "BLIP_WRITE_TIMEOUT", value_name = "SECONDS", default_value = "30", value_parser = seconds, help_heading = "Connections")]
    pub write_timeout: Duration,

    /// Seconds after which a connection is closed gracefully, ±10 %, so that clients spread over replicas; 0 for never
    #[arg(long, env = "BLIP_CONNECTION_AGE", value_name = "SECONDS", default_value = "0", value_parser = seconds, help_heading = "Connections")]
    pub connection_age: Duration,
}

impl Limits {
    /// The limits of a command line without flags.
    #[cfg(test)]
    pub(crate) fn defaults() -> Self {
        use clap::FromArgMatches;
        let command = Self::augment_args(clap::Command::new("test"));
        Self::from_arg_matches(&command.get_matches_from(["test"])).unwrap()
    }

    /// The limits of generation parameters.
    pub fn generation(&self) -> GenerationLimits {
        GenerationLimits {
            max_new_tokens: self.max_generated_tokens,
            max_num_beams: self.max_num_beams,
            max_num_return_sequences: self.max_num_return_sequences,
            ..GenerationLimits::default()
        }
    }

    /// Maximum number of connections, lowered to what the process has file descriptors for.
    pub fn connections(&self) -> usize {
        let wanted = self.max_connections as usize;
        max_open_files().map_or(wanted, |most| wanted.min(most.saturating_sub(RESERVED_DESCRIPTORS).max(1)))
    }
}

/// How many files this process may have open, if the operating system reports it.
fn max_open_files() -> Option<usize> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_some_file_descriptors_free() {
        let most = max_open_files().expect("Linux has /proc");
        let limits = |max_connections| Limits { max_connections, ..Limits::defaults() };
        assert_eq!(limits(1).connections(), 1);
        assert_eq!(limits(u32::MAX).connections(), (most - RESERVED_DESCRIPTORS).min(u32::MAX as usize));
    }
}
