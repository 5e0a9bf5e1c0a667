//! Pillow's image modes and their conversion to RGB.
//!
//! A decoder fills a [`Bitmap`] in the mode in which Pillow opens the file. `into_rgb` then does what `convert("RGB")` does
//! or, for the white policy, `convert("RGBA")` and `alpha_composite` on white, with Pillow's integer arithmetic.
//! This module knows nothing of file formats.

use crate::options::AlphaPolicy;
use crate::rgb_image::RgbImage;

/// 256 RGBA entries; those that a file does not define are opaque black, as in Pillow.
pub(super) struct Palette(Box<[[u8; 4]; 256]>);

/// Samples, row-major, interleaved.
pub(super) enum Pixels {
    /// Modes 1 (0 or 255), L and I;16 (clipped to 255); `key` is the gray that means transparent.
    Gray { samples: Vec<u8>, key: Option<u8> },
    /// Mode LA.
    GrayAlpha(Vec<u8>),
    /// Mode RGB; `key` is the colour that means transparent.
    Rgb { samples: Vec<u8>, key: Option<[u8; 3]> },
    /// Mode RGBA.
    Rgba(Vec<u8>),
    /// Mode P.
    Indexed { indices: Vec<u8>, palette: Palette },
}

/// A decoded image in one of Pillow's modes.
pub(super) struct Bitmap {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) pixels: Pixels,
}

impl Palette {
    /// Opaque colours; those after the 256th are ignored.
    pub(super) fn new(colours: impl IntoIterator<Item = [u8; 3]>) -> Self {
        let mut palette = Self(Box::new([[0, 0, 0, 255]; 256]));
        for (entry, [r, g, b]) in palette.0.iter_mut().zip(colours) {
            *entry = [r, g, b, 255];
        }
        palette
    }

    /// Sets the alpha of the first entries, in order.
    pub(super) fn set_alpha(&mut self, alpha: &[u8]) {
        for (entry, &alpha) in self.0.iter_mut().zip(alpha) {
            entry[3] = alpha;
        }
    }

    /// Makes one entry fully transparent.
    pub(super) fn make_transparent(&mut self, index: u8) {
        self.0[usize::from(index)][3] = 0;
    }

    /// Pairs of index and alpha as RGBA.
    pub(super) fn expand_with_alpha(&self, pairs: &[u8]) -> Vec<u8> {
        let (pairs, _) = pairs.as_chunks::<2>();
        let colour = |&[index, alpha]: &[u8; 2]| {
            let [r, g, b, _] = self.0[usize::from(index)];
            [r, g, b, alpha]
        };
        pairs.iter().flat_map(colour).collect()
    }
}

impl Bitmap {
    /// The RGB image that Pillow makes of this one.
    pub(super) fn into_rgb(self, policy: AlphaPolicy) -> RgbImage {
        let white = policy == AlphaPolicy::White;
        let flatten = move |rgba: [u8; 4]| {
            let [r, g, b, _] = rgba;
            if white { on_white(rgba) } else { [r, g, b] }
        };
        let data = match self.pixels {
            Pixels::Gray { samples, key } => {
                let key = key.filter(|_| white);
                map_pixels(&samples, |&[v]| if Some(v) == key { [255; 3] } else { [v; 3] })
            }
            Pixels::GrayAlpha(samples) => map_pixels(&samples, |&[v, a]| flatten([v, v, v, a])),
            Pixels::Rgb { mut samples, key } => {
                if let Some(key) = key.filter(|_| white) {
                    let (pixels, _) = samples.as_chunks_mut::<3>();
                    pixels.iter_mut().filter(|pixel| **pixel == key).for_each(|pixel| *pixel = [255; 3]);
                }
                samples
            }
            Pixels::Rgba(samples) => map_pixels(&samples, |&rgba| flatten(rgba)),
            Pixels::Indexed { indices, palette } => {
                let colours = palette.0.map(flatten);
                map_pixels(&indices, |&[index]| colours[usize::from(index)])
            }
        };
        RgbImage { width: self.width, height: self.height, data }
    }
}

fn map_pixels<const N: usize>(samples: &[u8], convert: impl Fn(&[u8; N]) -> [u8; 3]) -> Vec<u8> {
    let (pixels, _) = samples.as_chunks::<N>();
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
    fn pads_a_short_palette_with_opaque_black() {
        let palette = Palette::new([[1, 2, 3]]);
        let pixels = Pixels::Indexed { indices: vec![0, 1, 255], palette };
        let rgb = Bitmap { width: 3, height: 1, pixels }.into_rgb(AlphaPolicy::White);
        assert_eq!(rgb.data, [1, 2, 3, 0, 0, 0, 0, 0, 0]);
    }
}
