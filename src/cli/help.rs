//! The examples and exit codes of `--help`, and the selection of flags that `-h` shows.

use clap::{Arg, Command};

pub(super) const OVERVIEW: &str = "\
Examples:
  blip-serve serve                                          # models.toml of this folder, port 8080
  blip-serve caption photos/ --recursive --output captions.jsonl
  blip-serve check                                          # verify all models
  source <(blip-serve completions bash)

The default command is `serve`, whose flags can be given without it. Every command has -h (short) and --help (complete).

Exit codes: 0 success; 1 failure, with the reason on standard error; 2 invalid command line; 130 and 143 ended by SIGINT
(Ctrl-C) or SIGTERM before everything was captioned.";

pub(super) const SERVE: &str = "\
Examples:
  blip-serve serve
  blip-serve serve --listen 127.0.0.1:9000 --models /etc/blip/models.toml
  BLIP_API_KEYS_FILE=keys.txt BLIP_LOG_FORMAT=json blip-serve serve
  curl -F image=@cat.jpg http://127.0.0.1:8080/v1/captions

Every flag can also be set by the environment variable shown with it; the flag takes precedence.
Exit codes: 0 ended by a signal; 1 the start failed or a model stopped; 2 invalid command line.";

pub(super) const CAPTION: &str = "\
Examples:
  blip-serve caption cat.jpg https://example.com/dog.png
  blip-serve caption photos/ --recursive --output captions.jsonl
  blip-serve caption photos/ --recursive --output captions.jsonl --resume    # go on after Ctrl-C or a crash
  blip-serve caption 'photos/**/*.jpg' --exclude thumbs --format csv >captions.csv
  find photos -name '*.png' -print0 | blip-serve caption --files-from - --null --jobs 8
  curl -s https://example.com/cat.jpg | blip-serve caption -
  blip-serve caption cat.jpg --prompt 'a photo of' --num-beams 3 --json

A line is the name of the image as given, a tab, and the caption. With --format jsonl or csv the error of an image is a
line, too; otherwise errors go to standard error. An error never stops the other images. Bytes of a name that are not
UTF-8 are written as \\xNN in JSON and CSV.

Exit codes: 0 every image was captioned; 1 at least one image failed, or nothing could be done; 2 invalid command line;
130 and 143 ended by SIGINT (Ctrl-C) or SIGTERM: the images in progress were finished and written.";

pub(super) const PIXELS: &str = "\
Example:
  blip-serve pixels cat.jpg --output cat.npy && python3 -c 'import numpy; print(numpy.load(\"cat.npy\").mean())'";

pub(super) const CHECK: &str = "\
Example:
  blip-serve check --models /etc/blip/models.toml

Exit codes: 0 every model passed; 1 a model failed, which is named; 2 invalid command line.";

pub(super) const COMPLETIONS: &str = "\
Examples:
  source <(blip-serve completions bash)                     # this shell
  blip-serve completions bash >~/.local/share/bash-completion/completions/blip-serve
  blip-serve completions zsh >~/.zfunc/_blip-serve          # a folder in $fpath
  blip-serve completions fish >~/.config/fish/completions/blip-serve.fish
  blip-serve completions powershell >>$PROFILE";

/// Flags that `-h` shows; `--help` shows all.
const SERVE_SHORT: [&str; 8] =
    ["listen", "admin_listen", "api_keys_file", "allow_private_networks", "tls_cert", "tls_key", "models", "log"];
const CAPTION_SHORT: [&str; 14] = [
    "images",
    "recursive",
    "files_from",
    "output",
    "format",
    "json",
    "resume",
    "model",
    "models",
    "jobs",
    "prompt",
    "max_new_tokens",
    "num_beams",
    "num_return_sequences",
];

/// Hides the less common flags of the whole command line in its short help.
pub(super) fn arrange(command: Command) -> Command {
    // At the root, the flags of serve would hide the commands.
    command
        .mut_args(|arg| arg.hide(true))
        .mut_subcommand("serve", |serve| serve.mut_args(|arg| show_in_short_help(arg, &SERVE_SHORT)))
        .mut_subcommand("caption", |caption| caption.mut_args(|arg| show_in_short_help(arg, &CAPTION_SHORT)))
}

fn show_in_short_help(arg: Arg, shown: &[&str]) -> Arg {
    let is_shown = shown.contains(&arg.get_id().as_str());
    arg.hide_short_help(!is_shown)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    fn command() -> Command {
        arrange(Cli::command())
    }

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_flag_of_the_short_help_exists() {
        let command = command();
        for (name, shown) in [("serve", &SERVE_SHORT[..]), ("caption", &CAPTION_SHORT)] {
            let subcommand = command.find_subcommand(name).unwrap();
            for id in shown {
                assert!(subcommand.get_arguments().any(|arg| arg.get_id() == *id), "{name} {id}");
            }
        }
    }

    #[test]
    fn every_flag_of_serve_has_a_heading_and_the_short_help_is_short() {
        let mut all = command();
        let serve = all.find_subcommand_mut("serve").unwrap();
        assert!(serve.get_arguments().all(|arg| arg.get_help_heading().is_some()));
        let (short, long) = (serve.render_help().to_string(), serve.render_long_help().to_string());
        assert!(short.lines().count() < 30, "{short}");
        let headings = serve.get_arguments().filter(|arg| !arg.is_hide_set()).filter_map(|arg| arg.get_help_heading());
        let expected = ["Connections", "Fetching", "Limits", "Models", "Observability", "Security", "Serving"];
        assert_eq!(headings.collect::<BTreeSet<_>>(), BTreeSet::from(expected));
        assert!(expected.iter().all(|heading| long.contains(&format!("\n{heading}:\n"))), "{long}");
        assert!(!short.contains("--max-body-bytes") && long.contains("--max-body-bytes"));
    }

    #[test]
    fn the_overview_shows_the_commands_and_not_the_flags_of_serve() {
        let text = command().render_long_help().to_string();
        assert!(text.contains("caption") && text.contains("completions") && !text.contains("--listen"), "{text}");
    }
}
