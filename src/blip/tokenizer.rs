//! Text <-> token ids, with BLIP's rules for prompts.

use std::path::Path;

use thiserror::Error;

use crate::blip::manifest::{BundleError, Manifest, Prompt};
use generation::TokenId;

/// The checkpoint's tokenizer and what BLIP does around it.
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
    /// The file is missing or no tokenizer.
    pub fn load(bundle: &Path, manifest: &Manifest) -> Result<Self, BundleError> {
        let path = bundle.join("tokenizer.json");
        let mut inner = tokenizers::Tokenizer::from_file(&path)
            .map_err(|error| BundleError::Malformed { path: path.clone(), reason: error.to_string() })?;
        // transformers asks for neither; a file saved after such a call would still say so.
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

    /// The ids a caption starts from: `[bos]`, or those of the prompt with the first replaced and the last dropped, as
    /// `BlipForConditionalGeneration.generate` does it. Never empty.
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

    /// The ids of a word, without special tokens.
    ///
    /// # Errors
    /// The tokenizer refuses the text.
    pub fn encode_word(&self, word: &str) -> Result<Vec<TokenId>, TokenizeError> {
        Ok(self.inner.encode_fast(word, false).map_err(|_| TokenizeError)?.get_ids().to_vec())
    }

    /// Ids -> text, special tokens and unknown ids left out.
    ///
    /// # Errors
    /// The tokenizer refuses the ids.
    pub fn decode(&self, ids: &[TokenId]) -> Result<String, TokenizeError> {
        let text = self.inner.decode(ids, true).map_err(|_| TokenizeError)?;
        Ok(if self.clean_up_tokenization_spaces { clean_up_tokenization(&text) } else { text })
    }

    /// The beginning of the text that stays as it is whatever ids follow.
    ///
    /// # Errors
    /// The tokenizer refuses the ids.
    pub fn decode_stable_prefix(&self, ids: &[TokenId]) -> Result<String, TokenizeError> {
        let text = self.inner.decode(ids, true).map_err(|_| TokenizeError)?;
        Ok(if self.clean_up_tokenization_spaces { decided_by_all(text) } else { text })
    }
}

/// Those of transformers' `clean_up_tokenization`, in its order.
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

/// All replacements in a text that goes on in ways unknown, as far as they are certain.
fn decided_by_all(text: String) -> String {
    REPLACEMENTS.iter().fold(text, |text, replacement| decided(&text, replacement))
}

/// The replacement in a text that goes on in ways unknown, up to where that could matter: at an end with which `from` begins,
/// the text goes on as it is or as `to`.
fn decided(text: &str, (from, to): &(&str, &str)) -> String {
    let rest = text.match_indices(from).last().map_or(0, |(last, _)| last + from.len());
    let certain = (1..from.len()).filter(|len| text[rest..].ends_with(&from[..*len])).map(|len| {
        let in_both = from[..len].bytes().zip(to.bytes()).take_while(|(own, other)| own == other).count();
        text.len() - len + in_both
    });
    let end = certain.min().unwrap_or(text.len());
    text[..end].replace(from, to)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    /// `tests/golden/tokenizer.json`, from transformers (`scripts/make_golden.py`).
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
    fn what_is_decided_is_how_the_text_goes_on() {
        let bundle = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/scenes");
        let tokenizer = Tokenizer::load(&bundle, &Manifest::load(&bundle).unwrap()).unwrap();
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
                let decided = tokenizer.decode_stable_prefix(&ids[..len]).unwrap();
                assert!(whole.starts_with(&decided), "{ids:?}: {decided:?} / {whole:?}");
            }
        }
        let decided = |text: &str| decided_by_all(text.to_owned());
        assert_eq!(decided("a dog"), "a dog");
        assert_eq!(decided("it '"), "it");
        assert_eq!(decided("i do"), "i do");
        // One replacement makes what another one finds.
        assert_eq!(decided("the ' is n '"), "the'is");
        assert_eq!(decided("the ' is n ' t"), "the'isn't");
    }

    #[test]
    fn cleaning_up_joins_what_belongs_together() {
        assert_eq!(clean_up_tokenization("a dog , it 's big . i do not"), "a dog, it's big. i don't");
    }
}
