//! The RIFF container of a WebP file: libwebp's demuxer's rules, and where the first frame is.
//!
//! A file is taken only when it is complete and every chunk and frame of it is well-formed, also those behind the frame
//! that is needed.

use ::webp::BitstreamFeatures;

use crate::error::DecodeError;
use crate::options::DecodeLimits;

const DAMAGED: DecodeError = DecodeError::Damaged("WebP");

const ANIMATION_FLAG: u8 = 0x02;
const ALPHA_FLAG: u8 = 0x10;
/// All flags that the extended header may have.
const VALID_FLAGS: u8 = 0x3e;

type FourCc = [u8; 4];

/// One frame: its place on the canvas, and the chunks that libwebp decodes.
pub(super) struct Frame<'a> {
    pub(super) left: u32,
    pub(super) top: u32,
    pub(super) width: u32,
    pub(super) height: u32,
    /// The image chunk, with the alpha chunk before it if there is one.
    pub(super) fragment: &'a [u8],
}

/// What the extended header says.
struct Canvas {
    flags: u8,
    width: u32,
    height: u32,
}

/// The chunks of an image.
struct Image<'a> {
    /// All of them.
    fragment: &'a [u8],
    /// The one with the colours.
    chunk: Option<&'a [u8]>,
    /// Whether there is one with alpha, and whether it stands before the colours, as it must.
    alpha: Option<bool>,
}

/// A walk through the chunks inside the RIFF chunk.
struct Walker<'a> {
    /// The file up to the end of the RIFF chunk.
    bytes: &'a [u8],
    position: usize,
}

/// Width and height of the canvas, and the first frame.
pub(super) fn first_frame<'a>(bytes: &'a [u8], limits: &DecodeLimits) -> Result<(u32, u32, Frame<'a>), DecodeError> {
    let mut walker = Walker::new(bytes)?;
    if walker.bytes[12..].starts_with(b"VP8X") {
        return walker.extended(limits);
    }
    let fragment = walker.image()?.chunk.ok_or(DAMAGED)?;
    let (width, height) = size(fragment)?;
    Ok((width, height, Frame { left: 0, top: 0, width, height, fragment }))
}

impl<'a> Walker<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let size = match bytes.get(4..8) {
            Some(&[a, b, c, d]) => u32::from_le_bytes([a, b, c, d]) as usize,
            _ => return Err(DAMAGED),
        };
        match bytes.get(..size.saturating_add(8)) {
            Some(riff) if riff.len() >= 20 => Ok(Self { bytes: riff, position: 12 }),
            Some(_) => Err(DAMAGED),
            None => Err(DecodeError::Truncated("WebP")),
        }
    }

    /// The next chunk's name and body.
    fn chunk(&mut self) -> Result<(FourCc, &'a [u8]), DecodeError> {
        let header = self.bytes.get(self.position..self.position + 8).ok_or(DAMAGED)?;
        let size = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        let start = self.position + 8;
        let body = self.bytes.get(start..start.saturating_add(size)).ok_or(DAMAGED)?;
        self.position = start + size + size % 2;
        // An odd chunk is padded, also at the end.
        if self.position > self.bytes.len() {
            return Err(DAMAGED);
        }
        Ok(([header[0], header[1], header[2], header[3]], body))
    }

    fn at_end(&self) -> bool {
        self.position == self.bytes.len()
    }

    /// The chunks of one image, of which there may be none.
    fn image(&mut self) -> Result<Image<'a>, DecodeError> {
        let start = self.position;
        let mut image = Image { fragment: &[], chunk: None, alpha: None };
        while !self.at_end() {
            let chunk_start = self.position;
            match &self.chunk()?.0 {
                b"ALPH" if image.alpha.is_none() => image.alpha = Some(image.chunk.is_none()),
                b"VP8L" if image.alpha.is_some() => return Err(DAMAGED),
                b"VP8 " | b"VP8L" if image.chunk.is_none() => {
                    let chunk = &self.bytes[chunk_start..self.position];
                    size(chunk)?;
                    image.chunk = Some(chunk);
                }
                _ => {
                    self.position = chunk_start;
                    break;
                }
            }
        }
        image.fragment = &self.bytes[start..self.position];
        Ok(image)
    }

    /// A file with an extended header.
    fn extended(&mut self, limits: &DecodeLimits) -> Result<(u32, u32, Frame<'a>), DecodeError> {
        let (_, header) = self.chunk()?;
        let header: &[u8; 10] = header.try_into().map_err(|_| DAMAGED)?;
        let canvas = Canvas { flags: header[0], width: 1 + le24(&header[4..]), height: 1 + le24(&header[7..]) };
        if canvas.flags & !VALID_FLAGS != 0 {
            return Err(DAMAGED);
        }
        limits.check(canvas.width, canvas.height, "WebP")?;
        let mut first: Option<Frame> = None;
        let mut announced = false;
        while !self.at_end() {
            let start = self.position;
            let (name, body) = self.chunk()?;
            let frame = match &name {
                b"VP8X" => return Err(DAMAGED),
                b"ALPH" | b"VP8 " | b"VP8L" if canvas.is_animated() || announced || first.is_some() => {
                    return Err(DAMAGED);
                }
                b"ALPH" | b"VP8 " | b"VP8L" => {
                    self.position = start;
                    Some(self.still(&canvas)?)
                }
                b"ANIM" if body.len().next_multiple_of(2) < 6 => return Err(DAMAGED),
                b"ANIM" => {
                    announced = true;
                    None
                }
                b"ANMF" if !announced => return Err(DAMAGED),
                b"ANMF" => self.animation_frame(start, body, &canvas)?,
                _ => None,
            };
            first = first.or(frame);
        }
        Ok((canvas.width, canvas.height, first.ok_or(DAMAGED)?))
    }

    /// The image of a file that is no animation; it fills the canvas.
    fn still(&mut self, canvas: &Canvas) -> Result<Frame<'a>, DecodeError> {
        let image = self.image()?;
        let chunk = image.chunk.ok_or(DAMAGED)?;
        let (width, height) = size(chunk)?;
        if (width, height) != (canvas.width, canvas.height) {
            return Err(DAMAGED);
        }
        // Without the flag the alpha is ignored.
        let fragment = if canvas.flags & ALPHA_FLAG == 0 { chunk } else { image.checked()? };
        Ok(Frame { left: 0, top: 0, width, height, fragment })
    }

    /// A frame of an animation; none when it is empty or the file is not flagged as one.
    fn animation_frame(
        &mut self,
        start: usize,
        body: &'a [u8],
        canvas: &Canvas,
    ) -> Result<Option<Frame<'a>>, DecodeError> {
        let header: &[u8; 16] = body.first_chunk().ok_or(DAMAGED)?;
        let (left, top) = (2 * le24(header), 2 * le24(&header[3..]));
        // The size that stands here is only checked for its area; the one of the image is what counts.
        let area = u64::from(1 + le24(&header[6..])) * u64::from(1 + le24(&header[9..]));
        if area >= 1 << 32 {
            return Err(DAMAGED);
        }
        let end = self.position;
        self.position = start + 8 + header.len();
        let image = self.image()?;
        if self.position > end {
            return Err(DAMAGED);
        }
        if !canvas.is_animated() || image.fragment.is_empty() {
            return Ok(None);
        }
        let fragment = image.checked()?;
        let (width, height) = size(image.chunk.ok_or(DAMAGED)?)?;
        // Neither sum overflows: offsets have 25 bits, sizes at most 14.
        if left + width > canvas.width || top + height > canvas.height {
            return Err(DAMAGED);
        }
        Ok(Some(Frame { left, top, width, height, fragment }))
    }
}

impl Canvas {
    fn is_animated(&self) -> bool {
        self.flags & ANIMATION_FLAG != 0
    }
}

impl<'a> Image<'a> {
    /// All chunks, if they make an image.
    fn checked(&self) -> Result<&'a [u8], DecodeError> {
        if self.chunk.is_some() && self.alpha != Some(false) { Ok(self.fragment) } else { Err(DAMAGED) }
    }
}

/// Width and height of an image chunk.
fn size(chunk: &[u8]) -> Result<(u32, u32), DecodeError> {
    let features = BitstreamFeatures::new(chunk).ok_or(DAMAGED)?;
    Ok((features.width(), features.height()))
}

/// 24 bits, little-endian, from the start of `bytes`.
fn le24(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0])
}
