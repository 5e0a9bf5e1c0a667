//! Strips and tiles of a TIFF onto the canvas.
//!
//! Uncompressed ones as Pillow's own reader takes them: rows are read straight from the file, a missing strip leaves zeros,
//! and byte counts do not matter. Compressed ones as libtiff takes them: every strip has to be there, complete.

use super::ifd::{Ifd, tag};
use super::layout::{Kind, Layout};
use super::{Canvas, DAMAGED, TRUNCATED, codec};
use crate::DecodeError;
use crate::decode::DecodeLimits;
use crate::decode::convert::checked_pixels;

/// A part of the picture, and the samples that go there.
struct Segment<'s> {
    place: Place,
    width: usize,
    height: usize,
    /// Starts at the first row.
    stored: &'s [u8],
    /// Bytes from row to row.
    stride: usize,
}

/// Where a segment goes.
#[derive(Clone, Copy)]
struct Place {
    left: usize,
    top: usize,
    /// The sample of a pixel that is stored there, or all.
    plane: Option<usize>,
}

/// Width and height of a segment; a strip is as wide as the picture.
struct Size {
    width: usize,
    height: usize,
    tiled: bool,
}

/// Reads all segments.
pub(super) fn read(
    bytes: &[u8],
    ifd: &Ifd,
    layout: &Layout,
    limits: DecodeLimits,
    canvas: &mut Canvas,
) -> Result<(), DecodeError> {
    match layout.compression {
        None => read_uncompressed(bytes, ifd, layout, canvas),
        Some(_) if !ifd.regular => Err(DAMAGED),
        Some(_) => {
            let size = Size::for_libtiff(ifd, canvas, limits)?;
            read_compressed(bytes, ifd, layout, &size, canvas)
        }
    }
}

fn read_uncompressed(bytes: &[u8], ifd: &Ifd, layout: &Layout, canvas: &mut Canvas) -> Result<(), DecodeError> {
    let (offsets, size) = Size::for_pillow(ifd, canvas)?;
    let whole = size.width == canvas.width && size.height == canvas.height && !layout.planar;
    let offsets = if whole { &offsets[offsets.len().saturating_sub(1)..] } else { &offsets[..] };
    let mut placed = places(offsets, layout, canvas, &size)?;
    // Where segments overlap, the one that comes last in the file wins.
    placed.sort_by_key(|&(offset, _)| offset);
    for (offset, place) in placed {
        let width = size.width.min(canvas.width - place.left);
        let height = size.height.min(canvas.height - place.top);
        let used = width * if layout.planar { 1 } else { layout.samples };
        let stride = match () {
            () if place.left + size.width <= canvas.width => used,
            // Pillow's arithmetic, which is right where all samples are accounted for.
            () if layout.planar => size.width * layout.counted / layout.expected,
            () => size.width * layout.samples,
        };
        let stored = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).ok_or(TRUNCATED)?;
        if stride < used {
            return Err(DAMAGED);
        }
        if stored.len() < stride * (height - 1) + used {
            return Err(TRUNCATED);
        }
        Segment { place, width, height, stored, stride }.copy(layout, canvas, true);
    }
    Ok(())
}

/// The place of each segment, in the order of the offsets.
fn places(offsets: &[i64], layout: &Layout, canvas: &Canvas, size: &Size) -> Result<Vec<(i64, Place)>, DecodeError> {
    let (mut left, mut top, mut plane) = (0, 0, 0);
    // Pillow reads single planes of opaque colours and of straight alpha only.
    let planes = match layout.kind {
        Kind::Gray | Kind::Rgb | Kind::Palette => layout.counted,
        Kind::Rgba { premultiplied: false } if layout.counted == 4 => 4,
        _ => 0,
    };
    let mut placed = Vec::with_capacity(offsets.len());
    for &offset in offsets {
        if layout.planar && plane >= planes {
            return Err(DAMAGED);
        }
        placed.push((offset, Place { left, top, plane: layout.planar.then_some(plane) }));
        left += size.width;
        if left >= canvas.width {
            (left, top) = (0, top + size.height);
            if top >= canvas.height {
                (top, plane) = (0, plane + 1);
            }
        }
    }
    Ok(placed)
}

fn read_compressed(
    bytes: &[u8],
    ifd: &Ifd,
    layout: &Layout,
    size: &Size,
    canvas: &mut Canvas,
) -> Result<(), DecodeError> {
    let planes = if layout.planar { planes_for_libtiff(layout)? } else { 1 };
    let row = size.width * if layout.planar { 1 } else { layout.samples };
    let (across, down) = (canvas.width.div_ceil(size.width), canvas.height.div_ceil(size.height));
    let total = across * down * if layout.planar { layout.samples } else { 1 };
    let data = codec::Segments::new(bytes, ifd, layout, total, size.tiled)?;
    let mut decoded = vec![0; size.height * row];
    for top in (0..canvas.height).step_by(size.height) {
        let height = size.height.min(canvas.height - top);
        // The last strip has just the rows that are left, the last tile is a whole one.
        let stored = &mut decoded[..row * if size.tiled { size.height } else { height }];
        for plane in 0..planes {
            for left in (0..canvas.width).step_by(size.width) {
                let index = (plane * down + top / size.height) * across + left / size.width;
                data.decode(index, stored, row)?;
                let place = Place { left, top, plane: (planes > 1).then_some(plane) };
                let width = size.width.min(canvas.width - left);
                Segment { place, width, height, stored, stride: row }.copy(layout, canvas, false);
            }
        }
    }
    Ok(())
}

/// How many planes count. A single channel is read from the first, whatever follows.
fn planes_for_libtiff(layout: &Layout) -> Result<usize, DecodeError> {
    match layout.kind {
        Kind::GrayAlpha | Kind::PaletteAlpha => {
            // Pillow puts the alpha where it does not look for it.
            Err(DecodeError::Unsupported("TIFF with a separate plane of alpha"))
        }
        Kind::Rgba { .. } if layout.counted != 4 => Err(DAMAGED),
        kind => Ok(kind.channels()),
    }
}

impl Size {
    /// The offsets, and the size of the segments that they are of, as Pillow finds them.
    fn for_pillow(ifd: &Ifd, canvas: &Canvas) -> Result<(Vec<i64>, Self), DecodeError> {
        let (offsets, size) = if let Some(offsets) = ifd.values(tag::STRIP_OFFSETS)? {
            (offsets, Self::strip(ifd, canvas)?)
        } else {
            (ifd.values(tag::TILE_OFFSETS)?.ok_or(DAMAGED)?, Self::tile(ifd)?)
        };
        if size.width == 0 || size.height == 0 { Err(DAMAGED) } else { Ok((offsets, size)) }
    }

    /// The size of the segments as libtiff finds it.
    fn for_libtiff(ifd: &Ifd, canvas: &Canvas, limits: DecodeLimits) -> Result<Self, DecodeError> {
        let mut size = if ifd.has(tag::TILE_WIDTH) || ifd.has(tag::TILE_LENGTH) {
            Self::tile(ifd)?
        } else {
            Self::strip(ifd, canvas)?
        };
        if !size.tiled {
            size.height = size.height.min(canvas.height);
        }
        // A tile may be larger than a small picture.
        let limit = limits.max_pixels.max(1 << 22);
        checked_pixels(size.width as u32, size.height as u32, limit, "TIFF")?;
        Ok(size)
    }

    fn tile(ifd: &Ifd) -> Result<Self, DecodeError> {
        let (width, height) = (ifd.size(tag::TILE_WIDTH)?, ifd.size(tag::TILE_LENGTH)?);
        Ok(Self { width: width as usize, height: height as usize, tiled: true })
    }

    fn strip(ifd: &Ifd, canvas: &Canvas) -> Result<Self, DecodeError> {
        let rows = ifd.value(tag::ROWS_PER_STRIP)?.map_or(Ok(canvas.height), usize::try_from);
        Ok(Self { width: canvas.width, height: rows.map_err(|_| DAMAGED)?, tiled: false })
    }
}

impl Segment<'_> {
    /// Copies the samples that count. `raw` tells Pillow's reader from libtiff, which handles the bit order itself.
    fn copy(&self, layout: &Layout, canvas: &mut Canvas, raw: bool) {
        let channels = canvas.channels;
        // Pillow reads a single plane as it is.
        let plain = raw && layout.planar;
        let (inverted, reversed) = (layout.inverted && !plain, layout.reversed && raw && !plain);
        let stored = if layout.planar { 1 } else { layout.samples };
        let (first, copied) = self.place.plane.map_or((0, channels.min(stored)), |plane| (plane, 1));
        for row in 0..self.height {
            let source = &self.stored[row * self.stride..][..self.width * stored];
            let start = ((self.place.top + row) * canvas.width + self.place.left) * channels;
            let target = &mut canvas.data[start..][..self.width * channels];
            for (pixel, place) in source.chunks_exact(stored).zip(target.chunks_exact_mut(channels)) {
                for (value, place) in pixel[..copied].iter().zip(&mut place[first..]) {
                    let value = if reversed { value.reverse_bits() } else { *value };
                    *place = if inverted { !value } else { value };
                }
            }
        }
    }
}
