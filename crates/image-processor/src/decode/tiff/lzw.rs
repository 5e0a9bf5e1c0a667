//! TIFF's LZW as libtiff decodes it, with its old bit order and its rules for damaged data.

/// Codes with a meaning of their own.
const CLEAR: usize = 256;
const END: usize = 257;
const FIRST: usize = 258;
/// libtiff's table has room beyond the largest code; a stream that fills even that is damaged.
const TABLE: usize = 5119;
const MIN_BITS: u32 = 9;
const MAX_BITS: u32 = 12;

/// Strings as prefix, last byte, first byte and length.
struct Table {
    prefix: Vec<u16>,
    last: Vec<u8>,
    first: Vec<u8>,
    length: Vec<u16>,
}

/// Codes of growing size.
struct Codes<'a> {
    stored: std::slice::Iter<'a, u8>,
    /// Files of old versions of libtiff have the lowest bit first, and grow their codes one later.
    old: bool,
    size: u32,
    bits: u32,
    count: u32,
}

/// Whether `stored` fills `out`.
pub(super) fn decode(stored: &[u8], out: &mut [u8]) -> bool {
    let old = matches!(stored, [0, second, ..] if second & 1 == 1);
    let mut codes = Codes { stored: stored.iter(), old, size: MIN_BITS, bits: 0, count: 0 };
    let mut table = Table::new();
    // The string before; none until the table is cleared for the first time.
    let mut previous = None;
    let mut position = 0;
    while position < out.len() {
        let Some(code) = codes.next() else { return false };
        match code {
            END => return false,
            CLEAR => {
                codes.size = MIN_BITS;
                table.truncate();
                let literal = loop {
                    match codes.next() {
                        Some(CLEAR) => {}
                        Some(code) if code < CLEAR => break code,
                        _ => return false,
                    }
                };
                out[position] = literal as u8;
                position += 1;
                previous = Some(literal);
            }
            _ => {
                let next = table.prefix.len();
                let Some(previous) = previous.replace(code).filter(|_| code <= next && next < TABLE) else {
                    return false;
                };
                let last = if code == next { table.first[previous] } else { table.first[code] };
                table.add(previous, last);
                codes.grow(next + 1);
                position += table.write(code, &mut out[position..]);
            }
        }
    }
    true
}

impl Codes<'_> {
    fn next(&mut self) -> Option<usize> {
        while self.count < self.size {
            let byte = u32::from(*self.stored.next()?);
            self.bits = if self.old { self.bits | byte << self.count } else { self.bits << 8 | byte };
            self.count += 8;
        }
        let mask = (1 << self.size) - 1;
        self.count -= self.size;
        if self.old {
            let code = self.bits & mask;
            self.bits >>= self.size;
            Some(code as usize)
        } else {
            Some((self.bits >> self.count & mask) as usize)
        }
    }

    /// Takes note of the table's new length.
    fn grow(&mut self, length: usize) {
        let largest = (1 << self.size) - 1 - usize::from(!self.old);
        if length > largest && self.size < MAX_BITS {
            self.size += 1;
        }
    }
}

impl Table {
    fn new() -> Self {
        let bytes = || (0..FIRST).map(|code| code as u8).collect();
        Self { prefix: vec![0; FIRST], last: bytes(), first: bytes(), length: vec![1; FIRST] }
    }

    fn truncate(&mut self) {
        self.prefix.truncate(FIRST);
        self.last.truncate(FIRST);
        self.first.truncate(FIRST);
        self.length.truncate(FIRST);
    }

    fn add(&mut self, prefix: usize, last: u8) {
        self.prefix.push(prefix as u16);
        self.last.push(last);
        self.first.push(self.first[prefix]);
        self.length.push(self.length[prefix].saturating_add(1));
    }

    /// Writes a string, or what of it there is room for; gives the bytes written.
    fn write(&self, code: usize, out: &mut [u8]) -> usize {
        let length = usize::from(self.length[code]);
        let mut code = code;
        for place in (0..length).rev() {
            if let Some(out) = out.get_mut(place) {
                *out = self.last[code];
            }
            code = usize::from(self.prefix[code]);
        }
        length.min(out.len())
    }
}
