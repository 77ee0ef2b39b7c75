//! Every row schema, every rule of a conversation, the options that change how rows are taken.

mod common;

use common::*;
use loar_data::{FaultKind, Format, PairStyle, ReadOptions, ThinkTags, read_bytes};
use loar_text::Body;
use serde_json::{Value, json};

/// One JSONL line.
fn line(row: Value) -> String {
    format!("{row}\n")
}

fn messages(turns: Value) -> String {
    line(json!({"messages": turns}))
}

#[test]
fn openai_messages_with_all_fields() {
    let text = line(json!({
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": null, "reasoning": "look it up",
             "tool_calls": [{"id": "c1", "name": "f", "arguments": {"x": 1}}]},
            {"role": "tool", "content": "7", "tool_call_id": "c1", "name": "f"},
            {"role": "assistant", "content": "old", "weight": 0},
            {"role": "user", "content": "again"},
            {"role": "assistant", "content": "new", "reasoning_content": "r", "annotations": []},
        ],
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "chat_template_kwargs": {"thinking": true},
        "id": 3,
    }));
    let data = ok("a.jsonl", text);
    let conversation = chat(&data, 0);
    let m = &conversation.messages;
    assert_eq!(m[1].content, "ab");
    assert_eq!(m[2].reasoning_content.as_deref(), Some("look it up"));
    assert_eq!(
        m[2].tool_calls,
        [json!({"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}})]
    );
    assert_eq!((m[3].tool_call_id.as_deref(), m[3].name.as_deref()), (Some("c1"), Some("f")));
    let train: Vec<bool> = m.iter().map(|m| m.train).collect();
    assert_eq!(train, [false, false, true, false, false, false, true]);
    assert_eq!(conversation.tools, Some(json!([{"type": "function", "function": {"name": "f"}}])));
    assert_eq!(conversation.template_kwargs["thinking"], true);
    let ignored: Vec<_> = data.files[0].ignored_fields.iter().collect();
    assert_eq!(ignored, [(&"id".to_owned(), &1), (&"messages[].annotations".to_owned(), &1)]);
}

#[test]
fn sharegpt_with_tools_and_system() {
    let text = line(json!({
        "system": "s",
        "tools": "[{\"name\": \"f\"}]",
        "conversations": [
            {"from": "human", "value": "q"},
            {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"x\": 1}}"},
            {"from": "observation", "value": "7"},
            {"from": "gpt", "value": "<think>\nhm\n</think>\n\na"},
        ],
    }));
    let data = ok("a.jsonl", text);
    assert_eq!(data.files[0].format, Format::ShareGpt);
    assert_eq!(turns(&data, 0), [("system", "s"), ("user", "q"), ("assistant", ""), ("tool", "7"), ("assistant", "a")]);
    let conversation = chat(&data, 0);
    assert_eq!(conversation.messages[2].tool_calls[0]["function"]["arguments"]["x"], 1);
    assert_eq!(conversation.messages[4].reasoning_content.as_deref(), Some("hm"));
    assert_eq!(conversation.tools, Some(json!([{"name": "f"}])));
}

#[test]
fn alpaca_joins_input_and_keeps_history() {
    let text = line(json!({"instruction": "i", "input": "x", "output": "o", "system": "s",
        "history": [["u1", "a1"], ["u2", "a2"]]}))
        + &line(json!({"instruction": "i", "input": "", "output": "o"}));
    let data = ok("a.jsonl", text);
    assert_eq!(data.files[0].format, Format::Alpaca);
    assert_eq!(
        turns(&data, 0),
        [
            ("system", "s"),
            ("user", "u1"),
            ("assistant", "a1"),
            ("user", "u2"),
            ("assistant", "a2"),
            ("user", "i\nx"),
            ("assistant", "o")
        ]
    );
    assert_eq!(turns(&data, 1), [("user", "i"), ("assistant", "o")]);
    let found = faults("a.jsonl", line(json!({"instruction": "", "output": " ", "history": [["q"]]})));
    assert_eq!(
        kinds(&found),
        [
            (FaultKind::WrongType, "history[0]"),
            (FaultKind::EmptyUserTurn, "instruction"),
            (FaultKind::EmptyAssistantTurn, "output"),
        ]
    );
}

#[test]
fn pairs_under_every_name() {
    let raw = Body::Completion { prompt: "p".into(), completion: "c".into() };
    for (p, c, is_raw) in [
        ("prompt", "completion", true),
        ("prompt", "response", false),
        ("question", "answer", false),
        ("query", "response", false),
        ("problem", "solution", false),
        ("input", "output", false),
    ] {
        let text = line(json!({p: "p", c: "c"}));
        let data = ok("a.jsonl", &text);
        assert_eq!(data.files[0].format, Format::PromptCompletion, "{p} {c}");
        assert_eq!(data.examples[0].body == raw, is_raw, "{p} {c}");
        let pairs = if is_raw { PairStyle::Chat } else { PairStyle::Completion };
        let options = ReadOptions { pairs, ..ReadOptions::default() };
        assert_eq!(with("a.jsonl", &text, &options).examples[0].body == raw, !is_raw, "{p} {c}");
    }
    let turns_pair = line(json!({
        "prompt": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "x"}, {"role": "user", "content": "q2"}],
        "completion": [{"role": "assistant", "content": "y"}]}));
    let data = ok("a.jsonl", turns_pair);
    let train: Vec<bool> = chat(&data, 0).messages.iter().map(|m| m.train).collect();
    assert_eq!(train, [false, false, false, true]);
    let found = faults("a.jsonl", line(json!({"prompt": "p", "answers": ["a", "b"]})));
    assert_eq!(kinds(&found), [(FaultKind::WrongType, "answers")]);
    let found = faults("a.jsonl", line(json!({"prompt": " ", "completion": ""})));
    assert_eq!(kinds(&found), [(FaultKind::EmptyField, "prompt"), (FaultKind::EmptyField, "completion")]);
}

#[test]
fn names_can_be_mapped() {
    let mut options = ReadOptions::default();
    for (ours, theirs) in [("prompt", "q"), ("completion", "data.a"), ("reasoning_content", "cot")] {
        options.fields.insert(ours.into(), theirs.into());
    }
    options.keep = vec!["gold".into()];
    let text = line(json!({"q": "2+2", "data": {"a": "4"}, "cot": "add", "gold": [4], "question": "other"}));
    let data = with("a.jsonl", text, &options);
    assert_eq!(turns(&data, 0), [("user", "2+2"), ("assistant", "4")]);
    assert_eq!(chat(&data, 0).messages[1].reasoning_content.as_deref(), Some("add"));
    assert_eq!(data.examples[0].kept["gold"], json!([4]));
    let found = faults_with("a.jsonl", line(json!({"q": "x", "other": 1})), &options);
    assert_eq!(kinds(&found), [(FaultKind::UnknownSchema, "")]);

    let mut options = ReadOptions { format: Some(Format::PromptCompletion), ..options };
    let found = faults_with("a.jsonl", line(json!({"q": "x", "other": 1})), &options);
    assert_eq!(kinds(&found), [(FaultKind::MissingField, "data.a")]);
    options.roles.insert("客服".into(), "assistant".into());
    options.format = None;
    options.fields.clear();
    let text = messages(json!([{"role": "user", "content": "q"}, {"role": "客服", "content": "a"}]));
    assert_eq!(turns(&with("a.jsonl", text, &options), 0)[1].0, "assistant");

    options.fields.insert("promt".into(), "q".into());
    options.roles.insert("x".into(), "narrator".into());
    options.max_row_bytes = 0;
    let error = read_bytes("a.jsonl", b"", &options).unwrap_err().to_string();
    assert_eq!(error.lines().count(), 3, "{error}");
    assert!(error.starts_with("`fields` maps `promt`, which no schema has"), "{error}");
}

#[test]
fn the_schema_is_told_from_most_of_the_first_rows() {
    let good = line(json!({"text": "t"}));
    let odd = line(json!({"prompt": "p", "completion": "c"}));
    let data = with("a.jsonl", format!("{odd}{good}{good}"), &drop_bad());
    assert_eq!(data.files[0].format_why, "`text` in 2 of the first 3 rows");
    assert_eq!(data.dropped[0].kind, FaultKind::MissingField);
    let found = faults("a.jsonl", line(json!({"chosen": "x", "rejected": "y", "prompt": "p"})));
    assert_eq!(kinds(&found), [(FaultKind::PreferenceData, "")]);
    let options = ReadOptions { format: Some(Format::Text), ..ReadOptions::default() };
    let data = with("a.jsonl", line(json!({"text": "t", "prompt": "p", "completion": "c"})), &options);
    assert_eq!(data.examples[0].body, Body::Text("t".into()));
}

#[test]
fn every_rule_of_a_conversation() {
    use FaultKind::*;
    let u = json!({"role": "user", "content": "q"});
    let a = json!({"role": "assistant", "content": "a"});
    let call = |args: Value| json!({"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": args}}]});
    let m = |role: &str, content: &str| json!({"role": role, "content": content});
    let cases: Vec<(Value, FaultKind, &str)> = vec![
        (json!([]), EmptyConversation, "messages"),
        (json!([u]), NoTrainableTurn, "messages"),
        (json!([u, {"role": "assistant", "content": "a", "weight": 0}]), NoTrainableTurn, "messages"),
        (json!([u, {"role": "assistant", "content": "a", "weight": 0.5}]), BadWeight, "messages[1].weight"),
        (json!([u, m("assistant", " \n")]), EmptyAssistantTurn, "messages[1]"),
        (json!([u, m("assistant", "<think>x</think>\n")]), EmptyAssistantTurn, "messages[1]"),
        (json!([m("user", ""), a]), EmptyUserTurn, "messages[0]"),
        (json!([{"content": "q"}, a]), MissingRole, "messages[0]"),
        (json!([m("bot2", "q"), a]), UnknownRole, "messages[0].role"),
        (json!([{"role": 3, "content": "q"}, a]), WrongType, "messages[0].role"),
        (json!([{"role": "user"}, a]), MissingField, "messages[0].content"),
        (json!([{"role": "user", "content": null}, a]), MissingField, "messages[0].content"),
        (json!([{"role": "user", "content": 5}, a]), WrongType, "messages[0].content"),
        (
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, a]),
            UnsupportedPart,
            "messages[0].content[0]",
        ),
        (json!(["q", a]), WrongType, "messages[0]"),
        (json!([a]), FirstTurnNotUser, "messages[0]"),
        (json!([u, a, a]), AssistantAfterAssistant, "messages[2]"),
        (json!([u, call(json!("{}")), a]), AssistantAfterAssistant, "messages[2]"),
        (json!([u, a, m("system", "s"), u, a]), SystemNotFirst, "messages[2]"),
        (json!([u, a, m("tool", "7"), a]), ToolWithoutCall, "messages[2]"),
        (
            json!([u, call(json!({})), {"role": "tool", "content": "7", "tool_call_id": "2"}, a]),
            UnknownToolCallId,
            "messages[2].tool_call_id",
        ),
        (json!([u, call(json!("not json"))]), BadToolCall, "messages[1].tool_calls[0].function.arguments"),
        (
            json!([u, {"role": "assistant", "tool_calls": [{"function": {}}]}]),
            BadToolCall,
            "messages[1].tool_calls[0].function.name",
        ),
        (
            json!([{"role": "user", "content": "q", "tool_calls": [{"name": "f", "arguments": {}}]}, a]),
            ToolCallOutsideAssistant,
            "messages[0]",
        ),
        (
            json!([{"role": "user", "content": "q", "reasoning_content": "r"}, a]),
            ReasoningOutsideAssistant,
            "messages[0]",
        ),
        (json!([u, m("assistant", "<think>x")]), ThinkNotClosed, "messages[1].content"),
        (json!([u, m("assistant", "x</think>y")]), ThinkNotOpened, "messages[1].content"),
        (json!([u, m("assistant", "z<think>x</think>y")]), ThinkNotAtStart, "messages[1].content"),
        (json!([u, m("assistant", "<think>x</think>y<think>z</think>")]), ThinkRepeated, "messages[1].content"),
        (
            json!([u, {"role": "assistant", "content": "<think>x</think>y", "reasoning_content": "r"}]),
            ThinkAndField,
            "messages[1].content",
        ),
    ];
    for (turns, kind, field) in cases {
        let found = faults("a.jsonl", messages(turns.clone()));
        assert_eq!(kinds(&found), [(kind, field)], "{turns}\n{found}");
        // The same row is a counted drop beside a good one.
        let text = messages(turns) + &messages(json!([u, a]));
        let data = with("a.jsonl", text, &drop_bad());
        assert_eq!((data.examples.len(), data.dropped.len(), data.rows_read()), (1, 1, 2));
        assert_eq!(data.dropped_by_kind()[&kind], 1);
    }
    for good in [
        json!([u, u, a, u]),
        json!([m("system", "s"), m("system", "s2"), u, a]),
        json!([u, call(json!("{\"x\": 1}")), m("tool", "7"), m("tool", "8"), a, u, a]),
        json!([u, call(json!({}))]),
        json!([m("developer", "d"), u, a]),
    ] {
        ok("a.jsonl", messages(good));
    }
}

#[test]
fn think_tags_by_choice() {
    let text =
        messages(json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "r\n</think>\n\n4"}]));
    let options = ReadOptions { think: ThinkTags::SplitPrefilled, ..ReadOptions::default() };
    let data = with("a.jsonl", &text, &options);
    assert_eq!(chat(&data, 0).messages[1].reasoning_content.as_deref(), Some("r"));
    assert_eq!(turns(&data, 0)[1].1, "4");
    let options = ReadOptions { think: ThinkTags::Keep, ..ReadOptions::default() };
    let data = with("a.jsonl", &text, &options);
    assert_eq!(turns(&data, 0)[1].1, "r\n</think>\n\n4");
}

#[test]
fn broken_rows_of_jsonl() {
    use FaultKind::*;
    let bad: [(&[u8], FaultKind); 6] = [
        (b"{\"text\": \"t\"", TruncatedJson),
        (b"{\"text\": t}", InvalidJson),
        (b"{\"text\": \"\xff\"}", InvalidUtf8),
        (b"[1]", NotAnObject),
        (b"{\"text\": \"a\", \"text\": \"b\"}", DuplicateKey),
        (b"{\"text\": \"\\ud800\"}", InvalidJson),
    ];
    for (bytes, kind) in bad {
        let text = [b"{\"text\": \"good\"}\n", bytes, b"\n"].concat();
        let found = faults("a.jsonl", text);
        assert_eq!((found.first[0].kind, found.first[0].line), (kind, Some(2)), "{found}");
        assert_eq!((found.total, found.good_rows, found.rows_read), (1, 1, 2));
    }
}

/// Compares with a file under `tests/golden`; `LOAR_BLESS=1` writes it instead.
fn golden(name: &str, text: &str) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/").to_owned() + name;
    if std::env::var_os("LOAR_BLESS").is_some() {
        std::fs::write(&path, format!("{text}\n")).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, expected.trim_end(), "{name} differs; LOAR_BLESS=1 takes the new text");
}

/// One text per kind, so that a change of any of them is seen in review.
#[test]
fn the_texts_of_all_kinds() {
    let mut text = String::new();
    for kind in FaultKind::ALL {
        let scope = if kind.ends_file() { "file" } else { "row" };
        text += &format!("{kind} ({scope}): {}; {}\n", kind.problem(), kind.mend());
        assert!(!kind.mend().ends_with('.') && !kind.problem().ends_with('.'), "{kind}");
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
    }
    golden("kinds.txt", text.trim_end());
}

#[test]
fn the_error_shows_twenty_faults_and_counts_the_rest() {
    let mut text = messages(json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]));
    for _ in 0..2 {
        text += &messages(json!([{"role": "user", "content": ""}, {"role": "bot2", "content": "a"}]));
    }
    text += &messages(json!([{"role": "user", "content": ""}, {"role": "assistant", "content": ""}]));
    text += "{\"messages\": 3}\n{\"messages\": null, \"x\": \"a`b\\nc\"}\n{\"x\":\n";
    let found = faults("a.jsonl", &text);
    golden("faults.txt", &found.to_string());
    let many = faults("a.jsonl", text.repeat(9));
    assert_eq!((many.first.len(), many.total), (20, 9 * found.total));
    assert!(many.to_string().contains("(the first 20 are shown)"));
    let error = read_bytes("a.jsonl", b"{\"text\": \"\"}\n{\"text\": 1}", &drop_bad()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "all 2 rows were dropped, the first at `a.jsonl:1`: `text`: the text is empty, found an empty text"
    );
}

#[test]
fn options_are_read_from_a_run_file() {
    let options: ReadOptions = serde_json::from_value(json!({
        "format": "openai", "container": "jsonl", "on_bad_row": "drop", "pairs": "chat",
        "think": "split-prefilled", "text_unit": "block", "csv_delimiter": "|",
        "fields": {"messages": "dialog"}, "max_row_bytes": 1000,
    }))
    .unwrap();
    assert_eq!(options.format, Some(Format::Messages));
    assert_eq!(options.max_unpack_ratio, ReadOptions::default().max_unpack_ratio);
    assert!(options.check().is_ok());
    let again: ReadOptions = serde_json::from_value(serde_json::to_value(&options).unwrap()).unwrap();
    assert_eq!(again, options);
    let typo = serde_json::from_value::<ReadOptions>(json!({"formats": "alpaca"})).unwrap_err();
    assert!(typo.to_string().contains("unknown field `formats`"), "{typo}");
}
