//! Finding the answer in what a model wrote.
//!
//! The order is fixed, and changes raise [`VERSION`](super::VERSION):
//! 1. the thought is dropped (`thought.rs`);
//! 2. the last `\boxed{…}`, boxes in a row together (`boxed.rs`);
//! 3. what stands behind the last "the answer is", "Answer:", "####", 答案是 … (`marker.rs`): the
//!    first thing there of the kind asked for;
//! 4. the last thing of the kind in the text: number, letter, yes or no, JSON field; a text that is
//!    nothing but an answer is one.

use super::{Answer, ExtractOptions, Kind, Value, boxed, choice, fold, marker, number, thought, truth};

/// The longest text without any marker that is taken as an answer as it stands, in bytes.
const BARE: usize = 200;

/// The answer a text gives; none when it gives none.
pub fn extract(text: &str, options: &ExtractOptions) -> Option<Answer> {
    let shown = thought::without(text);
    let boxes = boxed::last(shown);
    if !boxes.is_empty() {
        return read_box(&boxes.join(", "), options);
    }
    if let Some(rest) = marker::after_last(shown) {
        return first_of(rest, options);
    }
    last_of(shown, options)
}

/// A box holds the answer alone; a kind that does not fit its whole content is looked for in it.
fn read_box(content: &str, options: &ExtractOptions) -> Option<Answer> {
    if content.trim().is_empty() {
        return None;
    }
    let answer = Answer::read(content, options);
    if options.kind == Kind::Auto || answer.kind == options.kind || options.kind == Kind::Text {
        return Some(answer);
    }
    last_of(content, options)
}

/// The first answer of the kind asked for.
fn first_of(text: &str, options: &ExtractOptions) -> Option<Answer> {
    let sentence = marker::sentence(text);
    match options.kind {
        Kind::Number => {
            let folded = fold::characters(text);
            let (number, at) = number::all(&folded, options.decimal_comma).next()?;
            Some(Answer { written: folded[at].to_string(), kind: Kind::Number, value: Value::Number(number) })
        }
        Kind::Choice => {
            let whole = choice::read(sentence, &options.choices, true);
            whole.map(|c| of_choice(sentence, c)).or_else(|| {
                let letter = *choice::all(sentence).first().or(choice::all(text).first())?;
                Some(of_letter(letter))
            })
        }
        Kind::YesNo => of_truth(*truth::all(text).first()?),
        _ if sentence.is_empty() => None,
        _ => Some(Answer::read(sentence, options)),
    }
}

/// The last answer of the kind asked for.
fn last_of(text: &str, options: &ExtractOptions) -> Option<Answer> {
    let bare = text.trim();
    match options.kind {
        Kind::Number => last_number(text, options),
        Kind::Choice => choice::read(bare, &options.choices, true)
            .map(|c| of_choice(bare, c))
            .or_else(|| choice::all(text).last().map(|l| of_letter(*l))),
        Kind::YesNo => of_truth(*truth::all(text).last()?),
        _ if bare.is_empty() => None,
        _ if bare.len() <= BARE && !bare.contains('\n') => Some(Answer::read(bare, options)),
        Kind::Auto | Kind::Math => last_number(text, options),
        _ => None,
    }
}

fn last_number(text: &str, options: &ExtractOptions) -> Option<Answer> {
    let folded = fold::characters(text);
    let (number, at) = number::all(&folded, options.decimal_comma).last()?;
    Some(Answer { written: folded[at].to_string(), kind: Kind::Number, value: Value::Number(number) })
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
