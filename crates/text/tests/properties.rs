//! Laws that hold for every conversation on every built-in template: training prefix = serving
//! prompt, trained text holds the datum, rendered∘parsed = identity.

mod common;

use loar_text::{Body, ChatTemplate, Conversation, EncodeOptions, Encoder, Message, StreamParser, Thinking, TokenRow};
use proptest::prelude::*;
use serde_json::json;
use std::sync::LazyLock;

static ENCODERS: LazyLock<Vec<(&str, Encoder)>> = LazyLock::new(|| {
    ChatTemplate::builtin_names()
        .iter()
        .map(|name| {
            let tokenizer = match *name {
                "qwen2" | "qwen3" => common::qwen(),
                "coder" => common::tiny(
                    &["<｜begin▁of▁sentence｜>", "<|EOT|>"],
                    json!({"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<|EOT|>"}),
                ),
                _ => common::deepseek(),
            };
            let template = ChatTemplate::builtin(name).unwrap();
            (*name, Encoder::new(tokenizer, Some(template), EncodeOptions::default()))
        })
        .collect()
});

/// Text with tags, newlines, private-use characters and other traps.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("a".to_string()),
        Just(" 12:".to_string()),
        Just("\n".to_string()),
        Just("中文".to_string()),
        Just("<think>".to_string()),
        Just("</think>".to_string()),
        Just("<｜Assistant｜>".to_string()),
        Just("<｜end▁of▁sentence｜>".to_string()),
        Just("<|im_end|>".to_string()),
        Just("<tool_call>".to_string()),
        Just("{{ x }}{% raw %}".to_string()),
        Just("\u{f0000}\u{f0001}".to_string()),
        "\\PC{0,6}",
    ];
    prop::collection::vec(piece, 0..6).prop_map(|p| p.concat())
}

/// Text without tags, as an answer that a model can give and a parser can read back.
fn tame() -> impl Strategy<Value = String> {
    "[a-z中:0-9{}\"][a-z中 \n:0-9{}\"]{0,20}[a-z中.]"
}

fn conversation() -> impl Strategy<Value = Conversation> {
    let turn = (text(), text(), prop::option::of(text()), any::<bool>(), any::<bool>());
    (prop::option::of(text()), prop::collection::vec(turn, 1..4)).prop_map(|(system, turns)| {
        let mut messages: Vec<Message> = system.map(Message::system).into_iter().collect();
        for (user, answer, reasoning, train, inline) in turns {
            messages.push(Message::user(user));
            let mut m = Message::assistant(format!("{answer}."));
            m.train = train;
            match reasoning {
                Some(r) if inline => {
                    m.content = format!("<think>\n{}\n</think>\n\n{}", r.replace("</think>", ""), m.content)
                }
                r => m.reasoning_content = r,
            }
            messages.push(m);
        }
        Conversation { messages, ..Conversation::default() }
    })
}

fn laws(name: &str, encoder: &Encoder, talk: &Conversation, rows: &[TokenRow]) -> Result<(), TestCaseError> {
    let t = encoder.tokenizer();
    let end = encoder.stop_ids()[0];
    let mut turns = Vec::new();
    for row in rows {
        prop_assert_eq!(row.ids.len(), row.train.len());
        prop_assert_eq!(row.train[0], false);
        let s = &row.stats;
        prop_assert_eq!(s.trained + s.masked_prompt + s.masked_history, row.ids.len());
        prop_assert_eq!(row.spans[0].tokens.start, row.prompt_len);
        prop_assert_eq!(row.spans[0].turn, row.turn);
        let in_spans = row.spans.iter().map(|s| s.tokens.len()).sum::<usize>();
        prop_assert_eq!(in_spans, s.trained);
        for span in &row.spans {
            turns.push(span.turn);
            prop_assert!(row.train[span.tokens.clone()].iter().all(|t| *t));
            // The end token is learnt, at the end and nowhere else.
            let trained = &row.ids[span.tokens.clone()];
            prop_assert_eq!(trained.iter().position(|id| *id == end), Some(trained.len() - 1), "{}", name);
            // Generation, asked with the same thinking, feeds exactly what stands before.
            let head = Conversation { messages: talk.messages[..span.turn].to_vec(), ..talk.clone() };
            let fed = [Thinking::Default, Thinking::On, Thinking::Off]
                .into_iter()
                .filter_map(|thinking| encoder.prompt_with(&head, thinking).ok())
                .any(|prompt| prompt.ids == row.ids[..span.tokens.start]);
            prop_assert!(fed, "{}: no prompt equals {:?}", name, t.decode(&row.ids[..span.tokens.start], false));
            // Every byte of the datum is in the label span.
            let label = t.decode(trained, false);
            let m = &talk.messages[span.turn];
            let answer = m.content.trim();
            let (reasoning, answer) = match (&m.reasoning_content, answer.strip_prefix("<think>")) {
                (Some(r), _) => (r.as_str(), answer),
                (None, Some(rest)) => match rest.split_once("</think>") {
                    Some((r, a)) => (r, a.trim()),
                    None => ("", answer),
                },
                // R1's own form, without the opening tag.
                (None, None) => match answer.split_once("</think>") {
                    Some((r, a)) if !r.contains("<think>") => (r, a.trim()),
                    _ => ("", answer),
                },
            };
            prop_assert!(label.contains(answer), "{}: {:?} not in {:?}", name, answer, label);
            prop_assert!(label.contains(reasoning.trim_matches('\n')), "{}: {:?} not in {:?}", name, reasoning, label);
        }
    }
    let want: Vec<usize> = (0..talk.messages.len()).filter(|i| talk.messages[*i].train).collect();
    prop_assert_eq!(turns, want);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn rows_obey_the_laws(talk in conversation()) {
        for (name, encoder) in ENCODERS.iter() {
            match encoder.rows(&Body::Chat(talk.clone())) {
                Ok(rows) => laws(name, encoder, &talk, &rows)?,
                Err(e) => {
                    let none = !talk.messages.iter().any(|m| m.train);
                    prop_assert!(none, "{}: {}", name, e);
                }
            }
        }
    }

    #[test]
    fn rendered_and_parsed_is_the_message(
        question in tame(), answer in tame(), reasoning in prop::option::of(tame()), calls in prop::collection::vec(tame(), 0..3),
    ) {
        for (name, encoder) in ENCODERS.iter() {
            let mut message = Message::assistant(answer.clone());
            message.reasoning_content = reasoning.clone();
            if !matches!(*name, "llm" | "moe" | "v2" | "coder") {
                message.tool_calls = calls
                    .iter()
                    .map(|c| json!({"type": "function", "function": {"name": "f", "arguments": {"x": c}}}))
                    .collect();
            }
            let head = Conversation { messages: vec![Message::user(question.clone())], ..Default::default() };
            let mut talk = head.clone();
            talk.messages.push(message.clone());
            let rows = encoder.rows(&Body::Chat(talk)).unwrap();
            let row = &rows[0];
            let generated = &row.ids[row.prompt_len..row.ids.len() - 1];
            let text = encoder.tokenizer().decode(generated, false);
            let thinking = if reasoning.is_some() { Thinking::On } else { Thinking::Off };
            let prompt = encoder.prompt_with(&head, thinking).unwrap();
            prop_assert_eq!(&prompt.ids[..], &row.ids[..row.prompt_len]);
            let parsed = encoder.parser(&prompt).parse_all(&text);
            prop_assert_eq!(parsed.reasoning, reasoning.clone(), "{}: {:?}", name, text);
            prop_assert_eq!(&parsed.answer, &answer, "{}: {:?}", name, text);
            prop_assert!(parsed.broken_calls.is_empty());
            prop_assert_eq!(parsed.tool_calls.len(), message.tool_calls.len());
            for (got, want) in parsed.tool_calls.iter().zip(&message.tool_calls) {
                prop_assert_eq!(&got.name, "f");
                let arguments: serde_json::Value = serde_json::from_str(&got.arguments).unwrap();
                prop_assert_eq!(&arguments, &want["function"]["arguments"]);
            }
        }
    }

    #[test]
    fn untrusted_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), source in "(\\{\\{|\\}\\}|\\{%|%\\}|if|for|m in|messages|-|\\PC| ){0,30}") {
        let _ = Conversation::from_json(&bytes);
        let _ = loar_text::Tokenizer::from_bytes(&bytes, Some(&bytes));
        let _ = ChatTemplate::from_parts(Some(&bytes), None);
        let _ = ChatTemplate::from_parts(None, Some(&bytes));
        if let Ok(template) = ChatTemplate::from_source(&source, "b", "e") {
            let request = loar_text::RenderRequest::of(
                &Conversation { messages: vec![Message::user("u")], ..Default::default() }, true);
            let _ = template.render(&request);
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let _ = StreamParser::parse(&text, true);
    }
}

#[test]
fn templates_are_bounded() {
    let request = loar_text::RenderRequest::default();
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}";
    let e = ChatTemplate::from_source(endless, "", "").unwrap().render(&request).unwrap_err();
    assert!(e.to_string().contains("fuel"), "{e}");
    let long = "{% for a in range(99999) %}{{ 'x' * 9999 }}{% endfor %}";
    let e = ChatTemplate::from_source(long, "", "").unwrap().render(&request).unwrap_err();
    assert!(e.to_string().contains("more than"), "{e}");
    for forbidden in
        ["{% include 'secret' %}", "{{ strftime_now('%Y') }}", "{{ raise_exception('no') }}", "{{ open('f') }}"]
    {
        assert!(ChatTemplate::from_source(forbidden, "", "").unwrap().render(&request).is_err(), "{forbidden}");
    }
    let dated = loar_text::RenderRequest { now_unix: Some(0), ..Default::default() };
    let text = ChatTemplate::from_source("{{ strftime_now('%d %b %Y') }}", "", "").unwrap().render(&dated).unwrap();
    assert_eq!(text, "01 Jan 1970");
}

#[test]
fn templates_are_found_in_every_place_of_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    assert!(ChatTemplate::from_dir(dir.path()).unwrap().is_none());
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let request = loar_text::RenderRequest::default();
    write("tokenizer_config.json", r#"{"bos_token": {"content": "B"}, "chat_template": "{{ bos_token }}1"}"#);
    assert_eq!(ChatTemplate::from_dir(dir.path()).unwrap().unwrap().render(&request).unwrap(), "B1");
    write(
        "tokenizer_config.json",
        r#"{"bos_token": "B", "chat_template": [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]}"#,
    );
    let both = ChatTemplate::from_dir(dir.path()).unwrap().unwrap();
    assert_eq!(both.render(&request).unwrap(), "d");
    let tools = loar_text::RenderRequest { tools: Some(json!([{}])), ..Default::default() };
    assert_eq!(both.render(&tools).unwrap(), "t");
    write("chat_template.jinja", "{{ bos_token }}j");
    assert_eq!(ChatTemplate::from_dir(dir.path()).unwrap().unwrap().render(&request).unwrap(), "Bj");
    write("chat_template.jinja", "a\n{% if %}");
    let e = ChatTemplate::from_dir(dir.path()).unwrap_err().to_string();
    assert!(e.contains("`chat_template.jinja`, line 2"), "{e}");
    let e = ChatTemplate::builtin("r2").unwrap_err().to_string();
    assert!(e.contains("`r2`") && e.contains("r1"), "{e}");
}
