//! Batches for the tests of stages.

use loar_text::{Body, Conversation, Message};
use serde_json::Map;

use crate::batch::{Batch, BatchBuilder};

/// Rows from bodies.
pub(crate) fn rows(bodies: &[Body]) -> Batch {
    let mut builder = BatchBuilder::new();
    for (at, body) in bodies.iter().enumerate() {
        builder.push(at as u64, 0, at as u64 + 1, body, &Map::new());
    }
    builder.finish()
}

/// The body of a conversation of (role, content).
pub(crate) fn talk(turns: &[(&str, &str)]) -> Body {
    let messages = turns.iter().map(|(role, content)| Message::new(*role, *content)).collect();
    Body::Chat(Conversation { messages, ..Conversation::default() })
}

/// One row: a conversation of (role, content).
pub(crate) fn chat(turns: &[(&str, &str)]) -> Batch {
    rows(&[talk(turns)])
}

/// One row: a plain text.
pub(crate) fn text(text: &str) -> Batch {
    rows(&[Body::Text(text.into())])
}
