//! Token sequences on which two models are compared.
//!
//! Takes a checkpoint folder and, if given, a file of prompts. Gives sequences of bounded length and
//! number, and where they come from. A base without a tokenizer is compared on random ids.

use std::path::Path;

use loar_kernels::rng::Stream;
use loar_model::Model;
use loar_text::{Conversation, Encoder, Message};

use crate::diagnose::Failure;
use crate::model_dir::open_encoder;

/// What the certificate is measured on.
pub struct Prompts {
    /// Where they come from, for the certificate.
    pub origin: String,
    /// Token ids; none is empty.
    pub sequences: Vec<Vec<u32>>,
}

/// Sentences of the kinds of text people fine-tune for.
const SENTENCES: [&str; 6] = [
    "Explain in two sentences why the sky is blue during the day and red in the evening.",
    "请用三句话说明什么是信用风险，并举一个例子。",
    "fn gcd(a: u64, b: u64) -> u64 { if b == 0 { a } else { gcd(b, a % b) } } // What does gcd(84, 36) return?",
    "A train covers 180 km in 2 h 15 min. What is its average speed in km/h? Think step by step.",
    "Income 8,200 a month, two open loans, one late payment last year: approve or decline? Answer as JSON.",
    "Traduis en français : the quick brown fox jumps over the lazy dog, 12 times before 6 p.m.",
];
/// Tokens of a sequence at most: enough to see the gap, cheap on a laptop.
const LONGEST: usize = 256;
/// Positions compared at most: three sets of logits are held, 1 GB each at a vocabulary of 129,280.
const MOST_POSITIONS: usize = 2048;

impl Prompts {
    /// Lines of `file`, or built-in sentences, as the checkpoint in `dir` would be fed them.
    pub fn of(dir: &Path, file: Option<&Path>, model: &Model) -> Result<Self, Failure> {
        let encoder = match dir.join("tokenizer.json").exists() {
            true => Some(open_encoder(dir, None)?.0),
            false => None,
        };
        let longest = LONGEST.min(match model.config.max_position_embeddings {
            0 => LONGEST,
            n => n,
        });
        let (origin, mut sequences) = match (file, encoder) {
            (Some(path), None) => {
                return Err(Failure::usage(format!("`{}` cannot be used without a tokenizer", path.display()))
                    .with_help(format!("`{}` has no tokenizer.json", dir.display())));
            }
            (Some(path), Some(encoder)) => {
                let text = std::fs::read_to_string(path).map_err(|e| Failure::file(path, "read", &e))?;
                let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
                if lines.is_empty() {
                    return Err(Failure::usage(format!("`{}` holds no prompt", path.display())));
                }
                (path.display().to_string(), encode(&encoder, &lines)?)
            }
            (None, Some(encoder)) => ("built-in sentences".to_owned(), encode(&encoder, &SENTENCES)?),
            (None, None) => {
                let stream = Stream::new(0, 0x6365_7274, 0);
                let vocab = model.config.vocab_size as u64;
                let row = |r: u64| (0..64).map(|i| stream.below(r * 64 + i, vocab) as u32).collect();
                ("random token ids (the base has no tokenizer)".to_owned(), (0..4).map(row).collect())
            }
        };
        for s in &mut sequences {
            s.truncate(longest);
            model.check_ids(s)?;
        }
        let mut positions = 0;
        sequences.retain(|s: &Vec<u32>| {
            positions += s.len();
            !s.is_empty() && positions <= MOST_POSITIONS
        });
        Ok(Self { origin, sequences })
    }
}

/// Prompts as generation would feed them: as user messages where there is a template.
fn encode(encoder: &Encoder, texts: &[&str]) -> Result<Vec<Vec<u32>>, Failure> {
    texts
        .iter()
        .map(|text| {
            let prompt = match encoder.template() {
                Some(_) => {
                    encoder.prompt(&Conversation { messages: vec![Message::user(*text)], ..Conversation::default() })
                }
                None => encoder.completion_prompt(text),
            };
            Ok(prompt?.ids)
        })
        .collect()
}
