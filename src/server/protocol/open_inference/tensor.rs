//! Elements of tensors, as JSON values or as bytes.
//!
//! The bytes are those of the binary tensor extension and of gRPC's raw contents: numbers are little endian, an element of
//! BYTES is its length (4 bytes, little endian) and its bytes.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde_json::Value;

use crate::server::protocol::echo;

/// Maximum number of elements of one input tensor; far above any real request.
const MAX_ELEMENTS: usize = 4096;

/// Row-major elements of an input tensor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Elements {
    /// Elements in JSON, and numbers of every origin. A file is base64 here.
    Values(Vec<Value>),
    /// Elements of BYTES from a binary tensor.
    Bytes(Vec<Bytes>),
}

impl Elements {
    /// Number of elements.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Values(values) => values.len(),
            Self::Bytes(elements) => elements.len(),
        }
    }
}

/// Number of elements in a tensor of this shape.
pub(crate) fn count(shape: &[usize]) -> Result<usize, String> {
    let product = shape.iter().try_fold(1_usize, |product, dimension| product.checked_mul(*dimension));
    product
        .filter(|count| *count <= MAX_ELEMENTS)
        .ok_or_else(|| format!("shape {shape:?} has more than {MAX_ELEMENTS} elements"))
}

/// Reads `count` elements that fill `raw` exactly.
pub(crate) fn decode(datatype: &str, count: usize, raw: Bytes) -> Result<Elements, String> {
    if datatype == "BYTES" {
        return texts(count, raw).map(Elements::Bytes);
    }
    let (width, read) = number(datatype).ok_or_else(|| format!("cannot be binary data of '{}'", echo(datatype)))?;
    if raw.len() != count * width {
        return Err(format!("has {} bytes, {count} elements of {datatype} are {}", raw.len(), count * width));
    }
    Ok(Elements::Values(raw.chunks_exact(width).map(read).collect()))
}

/// Appends an element of BYTES.
pub(crate) fn put_string(bytes: &mut BytesMut, text: &[u8]) {
    bytes.put_u32_le(text.len() as u32);
    bytes.put_slice(text);
}

fn texts(count: usize, mut raw: Bytes) -> Result<Vec<Bytes>, String> {
    let mut elements = Vec::with_capacity(count);
    for index in 0..count {
        if raw.len() < 4 {
            return Err(format!("ends before element {index}: {count} elements were announced, each with its length"));
        }
        let length = raw.get_u32_le() as usize;
        if raw.len() < length {
            return Err(format!("element {index} announces {length} bytes, {} are left", raw.len()));
        }
        elements.push(raw.split_to(length));
    }
    if raw.is_empty() { Ok(elements) } else { Err(format!("has {} bytes after the last element", raw.len())) }
}

type Read = fn(&[u8]) -> Value;

/// Bytes of a number, and how to read it from a slice of that length.
fn number(datatype: &str) -> Option<(usize, Read)> {
    Some(match datatype {
        "BOOL" => (1, |mut raw| (raw.get_u8() != 0).into()),
        "INT8" => (1, |mut raw| raw.get_i8().into()),
        "INT16" => (2, |mut raw| raw.get_i16_le().into()),
        "INT32" => (4, |mut raw| raw.get_i32_le().into()),
        "INT64" => (8, |mut raw| raw.get_i64_le().into()),
        "UINT8" => (1, |mut raw| raw.get_u8().into()),
        "UINT16" => (2, |mut raw| raw.get_u16_le().into()),
        "UINT32" => (4, |mut raw| raw.get_u32_le().into()),
        "UINT64" => (8, |mut raw| raw.get_u64_le().into()),
        // NaN and infinities become null, which no parameter accepts.
        "FP32" => (4, |mut raw| raw.get_f32_le().into()),
        "FP64" => (8, |mut raw| raw.get_f64_le().into()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(datatype: &str, wanted: usize, raw: &[u8]) -> Result<Elements, String> {
        decode(datatype, wanted, Bytes::copy_from_slice(raw))
    }

    #[test]
    fn strings_have_their_lengths_before_them() {
        let two = Elements::Bytes(vec!["ab".into(), "".into()]);
        assert_eq!(read("BYTES", 2, b"\x02\0\0\0ab\0\0\0\0"), Ok(two));
        for (wanted, raw) in [
            (1, &b"\x02\0\0"[..]),
            (1, b"\x03\0\0\0ab"),
            (1, b"\xff\xff\xff\xffab"),
            (1, b"\x02\0\0\0abc"),
            (2, b"\x02\0\0\0ab"),
            (1, b""),
        ] {
            assert!(read("BYTES", wanted, raw).is_err(), "{raw:?}");
        }
        let mut written = BytesMut::new();
        put_string(&mut written, b"ab");
        assert_eq!(written, &b"\x02\0\0\0ab"[..]);
    }

    #[test]
    fn numbers_are_little_endian() {
        for (datatype, raw, value) in [
            ("BOOL", &[1][..], json!(true)),
            ("INT8", &[0xff], json!(-1)),
            ("UINT16", &[0, 1], json!(256)),
            ("INT32", &[0xfe, 0xff, 0xff, 0xff], json!(-2)),
            ("UINT64", &[0xff; 8], json!(u64::MAX)),
            ("FP32", &1.5_f32.to_le_bytes(), json!(1.5)),
            ("FP64", &f64::NAN.to_le_bytes(), json!(null)),
        ] {
            assert_eq!(read(datatype, 1, raw), Ok(Elements::Values(vec![value])), "{datatype}");
            assert!(read(datatype, 2, raw).is_err() && read(datatype, 1, &[]).is_err(), "{datatype}");
        }
        assert!(read("FP16", 1, &[0, 0]).unwrap_err().contains("'FP16'"));
    }

    #[test]
    fn a_shape_is_bounded() {
        assert_eq!(count(&[2, 3]), Ok(6));
        assert!(count(&[usize::MAX, 2]).is_err() && count(&[MAX_ELEMENTS, 2]).is_err());
    }
}
