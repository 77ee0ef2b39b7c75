//! Tool calls and released templates: what they train, written out.

mod common;

use common::{chat, encoder, fault, rows, two_turns};
use loar_text::{ChatTemplate, EncodeOptions, Encoder, Message, RowFault};
use serde_json::{Value, json};

fn call(arguments: Value) -> Message {
    let mut m = Message::assistant("");
    m.tool_calls = vec![json!({"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}})];
    m
}

#[test]
fn tool_calls_are_trained_whole_in_text_or_object_form() {
    let tail = "f\n```json\n{\"a\": 1}\n```".replace('\n', "↵");
    let r1_call = format!(
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>{tail}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    );
    let outputs = "<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>7<｜tool▁output▁end｜><｜tool▁outputs▁end｜>";
    let v3_1_call =
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\": 1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
    for arguments in [json!({"a": 1}), json!("{\"a\": 1}")] {
        let talk = chat(vec![Message::user("u"), call(arguments), Message::new("tool", "7"), Message::assistant("a")]);
        assert_eq!(rows(&encoder("v3"), &talk), [format!("BU:uA:⟦{r1_call}E⟧{outputs}⟦aE⟧")]);
        assert_eq!(
            rows(&encoder("r1"), &talk),
            [format!("BU:uA:<think>↵↵</think>↵↵⟦{r1_call}E⟧"), format!("BU:uA:{r1_call}E{outputs}⟦aE⟧")]
        );
        assert_eq!(
            rows(&encoder("v3.1"), &talk),
            [format!("BU:uA:</think>⟦{v3_1_call}E⟧<｜tool▁output▁begin｜>7<｜tool▁output▁end｜>⟦aE⟧")]
        );
        let qwen = rows(&encoder("qwen2"), &talk);
        assert_eq!(qwen.len(), 1);
        assert!(qwen[0].ends_with(
            "[user↵u]↵[assistant↵⟦<tool_call>↵{\"name\": \"f\", \"arguments\": {\"a\": 1}}↵</tool_call>]⟧↵[user↵<tool_response>↵7↵</tool_response>]↵[assistant↵⟦a]⟧"
        ));
        assert!(matches!(fault(&encoder("llm"), &talk), RowFault::Template { .. }));
    }
}

#[test]
fn released_templates_get_calls_in_the_form_they_print() {
    let Some(root) = common::shared("templates") else {
        return;
    };
    for (name, trained) in [
        ("r1_distill_llama", "function<｜tool▁sep｜>f↵```json↵{\"a\": 1}↵```<｜tool▁call▁end｜>E⟧"),
        ("r1_distill_qwen", "function<｜tool▁sep｜>f↵```json↵{\"a\": 1}↵```<｜tool▁call▁end｜><｜tool▁calls▁end｜>E⟧"),
        ("v3_1", "f<｜tool▁sep｜>{\"a\": 1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>E⟧"),
    ] {
        let source = std::fs::read_to_string(root.join(name).join("chat_template.jinja")).unwrap();
        let t = ChatTemplate::from_source(&source, "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>").unwrap();
        let e = Encoder::new(common::deepseek(), Some(t), EncodeOptions::default());
        for arguments in [json!({"a": 1}), json!("{\"a\": 1}")] {
            let got = rows(&e, &chat(vec![Message::user("u"), call(arguments)]));
            assert!(got[0].ends_with(trained), "{name}: {got:?}");
        }
    }
    // This template prints a call before the content of the same turn and ends the turn between.
    let source = std::fs::read_to_string(root.join("r1_distill_qwen/chat_template.jinja")).unwrap();
    let t = ChatTemplate::from_source(&source, "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>").unwrap();
    let e = Encoder::new(common::deepseek(), Some(t), EncodeOptions::default());
    let mut both = call(json!({"a": 1}));
    both.content = "let me look".into();
    let got = fault(&e, &chat(vec![Message::user("u"), both]));
    assert!(matches!(&got, RowFault::EndsEarly { after, .. } if after.contains("let me look")), "{got}");
}

#[test]
fn released_r1_templates_keep_the_reasoning_in_the_labels() {
    let Some(root) = common::shared("templates") else {
        return;
    };
    for name in ["r1_distill_llama", "r1_distill_qwen", "v3_1"] {
        let source = std::fs::read_to_string(root.join(name).join("chat_template.jinja")).unwrap();
        let t = ChatTemplate::from_source(&source, "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>").unwrap();
        let e = Encoder::new(common::deepseek(), Some(t), EncodeOptions::default());
        let got = rows(&e, &two_turns());
        let want = match name {
            "v3_1" => ["BSU:u1A:<think>⟦r1</think>a1E⟧", "BSU:u1A:<think></think>a1EU:u2A:<think>⟦r2↵more</think>a2E⟧"],
            _ => ["BSU:u1A:<think>↵⟦r1↵</think>↵↵a1E⟧", "BSU:u1A:a1EU:u2A:<think>↵⟦r2↵more↵</think>↵↵a2E⟧"],
        };
        assert_eq!(got, want, "{name}");
    }
    let source = std::fs::read_to_string(root.join("qwen3/chat_template.jinja")).unwrap();
    let t = ChatTemplate::from_source(&source, "", "<|im_end|>").unwrap();
    let e = Encoder::new(common::qwen(), Some(t), EncodeOptions::default());
    assert_eq!(
        rows(&e, &two_turns()),
        [
            "[system↵S]↵[user↵u1]↵[assistant↵⟦<think>↵r1↵</think>↵↵a1]⟧",
            "[system↵S]↵[user↵u1]↵[assistant↵a1]↵[user↵u2]↵[assistant↵⟦<think>↵r2↵more↵</think>↵↵a2]⟧"
        ]
    );
}
