//! The walk over a JPEG's segments up to the first scan, as Pillow does it before its decoder sees a byte.
//!
//! Pillow refuses some files here that the C decoder would take (and the other way round), so both must agree. The walk
//! keeps only what the decoder needs to know beforehand: the size and the number of components.

use crate::error::DecodeError;

/// What the segments before the first scan say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Pixels in a row, >= 1.
    pub(super) width: u32,
    /// Rows, >= 1.
    pub(super) height: u32,
    /// 1 (gray), 3 (colour) or 4 (CMYK).
    pub(super) components: u8,
}

/// Ten are usual in a progressive file; no encoder comes near this.
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
                0xDB => quantisation_tables(segment(bytes, &mut at)?)?,
                0xE0..=0xEF => application(marker, segment(bytes, &mut at)?)?,
                0xC4 | 0xCC | 0xDC | 0xDD | 0xDF | 0xFE => {
                    segment(bytes, &mut at)?;
                }
                // The tables of this picture come from an earlier, picture-less stream in the same file.
                0xD9 => return Err(DecodeError::Unsupported("JPEG with tables in a stream of their own")),
                // Markers without a segment; the decoder judges them.
                0xC8 | 0xD0..=0xD8 | 0xF0..=0xFD => {}
                _ => return Err(DAMAGED),
            }
        }
    }
}

/// Refuses a file with a great many scans. Each costs a pass over all pixels, however few bytes it has.
fn check_scans(bytes: &[u8], mut at: usize) -> Result<(), DecodeError> {
    let mut scans = 1;
    // What ends the walk early ends decoding, too.
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

/// The segment at `at` without its length field; moves `at` behind it.
fn segment<'a>(bytes: &'a [u8], at: &mut usize) -> Result<&'a [u8], DecodeError> {
    let rest = bytes.get(*at..).unwrap_or_default();
    let (length, rest) = rest.split_first_chunk::<2>().ok_or(TRUNCATED)?;
    let length = usize::from(u16::from_be_bytes(*length));
    // A length below 2 counts less than itself: nothing follows.
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

/// Whether a segment of quantisation tables holds whole tables only.
fn quantisation_tables(mut body: &[u8]) -> Result<(), DecodeError> {
    while let Some(&first) = body.first() {
        let length = if first >> 4 == 0 { 1 + 64 } else { 1 + 128 };
        body = body.get(length..).ok_or(DAMAGED)?;
    }
    Ok(())
}

/// The application segments whose fields Pillow reads without looking whether they are there.
fn application(marker: u8, body: &[u8]) -> Result<(), DecodeError> {
    let too_short = match marker {
        0xE0 => body.starts_with(b"JFIF") && body.len() < 7,
        0xED => body.starts_with(b"Photoshop 3.0\0") && ends_inside_a_resource(body),
        0xEE => body.starts_with(b"Adobe") && body.len() < 7,
        _ => false,
    };
    if too_short { Err(DAMAGED) } else { Ok(()) }
}

/// Whether Photoshop's image resources end where the length of a resource's name should be.
fn ends_inside_a_resource(body: &[u8]) -> bool {
    let mut at = 14;
    while body.get(at..).is_some_and(|rest| rest.starts_with(b"8BIM")) {
        // Without the two bytes of its code Pillow stops reading and keeps the image.
        let Some(code) = body.get(at + 4..at + 6) else {
            return false;
        };
        let Some(&name_length) = body.get(at + 6) else {
            return true;
        };
        at = (at + 7 + usize::from(name_length)).next_multiple_of(2);
        let Some(size) = body.get(at..).and_then(|rest| rest.first_chunk::<4>()) else {
            return false;
        };
        let size = usize::try_from(u32::from_be_bytes(*size)).unwrap_or(usize::MAX);
        // The resource with the resolution needs 14 bytes; Pillow stops reading at a shorter one.
        if code == [0x03, 0xED] && size.min(body.len().saturating_sub(at + 4)) < 14 {
            return false;
        }
        // A size larger than what is there ends the loop, as there is no further resource then.
        at = at.saturating_add(4).saturating_add(size);
        at = at.checked_next_multiple_of(2).unwrap_or(usize::MAX);
    }
    false
}
