//! The first frame of a GIF on its canvas, as Pillow's `GifImageFile` gives it.
//!
//! The canvas is the logical screen, grown where the frame reaches beyond it; around the frame it shows the transparent
//! index, or index 0: Pillow does not look at the background colour here. The LZW decoder mirrors Pillow's, which decides
//! what becomes of damaged data.

mod lzw;

use super::DecodeLimits;
use super::convert::{Bitmap, Palette, PaletteAlpha, PaletteOrder, Pixels, checked_pixels};
use crate::DecodeError;

const DAMAGED: DecodeError = DecodeError::Damaged("GIF");
const TRUNCATED: DecodeError = DecodeError::Truncated("GIF");

/// Bytes read one after the other.
struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

/// A frame's place, and where its data starts.
struct Frame {
    left: usize,
    top: usize,
    width: usize,
    height: usize,
    interlaced: bool,
    /// Bits of a colour index, from the byte before the data.
    code_bits: u8,
}

/// A colour table as far as Pillow distinguishes them.
enum ColourTable<'a> {
    Missing,
    /// Entry `i` is the gray `i`, so that indices are used as grays.
    Gray,
    Colours(&'a [u8]),
}

/// Decodes a file that starts with a GIF signature.
pub(super) fn decode(bytes: &[u8], limits: DecodeLimits) -> Result<Bitmap, DecodeError> {
    let mut reader = Reader { bytes, position: 6 };
    let (screen_width, screen_height) = (reader.u16()?, reader.u16()?);
    let flags = reader.byte()?;
    reader.exactly(2)?;
    let global = if flags & 0x80 == 0 { ColourTable::Missing } else { reader.colour_table(flags)? };
    let transparent = reader.seek_frame()?;
    let (frame, local) = reader.frame_header()?;
    let width = (frame.left + frame.width).max(screen_width.into());
    let height = (frame.top + frame.height).max(screen_height.into());
    let pixels = checked_pixels(width as u32, height as u32, limits.max_pixels, "GIF")?;
    if frame.width == 0 || frame.height == 0 {
        return Err(DAMAGED);
    }
    let mut canvas = vec![transparent.unwrap_or(0); pixels];
    let start = frame.top * width + frame.left;
    lzw::decode(&bytes[reader.position..], &frame, &mut canvas[start..], width)?;
    let pixels = match (&local, &global) {
        (ColourTable::Colours(colours), _) | (ColourTable::Missing, ColourTable::Colours(colours)) => {
            let palette = Palette::new(colours, PaletteOrder::Rgb).ok_or(DAMAGED)?;
            let alpha = transparent.map_or(PaletteAlpha::Opaque, |index| PaletteAlpha::Index(index.into()));
            Pixels::Indexed { data: canvas, palette, alpha }
        }
        // Pillow applies the global colours to the gray frame after all, and then cannot handle its transparency.
        (ColourTable::Gray, ColourTable::Colours(colours)) => {
            let palette = Palette::new(colours, PaletteOrder::Rgb).ok_or(DAMAGED)?;
            let alpha = transparent.map_or(PaletteAlpha::Opaque, |_| PaletteAlpha::Index(usize::MAX));
            Pixels::Indexed { data: canvas, palette, alpha }
        }
        _ => Pixels::Gray { data: canvas, key: transparent },
    };
    Ok(Bitmap { width: width as u32, height: height as u32, pixels })
}

impl<'a> Reader<'a> {
    /// As many of the next `length` bytes as there are.
    fn up_to(&mut self, length: usize) -> &'a [u8] {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        let taken = &rest[..length.min(rest.len())];
        self.position += taken.len();
        taken
    }

    fn exactly(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let taken = self.up_to(length);
        if taken.len() == length { Ok(taken) } else { Err(TRUNCATED) }
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        Ok(self.exactly(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        let bytes = self.exactly(2)?;
        Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    /// The colour table whose size is in the low bits of `flags`.
    fn colour_table(&mut self, flags: u8) -> Result<ColourTable<'a>, DecodeError> {
        let table = self.exactly(3 << ((flags & 7) + 1))?;
        let gray = (0u8..=255).zip(table.chunks_exact(3)).all(|(i, entry)| entry == [i; 3]);
        Ok(if gray { ColourTable::Gray } else { ColourTable::Colours(table) })
    }

    /// The next sub-block: `None` at a terminator or the end of the file, and shorter than announced just before it.
    fn sub_block(&mut self) -> Option<&'a [u8]> {
        match self.up_to(1) {
            [] | [0] => None,
            length => Some(self.up_to(length[0].into())),
        }
    }

    fn skip_sub_blocks(&mut self) {
        while self.sub_block().is_some_and(|block| !block.is_empty()) {}
    }

    /// Reads extensions up to the first frame; gives the transparent index, if any.
    fn seek_frame(&mut self) -> Result<Option<u8>, DecodeError> {
        let mut transparent = None;
        loop {
            match self.up_to(1) {
                [] => return Err(TRUNCATED),
                b";" => return Err(DAMAGED),
                b"," => return Ok(transparent),
                b"!" => {
                    if let Some(index) = self.extension()? {
                        transparent = Some(index);
                    }
                }
                // Anything else between blocks is passed over.
                _ => {}
            }
        }
    }

    /// Reads one extension; a graphic control may name a transparent index.
    fn extension(&mut self) -> Result<Option<u8>, DecodeError> {
        let label = self.byte()?;
        let block = self.sub_block();
        let mut transparent = None;
        match (label, block) {
            (0xf9, Some(block)) => {
                let flags = *block.first().ok_or(TRUNCATED)?;
                if flags & 1 != 0 {
                    transparent = Some(*block.get(3).ok_or(TRUNCATED)?);
                }
                block.get(1..3).ok_or(TRUNCATED)?;
            }
            // A comment ends with its terminator; for the others Pillow reads on even when it has met it already.
            (0xfe, None | Some([])) => return Ok(None),
            (0xff, Some(block)) if block.starts_with(b"NETSCAPE2.0") => {
                self.sub_block();
            }
            _ => {}
        }
        self.skip_sub_blocks();
        Ok(transparent)
    }

    /// Reads a frame's descriptor, colour table and code size; leaves the reader at its data.
    fn frame_header(&mut self) -> Result<(Frame, ColourTable<'a>), DecodeError> {
        let [left, top, width, height] = [self.u16()?, self.u16()?, self.u16()?, self.u16()?].map(usize::from);
        let flags = self.byte()?;
        let table = if flags & 0x80 == 0 { ColourTable::Missing } else { self.colour_table(flags)? };
        let code_bits = self.byte()?;
        Ok((Frame { left, top, width, height, interlaced: flags & 0x40 != 0, code_bits }, table))
    }
}
