//! Question to answer: the recipe.
//!
//! Paths are launched side by side. Each one that ends is kept, asked for its answer if it gave none, read,
//! verified, repaired where a step is wrong, and fused with the others; when they are enough, or a budget is
//! used up, the rest is cut between two tokens. While they run, a path that goes in circles or loses its
//! confidence is cut too. [`answer`] is that recipe; [`crate::state`] has the hands.

use crate::generate::{Event, Generator};
use crate::record::{Happened, Record, Stopped};
use crate::setup::{Example, Question, Setup};
use crate::state::State;
use crate::verify::Verifier;

/// What is asked, how, and by whom it is checked.
pub struct Task<'a> {
    /// The question.
    pub question: &'a Question,
    /// How it is asked.
    pub setup: &'a Setup,
    /// Examples before it.
    pub examples: &'a [Example],
    /// Deterministic checks of steps.
    pub verifiers: &'a [Box<dyn Verifier>],
}

/// Answers a question. Whatever goes wrong with a path is in the record, not an error.
pub fn answer(task: &Task<'_>, generator: &mut dyn Generator) -> Record {
    let mut state = State::new(task, generator);
    state.launch();
    loop {
        match state.next() {
            Event::Token(token) => state.watch(&token),
            Event::Exhausted(budget) => {
                state.happened(Happened::Exhausted(budget));
                state.stop(Stopped::Budget(budget));
            }
            Event::End(slot, generated) => {
                state.happened(Happened::Ended(slot));
                state.keep(slot, generated);
                if state.asks_for_answer(slot) {
                    continue;
                }
                state.read(slot.path);
                state.verify(slot.path);
                if state.repairs(slot.path) {
                    continue;
                }
                state.fuse(slot.path);
                match state.enough() {
                    Some(enough) => state.stop(Stopped::Enough(enough)),
                    None => state.launch(),
                }
            }
            Event::Quiet => {}
            Event::Nothing => break,
        }
    }
    state.record()
}
