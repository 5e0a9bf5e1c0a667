//! The output of results: standard output, or a file that grows by whole images.
//!
//! All lines of an image are one write at the end of the file, so that a terminated process leaves whole images. Only a
//! crash during that write leaves an incomplete line, which `--resume` repairs.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs::{File, OpenOptions, TryLockError},
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
};

use clap::Args;

use crate::cli::caption::{format::Format, input::Input, names, resume::resume};
use crate::{caption::Caption, cli::command::CommandError};

/// Where results are written, and in which format.
#[derive(Debug, Args)]
pub(super) struct OutputArgs {
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Format of the captions; defaults to the extension of --output, or text
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,

    /// Write one JSON object per line, like --format jsonl
    #[arg(long, conflicts_with = "format")]
    json: bool,

    /// Continue the file of --output: caption the images that are missing in it or failed
    ///
    /// Run the same command again after a crash or an interruption. An incomplete line is repaired. Requires the format
    /// jsonl or csv.
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
    /// Bytes for the next write.
    buffer: Vec<u8>,
}

#[derive(Debug)]
enum Sink {
    Stdout,
    File { file: File, path: PathBuf },
}

impl OutputArgs {
    /// Opens the output and removes the inputs that are complete in it, with `sequences` captions each.
    pub(super) fn open(&self, inputs: &mut Vec<Input>, sequences: usize) -> Result<Output, CommandError> {
        let by_name = || self.output.as_deref().map_or(Format::Text, Format::from_extension);
        let format = if self.json { Format::Jsonl } else { self.format.unwrap_or_else(by_name) };
        if self.resume && format == Format::Text {
            return Err("--resume requires --format jsonl or csv: the text format does not record failures".into());
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

    /// Opens and locks the file; returns whether it is empty.
    fn open_file(
        &self,
        path: &Path,
        format: Format,
        inputs: &mut Vec<Input>,
        sequences: usize,
    ) -> Result<(File, bool), String> {
        let (file, length) = append(path)?;
        // A pipe or a device has no content that could be lost.
        let Some(length) = length else {
            return if self.resume { Err("must be a regular file for --resume".into()) } else { Ok((file, true)) };
        };
        if self.overwrite {
            file.set_len(0).map_err(|error| error.to_string())?;
            return Ok((file, true));
        }
        if !self.resume {
            return match length {
                0 => Ok((file, true)),
                _ => Err("the file is not empty: use --resume to continue it, or --overwrite to replace it".into()),
            };
        }
        let wanted: HashSet<String> = inputs.iter().map(|input| names::text(&input.name).into_owned()).collect();
        let done = resume(path, format, &wanted, sequences)?;
        inputs.retain(|input| !done.contains(names::text(&input.name).as_ref()));
        // The repair may have replaced the file.
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

    /// Writes the error of one image; returns false if the format has no line for it.
    pub(super) fn failure(&mut self, name: &OsStr, error: &str) -> Result<bool, CommandError> {
        self.format.failure(name, error, &mut self.buffer)?;
        self.flush()?;
        Ok(self.format != Format::Text)
    }

    /// Writes a header that no result followed, and flushes the file to the disk.
    pub(super) fn finish(&mut self) -> Result<(), CommandError> {
        self.flush()?;
        match &self.sink {
            // A device has nothing to synchronise.
            Sink::File { file, .. } if file.metadata()?.is_file() => Ok(file.sync_data()?),
            _ => Ok(()),
        }
    }

    /// Whether the results appear on a terminal.
    pub(super) fn is_terminal(&self) -> bool {
        matches!(self.sink, Sink::Stdout) && io::stdout().is_terminal()
    }

    /// Whether the output is a file.
    pub(super) fn is_file(&self) -> bool {
        matches!(self.sink, Sink::File { .. })
    }

    /// Whether `--resume` can continue the output.
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

/// Opens a file for appending; returns its length if it is a regular file.
fn append(path: &Path) -> Result<(File, Option<u64>), String> {
    let file = OpenOptions::new().append(true).create(true).open(path).map_err(|error| error.to_string())?;
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Ok((file, None));
    }
    // Some file systems do not support locks: then concurrent writers are not detected.
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err("another process is writing to the file".into()),
        Ok(()) | Err(TryLockError::Error(_)) => Ok((file, Some(metadata.len()))),
    }
}
