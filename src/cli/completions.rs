//! `blip-serve completions`: what a shell needs to complete the command line.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Args;
use clap_complete::{Shell, generate};

use crate::cli::{CommandError, help};

/// Print a shell's completions for this command line.
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// For which shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let mut script = Vec::new();
        generate(self.shell, &mut help::command(), "blip-serve", &mut script);
        if self.shell == Shell::Bash {
            // One half of that script takes the `-serve` of our name for the command `serve`, the other does not.
            script = String::from_utf8(script)?.replace("blip__subcmd__serve", "blip__serve").into_bytes();
        }
        io::stdout().write_all(&script)?;
        Ok(ExitCode::SUCCESS)
    }
}
