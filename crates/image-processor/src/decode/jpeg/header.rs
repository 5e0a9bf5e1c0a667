//! The segments of a JPEG up to the first scan: what must be known before libjpeg reads it.
//!
//! That is the size, which is checked against the limit, and the number of components. Kinds that are not supported are
//! refused by name.

use crate::error::DecodeError;

/// The contents of the segments before the first scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Pixels in a row, >= 1.
    pub(super) width: u32,
    /// Rows, >= 1.
    pub(super) height: u32,
    /// 1 (gray), 3 (colour) or 4 (CMYK).
    pub(super) components: u8,
}

/// Maximum number of scans. Encoders of progressive files usually write ten.
const MAX_SCANS: u32 = 500;

const DAMAGED: DecodeError = DecodeError::Damaged("JPEG");
const TRUNCATED: DecodeError = DecodeError::Truncated("JPEG");

impl Header {
    /// Reads the segments from the start-of-image marker to the first start of scan.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut header = None;
        let mut at = 2;
        loop {
            let (marker, body_at) = next_marker(bytes, at)?;
            at = body_at;
            match marker {
                0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF | 0xDE => {
                    header = Some(frame(marker, segment(bytes, &mut at)?)?);
                }
                0xDA => {
                    segment(bytes, &mut at)?;
                    check_scans(bytes, at)?;
                    return header.ok_or(DAMAGED);
                }
                0xC4 | 0xCC | 0xDB | 0xDC | 0xDD | 0xDF..=0xEF | 0xFE => {
                    segment(bytes, &mut at)?;
                }
                // The tables of this image come from an earlier stream without an image in the same file.
                0xD9 => return Err(DecodeError::Unsupported("JPEG with tables in a separate stream")),
                // Markers without a segment; the decoder checks them.
                0xC8 | 0xD0..=0xD8 | 0xF0..=0xFD => {}
                _ => return Err(DAMAGED),
            }
        }
    }
}

/// Refuses a file with very many scans: each costs a pass over all pixels, however few bytes it has.
fn check_scans(bytes: &[u8], mut at: usize) -> Result<(), DecodeError> {
    let mut scans = 1;
    // Decoding ends where the markers end, too.
    while let Ok((marker, body_at)) = next_marker(bytes, at) {
        at = body_at;
        match marker {
            0x01 | 0xD0..=0xD8 => {}
            0xD9 => return Ok(()),
            _ if segment(bytes, &mut at).is_err() => return Ok(()),
            0xDA => scans += 1,
            _ => {}
        }
        if scans > MAX_SCANS {
            return Err(DecodeError::Unsupported("JPEG with more than 500 scans"));
        }
    }
    Ok(())
}

/// The next marker code at or after `at`, and where its segment starts. Stray bytes and fill bytes are skipped.
fn next_marker(bytes: &[u8], mut at: usize) -> Result<(u8, usize), DecodeError> {
    loop {
        // Most bytes are those of the scans.
        let stray = memchr::memchr(0xFF, bytes.get(at..).unwrap_or_default()).ok_or(TRUNCATED)?;
        at += stray;
        match bytes[at..] {
            [0xFF, 0xFF, ..] => at += 1,
            [0xFF, 0x00, ..] => at += 2,
            [0xFF, code, ..] => return Ok((code, at + 2)),
            _ => return Err(TRUNCATED),
        }
    }
}

/// The segment at `at` without its length field; moves `at` past it.
fn segment<'a>(bytes: &'a [u8], at: &mut usize) -> Result<&'a [u8], DecodeError> {
    let rest = bytes.get(*at..).unwrap_or_default();
    let (length, rest) = rest.split_first_chunk::<2>().ok_or(TRUNCATED)?;
    let length = usize::from(u16::from_be_bytes(*length));
    // A length below 2 does not even cover its own bytes: the body is empty.
    let body = rest.get(..length.saturating_sub(2)).ok_or(TRUNCATED)?;
    *at += 2 + body.len();
    Ok(body)
}

/// A frame header: precision, height, width and the components.
fn frame(marker: u8, body: &[u8]) -> Result<Header, DecodeError> {
    let [precision, h1, h0, w1, w0, components, rest @ ..] = body else {
        return Err(DAMAGED);
    };
    let width = u32::from(u16::from_be_bytes([*w1, *w0]));
    let height = u32::from(u16::from_be_bytes([*h1, *h0]));
    if *precision != 8 {
        return Err(DecodeError::Unsupported("JPEG with other than 8 bits a sample"));
    }
    if !matches!(components, 1 | 3 | 4) {
        return Err(DecodeError::Unsupported("JPEG with other than 1, 3 or 4 components"));
    }
    if marker == 0xC3 {
        return Err(DecodeError::Unsupported("lossless JPEG"));
    }
    if width == 0 || height == 0 || rest.len() % 3 != 0 {
        return Err(DAMAGED);
    }
    Ok(Header { width, height, components: *components })
}
