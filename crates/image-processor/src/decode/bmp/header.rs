//! The headers of a BMP, and what they say of its pixels and palette.

use super::TRUNCATED;
use super::layout::Layout;
use crate::DecodeError;

/// The fields that matter.
pub(super) struct Header {
    pub(super) width: u32,
    pub(super) height: u32,
    /// The first row is the uppermost.
    pub(super) top_down: bool,
    /// Stored bits of a pixel.
    pub(super) bits: u16,
    pub(super) compression: u32,
    /// Entries of the palette.
    pub(super) colours: u64,
    /// Bytes of a palette entry.
    pub(super) entry_size: usize,
    /// Red, green, blue and alpha of bit fields.
    masks: [u32; 4],
    /// Where the palette starts.
    pub(super) end: usize,
    /// Where the pixels start; 0 when the file does not say.
    pub(super) pixels: u64,
}

impl Header {
    /// Reads the header of the file and that of the bitmap.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        let size = le32(bytes, 14)? as usize;
        let mut header = match size {
            12 => Self::core(bytes)?,
            40 | 52 | 56 | 64 | 108 | 124 => Self::info(bytes)?,
            _ => return Err(DecodeError::Unsupported("BMP with an unknown kind of header")),
        };
        header.end = 14 + size;
        bytes.get(..header.end).ok_or(TRUNCATED)?;
        header.pixels = le32(bytes, 10)?.into();
        if header.colours == 0 {
            header.colours = 1u64.checked_shl(header.bits.into()).unwrap_or(u64::MAX);
        }
        if header.pixels == header.end as u64 && header.bits <= 8 {
            // The offset leaves out the palette.
            header.pixels += header.colours * header.entry_size as u64;
        }
        if header.compression == 3 {
            // The masks are part of the longer headers; after a header of 40 bytes they follow it, without alpha.
            let alpha = if size >= 56 { le32(bytes, 66)? } else { 0 };
            header.masks = [le32(bytes, 54)?, le32(bytes, 58)?, le32(bytes, 62)?, alpha];
            header.end += if size == 40 { 12 } else { 0 };
        }
        Ok(header)
    }

    /// The header of OS/2 1.x.
    fn core(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self {
            width: le16(bytes, 18)?.into(),
            height: le16(bytes, 20)?.into(),
            bits: le16(bytes, 24)?,
            entry_size: 3,
            top_down: false,
            compression: 0,
            colours: 0,
            masks: [0; 4],
            end: 0,
            pixels: 0,
        })
    }

    /// The header of Windows in any of its versions.
    fn info(bytes: &[u8]) -> Result<Self, DecodeError> {
        let height = le32(bytes, 22)?;
        // Pillow takes a height for negative by its uppermost byte alone.
        let top_down = height >> 24 == 0xff;
        Ok(Self {
            width: le32(bytes, 18)?,
            height: if top_down { height.wrapping_neg() } else { height },
            top_down,
            bits: le16(bytes, 28)?,
            compression: le32(bytes, 30)?,
            colours: le32(bytes, 46)?.into(),
            entry_size: 4,
            masks: [0; 4],
            end: 0,
            pixels: 0,
        })
    }

    /// Whether the pixels are RLE8 or RLE4.
    pub(super) fn is_run_length(&self) -> bool {
        matches!(self.compression, 1 | 2)
    }

    /// What a pixel is according to depth, compression and masks.
    pub(super) fn layout(&self) -> Result<Layout, DecodeError> {
        if !matches!(self.bits, 1 | 4 | 8 | 16 | 24 | 32) {
            return Err(DecodeError::Unsupported("BMP of this depth"));
        }
        match (self.compression, self.bits) {
            (0..=2, 1 | 4 | 8) => Ok(Layout::Indexed(self.bits.into())),
            (0..=2, 16) => Ok(Layout::Bgr15),
            (0..=2, _) => Ok(bytes([2, 1, 0], None, usize::from(self.bits / 8))),
            (3, _) => self.bit_fields().ok_or(DecodeError::Unsupported("BMP with these bit fields")),
            (4, _) => Err(DecodeError::Unsupported("BMP with JPEG compression")),
            (5, _) => Err(DecodeError::Unsupported("BMP with PNG compression")),
            _ => Err(DecodeError::Unsupported("BMP with an unknown compression")),
        }
    }

    /// The masks that Pillow knows.
    fn bit_fields(&self) -> Option<Layout> {
        Some(match (self.bits, self.masks) {
            (16, [0xf800, 0x07e0, 0x1f, _]) => Layout::Bgr16,
            (16, [0x7c00, 0x03e0, 0x1f, _]) => Layout::Bgr15,
            (24, [0xff_0000, 0xff00, 0xff, _]) => bytes([2, 1, 0], None, 3),
            (32, [0xff_0000, 0xff00, 0xff, 0]) => bytes([2, 1, 0], None, 4),
            (32, [0xff00_0000, 0xff_0000, 0xff00, 0]) => bytes([3, 2, 1], None, 4),
            (32, [0xff00_0000, 0xff00, 0xff, 0]) => bytes([3, 1, 0], None, 4),
            (32, [0xff00_0000, 0xff_0000, 0xff00, 0xff]) => bytes([3, 2, 1], Some(0), 4),
            (32, [0xff, 0xff00, 0xff_0000, 0xff00_0000]) => bytes([0, 1, 2], Some(3), 4),
            (32, [0xff_0000, 0xff00, 0xff, 0xff00_0000] | [0, 0, 0, 0]) => bytes([2, 1, 0], Some(3), 4),
            (32, [0xff00_0000, 0xff00, 0xff, 0xff_0000]) => bytes([3, 1, 0], Some(2), 4),
            _ => return None,
        })
    }

    /// The palette as far as the file has it; none beyond 8 bits a pixel.
    pub(super) fn stored_palette<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let rest = bytes.get(self.end..).unwrap_or_default();
        let length = if self.bits <= 8 { (self.colours as usize).saturating_mul(self.entry_size) } else { 0 };
        &rest[..rest.len().min(length)]
    }

    /// Whether entry `i` is gray `i`, or the palette is black and white.
    pub(super) fn has_gray_palette(&self, stored: &[u8]) -> bool {
        (0..self.colours as usize).all(|index| {
            let gray = if self.colours == 2 && index == 1 { 255 } else { index as u8 };
            let at = index * self.entry_size;
            stored.get(at..at + 3) == Some(&[gray; 3])
        })
    }
}

fn bytes(positions: [usize; 3], alpha: Option<usize>, size: usize) -> Layout {
    Layout::Bytes { positions, alpha, size }
}

fn le16(bytes: &[u8], at: usize) -> Result<u16, DecodeError> {
    match bytes.get(at..at + 2) {
        Some(&[a, b]) => Ok(u16::from_le_bytes([a, b])),
        _ => Err(TRUNCATED),
    }
}

fn le32(bytes: &[u8], at: usize) -> Result<u32, DecodeError> {
    match bytes.get(at..at + 4) {
        Some(&[a, b, c, d]) => Ok(u32::from_le_bytes([a, b, c, d])),
        _ => Err(TRUNCATED),
    }
}
