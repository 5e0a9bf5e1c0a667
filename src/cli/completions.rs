//! `blip-serve completions`: prints a shell completion script.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{Args, Command};
use clap_complete::{Shell, generate};

use crate::cli::command::CommandError;

/// Print a shell completion script.
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    /// Prints the script for `command`, the whole command line.
    pub(super) fn run(self, mut command: Command) -> Result<ExitCode, CommandError> {
        let mut script = Vec::new();
        generate(self.shell, &mut command, "blip-serve", &mut script);
        if self.shell == Shell::Bash {
            // The generated script calls one function by two names: `blip__subcmd__serve` and `blip__serve`.
            script = String::from_utf8(script)?.replace("blip__subcmd__serve", "blip__serve").into_bytes();
        }
        io::stdout().write_all(&script)?;
        Ok(ExitCode::SUCCESS)
    }
}
