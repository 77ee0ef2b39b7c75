//! What a chat template does, found by rendering small conversations with it.
//!
//! Takes a template, gives how it ends a turn, whether it cuts reasoning, and which form of tool
//! calls it prints properly. Never reads the template's text: only what it renders counts.

use crate::hide::{CLOSE, OPEN};
use crate::template::{ChatTemplate, RenderRequest};
use crate::tokenizer::Tokenizer;
use serde_json::{Map, Value, json};

/// The habits of a template.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shape {
    /// Generation can start with an open think block or a closed one.
    pub thinks: bool,
    /// Newlines around reasoning (`<think>\n…\n</think>\n\n`), or none.
    pub lines: bool,
    /// An inline think block in an old answer is cut.
    pub cuts_inline: bool,
    /// Turns that only call tools want `content: null`, not `""`.
    pub null_content: bool,
    /// Arguments of calls are wanted as objects, not as JSON text.
    pub object_arguments: bool,
    /// Text between the generation prompt and an answer (the space after `Assistant:`).
    pub lead: String,
    /// Text between an answer and its end token.
    pub tail: String,
    /// Token that ends an assistant turn.
    pub end: Option<(String, u32)>,
}

/// Where the prefill of a generation prompt starts, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prefill {
    /// No think tag at the end.
    None,
    /// `<think>` and perhaps newlines: generation continues the reasoning.
    Open(usize),
    /// A closed, empty block: generation starts with the answer.
    Closed(usize),
}

impl Prefill {
    /// Looks at the end of a generation prompt whose data is hidden.
    pub fn of(prompt: &str) -> Self {
        let end = prompt.trim_end();
        if let Some(before) = end.strip_suffix(OPEN) {
            return Prefill::Open(before.len());
        }
        let Some(before) = end.strip_suffix(CLOSE) else {
            return Prefill::None;
        };
        match before.trim_end().strip_suffix(OPEN) {
            Some(outer) => Prefill::Closed(outer.len()),
            None => Prefill::Closed(before.len()),
        }
    }
    /// Byte offset where the prefill starts.
    pub fn start(self, prompt: &str) -> usize {
        match self {
            Prefill::None => prompt.len(),
            Prefill::Open(at) | Prefill::Closed(at) => at,
        }
    }
}

/// Takes an empty think block (or the bare closing tag) with its newlines off the front.
pub(crate) fn without_empty_block(text: &str) -> &str {
    let inner = text.strip_prefix(OPEN).map_or(text, str::trim_start);
    inner.strip_prefix(CLOSE).map_or(text, |rest| rest.trim_start_matches('\n'))
}

/// Sets the variables by which the released templates turn thinking on and off.
pub(crate) fn set_thinking(kwargs: &mut Map<String, Value>, on: bool) {
    kwargs.insert("thinking".into(), Value::Bool(on));
    kwargs.insert("enable_thinking".into(), Value::Bool(on));
}

impl Shape {
    pub fn probe(template: &ChatTemplate, tokenizer: &Tokenizer) -> Self {
        let user = json!({"role": "user", "content": "qqq"});
        let render = |messages: Vec<Value>, generate: bool, thinking: Option<bool>| {
            let mut request = RenderRequest { messages, add_generation_prompt: generate, ..RenderRequest::default() };
            // Probes need a moment for templates that print the date; it does not show in the result.
            request.now_unix = Some(0);
            if let Some(on) = thinking {
                set_thinking(&mut request.kwargs, on);
            }
            template.render(&request).ok()
        };
        let on = render(vec![user.clone()], true, Some(true)).unwrap_or_default();
        let off = render(vec![user.clone()], true, Some(false)).unwrap_or_default();
        let open = matches!(Prefill::of(&on), Prefill::Open(_));
        let thinks = open || matches!(Prefill::of(&off), Prefill::Closed(_));
        let inline = json!({"role": "assistant", "content": "<think>\nrrr\n</think>\n\naaa"});
        let cuts_inline = render(vec![user.clone(), inline, user.clone()], true, None)
            .is_some_and(|text| text.contains("aaa") && !text.contains("rrr"));
        let turn = render(vec![user.clone(), json!({"role": "assistant", "content": "aaa"})], false, None);
        let end = turn.as_deref().and_then(|text| {
            let (_, after) = text.rsplit_once("aaa")?;
            let hit = tokenizer.parts().control.find_all(after).pop()?;
            Some((after.get(hit.range.clone())?.to_string(), hit.id))
        });
        let default = render(vec![user.clone()], true, None).unwrap_or_default();
        let base = default.get(..Prefill::of(&default).start(&default)).unwrap_or_default();
        let around = turn.as_deref().and_then(|text| text.strip_prefix(base)).and_then(|text| text.split_once("aaa"));
        let lead = around.map_or("", |(before, _)| without_empty_block(before)).to_string();
        let tail = match (around, &end) {
            (Some((_, after)), Some((end, _))) => after.split_once(end.as_str()).map_or("", |(tail, _)| tail),
            _ => "",
        };
        let tail = tail.to_string();
        let end = end.or_else(|| {
            let id = tokenizer.eos_id()?;
            Some((tokenizer.decode(&[id], false), id))
        });
        let (null_content, object_arguments) =
            call_form(&|assistant| render(vec![user.clone(), assistant], false, None));
        Shape {
            thinks,
            lines: !open || on.ends_with('\n'),
            cuts_inline: cuts_inline || open,
            null_content,
            object_arguments,
            lead,
            tail,
            end,
        }
    }
}

/// The form of a call that the template prints whole and unquoted; among those, the shortest
/// rendering (R1's distils print an empty answer after a call whose content is `""`).
fn call_form(render: &dyn Fn(Value) -> Option<String>) -> (bool, bool) {
    let mut best: Option<(usize, bool, bool)> = None;
    for (null_content, object) in [(false, true), (true, true), (false, false), (true, false)] {
        let arguments = if object { json!({"kkk": "vvv"}) } else { json!("{\"kkk\": \"vvv\"}") };
        let content = if null_content { Value::Null } else { json!("") };
        let call = json!({"id": "c", "type": "function", "function": {"name": "fff", "arguments": arguments}});
        let Some(text) = render(json!({"role": "assistant", "content": content, "tool_calls": [call]})) else {
            continue;
        };
        let whole = text.contains("fff") && (text.contains("{\"kkk\": \"vvv\"}") || text.contains("{\"kkk\":\"vvv\"}"));
        if whole && best.is_none_or(|(length, ..)| text.len() < length) {
            best = Some((text.len(), null_content, object));
        }
    }
    best.map_or((false, true), |(_, null_content, object)| (null_content, object))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefills_are_told_apart() {
        assert_eq!(Prefill::of("ab"), Prefill::None);
        assert_eq!(Prefill::of("ab<think>\n"), Prefill::Open(2));
        assert_eq!(Prefill::of("ab<think>\n\n</think>\n\n"), Prefill::Closed(2));
        assert_eq!(Prefill::of("ab</think>"), Prefill::Closed(2));
        assert_eq!(Prefill::of("<think>x</think>"), Prefill::Closed(8));
        assert_eq!(without_empty_block("<think>\n\n</think>\n\nx"), "x");
        assert_eq!(without_empty_block("</think> x"), " x");
        assert_eq!(without_empty_block("<think>y</think>x"), "<think>y</think>x");
    }
}
