//! Texts and colour profiles of a PNG: never used, but Pillow refuses a file whose texts are too long when decompressed.

use flate2::{Decompress, FlushDecompress, Status};

use super::DAMAGED;
use crate::DecodeError;

/// Largest decompressed text or profile, in bytes (Pillow's `MAX_TEXT_CHUNK`).
const MAX_TEXT: usize = 1 << 20;
/// All texts together (Pillow's `MAX_TEXT_MEMORY`).
const MAX_TEXTS: usize = 64 * MAX_TEXT;

/// How much text there has been, in Pillow's count.
#[derive(Default)]
pub(super) struct Texts(usize);

impl Texts {
    /// Takes note of a tEXt chunk.
    pub(super) fn count_plain(&mut self, body: &[u8]) -> Result<(), DecodeError> {
        self.count(split(body).map_or(0, |(_, text)| text.len()))
    }

    /// Takes note of a zTXt chunk.
    pub(super) fn count_compressed(&mut self, body: &[u8]) -> Result<(), DecodeError> {
        let (keyword, rest) = split(body).unwrap_or((body, &[]));
        let text = match rest {
            [] => 0,
            [0, compressed @ ..] => inflate(compressed)?.map_or(0, |text| text.len()),
            _ => return Err(DAMAGED),
        };
        if keyword.is_empty() { Ok(()) } else { self.count(text) }
    }

    /// Takes note of an iTXt chunk.
    pub(super) fn count_international(&mut self, body: &[u8]) -> Result<(), DecodeError> {
        let Some((_, &[flag, method, ref rest @ ..])) = split(body) else { return Ok(()) };
        let Some((language, rest)) = split(rest) else { return Ok(()) };
        let Some((translated, text)) = split(rest) else { return Ok(()) };
        let inflated;
        let text = match (flag, method) {
            (0, _) => text,
            (_, 0) => {
                let Some(text) = inflate(text)? else { return Ok(()) };
                inflated = text;
                &inflated
            }
            _ => return Ok(()),
        };
        match [language, translated, text].map(str::from_utf8) {
            [Ok(_), Ok(_), Ok(text)] => self.count(text.chars().count()),
            _ => Ok(()),
        }
    }

    fn count(&mut self, length: usize) -> Result<(), DecodeError> {
        self.0 += length;
        if self.0 > MAX_TEXTS { Err(DAMAGED) } else { Ok(()) }
    }
}

/// Checks an iCCP chunk.
pub(super) fn check_profile(body: &[u8]) -> Result<(), DecodeError> {
    // Without a zero behind the name, Pillow takes the first byte for the method and all but it for the profile.
    let method = body.iter().position(|&byte| byte == 0).map_or(0, |zero| zero + 1);
    match body.get(method..) {
        Some([0, profile @ ..]) => inflate(profile).map(drop),
        _ => Err(DAMAGED),
    }
}

/// Inflates a text or a profile: `None` when it is broken, which is harmless; an error when it is too long.
fn inflate(compressed: &[u8]) -> Result<Option<Vec<u8>>, DecodeError> {
    let mut text = vec![0; MAX_TEXT];
    let mut stream = Decompress::new(true);
    let Ok(status) = stream.decompress(compressed, &mut text, FlushDecompress::None) else { return Ok(None) };
    let (read, written) = (stream.total_in() as usize, stream.total_out() as usize);
    if status != Status::StreamEnd && written == MAX_TEXT && read < compressed.len() {
        return Err(DAMAGED);
    }
    text.truncate(written);
    Ok(Some(text))
}

/// What stands before and behind the first zero.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let zero = bytes.iter().position(|&byte| byte == 0)?;
    Some((&bytes[..zero], &bytes[zero + 1..]))
}
