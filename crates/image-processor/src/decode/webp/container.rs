//! The RIFF container of a WebP file: the canvas, and where the first frame is.
//!
//! Only what leads to the first frame is read: chunks with an unknown name are skipped, and what follows is not read.

use ::webp::BitstreamFeatures;

use crate::error::DecodeError;
use crate::options::DecodeLimits;

const DAMAGED: DecodeError = DecodeError::Damaged("WebP");
const ANIMATION_FLAG: u8 = 0x02;
const ALPHA_FLAG: u8 = 0x10;
/// Length of the header of a RIFF file.
const RIFF_HEADER: usize = 12;
/// Length of the name and the size of a chunk.
const CHUNK_HEADER: usize = 8;

/// One frame: its place on the canvas, and the chunks that libwebp decodes.
pub(super) struct Frame<'a> {
    pub(super) left: u32,
    pub(super) top: u32,
    pub(super) width: u32,
    pub(super) height: u32,
    /// The image chunk, with the alpha chunk before it if there is one.
    pub(super) fragment: &'a [u8],
}

/// The contents of the extended header.
struct Canvas {
    flags: u8,
    width: u32,
    height: u32,
}

/// One chunk of the file.
struct Chunk<'a> {
    name: &'a [u8],
    body: &'a [u8],
    /// Header, body and padding.
    whole: &'a [u8],
}

/// The chunks of an image.
struct Image<'a> {
    /// The one with alpha, if there is one, and the one with the colours.
    fragment: &'a [u8],
    /// The one with the colours.
    colours: &'a [u8],
}

/// Width and height of the canvas, and the first frame.
pub(super) fn first_frame<'a>(bytes: &'a [u8], limits: &DecodeLimits) -> Result<(u32, u32, Frame<'a>), DecodeError> {
    let size = bytes.get(4..).and_then(<[u8]>::first_chunk).ok_or(DAMAGED)?;
    let end = (u32::from_le_bytes(*size) as usize).saturating_add(8);
    let chunks = bytes.get(..end).ok_or(DecodeError::Truncated("WebP"))?.get(RIFF_HEADER..).ok_or(DAMAGED)?;
    let (first, rest) = Chunk::split(chunks)?;
    if first.name == b"VP8X" {
        let header: &[u8; 10] = first.body.first_chunk().ok_or(DAMAGED)?;
        let canvas = Canvas { flags: header[0], width: 1 + le24(&header[4..]), height: 1 + le24(&header[7..]) };
        limits.check(canvas.width, canvas.height, "WebP")?;
        let frame = canvas.first_frame(rest)?;
        return Ok((canvas.width, canvas.height, frame));
    }
    let fragment = Image::read(chunks)?.colours;
    let (width, height) = size_of(fragment)?;
    Ok((width, height, Frame { left: 0, top: 0, width, height, fragment }))
}

impl Canvas {
    fn first_frame<'a>(&self, mut chunks: &'a [u8]) -> Result<Frame<'a>, DecodeError> {
        let is_animated = self.flags & ANIMATION_FLAG != 0;
        loop {
            let (chunk, rest) = Chunk::split(chunks)?;
            match chunk.name {
                b"ANMF" if is_animated => return self.animation_frame(chunk.body),
                b"ALPH" | b"VP8 " | b"VP8L" if !is_animated => return self.still(&Image::read(chunks)?),
                _ => chunks = rest,
            }
        }
    }

    /// The image of a file that is not an animation; it fills the canvas.
    fn still<'a>(&self, image: &Image<'a>) -> Result<Frame<'a>, DecodeError> {
        let (width, height) = size_of(image.colours)?;
        if (width, height) != (self.width, self.height) {
            return Err(DAMAGED);
        }
        // Without the flag the alpha is ignored.
        let fragment = if self.flags & ALPHA_FLAG == 0 { image.colours } else { image.fragment };
        Ok(Frame { left: 0, top: 0, width, height, fragment })
    }

    /// A frame of an animation. Its header repeats the size, but the one in the image is what counts.
    fn animation_frame<'a>(&self, body: &'a [u8]) -> Result<Frame<'a>, DecodeError> {
        let (header, chunks) = body.split_first_chunk::<16>().ok_or(DAMAGED)?;
        let (left, top) = (2 * le24(header), 2 * le24(&header[3..]));
        let image = Image::read(chunks)?;
        let (width, height) = size_of(image.colours)?;
        // Neither sum overflows: offsets have 25 bits, sizes at most 14.
        if left + width > self.width || top + height > self.height {
            return Err(DAMAGED);
        }
        Ok(Frame { left, top, width, height, fragment: image.fragment })
    }
}

impl<'a> Chunk<'a> {
    /// The first chunk, and those that follow.
    fn split(chunks: &'a [u8]) -> Result<(Self, &'a [u8]), DecodeError> {
        let header: &[u8; CHUNK_HEADER] = chunks.first_chunk().ok_or(DAMAGED)?;
        let size = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        let end = CHUNK_HEADER.saturating_add(size);
        let body = chunks.get(CHUNK_HEADER..end).ok_or(DAMAGED)?;
        let (whole, rest) = chunks.split_at_checked(end + size % 2).ok_or(DAMAGED)?;
        Ok((Self { name: &chunks[..4], body, whole }, rest))
    }
}

impl<'a> Image<'a> {
    /// The image at the start of `chunks`.
    fn read(chunks: &'a [u8]) -> Result<Self, DecodeError> {
        let (first, rest) = Chunk::split(chunks)?;
        let (colours, rest) = if first.name == b"ALPH" { Chunk::split(rest)? } else { (first, rest) };
        if !matches!(colours.name, b"VP8 " | b"VP8L") {
            return Err(DAMAGED);
        }
        Ok(Self { fragment: &chunks[..chunks.len() - rest.len()], colours: colours.whole })
    }
}

/// Width and height of an image chunk.
fn size_of(chunk: &[u8]) -> Result<(u32, u32), DecodeError> {
    let features = BitstreamFeatures::new(chunk).ok_or(DAMAGED)?;
    Ok((features.width(), features.height()))
}

/// 24 bits, little-endian, from the start of `bytes`.
fn le24(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0])
}
