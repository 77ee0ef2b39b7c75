//! The order of turns: what a template renders the same way in training and in serving. Reports,
//! never mends. Two user turns in a row are fine (templates print both); a trailing user turn is
//! kept and carries no loss.

use std::collections::BTreeSet;

use loar_text::Message;
use serde_json::Value;

use crate::fault::{FaultKind, quote};
use crate::turns::Reading;

/// Checks a conversation whose messages were all read; `base` is the path of the list.
pub(crate) fn check(messages: &[Message], base: &str, reading: &mut Reading<'_>) {
    let mut before: Option<&Message> = None;
    let mut started = false;
    // Ids of the calls that tool turns may answer; absent when no call is open.
    let mut open: Option<BTreeSet<&str>> = None;
    for (index, message) in messages.iter().enumerate() {
        let path = format!("{base}[{index}]");
        let assistant = message.role == "assistant";
        let blank = message.content.trim().is_empty();
        if !assistant && !message.tool_calls.is_empty() {
            reading.fault(
                &path,
                FaultKind::ToolCallOutsideAssistant,
                quote(&message.role),
            );
        }
        if !assistant && message.reasoning_content.is_some() {
            reading.fault(
                &path,
                FaultKind::ReasoningOutsideAssistant,
                quote(&message.role),
            );
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
                    let found =
                        format!("{} after {}", quote(&message.content), open_or_text(before));
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
                (None, _) => {
                    reading.fault(&path, FaultKind::ToolWithoutCall, quote(&message.content))
                }
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
    if !messages.iter().any(|m| m.role == "assistant" && m.train) {
        let roles: Vec<&str> = messages.iter().take(8).map(|m| m.role.as_str()).collect();
        let untrained = messages.iter().filter(|m| m.role == "assistant").count();
        let found = match untrained {
            0 => format!("the roles {}", quote(&roles.join(", "))),
            n => format!(
                "{n} assistant turn{} with weight 0",
                if n == 1 { "" } else { "s" }
            ),
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
    calls
        .iter()
        .filter_map(|call| call.get("id")?.as_str())
        .collect()
}
