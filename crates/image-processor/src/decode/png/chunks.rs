//! The chunk stream of a PNG: headers, bodies, CRCs, and the image data that runs through several chunks.

use super::metadata::Metadata;
use super::{DAMAGED, TRUNCATED};
use crate::DecodeError;

/// Pillow hands at most this many bytes to its decoder at once; where a block ends decides whether a wrong checksum at
/// the end of the data is noticed.
const MAX_BLOCK: usize = 65_536;

/// Four letters.
pub(super) type ChunkName = [u8; 4];

/// Reads chunks one after the other.
pub(super) struct ChunkReader<'a> {
    bytes: &'a [u8],
    position: usize,
    /// A header that was read too early and is to be read again.
    pushed: Option<(ChunkName, usize)>,
}

impl<'a> ChunkReader<'a> {
    /// Starts after the eight bytes of the signature.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 8, pushed: None }
    }

    /// Name and length of the next chunk.
    pub(super) fn header(&mut self) -> Result<(ChunkName, usize), DecodeError> {
        if let Some(header) = self.pushed.take() {
            return Ok(header);
        }
        let header = self.take(8);
        let (Some(length), Some(name)) = (header.first_chunk(), header.get(4..).and_then(<[u8]>::first_chunk)) else {
            return Err(TRUNCATED);
        };
        let (length, name): (_, ChunkName) = (u32::from_be_bytes(*length), *name);
        if name.iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            Ok((name, length as usize))
        } else {
            Err(DAMAGED)
        }
    }

    /// The whole body of a chunk.
    pub(super) fn body(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let body = self.take(length);
        if body.len() == length { Ok(body) } else { Err(TRUNCATED) }
    }

    /// Checks the CRC that follows `body`.
    pub(super) fn check_crc(&mut self, name: ChunkName, body: &[u8]) -> Result<(), DecodeError> {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&name);
        crc.update(body);
        if self.take(4) == crc.finalize().to_be_bytes() { Ok(()) } else { Err(DAMAGED) }
    }

    /// Passes over a CRC, or over what is left of it; a pushed header stands behind its CRC already.
    pub(super) fn skip_crc(&mut self) {
        if self.pushed.is_none() {
            self.take(4);
        }
    }

    /// As many of the next `length` bytes as the file has.
    fn take(&mut self, length: usize) -> &'a [u8] {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        let taken = &rest[..length.min(rest.len())];
        self.position += taken.len();
        taken
    }
}

/// The compressed image data, in the blocks in which Pillow reads it.
pub(super) struct ImageData<'r, 'a> {
    reader: &'r mut ChunkReader<'a>,
    metadata: &'r mut Metadata,
    /// Bytes left in the current chunk.
    remaining: usize,
}

impl<'r, 'a> ImageData<'r, 'a> {
    /// Starts inside the first data chunk, of which `remaining` bytes are to come.
    pub(super) fn new(reader: &'r mut ChunkReader<'a>, metadata: &'r mut Metadata, remaining: usize) -> Self {
        Self { reader, metadata, remaining }
    }

    /// The next bytes; an error when there are no more, or when the chunk that comes next is broken.
    pub(super) fn next_block(&mut self) -> Result<&'a [u8], DecodeError> {
        while self.remaining == 0 {
            self.reader.skip_crc();
            let (name, length) = self.reader.header()?;
            self.remaining = match &name {
                b"IDAT" | b"DDAT" => length,
                b"fdAT" => self.metadata.frame_data_length(self.reader, length)?,
                _ => {
                    self.reader.pushed = Some((name, length));
                    return Err(TRUNCATED);
                }
            };
        }
        let wanted = self.remaining.min(MAX_BLOCK);
        self.remaining -= wanted;
        match self.reader.take(wanted) {
            [] => Err(TRUNCATED),
            block => Ok(block),
        }
    }

    /// Leaves the current chunk once the picture is complete.
    pub(super) fn skip_rest(self) {
        self.reader.take(self.remaining);
    }
}
