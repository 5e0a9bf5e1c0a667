//! Where results go: standard output, or a file that grows by whole images.
//!
//! All lines of an image are one write at the end of the file, so that whatever ends the process leaves whole images
//! behind it. Only a crash in the middle of that write tears a line; `--resume` mends that.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs::{File, OpenOptions, TryLockError},
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
};

use clap::Args;

use crate::cli::caption::{format::Format, inputs::Input, names, resume::resume};
use crate::{caption::Caption, cli::CommandError};

/// Where results go, and how they look.
#[derive(Debug, Args)]
pub(super) struct OutputArgs {
    /// Write to this file, image by image, instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// How captions are written; not given: as the extension of --output says, or text
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,

    /// One JSON object a line: the same as --format jsonl
    #[arg(long, conflicts_with = "format")]
    json: bool,

    /// Go on with the file of --output: caption what is not in it, and what failed
    ///
    /// Run the same command again after a crash or an interruption. A line that is half written is mended. Needs the
    /// format jsonl or csv.
    #[arg(long, requires = "output", conflicts_with = "overwrite")]
    resume: bool,

    /// Empty the file of --output first
    #[arg(long, requires = "output")]
    overwrite: bool,
}

/// An open output.
#[derive(Debug)]
pub(super) struct Output {
    format: Format,
    sink: Sink,
    /// What the next write begins with.
    buffer: Vec<u8>,
}

#[derive(Debug)]
enum Sink {
    Stdout,
    File { file: File, path: PathBuf },
}

impl OutputArgs {
    /// Opens the output, and leaves of the inputs those that are not in it; `sequences` captions make an image done.
    pub(super) fn open(&self, inputs: &mut Vec<Input>, sequences: usize) -> Result<Output, CommandError> {
        let by_name = || self.output.as_deref().map_or(Format::Text, Format::of_file);
        let format = if self.json { Format::Jsonl } else { self.format.unwrap_or_else(by_name) };
        if self.resume && format == Format::Text {
            return Err("--resume needs --format jsonl or csv: lines of text do not say what failed".into());
        }
        let header = format.header().into_bytes();
        let Some(path) = &self.output else {
            return Ok(Output { format, sink: Sink::Stdout, buffer: header });
        };
        let named = |reason: String| format!("--output {}: {reason}", path.display());
        let (file, is_empty) = self.open_file(path, format, inputs, sequences).map_err(named)?;
        let buffer = if is_empty { header } else { Vec::new() };
        Ok(Output { format, sink: Sink::File { file, path: path.clone() }, buffer })
    }

    /// The file, locked, and whether it is empty.
    fn open_file(
        &self,
        path: &Path,
        format: Format,
        inputs: &mut Vec<Input>,
        sequences: usize,
    ) -> Result<(File, bool), String> {
        let (file, length) = append(path)?;
        // A pipe or a device: there is nothing in it to lose.
        let Some(length) = length else {
            return if self.resume {
                Err("is no regular file, so --resume cannot read it".into())
            } else {
                Ok((file, true))
            };
        };
        if self.overwrite {
            file.set_len(0).map_err(|error| error.to_string())?;
            return Ok((file, true));
        }
        if !self.resume {
            return match length {
                0 => Ok((file, true)),
                _ => Err("is not empty: --resume goes on with it, --overwrite empties it first".into()),
            };
        }
        let wanted: HashSet<String> = inputs.iter().map(|input| names::text(&input.name).into_owned()).collect();
        let done = resume(path, format, &wanted, sequences)?;
        inputs.retain(|input| !done.contains(names::text(&input.name).as_ref()));
        // Another file may be in its place now.
        drop(file);
        let (file, length) = append(path)?;
        Ok((file, length == Some(0)))
    }
}

impl Output {
    /// Writes the captions of one image.
    pub(super) fn captions(&mut self, name: &OsStr, captions: &[Caption]) -> Result<(), CommandError> {
        self.format.captions(name, captions, &mut self.buffer)?;
        self.flush()
    }

    /// Writes what went wrong with one image; false: the format has no place for it.
    pub(super) fn failure(&mut self, name: &OsStr, error: &str) -> Result<bool, CommandError> {
        self.format.failure(name, error, &mut self.buffer)?;
        self.flush()?;
        Ok(self.format != Format::Text)
    }

    /// Writes a header that nothing followed, and leaves nothing to the operating system's memory.
    pub(super) fn finish(&mut self) -> Result<(), CommandError> {
        self.flush()?;
        match &self.sink {
            // A device has nothing to synchronise.
            Sink::File { file, .. } if file.metadata()?.is_file() => Ok(file.sync_data()?),
            _ => Ok(()),
        }
    }

    /// Whether its lines appear on somebody's screen.
    pub(super) fn is_terminal(&self) -> bool {
        matches!(self.sink, Sink::Stdout) && io::stdout().is_terminal()
    }

    /// Whether it goes to a file.
    pub(super) fn is_file(&self) -> bool {
        matches!(self.sink, Sink::File { .. })
    }

    /// Whether `--resume` can go on with it.
    pub(super) fn is_resumable(&self) -> bool {
        self.is_file() && self.format != Format::Text
    }

    fn flush(&mut self) -> Result<(), CommandError> {
        match &mut self.sink {
            Sink::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(&self.buffer)?;
                out.flush()?;
            }
            Sink::File { file, path } => {
                let named = |error: io::Error| format!("--output {}: {error}", path.display());
                file.write_all(&self.buffer).map_err(named)?;
            }
        }
        self.buffer.clear();
        Ok(())
    }
}

/// Opens a file to write at its end; its length, if it is a regular file.
fn append(path: &Path) -> Result<(File, Option<u64>), String> {
    let file = OpenOptions::new().append(true).create(true).open(path).map_err(|error| error.to_string())?;
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Ok((file, None));
    }
    // Some file systems know no locks; then it is the user's care.
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err("another process writes to it".into()),
        Ok(()) | Err(TryLockError::Error(_)) => Ok((file, Some(metadata.len()))),
    }
}
