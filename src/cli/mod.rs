//! The command line: `serve` (the default), `caption`, `bundle`, `pixels`, `check`, `hash-key`, `health`, `completions`.

mod bundle;
mod caption;
mod check;
mod command;
mod completions;
mod hash_key;
mod health;
mod help;
mod pixels;
mod select;
mod serve;

use std::{ffi::OsString, io, process::ExitCode};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::observability;

/// Exit code when the reader of standard output has closed the pipe: 128 + SIGPIPE, as shells report it.
const EXIT_SIGPIPE: u8 = 141;

/// Image captions from BLIP over gRPC and REST, on ONNX Runtime
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, after_long_help = help::OVERVIEW)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::Serve,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve REST and gRPC on one port (the default command)
    #[command(after_long_help = help::SERVE)]
    Serve(Box<serve::Serve>),
    /// Caption images: prints a line for each caption, with the path, a tab and the caption
    #[command(after_long_help = help::CAPTION)]
    Caption(Box<caption::CaptionImages>),
    /// Inspect an exported model
    #[command(subcommand)]
    Bundle(bundle::Bundle),
    /// Write the model's input for an image: pixel_values, float32 [1, 3, H, W], as .npy
    #[command(after_long_help = help::PIXELS)]
    Pixels(pixels::Pixels),
    /// Verify the bundles of all models and caption a self-test image with each
    #[command(after_long_help = help::CHECK)]
    Check(check::Check),
    /// Generate an API key, and the line for the key file, which contains only its digest
    HashKey(hash_key::HashKey),
    /// Check whether a running service is ready; exit code 0 if it is
    Health(health::Health),
    /// Print a shell completion script
    #[command(after_long_help = help::COMPLETIONS)]
    Completions(completions::Completions),
}

/// Runs the command of `arguments` and returns the exit code of the process. A failure is one line on standard error.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let matches = help::arrange(Cli::command()).get_matches_from(with_explicit_values(arguments));
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let command = cli.command.unwrap_or_else(|| Command::Serve(Box::new(cli.serve)));
    let result = match command {
        Command::Serve(command) => command.run(),
        Command::Caption(command) => command.run(),
        Command::Bundle(command) => command.run(),
        Command::Pixels(command) => command.run(),
        Command::Check(command) => command.run(),
        Command::HashKey(command) => command.run(),
        Command::Health(command) => command.run(),
        Command::Completions(command) => command.run(help::arrange(Cli::command())),
    };
    result.unwrap_or_else(|error| {
        if error.downcast_ref().is_some_and(|error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe) {
            return EXIT_SIGPIPE.into();
        }
        observability::print_status(&format!("error: {error}"));
        ExitCode::FAILURE
    })
}

/// Joins `--do-sample` and `--early-stopping` with their values by `=`. Both work without a value, too: `--do-sample
/// cat.png` must not take the image for a value, and `--early-stopping never cat.png` not the value for an image.
fn with_explicit_values(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut result: Vec<OsString> = Vec::new();
    for argument in arguments {
        let has_optional_value = |flag: &OsString| flag == "--do-sample" || flag == "--early-stopping";
        let is_value = argument == "true" || argument == "false" || argument == "never";
        match result.last_mut().filter(|flag| is_value && has_optional_value(flag)) {
            Some(flag) => {
                flag.push("=");
                flag.push(argument);
            }
            None => result.push(argument),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn optional_values_take_only_the_words_of_their_type() {
        let explicit = |line: &str| {
            let words = with_explicit_values(line.split(' ').map(OsString::from));
            words.into_iter().map(|word| word.into_string().unwrap()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(explicit("caption --do-sample a.png"), "caption --do-sample a.png");
        assert_eq!(explicit("caption --do-sample false a.png"), "caption --do-sample=false a.png");
        assert_eq!(explicit("caption --early-stopping never a.png"), "caption --early-stopping=never a.png");
        assert_eq!(explicit("caption true --do-sample"), "caption true --do-sample");
    }
}
