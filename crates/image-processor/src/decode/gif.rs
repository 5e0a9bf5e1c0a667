//! The first frame of a GIF on its canvas, through the `gif` crate, which `image` uses too.
//!
//! `image` leaves the canvas around the frame transparent and cuts a frame at the screen's edges. Pillow grows the screen to
//! hold the frame and fills the rest with the transparent index, or index 0, whatever the background colour is.

use std::io::{ErrorKind, Read};
use std::num::NonZeroU64;

use gif::{DecodeOptions, Decoder, DecodingError, MemoryLimit};

use super::bitmap::{Bitmap, Palette, Pixels};
use crate::error::DecodeError;
use crate::options::DecodeLimits;

const DAMAGED: DecodeError = DecodeError::Damaged("GIF");
const TRUNCATED: DecodeError = DecodeError::Truncated("GIF");
/// Length of the signature and the logical screen descriptor.
const HEADER: usize = 13;
/// The flag for a global colour table, and the size of one of 256 entries.
const COLOUR_TABLE: u8 = 0x80;
const LARGEST_TABLE: u8 = 7;

/// Decodes a file that starts with a GIF signature.
pub(super) fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<Bitmap, DecodeError> {
    let (header, rest) = bytes.split_first_chunk::<HEADER>().ok_or(TRUNCATED)?;
    let mut header = *header;
    let mut default_table = &[][..];
    if header[10] & COLOUR_TABLE == 0 {
        // Without any colour table Pillow interprets indices as grays.
        header[10] |= COLOUR_TABLE | LARGEST_TABLE;
        default_table = GRAYS.as_flattened();
    }
    let mut options = DecodeOptions::new();
    options.allow_unknown_blocks(true);
    // Metadata may be as long as the file; pixels are read into a buffer made here.
    options.set_memory_limit(NonZeroU64::new(bytes.len() as u64).map_or(MemoryLimit::Unlimited, MemoryLimit::Bytes));
    let mut decoder = options.read_info(header.chain(default_table).chain(rest))?;
    read_frame(&mut decoder, limits)
}

/// Every gray as a colour.
static GRAYS: [[u8; 3]; 256] = {
    let mut grays = [[0; 3]; 256];
    let mut gray = 0;
    while gray < 256 {
        grays[gray] = [gray as u8; 3];
        gray += 1;
    }
    grays
};

fn read_frame<R: Read>(decoder: &mut Decoder<R>, limits: &DecodeLimits) -> Result<Bitmap, DecodeError> {
    let screen = (decoder.width(), decoder.height());
    let frame = decoder.next_frame_info()?.ok_or(TRUNCATED)?.clone();
    let [left, top, frame_width, frame_height] = [frame.left, frame.top, frame.width, frame.height].map(usize::from);
    let width = (left + frame_width).max(screen.0.into());
    let height = (top + frame_height).max(screen.1.into());
    let pixels = limits.check(width as u32, height as u32, "GIF")?;
    if frame_width == 0 || frame_height == 0 {
        return Err(DAMAGED);
    }
    let mut stored = vec![0; frame_width * frame_height];
    decoder.read_into_buffer(&mut stored)?;
    let indices = if stored.len() == pixels {
        stored
    } else {
        let mut canvas = vec![frame.transparent.unwrap_or(0); pixels];
        let rows = canvas.chunks_exact_mut(width).skip(top);
        for (row, stored) in rows.zip(stored.chunks_exact(frame_width)) {
            row[left..left + frame_width].copy_from_slice(stored);
        }
        canvas
    };
    // Pillow ignores a table in which entry `i` is gray `i`, even if it belongs to the frame.
    let tables = [frame.palette.as_deref(), decoder.global_palette()].into_iter().flatten();
    let colours = tables.map(|table| table.as_chunks().0).find(|table| !GRAYS.starts_with(table)).unwrap_or(&GRAYS);
    let mut palette = Palette::new(colours.iter().copied());
    if let Some(index) = frame.transparent {
        palette.make_transparent(index);
    }
    Ok(Bitmap { width: width as u32, height: height as u32, pixels: Pixels::Indexed { indices, palette } })
}

impl From<DecodingError> for DecodeError {
    fn from(error: DecodingError) -> Self {
        match error {
            DecodingError::UnexpectedEof => TRUNCATED,
            DecodingError::Io(error) if error.kind() == ErrorKind::UnexpectedEof => TRUNCATED,
            _ => DAMAGED,
        }
    }
}
