//! Reads the image of an input, and explains errors to the user of the command.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use tokio::task;

use crate::cli::caption::input::{Input, Location};
use crate::{
    caption::ImageSource,
    cli::select::similar_file,
    error::CaptionError,
    fetch::{decode_data_url, explain_refusal},
};

/// Reads the image of an input; at most `limit` bytes of it are loaded into memory.
pub(super) async fn read(input: &Input, limit: usize) -> Result<ImageSource, String> {
    let bytes = match &input.location {
        Location::Url(url) => return Ok(ImageSource::Url(url.clone())),
        Location::Unreadable(reason) => return Err(reason.clone()),
        Location::DataUrl => {
            let url = input.name.to_str().unwrap_or_default();
            decode_data_url(url, limit).map_err(|error| explain(&error))?
        }
        Location::File => {
            let path = PathBuf::from(&input.name);
            blocking(move || read_file(&path, limit)).await?
        }
        Location::StandardInput => {
            blocking(move || read_bounded(&mut io::stdin().lock(), limit).map_err(|e| e.to_string())?).await?
        }
    };
    Ok(ImageSource::Bytes { bytes, field: "image" })
}

/// Explains an error with its cause: unlike a client of the service, a local user may see it.
pub(super) fn explain(error: &CaptionError) -> String {
    match error {
        CaptionError::ImageUrl { reason, source } => match (explain_refusal(reason), source) {
            (Some(sentence), _) => format!("{error}: {sentence}"),
            (None, Some(source)) => format!("{error}: {reason}: {source}"),
            (None, None) => format!("{error}: {reason}"),
        },
        CaptionError::Internal(source) => format!("{error}: {source}"),
        _ => error.to_string(),
    }
}

/// Explains why a file cannot be read, and suggests a similar name.
pub(super) fn explain_io(path: &Path, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => match similar_file(path) {
            Some(near) => format!("no such file; did you mean {near}?"),
            None => "no such file".into(),
        },
        io::ErrorKind::PermissionDenied => "no permission to read it".into(),
        io::ErrorKind::IsADirectory => "is a folder".into(),
        _ => error.to_string(),
    }
}

async fn blocking(read: impl FnOnce() -> Result<Bytes, String> + Send + 'static) -> Result<Bytes, String> {
    task::spawn_blocking(read).await.map_err(|error| error.to_string())?
}

fn read_file(path: &Path, limit: usize) -> Result<Bytes, String> {
    File::open(path).and_then(|mut file| read_bounded(&mut file, limit)).map_err(|error| explain_io(path, &error))?
}

/// Reads everything, unless it is more than `limit` bytes.
fn read_bounded(reader: &mut impl Read, limit: usize) -> io::Result<Result<Bytes, String>> {
    let mut bytes = Vec::new();
    reader.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Ok(Err(format!("the file is larger than --max-image-bytes {limit}")));
    }
    Ok(Ok(bytes.into()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_read_up_to_the_limit() {
        assert_eq!(read_bounded(&mut &b"1234"[..], 4).unwrap(), Ok(Bytes::from("1234")));
        assert!(read_bounded(&mut &b"12345"[..], 4).unwrap().unwrap_err().contains("larger than --max-image-bytes 4"));
    }

    #[test]
    fn an_error_for_a_wrong_path_suggests_a_similar_one() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("cats.jpg"), "").unwrap();
        let error = |name: &str| read_file(&folder.path().join(name), 9).unwrap_err();
        assert!(error("cat.jpg").ends_with("/cats.jpg?"), "{}", error("cat.jpg"));
        assert_eq!(error("zebra.png"), "no such file");
        assert_eq!(read_file(folder.path(), 9).unwrap_err(), "is a folder");
    }
}
