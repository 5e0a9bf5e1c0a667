//! `blip-serve hash-key`: generates an API key and its line for the key file.

use std::{
    io::{self, Read, Write},
    process::ExitCode,
};

use clap::Args;

use crate::cli::command::CommandError;
use crate::config::api_keys::{ApiKeys, check_label, hashed_line};

/// Maximum length of a key on standard input.
const MAX_KEY_BYTES: u64 = 4096;

/// Generate an API key, and the line for the key file, which contains only its digest.
///
/// The line is written to standard output, to be appended to the file, and the key to standard error.
#[derive(Debug, Args)]
pub(super) struct HashKey {
    /// Name of the key in logs and metrics
    label: String,

    /// Read the key from standard input instead of generating one
    #[arg(long)]
    stdin: bool,

    /// Requests per second of this key; defaults to --rate-limit
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
        // The line is checked as the server would check it.
        ApiKeys::parse(std::iter::once(line.as_str()), 0.0)?;
        if !self.stdin {
            // Standard output is appended to the key file.
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
        return Err("the key must not be empty or contain white space".into());
    }
    Ok(key.to_owned())
}
