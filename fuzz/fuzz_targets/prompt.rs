//! Prompts and bad words through the embedded model's tokenizer, and arbitrary ids back to text. The pieces that a
//! streaming client has received must stay the beginning of the text.

#![no_main]

use std::{path::Path, sync::LazyLock};

use blip_serve::blip::{Manifest, Tokenizer};
use libfuzzer_sys::fuzz_target;

const BUNDLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/scenes");

static MODEL: LazyLock<(Manifest, Tokenizer)> = LazyLock::new(|| {
    let mut manifest = Manifest::load(Path::new(BUNDLE)).expect("the embedded model");
    // With it, later tokens change what came before.
    manifest.tokenizer.clean_up_tokenization_spaces = true;
    let tokenizer = Tokenizer::load(Path::new(BUNDLE), &manifest).expect("its tokenizer");
    (manifest, tokenizer)
});

fuzz_target!(|bytes: &[u8]| {
    let (manifest, tokenizer) = &*MODEL;
    let ids = if let Ok(text) = str::from_utf8(bytes) {
        let prompt = tokenizer.encode_prompt(Some(text)).expect("ids");
        assert!(prompt.first() == Some(&manifest.prompt.replace_first_with));
        let word = tokenizer.encode_word(text).expect("ids");
        assert!(prompt.iter().chain(&word).all(|id| (*id as usize) < manifest.text.vocab_size));
        prompt
    } else {
        bytes.as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair).into()).collect()
    };
    let whole = tokenizer.decode(&ids).expect("text");
    for end in 0..ids.len().min(64) {
        let prefix = tokenizer.decode_stable_prefix(&ids[..end]).expect("text");
        assert!(whole.starts_with(&prefix), "{prefix:?} is not the beginning of {whole:?}");
    }
});
