//! A search from random bytes: parameters, vocabulary, prompt and logits.

use arbitrary::Arbitrary;
use generation::{
    EarlyStopping, GenerationConfig, GenerationLimits, GenerationParameters, Search, TokenId, Vocabulary,
};
use ndarray::Array2;

/// Number of positions of the decoder that the logits stand for.
const MAX_POSITIONS: usize = 40;
/// The last two are rejected.
const LENGTH_PENALTIES: [f64; 10] = [1.0, 0.0, -1.0, 0.5, 2.0, -400.0, 400.0, 1e300, f64::NAN, f64::INFINITY];
const FACTORS: [f64; 8] = [1.0, 1.3, 0.5, 2.0, 1e-30, 1e30, 0.0, f64::NAN];
const TOP_P: [f64; 6] = [1.0, 0.9, 0.5, 1e-9, 0.0, 1.5];
const SPECIAL: [f32; 8] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, -0.0, 1e-40, -1e9];

/// The bytes by their meaning; numbers are taken modulo a sensible range.
#[derive(Arbitrary, Debug)]
pub struct Case<'a> {
    vocab_size: u8,
    special_ids: [u8; 2],
    prompt: [u8; 6],
    prompt_len: u8,
    /// Length and ids.
    bad_words: [(u8, u8, u8); 3],
    num_beams: u8,
    num_return_sequences: u8,
    max_new_tokens: u8,
    min_new_tokens: u8,
    min_length: u8,
    no_repeat_ngram_size: u8,
    early_stopping: u8,
    do_sample: bool,
    length_penalty: u8,
    repetition_penalty: u8,
    temperature: u8,
    top_k: u8,
    top_p: u8,
    seed: u8,
    /// One byte per logit, repeated.
    logits: &'a [u8],
}

/// A case whose parameters are valid.
#[derive(Debug)]
pub struct ValidCase {
    /// The vocabulary of the model.
    pub vocabulary: Vocabulary,
    /// Token ids, the start token first.
    pub prompt: Vec<TokenId>,
    /// Token ids of each word: some empty, some beyond the vocabulary.
    pub bad_words: Vec<Vec<TokenId>>,
    /// The parameters of the request.
    pub parameters: GenerationParameters,
    /// Maximum number of ids, prompt included.
    pub max_length: usize,
    config: GenerationConfig,
}

impl Case<'_> {
    /// `None` if the parameters are rejected.
    pub fn validate(&self) -> Option<ValidCase> {
        let size = 2 + self.vocab_size % 63;
        let id = |byte: u8| TokenId::from(byte % size);
        let [eos_token_id, pad_token_id] = self.special_ids.map(id);
        let vocabulary = Vocabulary { size: size.into(), eos_token_id, pad_token_id };
        let prompt: Vec<_> =
            self.prompt.iter().take(1 + usize::from(self.prompt_len % 6)).map(|byte| id(*byte)).collect();
        let word = |(len, a, b): &(u8, u8, u8)| {
            [*a, *b].map(|id| TokenId::from(id % (size + 2)))[..usize::from(len % 3)].to_vec()
        };
        let parameters = self.parameters();
        let config = GenerationConfig::new(&parameters, &GenerationLimits::default()).ok()?;
        let max_length = config.max_length(prompt.len(), MAX_POSITIONS).ok()?;
        let bad_words = self.bad_words.iter().map(word).collect();
        Some(ValidCase { vocabulary, prompt, bad_words, parameters, max_length, config })
    }

    /// The logits `[rows, vocab_size]` of a step. At the first step, when all rows are the prompt, the rows are equal.
    pub fn logits(&self, step: usize, rows: usize, vocab_size: usize) -> Array2<f32> {
        let bytes = if self.logits.is_empty() { &[125][..] } else { self.logits };
        Array2::from_shape_fn((rows, vocab_size), |(row, token)| {
            let index = (step * rows + if step == 0 { 0 } else { row }) * vocab_size + token;
            // Every repetition has other values.
            let byte = bytes[index % bytes.len()].wrapping_add((index / bytes.len() * 37) as u8);
            match SPECIAL.get(usize::from(255 - byte)) {
                Some(special) => *special,
                None => (f32::from(byte) - 125.0) / 16.0,
            }
        })
    }

    fn parameters(&self) -> GenerationParameters {
        let one = |table: &[f64], byte: u8| Some(table[usize::from(byte) % table.len()]);
        let early_stopping = match self.early_stopping % 3 {
            0 => EarlyStopping::False,
            1 => EarlyStopping::True,
            _ => EarlyStopping::Never,
        };
        GenerationParameters {
            max_new_tokens: (self.max_new_tokens < 200).then(|| u32::from(self.max_new_tokens % 20)),
            max_length: Some(u32::from(self.max_new_tokens % 32)),
            min_new_tokens: (self.min_new_tokens < 64).then(|| u32::from(self.min_new_tokens % 8)),
            min_length: Some(u32::from(self.min_length % 8)),
            num_beams: Some(u32::from(self.num_beams % 8)),
            num_return_sequences: Some(u32::from(self.num_return_sequences % 8)),
            length_penalty: one(&LENGTH_PENALTIES, self.length_penalty),
            early_stopping: Some(early_stopping),
            repetition_penalty: one(&FACTORS, self.repetition_penalty),
            no_repeat_ngram_size: Some(u32::from(self.no_repeat_ngram_size % 4)),
            bad_words: None,
            do_sample: Some(self.do_sample),
            temperature: one(&FACTORS, self.temperature),
            top_k: Some(u32::from(self.top_k % 8)),
            top_p: one(&TOP_P, self.top_p),
            // Two searches are compared, so there is always a seed.
            seed: Some(self.seed.into()),
        }
    }
}

impl ValidCase {
    /// A search before its first step.
    pub fn search(&self) -> Search {
        Search::new(&self.config, self.vocabulary, self.bad_words.clone(), &self.prompt, self.max_length)
    }

    /// Whether `token` may not follow `prefix`, by the definitions of the parameters.
    pub fn forbids(&self, prefix: &[TokenId], token: TokenId) -> bool {
        let ids: Vec<TokenId> = prefix.iter().copied().chain([token]).collect();
        let size = self.parameters.no_repeat_ngram_size.unwrap_or(0) as usize;
        let repeats = size > 0 && prefix.windows(size).any(|ngram| ids.ends_with(ngram));
        let eos = self.vocabulary.eos_token_id;
        let is_bad = |word: &Vec<TokenId>| !word.is_empty() && word[..] != [eos] && ids.ends_with(word);
        let min_new_tokens = self.parameters.min_new_tokens.map(|n| self.prompt.len() + n as usize);
        let min_length = min_new_tokens.or(self.parameters.min_length.map(|n| n as usize)).unwrap_or(0);
        repeats || self.bad_words.iter().any(is_bad) || (token == eos && prefix.len() < min_length)
    }

    /// A logit after the repetition penalty, which changes it but forbids nothing.
    pub fn penalised(&self, prefix: &[TokenId], token: TokenId, logit: f32) -> f32 {
        let penalty = self.parameters.repetition_penalty.unwrap_or(1.0) as f32;
        match prefix.contains(&token) {
            true if logit < 0.0 => logit * penalty,
            true => logit / penalty,
            false => logit,
        }
    }
}
