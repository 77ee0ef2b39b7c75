//! Helpers of the integration tests.
#![allow(dead_code)]

use loar_data::{DataError, Dataset, FaultKind, Faults, OnBadRow, ReadOptions, read_bytes};
use loar_text::{Body, Conversation, Message};

pub fn ok(name: &str, text: impl AsRef<[u8]>) -> Dataset {
    with(name, text, &ReadOptions::default())
}

pub fn with(name: &str, text: impl AsRef<[u8]>, options: &ReadOptions) -> Dataset {
    read_bytes(name, text.as_ref(), options).unwrap_or_else(|error| panic!("{name}: {error}"))
}

pub fn faults(name: &str, text: impl AsRef<[u8]>) -> Faults {
    faults_with(name, text, &ReadOptions::default())
}

pub fn faults_with(name: &str, text: impl AsRef<[u8]>, options: &ReadOptions) -> Faults {
    match read_bytes(name, text.as_ref(), options) {
        Err(DataError::Rows(faults)) => *faults,
        other => panic!("{name}: {other:?}"),
    }
}

/// Kind and field of every fault.
pub fn kinds(faults: &Faults) -> Vec<(FaultKind, &str)> {
    faults.first.iter().map(|fault| (fault.kind, fault.field.as_str())).collect()
}

pub fn drop_bad() -> ReadOptions {
    ReadOptions { on_bad_row: OnBadRow::Drop, ..ReadOptions::default() }
}

pub fn chat(data: &Dataset, index: usize) -> &Conversation {
    match &data.examples[index].body {
        Body::Chat(conversation) => conversation,
        other => panic!("not a conversation: {other:?}"),
    }
}

pub fn turns(data: &Dataset, index: usize) -> Vec<(&str, &str)> {
    let messages: &[Message] = &chat(data, index).messages;
    messages.iter().map(|m| (m.role.as_str(), m.content.as_str())).collect()
}

pub fn ids(data: &Dataset) -> Vec<&str> {
    data.examples.iter().map(|example| example.id.as_str()).collect()
}
