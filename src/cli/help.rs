//! What `--help` teaches: flags in groups, examples, exit codes; and what `-h` leaves out.
//!
//! Settings are declared in several rooms that know nothing of each other. Here they are put into the groups that a
//! reader looks for.

use clap::{Arg, Command, CommandFactory};

use crate::cli::Cli;

pub(super) const OVERVIEW: &str = "\
Examples:
  blip-serve serve                                          # models.toml of this folder, port 8080
  blip-serve caption photos/ --recursive --output captions.jsonl
  blip-serve check                                          # are the models in order?
  source <(blip-serve completions bash)

Without a command it is `serve`, and takes its flags. Every command has -h (short) and --help (everything).

Exit codes: 0 done; 1 it failed, the reason is on standard error; 2 the command line is wrong; 130 and 143 ended by
SIGINT (Ctrl-C) or SIGTERM before everything was captioned.";

pub(super) const SERVE: &str = "\
Examples:
  blip-serve serve
  blip-serve serve --listen 127.0.0.1:9000 --models /etc/blip/models.toml
  BLIP_API_KEYS_FILE=keys.txt BLIP_LOG_FORMAT=json blip-serve serve
  curl -F image=@cat.jpg http://127.0.0.1:8080/v1/captions

Every flag can be set in the environment, as shown behind it; the flag wins.
Exit codes: 0 ended by a signal; 1 it could not start or a model stopped; 2 the command line is wrong.";

pub(super) const CAPTION: &str = "\
Examples:
  blip-serve caption cat.jpg https://example.com/dog.png
  blip-serve caption photos/ --recursive --output captions.jsonl
  blip-serve caption photos/ --recursive --output captions.jsonl --resume    # go on after Ctrl-C or a crash
  blip-serve caption 'photos/**/*.jpg' --exclude thumbs --format csv >captions.csv
  find photos -name '*.png' -print0 | blip-serve caption --files-from - --null --jobs 8
  curl -s https://example.com/cat.jpg | blip-serve caption -
  blip-serve caption cat.jpg --prompt 'a photo of' --num-beams 3 --json

A line is the image as it was given, a tab, the caption. With --format jsonl or csv an image that failed is a line with
its error; else errors go to standard error. They never stop the rest. Bytes of a name that are not UTF-8 are written
as \\xNN in JSON and CSV.

Exit codes: 0 every image has its captions; 1 at least one has not, or nothing could be done; 2 the command line is
wrong; 130 and 143 ended by SIGINT (Ctrl-C) or SIGTERM: what had begun was finished and written.";

pub(super) const PIXELS: &str = "\
Example:
  blip-serve pixels cat.jpg --output cat.npy && python3 -c 'import numpy; print(numpy.load(\"cat.npy\").mean())'";

pub(super) const CHECK: &str = "\
Example:
  blip-serve check --models /etc/blip/models.toml

Exit codes: 0 every model captions; 1 the first that does not is named; 2 the command line is wrong.";

pub(super) const COMPLETIONS: &str = "\
Examples:
  source <(blip-serve completions bash)                     # this shell
  blip-serve completions bash >~/.local/share/bash-completion/completions/blip-serve
  blip-serve completions zsh >~/.zfunc/_blip-serve          # a folder of $fpath
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

/// The whole command line.
pub(super) fn command() -> Command {
    // At the root, serve's flags would hide the commands.
    Cli::command()
        .mut_args(|arg| arg.hide(true))
        .mut_subcommand("serve", |serve| serve.mut_args(|arg| short(grouped(arg, Some("Server")), &SERVE_SHORT)))
        .mut_subcommand("caption", |caption| caption.mut_args(|arg| short(grouped(arg, None), &CAPTION_SHORT)))
        .mut_subcommand("check", |check| check.mut_args(|arg| grouped(arg, None)))
}

fn short(arg: Arg, shown: &[&str]) -> Arg {
    let is_shown = shown.contains(&arg.get_id().as_str());
    arg.hide_short_help(!is_shown)
}

/// Puts a flag without a group into its own, or else into `rest`.
fn grouped(arg: Arg, rest: Option<&'static str>) -> Arg {
    match group(arg.get_id().as_str()).or(rest).filter(|_| arg.get_help_heading().is_none()) {
        Some(group) => arg.help_heading(group),
        None => arg,
    }
}

/// By name, so that a new setting finds its group.
fn group(id: &str) -> Option<&'static str> {
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| id.starts_with(prefix));
    if begins(&["models", "model_control", "ort_library", "cuda_libraries", "graph_cache"]) {
        Some("Models")
    } else if begins(&["fetch_", "no_fetch", "allow_private_networks"]) {
        Some("Images from URLs")
    } else if begins(&["log", "otlp", "trace"]) {
        Some("Log")
    } else if begins(&["max_", "queue_capacity", "rate_limit", "connection_age", "watchdog"])
        || id.ends_with("_timeout")
    {
        Some("Limits")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn the_flags_that_a_short_help_names_exist() {
        // Some of serve's come with TLS.
        let caption = command();
        let caption = caption.find_subcommand("caption").unwrap();
        for id in CAPTION_SHORT {
            assert!(caption.get_arguments().any(|arg| arg.get_id() == id), "{id}");
        }
    }

    #[test]
    fn no_flag_of_serve_is_without_a_group_and_the_short_help_is_short() {
        let mut all = command();
        let serve = all.find_subcommand_mut("serve").unwrap();
        assert!(serve.get_arguments().all(|arg| arg.get_help_heading().is_some()));
        let (short, long) = (serve.render_help().to_string(), serve.render_long_help().to_string());
        assert!(short.lines().count() < 30, "{short}");
        for heading in ["Server:", "Limits:", "Images from URLs:", "Models:", "Log:", "Examples:"] {
            assert!(long.contains(heading), "{heading}");
        }
        assert!(!short.contains("--max-body-bytes") && long.contains("--max-body-bytes"));
    }

    #[test]
    fn the_overview_has_the_commands_and_not_serve_s_flags() {
        let text = command().render_long_help().to_string();
        assert!(text.contains("caption") && text.contains("completions") && !text.contains("--listen"), "{text}");
    }
}
