//! The header and the first directory of a TIFF, read as leniently as Pillow does.
//!
//! Entries of unknown type, with data outside the file, or repeated are passed over; a directory that breaks off keeps
//! what came before. Values are only interpreted when asked for.

use std::collections::BTreeMap;

use super::{DAMAGED, TRUNCATED};
use crate::DecodeError;

/// Numbers of the tags that matter.
pub(super) mod tag {
    pub(in super::super) const WIDTH: u16 = 256;
    pub(in super::super) const LENGTH: u16 = 257;
    pub(in super::super) const BITS_PER_SAMPLE: u16 = 258;
    pub(in super::super) const COMPRESSION: u16 = 259;
    pub(in super::super) const PHOTOMETRIC: u16 = 262;
    pub(in super::super) const FILL_ORDER: u16 = 266;
    pub(in super::super) const STRIP_OFFSETS: u16 = 273;
    pub(in super::super) const ORIENTATION: u16 = 274;
    pub(in super::super) const SAMPLES_PER_PIXEL: u16 = 277;
    pub(in super::super) const ROWS_PER_STRIP: u16 = 278;
    pub(in super::super) const STRIP_BYTE_COUNTS: u16 = 279;
    pub(in super::super) const PLANAR_CONFIGURATION: u16 = 284;
    pub(in super::super) const PREDICTOR: u16 = 317;
    pub(in super::super) const COLOUR_MAP: u16 = 320;
    pub(in super::super) const TILE_WIDTH: u16 = 322;
    pub(in super::super) const TILE_LENGTH: u16 = 323;
    pub(in super::super) const TILE_OFFSETS: u16 = 324;
    pub(in super::super) const TILE_BYTE_COUNTS: u16 = 325;
    pub(in super::super) const EXTRA_SAMPLES: u16 = 338;
    pub(in super::super) const SAMPLE_FORMAT: u16 = 339;
    pub(in super::super) const XMP: u16 = 700;
    pub(in super::super) const MEDIA_PHOTO: u16 = 0xbc01;
}

/// Sets the files apart that Pillow opens as TIFF, those with swapped magic numbers included.
pub(in super::super) fn is_tiff(bytes: &[u8]) -> bool {
    matches!(bytes.first_chunk(), Some(b"MM\0*" | b"II*\0" | b"MM*\0" | b"II\0*" | b"MM\0+" | b"II+\0"))
}

/// The first directory.
pub(super) struct Ifd<'a> {
    /// Type and data of each tag.
    entries: BTreeMap<u16, (u16, &'a [u8])>,
    big_endian: bool,
    /// Whether libtiff takes header and directory, too: none of the tags it needs breaks off.
    pub(super) regular: bool,
}

/// What precedes the orientation in XMP.
const XMP_ORIENTATION: &[u8] = b"tiff:Orientation";

/// libtiff reads no longer directories.
const MAX_ENTRIES: u64 = 4096;

/// Further tags that libtiff has to be able to read.
const SEGMENTS: [u16; 7] = [
    tag::BITS_PER_SAMPLE,
    tag::COMPRESSION,
    tag::STRIP_OFFSETS,
    tag::STRIP_BYTE_COUNTS,
    tag::TILE_OFFSETS,
    tag::TILE_BYTE_COUNTS,
    tag::EXTRA_SAMPLES,
];

/// Tags that libtiff has to be able to read, with a single value.
const DIMENSIONS: [u16; 7] = [
    tag::WIDTH,
    tag::LENGTH,
    tag::SAMPLES_PER_PIXEL,
    tag::ROWS_PER_STRIP,
    tag::PLANAR_CONFIGURATION,
    tag::TILE_WIDTH,
    tag::TILE_LENGTH,
];

/// Reads numbers in the byte order of the file.
struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
    big_endian: bool,
}

impl<'a> Ifd<'a> {
    /// Reads header and directory.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let big_endian = bytes.starts_with(b"MM");
        // Pillow looks at the third byte, so that it does not see the mark of a big-endian BigTIFF.
        let big = bytes.get(2) == Some(&b'+');
        let mut reader = Reader { bytes, position: if big { 8 } else { 4 }, big_endian };
        let offset = reader.number(if big { 8 } else { 4 }).ok_or(TRUNCATED)?;
        if offset == 0 {
            return Err(DAMAGED);
        }
        reader.position = usize::try_from(offset).map_err(|_| TRUNCATED)?;
        let regular = matches!(bytes.first_chunk(), Some(b"MM\0*" | b"II*\0" | b"II+\0"));
        let mut ifd = Self { entries: BTreeMap::new(), big_endian, regular };
        ifd.read_entries(&mut reader, big);
        let samples = ifd.value(tag::SAMPLES_PER_PIXEL)?.and_then(|count| usize::try_from(count).ok()).unwrap_or(1);
        let uniform = |tag| match ifd.values(tag) {
            Ok(values) => values.unwrap_or_default().iter().take(samples).is_sorted_by(|a, b| a == b),
            Err(_) => false,
        };
        ifd.regular &= DIMENSIONS.iter().all(|&tag| !ifd.has(tag) || ifd.is_single(tag))
            && uniform(tag::BITS_PER_SAMPLE)
            && uniform(tag::COMPRESSION)
            && ifd.value(tag::PLANAR_CONFIGURATION)?.is_none_or(|value| value == 1 || value == 2)
            && (!big || bytes.get(4..8) == Some(&[8, 0, 0, 0]));
        Ok(ifd)
    }

    fn read_entries(&mut self, reader: &mut Reader<'a>, big: bool) {
        let count = reader.number(if big { 8 } else { 2 }).unwrap_or(0);
        let available = reader.bytes.len().saturating_sub(reader.position) as u64;
        self.regular &= count <= MAX_ENTRIES.min(available / if big { 20 } else { 12 });
        let mut data_size = 0;
        for _ in 0..count {
            if self.read_entry(reader, big, &mut data_size).is_none() {
                break;
            }
        }
    }

    /// Reads one entry; `None` where the directory breaks off. `data_size` adds up the data that lies elsewhere.
    fn read_entry(&mut self, reader: &mut Reader<'a>, big: bool, data_size: &mut u64) -> Option<()> {
        let word = if big { 8 } else { 4 };
        let (tag, kind) = (reader.number(2)? as u16, reader.number(2)? as u16);
        let count = reader.number(word)?;
        let value = reader.take(word)?;
        if self.entries.contains_key(&tag) {
            return Some(());
        }
        let size = count.saturating_mul(unit_size(kind));
        let data = if size <= word as u64 {
            Some(&value[..size as usize])
        } else {
            let offset = Reader { bytes: value, position: 0, big_endian: reader.big_endian }.number(word)?;
            // More data than the file has, counted over all entries, is passed over; data beyond its end breaks it off.
            *data_size = data_size.saturating_add(size);
            if offset > i64::MAX as u64 || *data_size > reader.bytes.len() as u64 {
                Some(&[][..])
            } else {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                reader.bytes.get(start..).and_then(|data| data.get(..size as usize))
            }
        };
        match data {
            Some(data @ [_, ..]) => drop(self.entries.insert(tag, (kind, data))),
            _ => self.regular &= !(DIMENSIONS.contains(&tag) || SEGMENTS.contains(&tag)),
        }
        data.map(drop)
    }

    /// All values of a tag of integers; an error if it has another type.
    pub(super) fn values(&self, tag: u16) -> Result<Option<Vec<i64>>, DecodeError> {
        let Some(&(kind, data)) = self.entries.get(&tag) else { return Ok(None) };
        let size = match kind {
            6 => 1,
            3 | 8 => 2,
            4 | 9 | 13 => 4,
            16 => 8,
            _ => return Err(DAMAGED),
        };
        let mut reader = Reader { bytes: data, position: 0, big_endian: self.big_endian };
        let mut values = Vec::with_capacity(data.len() / size);
        while let Some(number) = reader.number(size) {
            values.push(match kind {
                6 => i64::from(number as i8),
                8 => i64::from(number as i16),
                9 => i64::from(number as i32),
                _ => i64::try_from(number).map_err(|_| DAMAGED)?,
            });
        }
        Ok(Some(values))
    }

    /// The first value of a tag.
    pub(super) fn value(&self, tag: u16) -> Result<Option<i64>, DecodeError> {
        Ok(self.values(tag)?.and_then(|values| values.first().copied()))
    }

    /// A dimension that has to be there.
    pub(super) fn size(&self, tag: u16) -> Result<u32, DecodeError> {
        u32::try_from(self.value(tag)?.ok_or(DAMAGED)?).map_err(|_| DAMAGED)
    }

    /// Whether a tag is there.
    pub(super) fn has(&self, tag: u16) -> bool {
        self.entries.contains_key(&tag)
    }

    /// Whether a tag has just one value, of a type that libtiff accepts.
    fn is_single(&self, tag: u16) -> bool {
        let offset = self.entries.get(&tag).is_some_and(|&(kind, _)| kind == 13);
        !offset && matches!(self.values(tag).as_ref().map(Option::as_deref), Ok(Some([_])))
    }

    /// The orientation, 1 to 8; from XMP where the tag is missing, as Pillow has it.
    pub(super) fn orientation(&self) -> i64 {
        if self.has(tag::ORIENTATION) {
            return self.value(tag::ORIENTATION).ok().flatten().unwrap_or(1);
        }
        let xmp = self.entries.get(&tag::XMP).map_or(&[][..], |(_, data)| data);
        xmp.windows(XMP_ORIENTATION.len())
            .enumerate()
            .filter(|(_, window)| *window == XMP_ORIENTATION)
            .find_map(|(at, _)| {
                let rest = &xmp[at + XMP_ORIENTATION.len()..];
                let digit = *rest.strip_prefix(b"=\"").or_else(|| rest.strip_prefix(b">"))?.first()?;
                digit.is_ascii_digit().then(|| i64::from(digit - b'0'))
            })
            .unwrap_or(1)
    }
}

/// Bytes of one value; 0 for a type that is unknown.
fn unit_size(kind: u16) -> u64 {
    match kind {
        1 | 2 | 6 | 7 => 1,
        3 | 8 => 2,
        4 | 9 | 11 | 13 => 4,
        5 | 10 | 12 | 16 => 8,
        _ => 0,
    }
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.position..)?.get(..length)?;
        self.position += length;
        Some(taken)
    }

    /// An unsigned number of up to eight bytes.
    fn number(&mut self, size: usize) -> Option<u64> {
        let bytes = self.take(size)?;
        let push = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        Some(if self.big_endian { bytes.iter().fold(0, push) } else { bytes.iter().rev().fold(0, push) })
    }
}
