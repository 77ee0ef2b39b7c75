//! Helpers of the tests: the shared inputs, and a tiny byte-level tokenizer made here.
#![allow(dead_code)]

use loar_text::{
    Body, ChatTemplate, Conversation, EncodeOptions, Encoder, Message, RowFault, TokenRow, Tokenizer, visualize,
};
use serde_json::{Value, json};
use std::path::PathBuf;

/// A path under `../shared`, or `None` with a loud line when it is absent.
pub fn shared(path: &str) -> Option<PathBuf> {
    let full = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")).join(path);
    if full.exists() {
        return Some(full);
    }
    eprintln!("skipped: ../shared/{path} is absent");
    None
}

/// GPT-2's byte alphabet.
fn alphabet() -> Vec<char> {
    let mut next = 0x100u32;
    (0..=255u8)
        .map(|b| match b {
            b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(b),
            _ => {
                next += 1;
                char::from_u32(next - 1).unwrap()
            }
        })
        .collect()
}

/// A byte-level BPE with a few merges; `control` are its control tokens, the ones with `<think`
/// or `</think` not marked special, as in the distils.
pub fn tiny(control: &[&str], config: Value) -> Tokenizer {
    let letters = alphabet();
    let mut pieces: Vec<String> = letters.iter().map(char::to_string).collect();
    let newline = letters[b'\n' as usize].to_string();
    let space = letters[b' ' as usize].to_string();
    let pairs: Vec<(String, String)> = [
        ("t", "h"),
        ("th", "i"),
        ("n", "k"),
        ("thi", "nk"),
        ("thi", "n"),
        ("<", "|"),
        ("i", "s"),
        (&*space, "i"),
        (&*space, "a"),
        (&*newline, &*newline),
        (":", &*space),
        ("1", "2"),
    ]
    .iter()
    .map(|(a, b)| (a.to_string(), b.to_string()))
    .collect();
    for (a, b) in &pairs {
        pieces.push(format!("{a}{b}"));
    }
    let vocab: serde_json::Map<String, Value> = pieces.iter().enumerate().map(|(i, p)| (p.clone(), json!(i))).collect();
    let added: Vec<Value> = control
        .iter()
        .enumerate()
        .map(|(i, c)| {
            json!({"id": pieces.len() + i, "content": c, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": !c.contains("think>") && c.len() > 2})
        })
        .collect();
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                  "vocab": vocab, "merges": pairs.iter().map(|(a, b)| format!("{a} {b}")).collect::<Vec<_>>()}
    });
    Tokenizer::from_bytes(file.to_string().as_bytes(), Some(config.to_string().as_bytes())).unwrap()
}

pub const DEEPSEEK: [&str; 16] = [
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜▁pad▁｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<think>",
    "</think>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁outputs▁begin｜>",
    "<｜tool▁outputs▁end｜>",
    "<｜tool▁output▁begin｜>",
    "<｜tool▁output▁end｜>",
];

/// Tiny tokenizer with DeepSeek's control tokens.
pub fn deepseek() -> Tokenizer {
    tiny(
        &DEEPSEEK,
        json!({"bos_token": {"content": "<｜begin▁of▁sentence｜>"}, "eos_token": "<｜end▁of▁sentence｜>",
               "pad_token": "<｜▁pad▁｜>", "add_bos_token": false}),
    )
}

/// Tiny tokenizer with Qwen's control tokens.
pub fn qwen() -> Tokenizer {
    tiny(
        &["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_call>"],
        json!({"bos_token": null, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "add_bos_token": false}),
    )
}

pub fn encoder_with(template: &str, options: EncodeOptions) -> Encoder {
    let tokenizer = match template {
        "qwen2" | "qwen3" => qwen(),
        "coder" => tiny(
            &["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<|EOT|>"],
            json!({"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<|EOT|>", "add_bos_token": true}),
        ),
        _ => deepseek(),
    };
    Encoder::new(tokenizer, Some(ChatTemplate::builtin(template).unwrap()), options)
}

pub fn encoder(template: &str) -> Encoder {
    encoder_with(template, EncodeOptions::default())
}

pub fn chat(messages: Vec<Message>) -> Conversation {
    Conversation { messages, ..Conversation::default() }
}

/// Trained text between ⟦ and ⟧, BOS and EOS shortened.
pub fn show(tokenizer: &Tokenizer, row: &TokenRow) -> String {
    let text = visualize(tokenizer, row, false);
    let (text, counts) = text.trim_end().rsplit_once('\n').unwrap();
    assert!(counts.starts_with(&format!("{} tokens: {} trained", row.ids.len(), row.stats.trained)), "{counts}");
    text.replace("⏎\n", "↵")
        .replace("<｜begin▁of▁sentence｜>", "B")
        .replace("<｜end▁of▁sentence｜>", "E")
        .replace("<｜User｜>", "U:")
        .replace("<｜Assistant｜>", "A:")
        .replace("<|im_start|>", "[")
        .replace("<|im_end|>", "]")
}

pub fn rows(encoder: &Encoder, conversation: &Conversation) -> Vec<String> {
    let rows = encoder.rows(&Body::Chat(conversation.clone())).unwrap();
    rows.iter().map(|row| show(encoder.tokenizer(), row)).collect()
}

pub fn fault(encoder: &Encoder, conversation: &Conversation) -> RowFault {
    encoder.rows(&Body::Chat(conversation.clone())).unwrap_err().fault
}

pub fn two_turns() -> Conversation {
    chat(vec![
        Message::system("S"),
        Message::user("u1"),
        Message::assistant("a1").with_reasoning("r1"),
        Message::user("u2"),
        Message::assistant("a2").with_reasoning("r2\nmore"),
    ])
}
