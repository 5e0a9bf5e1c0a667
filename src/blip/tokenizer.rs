//! Text <-> token ids, with BLIP's rules for prompts.

use std::path::Path;

use thiserror::Error;

use crate::blip::manifest::{BundleError, Manifest, Prompt};
use generation::TokenId;

/// The checkpoint's tokenizer with BLIP's rules for prompts.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    prompt: Prompt,
    bos_token_id: TokenId,
    clean_up_tokenization_spaces: bool,
}

/// A text that cannot be tokenised.
#[derive(Debug, Error)]
#[error("the text cannot be tokenised")]
pub struct TokenizeError;

impl Tokenizer {
    /// Reads `tokenizer.json` of a bundle.
    ///
    /// # Errors
    /// The file is missing, or not a valid tokenizer.
    pub fn load(bundle: &Path, manifest: &Manifest) -> Result<Self, BundleError> {
        let path = bundle.join("tokenizer.json");
        let mut inner = tokenizers::Tokenizer::from_file(&path)
            .map_err(|error| BundleError::Malformed { path: path.clone(), reason: error.to_string() })?;
        // transformers' generate uses neither, but a tokenizer that was saved after other calls can have both set.
        inner
            .with_truncation(None)
            .map_err(|error| BundleError::Malformed { path, reason: error.to_string() })?
            .with_padding(None);
        Ok(Self {
            inner,
            prompt: manifest.prompt.clone(),
            bos_token_id: manifest.text.bos_token_id,
            clean_up_tokenization_spaces: manifest.tokenizer.clean_up_tokenization_spaces,
        })
    }

    /// Returns the ids that a caption starts from: `[bos]`, or those of the prompt with the first replaced and the last
    /// dropped, as `BlipForConditionalGeneration.generate` does. They are never empty.
    ///
    /// # Errors
    /// The tokenizer refuses the text.
    pub fn encode_prompt(&self, prompt: Option<&str>) -> Result<Vec<TokenId>, TokenizeError> {
        let Some(prompt) = prompt.filter(|prompt| !prompt.is_empty()) else {
            return Ok(vec![self.bos_token_id]);
        };
        let encoding = self.inner.encode_fast(prompt, true).map_err(|_| TokenizeError)?;
        let mut ids = encoding.get_ids().to_vec();
        if self.prompt.drop_last {
            ids.pop();
        }
        match ids.first_mut() {
            Some(first) => *first = self.prompt.replace_first_with,
            None => ids.push(self.bos_token_id),
        }
        Ok(ids)
    }

    /// Returns the ids of a word, without special tokens.
    ///
    /// # Errors
    /// The tokenizer refuses the text.
    pub fn encode_word(&self, word: &str) -> Result<Vec<TokenId>, TokenizeError> {
        Ok(self.inner.encode_fast(word, false).map_err(|_| TokenizeError)?.get_ids().to_vec())
    }

    /// Returns the text of ids, without special tokens and unknown ids.
    ///
    /// # Errors
    /// The tokenizer refuses the ids.
    pub fn decode(&self, ids: &[TokenId]) -> Result<String, TokenizeError> {
        let text = self.inner.decode(ids, true).map_err(|_| TokenizeError)?;
        Ok(if self.clean_up_tokenization_spaces { clean_up_tokenization(&text) } else { text })
    }

    /// Returns the beginning of the text that stays as it is whatever ids follow.
    ///
    /// # Errors
    /// The tokenizer refuses the ids.
    pub fn decode_stable_prefix(&self, ids: &[TokenId]) -> Result<String, TokenizeError> {
        let text = self.inner.decode(ids, true).map_err(|_| TokenizeError)?;
        Ok(if self.clean_up_tokenization_spaces { stable_prefix(text) } else { text })
    }
}

/// The replacements of transformers' `clean_up_tokenization`, in its order.
const REPLACEMENTS: [(&str, &str); 11] = [
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
    (" do not", " don't"),
];

fn clean_up_tokenization(text: &str) -> String {
    REPLACEMENTS.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// Applies all replacements to a text of which only the beginning is known, and returns what no continuation can change.
fn stable_prefix(text: String) -> String {
    REPLACEMENTS.iter().fold(text, |text, replacement| stable_replacement(&text, replacement))
}

/// Applies one replacement to a text of which only the beginning is known, and returns what no continuation can change.
fn stable_replacement(text: &str, (from, to): &(&str, &str)) -> String {
    let unreplaced = text.match_indices(from).last().map_or(0, |(last, _)| last + from.len());
    // Where the text ends with a beginning of `from`, it may stay as it is or become `to`: what both share is certain.
    let partial = (1..from.len()).filter(|len| text[unreplaced..].ends_with(&from[..*len])).map(|len| {
        let shared = from[..len].bytes().zip(to.bytes()).take_while(|(kept, replaced)| kept == replaced).count();
        text.len() - len + shared
    });
    let end = partial.min().unwrap_or(text.len());
    text[..end].replace(from, to)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    /// `tests/golden/tokenizer.json`, from transformers (`scripts/golden/captions.py`).
    #[derive(Deserialize)]
    struct Golden {
        prompts: Vec<GoldenPrompt>,
        texts: Vec<GoldenText>,
    }

    #[derive(Deserialize)]
    struct GoldenPrompt {
        prompt: String,
        input_ids: Vec<TokenId>,
        word_ids: Vec<TokenId>,
        text: String,
    }

    #[derive(Deserialize)]
    struct GoldenText {
        ids: Vec<TokenId>,
        text: String,
    }

    #[test]
    fn ids_and_texts_are_those_of_transformers() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let bundle = root.join("models/scenes");
        let tokenizer = Tokenizer::load(&bundle, &Manifest::load(&bundle).unwrap()).unwrap();
        let golden = std::fs::read(root.join("tests/golden/tokenizer.json")).unwrap();
        let golden: Golden = serde_json::from_slice(&golden).unwrap();
        assert!(golden.prompts.len() > 100 && golden.texts.len() > 20);
        for case in golden.prompts {
            assert_eq!(tokenizer.encode_prompt(Some(&case.prompt)).unwrap(), case.input_ids, "{:?}", case.prompt);
            assert_eq!(tokenizer.encode_word(&case.prompt).unwrap(), case.word_ids, "{:?}", case.prompt);
            assert_eq!(tokenizer.decode(&case.input_ids).unwrap(), case.text, "{:?}", case.prompt);
        }
        for case in golden.texts {
            assert_eq!(tokenizer.decode(&case.ids).unwrap(), case.text, "{:?}", case.ids);
        }
    }

    #[test]
    fn the_stable_prefix_is_the_beginning_of_every_continuation() {
        let bundle = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/scenes");
        let mut manifest = Manifest::load(&bundle).unwrap();
        // Only with it can later tokens change what came before.
        manifest.tokenizer.clean_up_tokenization_spaces = true;
        let tokenizer = Tokenizer::load(&bundle, &manifest).unwrap();
        // Words that the clean-up joins, their pieces, and any others.
        let odd: Vec<TokenId> =
            ["'", "n", "t", "s", "m", "##m", "do", "no", "##t", "not", ".", ",", "v", "##e", "re", "a", "[SEP]"]
                .iter()
                .map(|word| tokenizer.inner.token_to_id(word).unwrap())
                .collect();
        let mut seed = 7_u32;
        let mut draw = |n: usize| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as usize % n
        };
        for _ in 0..20_000 {
            let ids: Vec<TokenId> =
                (0..8).map(|_| if draw(16) == 0 { draw(30_000) as TokenId } else { odd[draw(odd.len())] }).collect();
            let whole = tokenizer.decode(&ids).unwrap();
            for len in 0..=ids.len() {
                let prefix = tokenizer.decode_stable_prefix(&ids[..len]).unwrap();
                assert!(whole.starts_with(&prefix), "{ids:?}: {prefix:?} / {whole:?}");
            }
        }
    }

    #[test]
    fn the_stable_prefix_holds_back_no_more_than_a_replacement_can_change() {
        let stable = |text: &str| stable_prefix(text.to_owned());
        assert_eq!(stable("a dog"), "a dog");
        assert_eq!(stable("it '"), "it");
        assert_eq!(stable("i do"), "i do");
        assert_eq!(stable("i do n"), "i do");
        assert_eq!(stable("it 's"), "it's");
        // One replacement makes what another one finds.
        assert_eq!(stable("the ' is n '"), "the'is");
        assert_eq!(stable("the ' is n ' t"), "the'isn't");
    }

    #[test]
    fn punctuation_and_contractions_are_joined_to_their_words() {
        assert_eq!(clean_up_tokenization("a dog , it 's big . i do not"), "a dog, it's big. i don't");
    }
}
