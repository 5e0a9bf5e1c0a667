//! The samples of a TIFF as they are stored, through the `tiff` crate.
//!
//! It refuses palettes and mishandles extra samples, but reads any number of samples of an image tagged as gray. So
//! the tags that describe the samples are changed in a copy of the file; `Layout` has their original values.

use std::io::Cursor;

use tiff::decoder::{Decoder, Limits};
use tiff::tags::Tag;

use super::directory::Directory;
use super::error::{DAMAGED, TRUNCATED};
use super::layout::{Compression, Layout};
use crate::error::DecodeError;

/// Photometric interpretation: zero is black.
const BLACK_IS_ZERO: u16 = 1;
/// Predictors: none, and differences between neighbours.
const NO_PREDICTOR: u16 = 1;
const HORIZONTAL_PREDICTOR: u16 = 2;
/// Pixels of a tile that may be larger than its image.
const LARGEST_SMALL_TILE: usize = 1 << 22;

/// The size of the image.
pub(super) struct Size {
    pub(super) width: usize,
    pub(super) height: usize,
    /// Width x height, which is within the limit.
    pub(super) pixels: usize,
}

/// Reads the samples that count, interleaved: `[height, width, channels]`.
pub(super) fn read(
    bytes: &[u8],
    directory: Directory,
    tags: &mut Decoder<Cursor<&[u8]>>,
    layout: &Layout,
    size: &Size,
) -> Result<Vec<u8>, DecodeError> {
    let has_predictor = matches!(layout.compression, Compression::Deflate | Compression::Lzw);
    match tags.find_tag_unsigned(Tag::Predictor).map_err(|_| DAMAGED)? {
        None | Some(NO_PREDICTOR | HORIZONTAL_PREDICTOR) => {}
        Some(_) if !has_predictor => {}
        Some(_) => return Err(DecodeError::Unsupported("TIFF with this predictor")),
    }
    let mut file = bytes.to_vec();
    // Pillow reads uncompressed planes as they are.
    let is_plain = layout.planar && layout.compression == Compression::None;
    prepare_segments(&mut file, tags, layout, layout.reversed && !is_plain)?;
    directory.replace(&mut file, Tag::PhotometricInterpretation, BLACK_IS_ZERO);
    if !has_predictor {
        // libtiff has none with other compressions.
        directory.replace(&mut file, Tag::Predictor, NO_PREDICTOR);
    }
    let mut samples = decode(file, layout, size)?;
    if layout.inverted && !is_plain {
        for sample in &mut samples {
            *sample = !*sample;
        }
    }
    Ok(samples)
}

fn decode(file: Vec<u8>, layout: &Layout, size: &Size) -> Result<Vec<u8>, DecodeError> {
    let channels = layout.kind.channels();
    let mut limits = Limits::default();
    limits.decoding_buffer_size = size.pixels * layout.samples;
    limits.intermediate_buffer_size = file.len();
    let mut decoder = Decoder::new(Cursor::new(file))?.with_limits(limits);
    if layout.planar {
        let mut samples = vec![0; size.pixels * channels];
        for channel in 0..channels {
            read_plane(&mut decoder, size, channel, &mut samples, channels)?;
        }
        return Ok(samples);
    }
    let mut stored = vec![0; size.pixels * layout.samples];
    decoder.read_image_bytes(&mut stored)?;
    if layout.samples == channels {
        return Ok(stored);
    }
    Ok(stored.chunks_exact(layout.samples).flat_map(|pixel| &pixel[..channels]).copied().collect())
}

/// Reads the plane of one channel, chunk by chunk: `tiff` assumes whole tiles at the edges of all planes but the first.
fn read_plane(
    decoder: &mut Decoder<Cursor<Vec<u8>>>,
    size: &Size,
    channel: usize,
    samples: &mut [u8],
    channels: usize,
) -> Result<(), DecodeError> {
    let (chunk_width, chunk_height) = decoder.chunk_dimensions();
    let (chunk_width, chunk_height) = (chunk_width as usize, chunk_height as usize);
    let (across, down) = (size.width.div_ceil(chunk_width), size.height.div_ceil(chunk_height));
    let mut chunk = Vec::new();
    for number in 0..across * down {
        let (left, top) = (number % across * chunk_width, number / across * chunk_height);
        let index = (channel * across * down + number) as u32;
        let (stored_width, stored_height) = decoder.chunk_data_dimensions(index);
        let stored = (stored_width as usize).saturating_mul(stored_height as usize);
        if stored > size.pixels.max(LARGEST_SMALL_TILE) {
            return Err(DAMAGED);
        }
        chunk.resize(stored, 0);
        decoder.read_chunk_bytes(index, &mut chunk)?;
        for (y, row) in (top..size.height).zip(chunk.chunks_exact(stored_width as usize)) {
            let pixels = samples[(y * size.width + left) * channels..].iter_mut().skip(channel).step_by(channels);
            pixels.take(size.width - left).zip(row).for_each(|(sample, stored)| *sample = *stored);
        }
    }
    Ok(())
}

/// Refuses LZW of before TIFF 6, and reverses the bits of strips and tiles in `file` if `reversed`.
fn prepare_segments(
    file: &mut [u8],
    tags: &mut Decoder<Cursor<&[u8]>>,
    layout: &Layout,
    reversed: bool,
) -> Result<(), DecodeError> {
    let mut list = |strips, tiles| {
        let strips = tags.find_tag_unsigned_vec::<u64>(strips).map_err(|_| DAMAGED)?;
        strips.map_or_else(|| tags.find_tag_unsigned_vec(tiles).map_err(|_| DAMAGED), |strips| Ok(Some(strips)))
    };
    let offsets = list(Tag::StripOffsets, Tag::TileOffsets)?.unwrap_or_default();
    let counts = list(Tag::StripByteCounts, Tag::TileByteCounts)?.unwrap_or_default();
    for (&offset, &count) in offsets.iter().zip(&counts) {
        let segment = usize::try_from(offset).ok().and_then(|offset| file.get_mut(offset..)).ok_or(TRUNCATED)?;
        let length = segment.len().min(usize::try_from(count).unwrap_or(usize::MAX));
        if reversed {
            segment[..length].iter_mut().for_each(|byte| *byte = byte.reverse_bits());
        }
        if layout.compression == Compression::Lzw && matches!(segment, [0, second, ..] if *second & 1 == 1) {
            return Err(DecodeError::Unsupported("TIFF with LZW compression of before TIFF 6"));
        }
    }
    Ok(())
}
