//! GIF's LZW, as Pillow decodes it: what is an error, and that pixels after the last are not looked at.

use super::{DAMAGED, Frame, TRUNCATED};
use crate::DecodeError;

/// Most entries of the string table, and the longest string that is accepted.
const TABLE: usize = 4096;
/// Largest code, in bits.
const MAX_BITS: u32 = 12;
/// Pillow reads the file in blocks of this many bytes; an early end code is fatal only in the last of them.
const READ: usize = 65_536;

/// Bits from the sub-blocks of the image data.
struct Codes<'a> {
    data: &'a [u8],
    position: usize,
    /// End of what has been read so far.
    visible: usize,
    /// Bytes left in the current sub-block.
    block: usize,
    bits: u32,
    bit_count: u32,
}

/// Where the next pixel goes.
struct Cursor<'c> {
    canvas: &'c mut [u8],
    canvas_width: usize,
    width: usize,
    height: usize,
    x: usize,
    y: usize,
    step: usize,
    /// Interlacing passes left after this one, as first rows and steps.
    passes: &'static [(usize, usize)],
}

/// The string table.
struct Table {
    suffix: [u8; TABLE],
    prefix: [u16; TABLE],
    next: usize,
    code_size: u32,
    /// Bits of a literal.
    bits: u32,
}

/// Decodes `data` into the frame's rectangle; `canvas` starts at its first pixel.
pub(super) fn decode(data: &[u8], frame: &Frame, canvas: &mut [u8], canvas_width: usize) -> Result<(), DecodeError> {
    let bits = u32::from(frame.code_bits);
    if bits > MAX_BITS {
        return Err(DAMAGED);
    }
    let mut codes = Codes { data, position: 0, visible: READ.min(data.len()), block: 0, bits: 0, bit_count: 0 };
    let mut cursor = Cursor::new(frame, canvas, canvas_width);
    let mut table = Table { suffix: [0; TABLE], prefix: [0; TABLE], next: 0, code_size: 0, bits };
    table.clear();
    let mut string = Vec::with_capacity(TABLE);
    // First byte of the last string, and its code; none right after a clear code.
    let mut last = None;
    loop {
        let code = codes.next(table.code_size)?;
        if code == table.clear_code() {
            table.clear();
            last = None;
        } else if code == table.clear_code() + 1 {
            // An early end: Pillow goes on with whatever it reads next.
            codes.read_more()?;
        } else {
            let first = table.expand(code, last, &mut string)?;
            if let Some((_, prefix)) = last {
                table.add(first, prefix);
            }
            last = Some((first, code));
            if string.iter().rev().any(|&value| cursor.put(value)) {
                return Ok(());
            }
        }
    }
}

impl Table {
    fn clear_code(&self) -> usize {
        1 << self.bits
    }

    fn clear(&mut self) {
        self.next = self.clear_code() + 2;
        self.code_size = self.bits + 1;
    }

    /// The string of `code`, reversed, into `string`; gives its first byte.
    fn expand(&self, code: usize, last: Option<(u8, usize)>, string: &mut Vec<u8>) -> Result<u8, DecodeError> {
        string.clear();
        let mut code = match last {
            None if code < self.clear_code() => code,
            Some((first, prefix)) if code == self.next => {
                string.push(first);
                prefix
            }
            Some(_) if code < self.next => code,
            _ => return Err(DAMAGED),
        };
        while code >= self.clear_code() {
            if string.len() >= TABLE || code >= TABLE {
                return Err(DAMAGED);
            }
            string.push(self.suffix[code]);
            code = self.prefix[code].into();
        }
        // Literals of more than eight bits lose the upper ones.
        string.push(code as u8);
        Ok(code as u8)
    }

    fn add(&mut self, suffix: u8, prefix: usize) {
        if self.next < TABLE {
            self.suffix[self.next] = suffix;
            self.prefix[self.next] = prefix as u16;
            if self.next == (1 << self.code_size) - 1 && self.code_size < MAX_BITS {
                self.code_size += 1;
            }
            self.next += 1;
        }
    }
}

impl Codes<'_> {
    fn next(&mut self, size: u32) -> Result<usize, DecodeError> {
        while self.bit_count < size {
            if self.block == 0 {
                self.start_block()?;
                continue;
            }
            self.bits |= u32::from(self.data[self.position]) << self.bit_count;
            self.bit_count += 8;
            self.position += 1;
            self.block -= 1;
        }
        let code = self.bits & ((1 << size) - 1);
        self.bits >>= size;
        self.bit_count -= size;
        Ok(code as usize)
    }

    /// A sub-block is begun only when all of it is there. A terminator counts as an empty one.
    fn start_block(&mut self) -> Result<(), DecodeError> {
        loop {
            let rest = &self.data[self.position..self.visible];
            match rest.first() {
                Some(&length) if rest.len() > usize::from(length) => {
                    self.block = length.into();
                    self.position += 1;
                    return Ok(());
                }
                _ => self.read_more()?,
            }
        }
    }

    fn read_more(&mut self) -> Result<(), DecodeError> {
        if self.visible == self.data.len() {
            return Err(TRUNCATED);
        }
        self.visible = (self.visible + READ).min(self.data.len());
        Ok(())
    }
}

impl<'c> Cursor<'c> {
    fn new(frame: &Frame, canvas: &'c mut [u8], canvas_width: usize) -> Self {
        let (step, passes): (usize, &[(usize, usize)]) =
            if frame.interlaced { (8, &[(4, 8), (2, 4), (1, 2)]) } else { (1, &[]) };
        Self { canvas, canvas_width, width: frame.width, height: frame.height, x: 0, y: 0, step, passes }
    }

    /// Writes one pixel; whether it was the last.
    fn put(&mut self, value: u8) -> bool {
        self.canvas[self.y * self.canvas_width + self.x] = value;
        self.x += 1;
        if self.x < self.width {
            return false;
        }
        self.x = 0;
        self.y += self.step;
        while self.y >= self.height {
            let Some((&(first, step), rest)) = self.passes.split_first() else { return true };
            (self.y, self.step, self.passes) = (first, step, rest);
        }
        false
    }
}
