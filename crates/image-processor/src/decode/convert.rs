//! Pillow's image modes and their way to RGB.
//!
//! A decoder fills a [`Bitmap`] in the mode that Pillow would open the file with; `into_rgb` then does what `convert("RGB")`
//! or, for the white policy, `convert("RGBA")` and `alpha_composite` on white do, with Pillow's integer arithmetic.
//! It knows nothing of file formats.

use super::AlphaPolicy;
use crate::{DecodeError, RgbImage};

/// 256 RGBA entries; those that a file does not define are opaque black, as in Pillow.
pub(super) struct Palette([[u8; 4]; 256]);

/// Order of the bytes of one stored palette entry.
#[derive(Clone, Copy)]
pub(super) enum PaletteOrder {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
    /// Blue, green, red, one byte ignored.
    Bgrx,
}

/// What makes some entries of a palette transparent.
pub(super) enum PaletteAlpha {
    /// Nothing does.
    Opaque,
    /// One fully transparent entry.
    Index(usize),
    /// The alpha of the first entries, in order.
    Table(Vec<u8>),
}

/// Samples, row-major, interleaved.
pub(super) enum Pixels {
    /// Modes 1 (0 or 255), L and I;16 (clipped to 255); `key` is the gray that stands for transparent.
    Gray { data: Vec<u8>, key: Option<u8> },
    /// Mode LA.
    GrayAlpha(Vec<u8>),
    /// Mode RGB; `key` is the colour that stands for transparent.
    Rgb { data: Vec<u8>, key: Option<[u8; 3]> },
    /// Mode RGBA.
    Rgba(Vec<u8>),
    /// Mode P.
    Indexed { data: Vec<u8>, palette: Box<Palette>, alpha: PaletteAlpha },
}

/// A decoded image in one of Pillow's modes.
pub(super) struct Bitmap {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) pixels: Pixels,
}

impl Palette {
    /// Reads as many whole entries as `bytes` holds; `None` when there are more than 256.
    pub(super) fn new(bytes: &[u8], order: PaletteOrder) -> Option<Box<Self>> {
        let size = if matches!(order, PaletteOrder::Bgrx) { 4 } else { 3 };
        let entries = bytes.chunks_exact(size).map(|entry| match order {
            PaletteOrder::Rgb => [entry[0], entry[1], entry[2], 255],
            PaletteOrder::Bgr | PaletteOrder::Bgrx => [entry[2], entry[1], entry[0], 255],
        });
        Self::from_entries(entries)
    }

    /// Collects up to 256 entries; `None` when there are more.
    pub(super) fn from_entries(entries: impl ExactSizeIterator<Item = [u8; 4]>) -> Option<Box<Self>> {
        let mut palette = Box::new(Self([[0, 0, 0, 255]; 256]));
        if entries.len() > palette.0.len() {
            return None;
        }
        for (slot, entry) in palette.0.iter_mut().zip(entries) {
            *slot = entry;
        }
        Some(palette)
    }

    /// Index and alpha pairs as RGBA.
    pub(super) fn expand_with_alpha(&self, pairs: &[u8]) -> Vec<u8> {
        let (pairs, _) = pairs.as_chunks::<2>();
        let colour = |&[index, alpha]: &[u8; 2]| {
            let [r, g, b, _] = self.0[usize::from(index)];
            [r, g, b, alpha]
        };
        pairs.iter().flat_map(colour).collect()
    }

    /// Sets the alpha; `false` when it names an entry beyond the 256th, which Pillow refuses.
    fn set_alpha(&mut self, alpha: &PaletteAlpha) -> bool {
        match alpha {
            PaletteAlpha::Opaque => true,
            PaletteAlpha::Index(index) => match self.0.get_mut(*index) {
                Some(entry) => {
                    entry[3] = 0;
                    true
                }
                None => false,
            },
            PaletteAlpha::Table(table) => {
                for (entry, &alpha) in self.0.iter_mut().zip(table) {
                    entry[3] = alpha;
                }
                table.len() <= self.0.len()
            }
        }
    }
}

impl Bitmap {
    /// The RGB image that Pillow makes of this one, or `None` where its conversion raises.
    pub(super) fn into_rgb(self, policy: AlphaPolicy) -> Option<RgbImage> {
        let white = policy == AlphaPolicy::White;
        let data = match self.pixels {
            Pixels::Gray { data, key } => gray_to_rgb(&data, key.filter(|_| white)),
            Pixels::GrayAlpha(data) => {
                map_pixels(&data, |&[v, a]: &[u8; 2]| if white { on_white([v, v, v, a]) } else { [v, v, v] })
            }
            Pixels::Rgb { mut data, key } => {
                if let Some(key) = key.filter(|_| white) {
                    let (pixels, _) = data.as_chunks_mut::<3>();
                    pixels.iter_mut().filter(|pixel| **pixel == key).for_each(|pixel| *pixel = [255; 3]);
                }
                data
            }
            Pixels::Rgba(data) => {
                map_pixels(&data, |&[r, g, b, a]: &[u8; 4]| if white { on_white([r, g, b, a]) } else { [r, g, b] })
            }
            Pixels::Indexed { data, mut palette, alpha } => {
                if white && !palette.set_alpha(&alpha) {
                    return None;
                }
                let colours = palette.0.map(on_white);
                map_pixels(&data, |&[index]: &[u8; 1]| colours[usize::from(index)])
            }
        };
        Some(RgbImage { width: self.width, height: self.height, data })
    }
}

/// `width * height` as a number of pixels within the limit.
pub(super) fn checked_pixels(width: u32, height: u32, limit: u64, format: &'static str) -> Result<usize, DecodeError> {
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 {
        return Err(DecodeError::Damaged(format));
    }
    if pixels > limit {
        return Err(DecodeError::TooManyPixels { pixels, limit });
    }
    usize::try_from(pixels).map_err(|_| DecodeError::TooManyPixels { pixels, limit })
}

fn gray_to_rgb(data: &[u8], key: Option<u8>) -> Vec<u8> {
    map_pixels(data, |&[v]: &[u8; 1]| if Some(v) == key { [255; 3] } else { [v; 3] })
}

fn map_pixels<const N: usize>(data: &[u8], convert: impl Fn(&[u8; N]) -> [u8; 3]) -> Vec<u8> {
    let (pixels, _) = data.as_chunks::<N>();
    let mut rgb = Vec::with_capacity(pixels.len() * 3);
    rgb.extend(pixels.iter().flat_map(convert));
    rgb
}

/// One pixel composited on opaque white, as Pillow's `alpha_composite` rounds it: 7 extra bits, division by 255 by shifts.
fn on_white([r, g, b, a]: [u8; 4]) -> [u8; 3] {
    let source = u32::from(a) << 7;
    let white = 255 * (u32::from(255 - a) << 7);
    [r, g, b].map(|value| {
        let sum = u32::from(value) * source + white + (0x80 << 7);
        ((((sum >> 8) + sum) >> 8) >> 7) as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `Image.alpha_composite(white, Image.new("RGBA", (1, 1), pixel))` of Pillow 13.0.0.
    const COMPOSITED: [([u8; 4], [u8; 3]); 9] = [
        ([0, 0, 0, 0], [255, 255, 255]),
        ([10, 20, 30, 0], [255, 255, 255]),
        ([10, 20, 30, 255], [10, 20, 30]),
        ([255, 0, 128, 1], [255, 254, 255]),
        ([1, 2, 3, 127], [128, 129, 129]),
        ([200, 100, 50, 128], [227, 177, 152]),
        ([0, 255, 77, 254], [1, 255, 78]),
        ([13, 240, 99, 200], [65, 243, 133]),
        ([99, 98, 97, 51], [224, 224, 223]),
    ];

    #[test]
    fn composites_on_white_as_pillow_rounds() {
        for (pixel, expected) in COMPOSITED {
            assert_eq!(on_white(pixel), expected, "{pixel:?}");
        }
    }

    #[test]
    fn refuses_a_palette_index_that_cannot_be_transparent() {
        for alpha in [PaletteAlpha::Index(256), PaletteAlpha::Table(vec![0; 257])] {
            let palette = Palette::new(&[1, 2, 3], PaletteOrder::Rgb).unwrap();
            let pixels = Pixels::Indexed { data: vec![0], palette, alpha };
            assert!(Bitmap { width: 1, height: 1, pixels }.into_rgb(AlphaPolicy::White).is_none());
        }
    }
}
