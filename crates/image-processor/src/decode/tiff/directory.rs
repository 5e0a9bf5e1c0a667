//! The entries of a TIFF's first directory, for two things that the `tiff` crate does not do: check the size of the
//! image before anything is computed from it, and read a file as if a tag had another value.

use tiff::tags::Tag;

/// Types of numbers in a directory: 8, 16, 32 and 64 bits.
const BYTE: u16 = 1;
const SHORT: u16 = 3;
const LONG: u16 = 4;
const LONG8: u16 = 16;

/// Where the entries are, and how their numbers are stored.
#[derive(Clone, Copy)]
pub(super) struct Directory {
    big_endian: bool,
    /// Bytes of a count, an offset or a value; 8 in a BigTIFF.
    word: usize,
    start: usize,
    count: usize,
}

impl Directory {
    /// Finds the first directory; `None` if the file is truncated.
    pub(super) fn find(file: &[u8]) -> Option<Self> {
        let mut directory = Self { big_endian: file.starts_with(b"MM"), word: 4, start: 0, count: 0 };
        if directory.number(file.get(2..4)?) == 43 {
            directory.word = 8;
        }
        let word = directory.word;
        let at = usize::try_from(directory.number(file.get(word..2 * word)?)).ok()?;
        let count_size = if word == 8 { 8 } else { 2 };
        directory.start = at.checked_add(count_size)?;
        directory.count = usize::try_from(directory.number(file.get(at..directory.start)?)).ok()?;
        Some(directory)
    }

    /// The largest first value of a tag, which may be present several times.
    pub(super) fn value(&self, file: &[u8], tag: Tag) -> Option<u64> {
        let entries = file.get(self.start..)?.chunks_exact(4 + 2 * self.word).take(self.count);
        entries
            .filter(|entry| self.number(&entry[..2]) == u64::from(tag.to_u16()))
            .filter_map(|entry| {
                let size = match self.number(&entry[2..4]) as u16 {
                    BYTE => 1,
                    SHORT => 2,
                    LONG => 4,
                    LONG8 if self.word == 8 => 8,
                    _ => return None,
                };
                Some(self.number(&entry[4 + self.word..][..size]))
            })
            .max()
    }

    /// Gives a tag another value, if it is present.
    pub(super) fn replace(&self, file: &mut [u8], tag: Tag, value: u16) {
        let number = |number: u16| if self.big_endian { number.to_be_bytes() } else { number.to_le_bytes() };
        let entries = file.get_mut(self.start..).unwrap_or_default().chunks_exact_mut(4 + 2 * self.word);
        for entry in entries.take(self.count).filter(|entry| entry.starts_with(&number(tag.to_u16()))) {
            entry[2..].fill(0);
            entry[2..4].copy_from_slice(&number(SHORT));
            let count = if self.big_endian { 2 + self.word } else { 4 };
            entry[count..count + 2].copy_from_slice(&number(1));
            entry[4 + self.word..][..2].copy_from_slice(&number(value));
        }
    }

    fn number(&self, bytes: &[u8]) -> u64 {
        let push = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        if self.big_endian { bytes.iter().fold(0, push) } else { bytes.iter().rev().fold(0, push) }
    }
}
