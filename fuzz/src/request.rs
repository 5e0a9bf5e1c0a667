//! An inference request generated from random bytes, within what JSON, JSON with binary tensors and gRPC can express.

use arbitrary::{Arbitrary, Result, Unstructured};

/// Elements of a tensor, at most; more images or words are refused.
pub const MAX_ELEMENTS: usize = 64;

/// Texts with a meaning in a request.
const WORDS: [&str; 45] = [
    "img_url",
    "image_url",
    "image",
    "text",
    "prompt",
    "max_new_tokens",
    "min_new_tokens",
    "min_length",
    "num_beams",
    "num_return_sequences",
    "length_penalty",
    "early_stopping",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "bad_words",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "seed",
    "generated_output",
    "token_ids",
    "score",
    "finish_reason",
    "binary_data_output",
    "sequence_id",
    "triton_grpc_error",
    "shared_memory_region",
    "http://example.com/cat.jpg",
    "https://example.com/",
    "http://user@example.com/",
    "ftp://example.com/cat.jpg",
    "http://[::1]:8000/",
    "data:image/png;base64,aGVsbG8=",
    "data:,hello",
    "data:;base64,****",
    "aGVsbG8=",
    "a photography of",
    "never",
    "true",
    "1.5",
    "null",
    "",
    " ",
    "né 犬\u{0}\u{202e}",
];

/// A known word, a long text, or any text.
#[derive(Clone, Debug)]
pub struct Word(pub String);

/// A request.
#[derive(Arbitrary, Debug)]
pub struct Request {
    /// The id, which is echoed.
    pub id: Word,
    /// Names may repeat.
    pub parameters: Vec<(Word, Scalar)>,
    /// Names may repeat.
    pub inputs: Vec<Tensor>,
    /// Names of outputs.
    pub outputs: Vec<Word>,
    /// Whether elements are bytes in gRPC, not in the field of their type.
    pub is_raw: bool,
}

/// The value of a parameter.
#[derive(Arbitrary, Debug)]
pub enum Scalar {
    /// `bool_param`.
    Flag(bool),
    /// `int64_param`.
    Integer(i64),
    /// `uint64_param`.
    Unsigned(u64),
    /// `double_param`.
    Number(f64),
    /// `string_param`.
    Text(Word),
}

/// An input.
#[derive(Arbitrary, Debug)]
pub struct Tensor {
    /// Name of the input.
    pub name: Word,
    /// The shape, which may contradict the elements.
    pub shape: Shape,
    /// The elements.
    pub data: Data,
}

/// How the elements are arranged.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Shape {
    /// `[n]`.
    Flat,
    /// `[n, 1]`.
    Column,
    /// `[1, n]`.
    Row,
    /// A shape of any other size.
    Odd(u8, u8),
}

/// Elements of one datatype.
#[derive(Arbitrary, Debug)]
#[allow(missing_docs, reason = "the protocol's names")]
pub enum Data {
    Bytes(Vec<Word>),
    Bool(Vec<bool>),
    Int8(Vec<i8>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Uint16(Vec<u16>),
    Uint64(Vec<u64>),
    Fp32(Vec<f32>),
    Fp64(Vec<f64>),
}

impl<'a> Arbitrary<'a> for Word {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let kind = usize::from(u8::arbitrary(u)?);
        Ok(Self(match WORDS.get(kind) {
            Some(word) => (*word).to_owned(),
            None if kind == 255 => "A".repeat(u16::arbitrary(u)?.into()),
            None => String::arbitrary(u)?,
        }))
    }
}

impl Shape {
    /// The dimensions for `count` elements.
    pub fn for_count(self, count: usize) -> Vec<usize> {
        match self {
            Self::Flat => vec![count],
            Self::Column => vec![count, 1],
            Self::Row => vec![1, count],
            Self::Odd(rows, columns) => vec![rows.into(), columns.into()],
        }
    }
}
