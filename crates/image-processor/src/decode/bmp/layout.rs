//! The pixels of a BMP: how they are packed, and how they become samples.

/// What one stored pixel is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// One bit, black or white.
    Bilevel,
    /// A gray byte.
    Gray,
    /// A palette index of 1, 4 or 8 bits.
    Indexed(usize),
    /// Five bits each of red, green, blue.
    Bgr15,
    /// Five, six and five bits.
    Bgr16,
    /// Bytes: positions of red, green, blue and perhaps alpha, and their number.
    Bytes { positions: [usize; 3], alpha: Option<usize>, size: usize },
}

impl Layout {
    /// Stored bits of one pixel.
    pub(super) fn bits(self) -> usize {
        match self {
            Self::Bilevel => 1,
            Self::Gray => 8,
            Self::Indexed(bits) => bits,
            Self::Bgr15 | Self::Bgr16 => 16,
            Self::Bytes { size, .. } => size * 8,
        }
    }

    /// Bytes of one pixel in the bitmap.
    pub(super) fn channels(self) -> usize {
        match self {
            Self::Bilevel | Self::Gray | Self::Indexed(_) => 1,
            Self::Bytes { alpha: Some(_), .. } => 4,
            _ => 3,
        }
    }

    /// Appends the `width` pixels of a row.
    pub(super) fn unpack(self, row: &[u8], width: usize, out: &mut Vec<u8>) {
        match self {
            Self::Bilevel => out.extend((0..width).map(|x| if row[x / 8] & (0x80 >> (x % 8)) == 0 { 0 } else { 255 })),
            Self::Gray | Self::Indexed(8) => out.extend_from_slice(row),
            Self::Indexed(bits) => {
                let mask = (1u8 << bits) - 1;
                out.extend((0..width).map(|x| (row[x * bits / 8] >> (8 - bits - x * bits % 8)) & mask));
            }
            Self::Bgr15 => out.extend(row.chunks_exact(2).flat_map(|pixel| unpack_fields(pixel, 5, 10))),
            Self::Bgr16 => out.extend(row.chunks_exact(2).flat_map(|pixel| unpack_fields(pixel, 6, 11))),
            Self::Bytes { positions, alpha, size } => {
                for pixel in row.chunks_exact(size) {
                    out.extend(positions.map(|at| pixel[at]));
                    out.extend(alpha.map(|at| pixel[at]));
                }
            }
        }
    }
}

/// A 16-bit pixel; green has `green_bits`, red starts at `red_shift`.
fn unpack_fields(pixel: &[u8], green_bits: u32, red_shift: u32) -> [u8; 3] {
    let pixel = u32::from(u16::from_le_bytes([pixel[0], pixel[1]]));
    let green = (1 << green_bits) - 1;
    [
        (((pixel >> red_shift) & 31) * 255 / 31) as u8,
        (((pixel >> 5) & green) * 255 / green) as u8,
        ((pixel & 31) * 255 / 31) as u8,
    ]
}
