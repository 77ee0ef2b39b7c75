//! Streamed in any pieces = whole; the forms of all generations.

use super::*;
use crate::calls::SEP;
use proptest::prelude::*;

fn parts(text: &str, inside: bool) -> (Option<String>, String, bool) {
    let p = StreamParser::parse(text, inside);
    (p.reasoning, p.answer, p.reasoning_truncated)
}

#[test]
fn reasoning_is_split_from_the_answer() {
    assert_eq!(parts("r\nq\n</think>\n\na\n", true), (Some("r\nq".into()), "a\n".into(), false));
    assert_eq!(parts("<think>\nr\n</think>\n\na", false), (Some("r".into()), "a".into(), false));
    assert_eq!(parts("<think>\nr\n</think>\n\na", true), (Some("r".into()), "a".into(), false));
    assert_eq!(parts("r without end", true), (Some("r without end".into()), String::new(), true));
    assert_eq!(parts("\n</think>\n\na", true), (Some(String::new()), "a".into(), false));
    assert_eq!(parts("\n a <think> b", false), (None, "\n a <think> b".into(), false));
}

#[test]
fn calls_of_all_generations_are_read() {
    let want = ToolCall { name: "f".into(), arguments: "{\"a\": 1}".into() };
    for text in [
        "x\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>",
        "x\n<tool_call>\n{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}\n</tool_call>",
        "x<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"a\": 1}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "x<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\": 1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    ] {
        let parsed = StreamParser::parse(text, false);
        assert_eq!((parsed.answer.as_str(), &parsed.tool_calls[..]), ("x", &[want.clone()][..]), "{text}");
    }
    let broken = StreamParser::parse("<tool_call>\n{\"name\": \"f\"", false);
    assert_eq!(broken.broken_calls, ["<tool_call>\n{\"name\": \"f\""]);
    let broken = StreamParser::parse("<tool_call>nonsense</tool_call>", false);
    assert_eq!(broken.broken_calls, ["<tool_call>nonsense</tool_call>"]);
}

/// Texts out of tags, parts of tags and plain text, which meet every held-back path.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("<think>"),
        Just("</think>"),
        Just("<tool_call>"),
        Just("</tool_call>"),
        Just("\n"),
        Just("\n\n"),
        Just("<"),
        Just("</th"),
        Just("ink>"),
        Just("a"),
        Just(" b "),
        Just("中"),
        Just("<｜tool▁c"),
        Just(CALLS_BEGIN),
        Just(CALLS_END),
        Just(CALL_BEGIN),
        Just(CALL_END),
        Just(SEP),
        Just("f"),
        Just("{\"name\": \"f\", \"arguments\": {}}"),
        Just("\n```json\n{}\n```"),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|p| p.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn streamed_is_whole(
        text in text(), cuts in prop::collection::vec(0usize..200, 0..12), inside: bool,
        margins in prop_oneof![Just(("", "")), Just((" ", "")), Just(("\n", "\n"))],
    ) {
        let parser = || StreamParser::new(inside).with_margins(margins.0, margins.1);
        let whole = parser().parse_all(&text);
        let mut at: Vec<usize> = cuts.into_iter().filter(|c| text.is_char_boundary(*c)).collect();
        at.extend([0, text.len()]);
        at.sort_unstable();
        let mut streaming = parser();
        let mut got = Parsed::default();
        for pair in at.windows(2) {
            got.absorb(streaming.push(&text[pair[0]..pair[1]]));
        }
        got.absorb(streaming.finish());
        got.reasoning_truncated = streaming.in_reasoning();
        prop_assert_eq!(&got, &whole);
        let mut single = parser();
        let mut got = Parsed::default();
        for c in text.chars() {
            got.absorb(single.push(&c.to_string()));
        }
        got.absorb(single.finish());
        got.reasoning_truncated = single.in_reasoning();
        prop_assert_eq!(got, whole);
    }
}
