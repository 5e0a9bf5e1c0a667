//! BMP's run-length coding of 4 and 8 bits, as Pillow's `BmpRleDecoder` reads it.

use super::TRUNCATED;
use crate::DecodeError;

/// The file from the next code on, and the indices so far.
struct Decoder<'a> {
    bytes: &'a [u8],
    position: usize,
    four_bits: bool,
    width: usize,
    /// Indices of the whole picture.
    pixels: usize,
    data: Vec<u8>,
    /// Column of the next index, as far as runs know.
    x: usize,
}

/// Decodes `pixels` indices from `bytes[start..]`, in file order; `four_bits` tells RLE4 from RLE8.
pub(super) fn decode(
    bytes: &[u8],
    start: usize,
    (width, pixels): (usize, usize),
    four_bits: bool,
) -> Result<Vec<u8>, DecodeError> {
    let position = start.min(bytes.len());
    let mut decoder =
        Decoder { bytes, position, four_bits, width, pixels, data: Vec::with_capacity(pixels + 256), x: 0 };
    while decoder.data.len() < pixels && decoder.code().is_some() {}
    if decoder.data.len() < pixels {
        return Err(TRUNCATED);
    }
    decoder.data.truncate(pixels);
    Ok(decoder.data)
}

impl Decoder<'_> {
    /// Reads one code; `None` at the end.
    fn code(&mut self) -> Option<()> {
        match self.pair()? {
            (0, 0) => {
                self.data.resize(self.data.len().next_multiple_of(self.width), 0);
                self.x = 0;
            }
            (0, 1) => return None,
            (0, 2) => {
                let (right, up) = self.pair()?;
                let skipped = usize::from(right) + usize::from(up) * self.width;
                self.data.resize(self.data.len() + skipped.min(self.missing()), 0);
                self.x = self.data.len() % self.width;
            }
            (0, length) => self.literals(length.into())?,
            (count, value) => {
                // A run does not go beyond its row.
                let count = usize::from(count).min(self.width.saturating_sub(self.x));
                let both = if self.four_bits { [value >> 4, value & 15] } else { [value; 2] };
                self.data.extend(both.iter().cycle().take(count));
                self.x += count;
            }
        }
        Some(())
    }

    /// Indices one by one; `None` when they are the last.
    fn literals(&mut self, length: usize) -> Option<()> {
        let wanted = length.min(self.missing());
        let stored = if self.four_bits { wanted.div_ceil(2) } else { wanted };
        let rest = &self.bytes[self.position..];
        let values = &rest[..stored.min(rest.len())];
        self.position += values.len();
        if self.four_bits {
            self.data.extend(values.iter().flat_map(|byte| [byte >> 4, byte & 15]).take(wanted));
        } else {
            self.data.extend_from_slice(values);
        }
        self.x += length;
        // They end on an even place in the file.
        self.position = (self.position + self.position % 2).min(self.bytes.len());
        (values.len() == stored && self.missing() > 0).then_some(())
    }

    fn pair(&mut self) -> Option<(u8, u8)> {
        let &[first, second] = self.bytes.get(self.position..self.position + 2)? else { return None };
        self.position += 2;
        Some((first, second))
    }

    fn missing(&self) -> usize {
        self.pixels.saturating_sub(self.data.len())
    }
}
