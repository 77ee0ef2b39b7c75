//! Trains the tokenizer of the embedded base: byte-level BPE with DeepSeek-V3's control tokens.
//!
//! Takes texts and a vocabulary size, gives `tokenizer.json` and `tokenizer_config.json`. The same texts give the same
//! bytes. Every digit is a token of its own (V3 takes up to three together): a model this small then reads numbers it
//! never saw whole. Any text can be encoded, because all 256 bytes are in the vocabulary.
use serde_json::json;
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

/// Control tokens in the order of their ids, with whether they are special (left out when text is shown). Names and the
/// first three ids are DeepSeek-V3's.
const CONTROL: [(&str, bool); 16] = [
    ("<｜begin▁of▁sentence｜>", true),
    ("<｜end▁of▁sentence｜>", true),
    ("<｜▁pad▁｜>", true),
    ("<｜User｜>", false),
    ("<｜Assistant｜>", false),
    ("<think>", false),
    ("</think>", false),
    ("<｜tool▁calls▁begin｜>", false),
    ("<｜tool▁calls▁end｜>", false),
    ("<｜tool▁call▁begin｜>", false),
    ("<｜tool▁call▁end｜>", false),
    ("<｜tool▁outputs▁begin｜>", false),
    ("<｜tool▁outputs▁end｜>", false),
    ("<｜tool▁output▁begin｜>", false),
    ("<｜tool▁output▁end｜>", false),
    ("<｜tool▁sep｜>", false),
];

/// Id of `<｜begin▁of▁sentence｜>`.
pub const BOS_ID: u32 = 0;
/// Id of `<｜end▁of▁sentence｜>`.
pub const EOS_ID: u32 = 1;
/// Id of `<｜▁pad▁｜>`.
pub const PAD_ID: u32 = 2;

/// The patterns of DeepSeek-V3's pre-tokenizer, but for the digits.
const SPLITS: [&str; 3] = [
    r"\p{N}",
    r"[一-龥\u3040-ゟ゠-ヿ]+",
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
];

/// The files of a tokenizer.
pub struct Files {
    /// `tokenizer.json`.
    pub tokenizer: String,
    /// `tokenizer_config.json`, with the chat template.
    pub config: String,
    /// Tokens, control tokens included.
    pub vocab_size: usize,
}

/// Trains on `texts` up to `vocab_size` tokens; `template` is the Jinja text of the chat template.
///
/// # Errors
/// What the trainer says, in its own words.
pub fn train<'t>(
    texts: impl Iterator<Item = &'t str> + Send,
    vocab_size: usize,
    template: &str,
    max_length: usize,
) -> Result<Files, String> {
    let fault = |error: tokenizers::Error| format!("tokenizer training: {error}");
    let mut tokenizer = Tokenizer::new(BPE::default());
    let mut parts: Vec<PreTokenizerWrapper> = Vec::new();
    for pattern in SPLITS {
        let split = Split::new(SplitPattern::Regex(pattern.into()), SplitDelimiterBehavior::Isolated, false);
        parts.push(split.map_err(fault)?.into());
    }
    parts.push(ByteLevel::new(false, true, false).into());
    tokenizer.with_pre_tokenizer(Some(Sequence::new(parts)));
    tokenizer.with_decoder(Some(ByteLevelDecoder::default()));
    let control: Vec<AddedToken> =
        CONTROL.iter().map(|&(text, special)| AddedToken::from(text, special).normalized(false)).collect();
    let trainer = BpeTrainer::builder()
        .vocab_size(vocab_size)
        .min_frequency(2)
        .special_tokens(control.clone())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    tokenizer.train(&mut TrainerWrapper::from(trainer), texts).map_err(fault)?;
    // The trainer registers every control token as special; `<think>` and the turn tokens are not, as in V3.
    let mut file: serde_json::Value =
        serde_json::from_str(&tokenizer.to_string(false).map_err(fault)?).map_err(|error| error.to_string())?;
    if let Some(added) = file.get_mut("added_tokens").and_then(|list| list.as_array_mut()) {
        for (token, (_, special)) in added.iter_mut().zip(CONTROL) {
            token["special"] = json!(special);
        }
    }
    let config = json!({
        "add_bos_token": false,
        "add_eos_token": false,
        "bos_token": CONTROL[BOS_ID as usize].0,
        "eos_token": CONTROL[EOS_ID as usize].0,
        "pad_token": CONTROL[PAD_ID as usize].0,
        "unk_token": null,
        "clean_up_tokenization_spaces": false,
        "model_max_length": max_length,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": template,
    });
    let pretty = |value: &serde_json::Value| serde_json::to_string_pretty(value).map_err(|error| error.to_string());
    Ok(Files {
        tokenizer: serde_json::to_string(&file).map_err(|error| error.to_string())?,
        config: pretty(&config)?,
        vocab_size: tokenizer.get_vocab_size(true),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use loar_text::Special;

    fn texts() -> Vec<String> {
        let policy = loar_eval::credit::Policy::from_toml(crate::demo::POLICY).unwrap();
        let corpus = crate::demo::corpus::Corpus::new(&policy, 1);
        ((1 << 30)..(1 << 30) + 3_000).map(|i| corpus.row(i)).flat_map(|row| [row.user, row.assistant]).collect()
    }

    #[test]
    fn the_same_texts_give_the_same_bytes() {
        let texts = texts();
        let run = || train(texts.iter().map(String::as_str), 800, "{{ bos_token }}", 512).unwrap();
        let (first, second) = (run(), run());
        assert_eq!(first.tokenizer, second.tokenizer);
        assert_eq!(first.config, second.config);
        assert_eq!(first.vocab_size, 800);
    }

    #[test]
    fn any_text_comes_back_and_digits_stand_alone() {
        let texts = texts();
        let files = train(texts.iter().map(String::as_str), 800, "", 512).unwrap();
        let tokenizer =
            loar_text::Tokenizer::from_bytes(files.tokenizer.as_bytes(), Some(files.config.as_bytes())).unwrap();
        for text in ["debt ratio: 28%\n年龄：41岁", "日本語, Ελλάδα, \u{1F600} \t\r\n  x", r#"[["debt",28,15,40]]"#]
        {
            let ids = tokenizer.encode(text, Special::AsText).unwrap();
            assert_eq!(tokenizer.decode(&ids, false), text);
        }
        assert_eq!(tokenizer.encode("1987", Special::AsText).unwrap().len(), 4);
        assert_eq!(tokenizer.id("<｜begin▁of▁sentence｜>"), Some(BOS_ID));
        assert_eq!(tokenizer.id("<｜end▁of▁sentence｜>"), Some(EOS_ID));
        assert_eq!(tokenizer.encode("<think>", Special::Parse).unwrap(), [5]);
        assert_ne!(tokenizer.encode("<think>", Special::AsText).unwrap(), [5]);
    }
}
