//! Names of images as text: file names are bytes, JSON and CSV are Unicode.

use std::{borrow::Cow, ffi::OsStr, fmt::Write, os::unix::ffi::OsStrExt};

/// The name with `\xNN` for each byte that is not UTF-8, so that different names stay different for `--resume`.
pub(super) fn text(name: &OsStr) -> Cow<'_, str> {
    match name.to_str() {
        Some(text) => Cow::Borrowed(text),
        None => Cow::Owned(escaped(name.as_bytes())),
    }
}

fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a string cannot fail.
            let _ = write!(text, "\\x{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_not_unicode_are_escaped_one_by_one() {
        assert_eq!(text(OsStr::new("café.png")), "café.png");
        assert_eq!(text(OsStr::from_bytes(b"caf\xe9/\xff\xfe.png")), "caf\\xE9/\\xFF\\xFE.png");
    }
}
