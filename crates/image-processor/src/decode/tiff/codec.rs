//! Compressed strips and tiles: where their bytes are, and what libtiff makes of them.
//!
//! A segment is decoded whole or not at all: libtiff reports one that is too short or damaged, and Pillow then refuses
//! the file. What follows the bytes that are needed is not looked at.

use std::borrow::Cow;

use flate2::{Decompress, FlushDecompress, Status};

use super::ifd::{Ifd, tag};
use super::layout::{Compression, Layout};
use super::{DAMAGED, TRUNCATED, lzw};
use crate::DecodeError;

/// The compressed segments of a file.
pub(super) struct Segments<'a> {
    bytes: &'a [u8],
    offsets: Vec<i64>,
    /// Bytes of each segment; empty where the only one goes to the end of the file.
    counts: Vec<i64>,
    compression: Compression,
    reversed: bool,
    /// Distance of the samples that horizontal differencing adds up.
    difference: Option<usize>,
}

impl<'a> Segments<'a> {
    /// Reads the tags that place `total` segments.
    pub(super) fn new(
        bytes: &'a [u8],
        ifd: &Ifd,
        layout: &Layout,
        total: usize,
        tiled: bool,
    ) -> Result<Self, DecodeError> {
        let either = |first, second| Ok(if ifd.has(first) { ifd.values(first)? } else { ifd.values(second)? });
        // libtiff takes the tags of strips and tiles for the same.
        let offsets = either(tag::STRIP_OFFSETS, tag::TILE_OFFSETS)?.ok_or(DAMAGED)?;
        let mut counts = either(tag::STRIP_BYTE_COUNTS, tag::TILE_BYTE_COUNTS)?.unwrap_or_default();
        let single = if layout.planar { total == layout.samples } else { total == 1 };
        if counts.is_empty() && !single {
            return Err(DAMAGED);
        }
        if counts == [0] && total == 1 && !tiled {
            counts.clear();
        }
        let compression = layout.compression.ok_or(DAMAGED)?;
        let difference = match (compression, ifd.value(tag::PREDICTOR)?) {
            (Compression::PackBits, _) | (_, None | Some(1)) => None,
            (_, Some(2)) => Some(if layout.planar { 1 } else { layout.samples }),
            _ => return Err(DecodeError::Unsupported("TIFF with this predictor")),
        };
        Ok(Self { bytes, offsets, counts, compression, reversed: layout.reversed, difference })
    }

    /// Fills `out` from the segment of that number; `row` is the length of its rows.
    pub(super) fn decode(&self, index: usize, out: &mut [u8], row: usize) -> Result<(), DecodeError> {
        let stored = self.stored(index)?;
        let stored = if self.reversed {
            Cow::Owned(stored.iter().map(|byte| byte.reverse_bits()).collect::<Vec<_>>())
        } else {
            Cow::Borrowed(stored)
        };
        let complete = match self.compression {
            Compression::Lzw => lzw::decode(&stored, out),
            Compression::Deflate => inflate(&stored, out),
            Compression::PackBits => unpack_bits(&stored, out),
        };
        if !complete {
            return Err(DAMAGED);
        }
        if let Some(distance) = self.difference {
            for row in out.chunks_exact_mut(row) {
                (distance..row.len()).for_each(|i| row[i] = row[i].wrapping_add(row[i - distance]));
            }
        }
        Ok(())
    }

    fn stored(&self, index: usize) -> Result<&'a [u8], DecodeError> {
        let offset = self.offsets.get(index).and_then(|&offset| usize::try_from(offset).ok()).ok_or(DAMAGED)?;
        let rest = self.bytes.get(offset..).ok_or(TRUNCATED)?;
        if self.counts.is_empty() {
            return Ok(rest);
        }
        match self.counts.get(index).map(|&count| usize::try_from(count)) {
            Some(Ok(count @ 1..)) => rest.get(..count).ok_or(TRUNCATED),
            _ => Err(DAMAGED),
        }
    }
}

/// Whether a zlib stream fills `out`.
fn inflate(stored: &[u8], out: &mut [u8]) -> bool {
    let mut stream = Decompress::new(true);
    loop {
        let (read, written) = (stream.total_in() as usize, stream.total_out() as usize);
        let status = stream.decompress(&stored[read..], &mut out[written..], FlushDecompress::None);
        let filled = stream.total_out() as usize == out.len();
        let advanced = (stream.total_in() as usize, stream.total_out() as usize) != (read, written);
        match status {
            Ok(_) if filled => return true,
            Ok(Status::Ok) if advanced => {}
            _ => return false,
        }
    }
}

/// Whether runs and literals fill `out`; the last of them may be longer.
fn unpack_bits(mut stored: &[u8], out: &mut [u8]) -> bool {
    let mut position = 0;
    while position < out.len() {
        let Some((&header, rest)) = stored.split_first() else { return false };
        let room = out.len() - position;
        match header {
            128 => stored = rest,
            129.. => {
                let Some((&value, rest)) = rest.split_first() else { return false };
                let length = (257 - usize::from(header)).min(room);
                out[position..position + length].fill(value);
                (position, stored) = (position + length, rest);
            }
            _ => {
                let length = (1 + usize::from(header)).min(room);
                let Some((values, rest)) = rest.split_at_checked(length) else { return false };
                out[position..position + length].copy_from_slice(values);
                (position, stored) = (position + length, rest);
            }
        }
    }
    true
}
