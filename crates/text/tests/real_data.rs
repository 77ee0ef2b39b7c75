//! Real rows through the real tokenizer: nothing is refused, every prefix is what serving feeds.

mod common;

use loar_text::{Body, ChatTemplate, Conversation, EncodeOptions, Encoder, Message, Thinking, Tokenizer};
use serde_json::Value;

fn lines(path: &str, most: usize) -> Option<Vec<Value>> {
    let text = std::fs::read_to_string(common::shared(path)?).unwrap();
    Some(text.lines().take(most).map(|l| serde_json::from_str(l).unwrap()).collect())
}

fn check(encoder: &Encoder, talk: &Conversation) {
    let t = encoder.tokenizer();
    let rows = encoder.rows(&Body::Chat(talk.clone())).unwrap();
    for row in &rows {
        for span in &row.spans {
            let head = Conversation { messages: talk.messages[..span.turn].to_vec(), ..talk.clone() };
            let thinking = match (&talk.messages[span.turn].reasoning_content, encoder.thinks()) {
                (_, false) => Thinking::Default,
                (Some(_), true) => Thinking::On,
                (None, true) => Thinking::Off,
            };
            let prompt = encoder.prompt_with(&head, thinking).unwrap();
            assert_eq!(prompt.ids, row.ids[..span.tokens.start]);
            let label = t.decode(&row.ids[span.tokens.clone()], false);
            assert!(label.contains(talk.messages[span.turn].content.trim()), "{label}");
            assert_eq!(row.ids[span.tokens.end - 1], encoder.stop_ids()[0]);
        }
    }
}

#[test]
fn intent_and_math_rows_are_encoded_whole() {
    let Some(dir) = common::shared("tokenizers/deepseek_v4") else {
        return;
    };
    let tokenizer = Tokenizer::from_dir(&dir).unwrap();
    let Some(intent) = lines("data/esft/train/intent.jsonl", 150) else {
        return;
    };
    let Some(math) = lines("data/gsm8k/train.jsonl", 150) else {
        return;
    };
    for name in ["v3", "r1", "v3.1", "v2"] {
        let template = ChatTemplate::builtin(name).unwrap();
        let encoder = Encoder::new(tokenizer.clone(), Some(template), EncodeOptions::default());
        for row in &intent {
            let messages = serde_json::from_value(row["messages"].clone()).unwrap();
            check(&encoder, &Conversation { messages, ..Conversation::default() });
        }
        for row in &math {
            let (chain, answer) = row["answer"].as_str().unwrap().split_once("\n#### ").unwrap();
            let messages = vec![
                Message::user(row["question"].as_str().unwrap()),
                Message::assistant(answer).with_reasoning(chain),
            ];
            check(&encoder, &Conversation { messages, ..Conversation::default() });
        }
    }
}
