//! Image data of a PNG to samples: inflating, undoing the filters, unpacking bits, interlacing.
//!
//! Mirrors Pillow's ZIP decoder row by row, because its outcome on damaged data depends on it: the data may end early at
//! the end of a row (what is missing stays zero), and nothing behind the last row is looked at.

use flate2::{Decompress, FlushDecompress, Status};

use super::chunks::ImageData;
use super::metadata::Frame;
use super::{DAMAGED, Layout};
use crate::DecodeError;

/// First column and row, and their steps, of Adam7's passes.
const PASSES: [(usize, usize, usize, usize); 7] =
    [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)];

/// The only pass of a picture that is not interlaced.
const WHOLE: [(usize, usize, usize, usize); 1] = [(0, 0, 1, 1)];

/// The pixels of one stored row, all on one row of the picture.
struct Row {
    first_column: usize,
    column_step: usize,
    y: usize,
    pixels: usize,
    starts_pass: bool,
}

/// Decodes `frame` onto a zeroed canvas (width in pixels, number of pixels): `[height, width, channels]`.
pub(super) fn decode(
    image_data: &mut ImageData,
    layout: Layout,
    frame: Frame,
    (canvas_width, canvas_pixels): (usize, usize),
) -> Result<Vec<u8>, DecodeError> {
    let channels = layout.channels();
    let mut canvas = vec![0; canvas_pixels * channels];
    let mut inflater = Inflater::new(image_data)?;
    let (mut current, mut previous, mut unpacked) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows(frame) {
        let stored = (row.pixels * layout.bits()).div_ceil(8);
        if row.starts_pass {
            previous.clear();
        }
        let ended = inflater.read(&mut current, 1 + stored)?;
        let Some((&mut filter @ 0..=4, samples)) = current.split_first_mut() else { return Err(DAMAGED) };
        unfilter(filter, samples, previous.get(1..).unwrap_or_default(), layout.bits().div_ceil(8));
        unpacked.clear();
        unpack(layout, samples, row.pixels, &mut unpacked);
        let start = (row.y * canvas_width + row.first_column) * channels;
        scatter(&unpacked, &mut canvas[start..], channels, row.column_step);
        if ended {
            break;
        }
        std::mem::swap(&mut current, &mut previous);
    }
    Ok(canvas)
}

fn rows(frame: Frame) -> impl Iterator<Item = Row> + Clone {
    // Pillow forgets the offset of an interlaced frame.
    let (passes, left, top) =
        if frame.interlaced { (PASSES.as_slice(), 0, 0) } else { (&WHOLE[..], frame.left, frame.top) };
    passes.iter().flat_map(move |&(first_column, first_row, column_step, row_step)| {
        let pixels = frame.width.saturating_sub(first_column).div_ceil(column_step);
        let height = if pixels == 0 { 0 } else { frame.height };
        (first_row..height).step_by(row_step).map(move |y| Row {
            first_column: left + first_column,
            column_step,
            y: top + y,
            pixels,
            starts_pass: y == first_row,
        })
    })
}

/// The inflated image data, row after row.
struct Inflater<'i, 'r, 'a> {
    image_data: &'i mut ImageData<'r, 'a>,
    block: &'a [u8],
    stream: Decompress,
}

impl<'i, 'r, 'a> Inflater<'i, 'r, 'a> {
    fn new(image_data: &'i mut ImageData<'r, 'a>) -> Result<Self, DecodeError> {
        let block = image_data.next_block()?;
        Ok(Self { image_data, block, stream: Decompress::new(true) })
    }

    /// Reads a row of `length` bytes; whether the stream ended exactly with it.
    fn read(&mut self, row: &mut Vec<u8>, length: usize) -> Result<bool, DecodeError> {
        row.clear();
        row.resize(length, 0);
        let mut written = 0;
        let mut ended = false;
        while written < length {
            // A row is begun, or goes on, only with input at hand; behind the end of the stream that input is in vain.
            if self.block.is_empty() || ended {
                self.block = self.image_data.next_block()?;
            }
            let (read, total) = (self.stream.total_in(), self.stream.total_out());
            let status = self.stream.decompress(self.block, &mut row[written..], FlushDecompress::None);
            ended = status.map_err(|_| DAMAGED)? == Status::StreamEnd;
            self.block = &self.block[(self.stream.total_in() - read) as usize..];
            written += (self.stream.total_out() - total) as usize;
        }
        Ok(ended)
    }
}

/// Undoes one row's filter; `above` is empty for the first row.
fn unfilter(filter: u8, row: &mut [u8], above: &[u8], pixel_bytes: usize) {
    let up = |i: usize| above.get(i).copied().unwrap_or(0);
    match filter {
        1 => (pixel_bytes..row.len()).for_each(|i| row[i] = row[i].wrapping_add(row[i - pixel_bytes])),
        2 => row.iter_mut().zip(above).for_each(|(value, up)| *value = value.wrapping_add(*up)),
        3 => {
            for i in 0..row.len() {
                let left = if i < pixel_bytes { 0 } else { row[i - pixel_bytes] };
                row[i] = row[i].wrapping_add(left.midpoint(up(i)));
            }
        }
        4 => {
            for i in 0..row.len() {
                let (left, corner) = if i < pixel_bytes { (0, 0) } else { (row[i - pixel_bytes], up(i - pixel_bytes)) };
                row[i] = row[i].wrapping_add(paeth(left, up(i), corner));
            }
        }
        _ => {}
    }
}

fn paeth(left: u8, up: u8, corner: u8) -> u8 {
    let [a, b, c] = [left, up, corner].map(i16::from);
    let (distance_a, distance_b, distance_c) = ((b - c).abs(), (a - c).abs(), (a + b - 2 * c).abs());
    if distance_a <= distance_b && distance_a <= distance_c {
        left
    } else if distance_b <= distance_c {
        up
    } else {
        corner
    }
}

/// Appends the `pixels` of a row in the layout of the bitmap.
fn unpack(layout: Layout, row: &[u8], pixels: usize, out: &mut Vec<u8>) {
    let packed = |bits: usize| {
        let mask = ((1u16 << bits) - 1) as u8;
        (0..pixels).map(move |i| (row[i * bits / 8] >> (8 - bits - i * bits % 8)) & mask)
    };
    match layout {
        Layout::Gray(bits @ (1 | 2 | 4)) => {
            let scale = 255 / ((1u8 << bits) - 1);
            out.extend(packed(bits).map(|value| value * scale));
        }
        Layout::Indexed(bits @ (1 | 2 | 4)) => out.extend(packed(bits)),
        Layout::Gray16 => {
            out.extend(row.chunks_exact(2).map(|pixel| if pixel[0] == 0 { pixel[1] } else { 255 }));
        }
        Layout::GrayAlpha16 => {
            out.extend(row.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[0], pixel[0], pixel[2]]));
        }
        Layout::Rgb16 | Layout::Rgba16 => out.extend(row.iter().step_by(2)),
        _ => out.extend_from_slice(row),
    }
}

/// Puts pixels of `size` bytes on every `step`th place of `out`.
fn scatter(pixels: &[u8], out: &mut [u8], size: usize, step: usize) {
    if step == 1 {
        out[..pixels.len()].copy_from_slice(pixels);
        return;
    }
    for (place, pixel) in out.chunks_mut(size * step).zip(pixels.chunks_exact(size)) {
        place[..size].copy_from_slice(pixel);
    }
}
