//! `blip-serve hash-key`: a key for a client, and its line for the server.

use std::{
    io::{self, Read, Write},
    process::ExitCode,
};

use clap::Args;

use crate::cli::CommandError;
use crate::config::api_keys::{ApiKeys, check_label, hashed_line};

/// Longer than any key.
const MAX_KEY_BYTES: u64 = 4096;

/// Make an API key, and the line of the keys' file that knows it without holding it.
///
/// The line goes to standard output (append it to the file), the key to standard error.
#[derive(Debug, Args)]
pub(super) struct HashKey {
    /// Name of the key in logs and metrics
    label: String,

    /// Take the key from standard input instead of making one
    #[arg(long)]
    stdin: bool,

    /// Requests per second of this key, if not those of --rate-limit
    #[arg(long, value_parser = crate::config::parse::rate)]
    rate: Option<f64>,
}

impl HashKey {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let key = if self.stdin {
            read_key()?
        } else {
            format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>())
        };
        check_label(&self.label)?;
        let mut line = hashed_line(&self.label, &key);
        if let Some(rate) = self.rate {
            line = format!("{line} rate={rate}");
        }
        // What the server would say of it, it says here.
        ApiKeys::parse(std::iter::once(line.as_str()), 0.0)?;
        if !self.stdin {
            // Not on standard output, which is appended to the keys' file.
            writeln!(io::stderr(), "for the client, shown once: {key}")?;
        }
        writeln!(io::stdout(), "{line}")?;
        Ok(ExitCode::SUCCESS)
    }
}

fn read_key() -> Result<String, CommandError> {
    let mut key = String::new();
    io::stdin().take(MAX_KEY_BYTES).read_to_string(&mut key)?;
    let key = key.trim_end_matches(['\n', '\r']);
    if key.is_empty() || key.contains(char::is_whitespace) {
        return Err("the key is empty or has white space in it".into());
    }
    Ok(key.to_owned())
}
