//! The chunks of a PNG other than image data, with the checks that Pillow's handlers make.
//!
//! Most contents are irrelevant to the pixels, but a chunk that is too short, oversized or of an unknown compression
//! method makes Pillow refuse the file, so each is looked at as far as Pillow does.

use super::chunks::{ChunkName, ChunkReader};
use super::text::{self, Texts};
use super::{DAMAGED, Layout, TRUNCATED};
use crate::DecodeError;
use crate::decode::convert::PaletteAlpha;

/// Contents of a tRNS chunk; what it means depends on the colour type that was read before it.
pub(super) enum Transparency {
    Palette(PaletteAlpha),
    Gray(u16),
    Rgb([u16; 3]),
}

/// The rectangle of the canvas that the image data fills.
#[derive(Clone, Copy)]
pub(super) struct Frame {
    pub(super) left: usize,
    pub(super) top: usize,
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) interlaced: bool,
}

/// All that chunks have said so far.
#[derive(Default)]
pub(super) struct Metadata {
    /// Width and height of the canvas.
    pub(super) size: (u32, u32),
    pub(super) layout: Option<Layout>,
    pub(super) palette: Option<Vec<u8>>,
    pub(super) transparency: Option<Transparency>,
    interlaced: bool,
    /// Frames that acTL announced.
    frames: Option<u32>,
    /// Whether the image data came before any frame control, so that it is no frame of the animation.
    default_image: bool,
    sequence: Option<u32>,
    /// Left, top, width and height from the last frame control.
    frame: Option<[u32; 4]>,
    texts: Texts,
}

impl Metadata {
    /// Reads chunks up to the first with image data; gives the bytes that chunk has left.
    pub(super) fn read_to_image_data(&mut self, reader: &mut ChunkReader) -> Result<usize, DecodeError> {
        loop {
            let (name, length) = reader.header()?;
            match &name {
                b"IDAT" if self.layout.is_some() => {
                    self.default_image = self.frames.is_some() && self.frame.is_none();
                    return Ok(length);
                }
                b"fdAT" => return self.frame_data_length(reader, length),
                b"IEND" => return Err(DAMAGED),
                _ => {
                    let body = reader.body(length)?;
                    self.handle(name, body)?;
                    reader.check_crc(name, body)?;
                }
            }
        }
    }

    /// Reads what follows the image data, as far as Pillow does; a broken chunk header ends it without an error.
    pub(super) fn read_to_end(&mut self, reader: &mut ChunkReader) -> Result<(), DecodeError> {
        // transformers asks for transparency before the image data is read, so that a late chunk can only change it.
        let opaque = self.transparency.is_none();
        self.read_trailer(reader)?;
        if opaque {
            self.transparency = None;
        }
        Ok(())
    }

    fn read_trailer(&mut self, reader: &mut ChunkReader) -> Result<(), DecodeError> {
        let frames = self.frames.unwrap_or(1).saturating_add(self.default_image.into());
        loop {
            reader.skip_crc();
            let Ok((name, length)) = reader.header() else { return Ok(()) };
            match &name {
                b"IEND" => return Ok(()),
                b"fcTL" if frames > 1 => return Ok(()),
                b"IDAT" => drop(reader.body(length)?),
                b"fdAT" => {
                    let rest = self.frame_data_length(reader, length)?;
                    reader.body(rest)?;
                }
                _ => {
                    let body = reader.body(length)?;
                    self.handle(name, body)?;
                }
            }
        }
    }

    /// Reads the sequence number at the start of an fdAT chunk; gives the bytes of image data behind it.
    pub(super) fn frame_data_length(&mut self, reader: &mut ChunkReader, length: usize) -> Result<usize, DecodeError> {
        let rest = length.checked_sub(4).ok_or(DAMAGED)?;
        let number = be32(reader.body(4)?, 0)?;
        self.advance(number)?;
        Ok(rest)
    }

    /// Where the image data goes.
    pub(super) fn frame(&self) -> Result<Frame, DecodeError> {
        let (width, height) = self.size;
        let [left, top, width, height] = self.frame.unwrap_or([0, 0, width, height]).map(|value| value as usize);
        if width == 0 || height == 0 {
            return Err(DAMAGED);
        }
        Ok(Frame { left, top, width, height, interlaced: self.interlaced })
    }

    fn advance(&mut self, number: u32) -> Result<(), DecodeError> {
        if self.sequence.and_then(|last| last.checked_add(1)) != Some(number) {
            return Err(DAMAGED);
        }
        self.sequence = Some(number);
        Ok(())
    }

    fn handle(&mut self, name: ChunkName, body: &[u8]) -> Result<(), DecodeError> {
        let shortest = match &name {
            b"IHDR" => return self.handle_header(body),
            b"PLTE" => {
                if matches!(self.layout, Some(Layout::Indexed(_))) {
                    self.palette = Some(body.to_vec());
                }
                return Ok(());
            }
            b"tRNS" => return self.handle_transparency(body),
            b"acTL" => return self.handle_animation(body),
            b"fcTL" => return self.handle_frame_control(body),
            b"iCCP" => return text::check_profile(body),
            b"tEXt" => return self.texts.count_plain(body),
            b"zTXt" => return self.texts.count_compressed(body),
            b"iTXt" => return self.texts.count_international(body),
            b"gAMA" => 4,
            b"cHRM" => 32,
            b"sRGB" => 1,
            b"pHYs" => 9,
            _ => 0,
        };
        if body.len() < shortest { Err(DAMAGED) } else { Ok(()) }
    }

    fn handle_header(&mut self, body: &[u8]) -> Result<(), DecodeError> {
        let &[depth, colour_type, _, filter, interlace, ..] = body.get(8..).ok_or(DAMAGED)? else {
            return Err(DAMAGED);
        };
        self.size = (be32(body, 0)?, be32(body, 4)?);
        self.layout = Layout::new(depth, colour_type).or(self.layout);
        self.interlaced |= interlace != 0;
        if filter == 0 { Ok(()) } else { Err(DAMAGED) }
    }

    fn handle_transparency(&mut self, body: &[u8]) -> Result<(), DecodeError> {
        let sample = |at: usize| body.get(at..at + 2).map(|s| u16::from_be_bytes([s[0], s[1]])).ok_or(DAMAGED);
        self.transparency = match self.layout {
            Some(Layout::Indexed(_)) => Some(Transparency::Palette(palette_alpha(body))),
            Some(Layout::Gray(1)) => Some(Transparency::Gray(if sample(0)? == 0 { 0 } else { 255 })),
            Some(Layout::Gray(_) | Layout::Gray16) => Some(Transparency::Gray(sample(0)?)),
            Some(Layout::Rgb | Layout::Rgb16) => Some(Transparency::Rgb([sample(0)?, sample(2)?, sample(4)?])),
            _ => return Ok(()),
        };
        Ok(())
    }

    fn handle_animation(&mut self, body: &[u8]) -> Result<(), DecodeError> {
        let frames = be32(body, 0)?;
        be32(body, 4)?;
        if self.frames.is_some() {
            self.frames = None;
        } else if frames != 0 && frames <= 0x8000_0000 {
            self.frames = Some(frames);
        }
        Ok(())
    }

    fn handle_frame_control(&mut self, body: &[u8]) -> Result<(), DecodeError> {
        if body.len() < 26 {
            return Err(DAMAGED);
        }
        match (self.sequence, be32(body, 0)?) {
            (None, 0) => self.sequence = Some(0),
            (None, _) => return Err(DAMAGED),
            (Some(_), number) => self.advance(number)?,
        }
        let [width, height, left, top] = [be32(body, 4)?, be32(body, 8)?, be32(body, 12)?, be32(body, 16)?];
        let fits = |start: u32, length: u32, whole: u32| u64::from(start) + u64::from(length) <= u64::from(whole);
        if !fits(left, width, self.size.0) || !fits(top, height, self.size.1) {
            return Err(DAMAGED);
        }
        self.frame = Some([left, top, width, height]);
        Ok(())
    }
}

/// Pillow's reading of a palette's tRNS: one transparent entry when all others are opaque, else a table.
fn palette_alpha(body: &[u8]) -> PaletteAlpha {
    // The pattern it matches ends in `$`, which passes over a final line feed.
    let significant = body.strip_suffix(b"\n").unwrap_or(body);
    let mut transparent = (0..).zip(significant).filter(|(_, alpha)| **alpha != 255);
    match (transparent.next(), transparent.next()) {
        (Some((index, 0)), None) => PaletteAlpha::Index(index),
        _ => PaletteAlpha::Table(body.to_vec()),
    }
}

fn be32(bytes: &[u8], at: usize) -> Result<u32, DecodeError> {
    match bytes.get(at..at + 4) {
        Some(&[a, b, c, d]) => Ok(u32::from_be_bytes([a, b, c, d])),
        _ => Err(TRUNCATED),
    }
}
