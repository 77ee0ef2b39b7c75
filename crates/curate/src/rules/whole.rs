//! Measures of a whole row: the order of its turns, the languages of question and answer, lengths.

use super::measure::Measure;
use super::read::Rule;
use super::repeat::char_count;
use crate::batch::{COMPLETION, PROMPT, Row, TEXT};
use crate::language;
use crate::normalize::filter_view;

/// What a rule measures of a row; `None` where the measure says nothing about it.
pub(super) fn value(rule: &Rule, row: &Row<'_>, options: &language::Options) -> Option<f64> {
    match rule.measure {
        Measure::TurnFaults => Some(turn_faults(row) as f64),
        Measure::Turns => Some(row.turns().len() as f64),
        Measure::LanguageDiffers => language_differs(rule, row, options),
        Measure::LengthRatio => {
            let asked: usize = row.requests().map(char_count).sum();
            let answered: usize = row.responses().map(char_count).sum();
            (asked > 0).then(|| answered as f64 / asked as f64)
        }
        Measure::Echo => echo(row),
        _ => None,
    }
}

/// Breaks of: system or developer first; a user turn; then assistant turns, each after a user turn
/// or an answer of a tool; tools only after the assistant; the assistant last; no turn empty.
fn turn_faults(row: &Row<'_>) -> usize {
    let mut faults = 0;
    let mut before = "";
    for (at, turn) in row.turns().enumerate() {
        let follows = match turn.role {
            PROMPT | TEXT => at == 0,
            COMPLETION => before == PROMPT,
            "system" | "developer" => matches!(before, "" | "system" | "developer"),
            "user" => matches!(before, "" | "system" | "developer" | "assistant"),
            "assistant" => matches!(before, "user" | "tool"),
            "tool" => matches!(before, "assistant" | "tool"),
            _ => false,
        };
        faults += usize::from(!follows);
        // An assistant turn may consist of calls; tools may answer nothing.
        let empty = turn.content.trim().is_empty() && turn.role != "tool" && turn.role != PROMPT;
        faults += usize::from(empty && !(turn.role == "assistant" && calls(row, at)));
        before = turn.role;
    }
    faults + usize::from(matches!(before, "" | "user" | "system" | "developer" | "tool" | PROMPT))
}

/// Whether a turn calls tools.
fn calls(row: &Row<'_>, turn: usize) -> bool {
    match row.body() {
        loar_text::Body::Chat(chat) => chat.messages.get(turn).is_some_and(|message| !message.tool_calls.is_empty()),
        _ => false,
    }
}

/// 1 when the last question and its answer are in different languages.
fn language_differs(rule: &Rule, row: &Row<'_>, options: &language::Options) -> Option<f64> {
    let (asked, answered) = (row.requests().last()?, row.responses().last()?);
    let one = language::identify_plainly(asked, options);
    let other = language::identify_plainly(answered, options);
    let told = |code: &str| !matches!(code, "und" | "code" | "mixed");
    if !told(one) || !told(other) || one == other {
        return Some(0.0);
    }
    // Short answers are names, labels, terms.
    if char_count(answered) < 20 {
        return Some(0.0);
    }
    let asks_for_it = row.turns().filter(|turn| !turn.is_response()).any(|turn| {
        let view = filter_view(turn.content);
        rule.words.iter().any(|word| view.contains(filter_view(word).as_ref()))
    });
    Some(f64::from(u8::from(!asks_for_it)))
}

/// 1 when an answer is its question, or begins with it and says no more than a fifth beyond it.
fn echo(row: &Row<'_>) -> Option<f64> {
    let mut asked = None;
    let mut echoes = false;
    for turn in row.turns() {
        if turn.is_request() {
            asked = Some(turn.content.trim());
        } else if turn.is_response()
            && let Some(asked) = asked.filter(|asked| char_count(asked) >= 8)
        {
            let said = turn.content.trim();
            echoes |= said.starts_with(asked) && said.len() <= asked.len() + asked.len() / 5;
        }
    }
    asked.map(|_| f64::from(u8::from(echoes)))
}
