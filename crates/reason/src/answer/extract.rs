//! Finding the answer in what a model wrote.
//!
//! The order is fixed, and changes raise [`VERSION`](super::VERSION):
//! 1. the thought is dropped (`thought.rs`);
//! 2. the last `\boxed{…}`, boxes in a row together (`boxed.rs`);
//! 3. what stands behind the last "the answer is", "Answer:", "####", 答案是 … (`marker.rs`): the
//!    first thing there of the kind asked for;
//! 4. the last thing of the kind in the text: number, formula in a LaTeX environment, letter, yes or no,
//!    day, JSON; a short text without any of that is the answer as it stands.
//!
//! [`Kind::Math`] takes formulas only where LaTeX marks them (or where the text is nothing else), and an
//! inline environment (`$…$`, `\(…\)`) does not go over a line end.

use super::number::Style;
use super::{
    Answer, ExtractOptions, Kind, Value, boxed, choice, date, fold, json, latex, marker, number, thought, truth,
};

/// The longest text without any marker that is taken as an answer as it stands, in bytes.
const BARE: usize = 200;

/// The answer a text gives; none when it gives none.
pub fn extract(text: &str, options: &ExtractOptions) -> Option<Answer> {
    let shown = thought::without(text);
    let boxes = boxed::last(shown);
    if !boxes.is_empty() {
        let content = boxes.join(", ");
        // \boxed{20} percent
        let percent = boxes.len() == 1 && latex::percent_behind(&shown[boxed::end(shown, boxes[0])..]);
        return read_box(&if percent { format!("{content}\\%") } else { content }, options);
    }
    let marked = marker::behind(shown);
    if !marked.is_empty() {
        return marked.into_iter().find_map(|rest| first_of(rest, options));
    }
    last_of(shown, options)
}

/// A box holds the answer alone; a kind that does not fit its whole content is looked for in it.
fn read_box(content: &str, options: &ExtractOptions) -> Option<Answer> {
    if content.trim().is_empty() {
        return None;
    }
    let answer = Answer::read(content, options);
    match options.kind {
        Kind::Auto | Kind::Math | Kind::Text => Some(answer),
        kind if answer.kind == kind => Some(answer),
        // 2\sqrt{2} is not the number 2
        Kind::Number if answer.kind == Kind::Math => Some(answer),
        _ => last_of(content, options),
    }
}

/// The first answer of the kind asked for behind a marker.
fn first_of(text: &str, options: &ExtractOptions) -> Option<Answer> {
    let sentence = marker::sentence(text);
    match options.kind {
        Kind::Number => {
            // a formula is no answer by the first number in it: $2\sqrt{2}$ is not 2
            if latex::last(sentence).is_some()
                && let Some(formula) = last_formula(sentence, options).filter(|a| a.kind == Kind::Math)
            {
                return Some(formula);
            }
            let folded = fold::characters(text);
            let (number, at) = number::all(&folded, style(options)).next()?;
            Some(Answer::of_number(&folded[at], number))
        }
        Kind::Choice => {
            let whole = choice::read(sentence, &options.choices, true);
            whole.map(|c| of_choice(sentence, c)).or_else(|| {
                let letter = *choice::all(sentence).first().or(choice::all(text).first())?;
                Some(of_letter(letter))
            })
        }
        Kind::YesNo => of_truth(*truth::all(text).first()?),
        Kind::Date | Kind::Json => last_of(text, options),
        _ if sentence.is_empty() => None,
        Kind::Text => Some(Answer::read(sentence, options)),
        Kind::Auto | Kind::Math => Some(stated(text, sentence, options)),
    }
}

/// What a sentence behind a marker states: all of it when it is a formula or has none in it, else the
/// last formula or number in it ("The largest $n$ is 34").
fn stated(text: &str, sentence: &str, options: &ExtractOptions) -> Answer {
    // a block environment may open here and go over lines
    if let Some(block) = latex::block_at_start(text) {
        return Answer::read(block, options);
    }
    let mixed = latex::in_prose(sentence);
    let whole = Answer::read(sentence, options);
    if mixed && let Some(formula) = last_formula(sentence, options) {
        return formula;
    }
    if whole.kind != Kind::Text || sentence.split_whitespace().count() < 2 {
        return whole;
    }
    last_formula(sentence, options).unwrap_or(whole)
}

/// The last answer of the kind asked for.
fn last_of(text: &str, options: &ExtractOptions) -> Option<Answer> {
    let bare = text.trim();
    match options.kind {
        Kind::Number => last_number(text, options),
        Kind::Choice => choice::read(bare, &options.choices, true)
            .map(|c| of_choice(bare, c))
            .or_else(|| choice::leading(bare).map(of_letter))
            .or_else(|| choice::all(text).last().map(|l| of_letter(*l))),
        Kind::YesNo => of_truth(*truth::all(text).last()?),
        Kind::Date => {
            let (written, date) = date::last(text)?;
            Some(Answer { written, kind: Kind::Date, value: Value::Date(date) })
        }
        Kind::Json => field(json::last(text)?, options),
        _ if bare.is_empty() => None,
        Kind::Text => (bare.len() <= BARE && !bare.contains('\n')).then(|| Answer::read(bare, options)),
        Kind::Auto | Kind::Math => {
            let short = bare.len() <= BARE && !bare.contains('\n');
            if (short || !bare.contains(' ')) && !latex::in_prose(bare) {
                let whole = Answer::read(bare, options);
                if whole.kind != Kind::Text || !bare.contains([' ', '$']) {
                    return Some(whole);
                }
            }
            last_formula(text, options)
                .or_else(|| (short && options.kind == Kind::Auto).then(|| Answer::read(bare, options)))
        }
    }
}

/// The last LaTeX environment, or the last number in prose when that stands behind it.
fn last_formula(text: &str, options: &ExtractOptions) -> Option<Answer> {
    let formula = latex::last(text);
    if options.kind == Kind::Math {
        return formula.map(|(_, written)| Answer::read(&written, options));
    }
    let end = formula.as_ref().map_or(0, |(end, _)| *end);
    let tail = fold::characters(&text[end..]);
    if let Some((number, at)) = number::all(&tail, style(options)).last() {
        let percent = latex::percent_behind(&tail[at.end..]);
        let written = &tail[at];
        return Some(if percent {
            Answer::read(&format!("{written}%"), options)
        } else {
            Answer::of_number(written, number)
        });
    }
    formula.map(|(_, written)| Answer::read(&written, options))
}

fn last_number(text: &str, options: &ExtractOptions) -> Option<Answer> {
    let folded = fold::characters(text);
    let (number, at) = number::all(&folded, style(options)).last()?;
    Some(Answer::of_number(&folded[at], number))
}

/// The field of an object that holds the answer, or the value itself.
fn field(text: &str, options: &ExtractOptions) -> Option<Answer> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    let value = match &options.field {
        Some(name) => value.get(name)?.clone(),
        None => value,
    };
    Some(Answer { written: value.to_string(), kind: Kind::Json, value: Value::Json(value) })
}

fn style(options: &ExtractOptions) -> Style {
    Style { decimal_comma: options.decimal_comma, spaces: false }
}

fn of_choice(written: &str, choice: choice::Choice) -> Answer {
    Answer { written: written.to_string(), kind: Kind::Choice, value: Value::Choice(choice) }
}

fn of_letter(letter: char) -> Answer {
    of_choice(&letter.to_string(), choice::Choice { letters: vec![letter], text: None })
}

fn of_truth(truth: bool) -> Option<Answer> {
    let written = if truth { "yes" } else { "no" };
    Some(Answer { written: written.to_string(), kind: Kind::YesNo, value: Value::Truth(truth) })
}
