//! The order of turns: what a template renders the same way in training and in serving. Reports,
//! never mends. Two user turns in a row are fine (templates print both); a trailing user turn is
//! kept and carries no loss.

use std::collections::BTreeSet;

use loar_text::Message;
use serde_json::Value;

use crate::fault::{FaultKind, quote};
use crate::turns::Reading;

/// Checks a conversation; `base` is the path of the list. A turn that could not be read (`None`)
/// has its own fault already and excuses what follows it.
pub(crate) fn check(messages: &[Option<Message>], base: &str, reading: &mut Reading<'_>) {
    let mut before: Option<&Message> = None;
    let mut started = false;
    // Ids of the calls that tool turns may answer; absent when no call is open.
    let mut open: Option<BTreeSet<&str>> = None;
    for (index, message) in messages.iter().enumerate() {
        let path = format!("{base}[{index}]");
        let Some(message) = message else {
            (started, before, open) = (true, None, Some(BTreeSet::new()));
            continue;
        };
        let assistant = message.role == "assistant";
        let blank = message.content.trim().is_empty();
        if !assistant && !message.tool_calls.is_empty() {
            reading.fault(&path, FaultKind::ToolCallOutsideAssistant, quote(&message.role));
        }
        if !assistant && message.reasoning_content.is_some() {
            reading.fault(&path, FaultKind::ReasoningOutsideAssistant, quote(&message.role));
        }
        match message.role.as_str() {
            "system" => {
                if started {
                    reading.fault(&path, FaultKind::SystemNotFirst, quote(&message.content));
                }
                continue;
            }
            "developer" => continue,
            "user" => {
                if blank {
                    reading.fault(&path, FaultKind::EmptyUserTurn, quote(&message.content));
                }
                open = None;
            }
            "assistant" => {
                if !started {
                    reading.fault(&path, FaultKind::FirstTurnNotUser, quote(&message.role));
                } else if before.is_some_and(|m| m.role == "assistant") {
                    let found = format!("{} after {}", quote(&message.content), open_or_text(before));
                    reading.fault(&path, FaultKind::AssistantAfterAssistant, found);
                }
                if blank && message.tool_calls.is_empty() {
                    let found = match &message.reasoning_content {
                        Some(text) if !text.is_empty() => {
                            format!("only reasoning, {}", quote(text))
                        }
                        _ => quote(&message.content),
                    };
                    reading.fault(&path, FaultKind::EmptyAssistantTurn, found);
                }
                open = (!message.tool_calls.is_empty()).then(|| ids(&message.tool_calls));
            }
            _ => match (&open, &message.tool_call_id) {
                (None, _) if !started => {
                    reading.fault(&path, FaultKind::FirstTurnNotUser, quote(&message.role));
                }
                (None, _) => reading.fault(&path, FaultKind::ToolWithoutCall, quote(&message.content)),
                (Some(ids), Some(id)) if !ids.is_empty() && !ids.contains(id.as_str()) => {
                    let path = format!("{path}.tool_call_id");
                    reading.fault(&path, FaultKind::UnknownToolCallId, quote(id));
                }
                _ => {}
            },
        }
        started = true;
        before = Some(message);
    }
    let read: Vec<&Message> = messages.iter().flatten().collect();
    let trained = read.iter().any(|m| m.role == "assistant" && m.train);
    if !trained && !messages.is_empty() && read.len() == messages.len() {
        let roles: Vec<&str> = read.iter().take(8).map(|m| m.role.as_str()).collect();
        let found = match read.iter().filter(|m| m.role == "assistant").count() {
            0 => format!("the roles {}", quote(&roles.join(", "))),
            1 => "1 assistant turn with weight 0".to_owned(),
            n => format!("{n} assistant turns with weight 0"),
        };
        reading.fault(base, FaultKind::NoTrainableTurn, found);
    }
}

fn open_or_text(before: Option<&Message>) -> String {
    match before {
        Some(message) if !message.tool_calls.is_empty() => "a tool call without its result".into(),
        Some(message) => quote(&message.content),
        None => String::new(),
    }
}

fn ids(calls: &[Value]) -> BTreeSet<&str> {
    calls.iter().filter_map(|call| call.get("id")?.as_str()).collect()
}
