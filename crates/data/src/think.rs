//! `<think>…</think>` at the head of an answer ↔ reasoning kept apart. One pair, leading, closed:
//! anything else is a fault, because the templates' own `split('</think>')` would lose text.

use crate::fault::{FaultKind, quote};
use crate::options::ThinkTags;

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// Reasoning and answer; reasoning is absent when no tag stands in the text, and empty when the
/// pair holds nothing.
pub(crate) type Parts = (Option<String>, String);

/// Splits the content of an assistant turn. Line breaks next to the tags go: the templates write
/// their own.
pub(crate) fn split(content: String, mode: ThinkTags) -> Result<Parts, (FaultKind, String)> {
    // Both tags end so; nearly no text holds it.
    if memchr::memmem::find(content.as_bytes(), b"think>").is_none() {
        return Ok((None, content));
    }
    let (opens, closes) = (content.matches(OPEN).count(), content.matches(CLOSE).count());
    if mode == ThinkTags::Keep || (opens == 0 && closes == 0) {
        return Ok((None, content));
    }
    if opens > 1 || closes > 1 {
        let found = format!("{opens} of `{OPEN}` and {closes} of `{CLOSE}`");
        return Err((FaultKind::ThinkRepeated, found));
    }
    if opens == 0 {
        return match (mode, content.split_once(CLOSE)) {
            (ThinkTags::SplitPrefilled, Some((before, after))) => Ok(parts(before, after)),
            _ => Err((FaultKind::ThinkNotOpened, quote(&content))),
        };
    }
    let Some(inner) = content.trim_start().strip_prefix(OPEN) else {
        return Err((FaultKind::ThinkNotAtStart, quote(&content)));
    };
    match inner.split_once(CLOSE) {
        Some((before, after)) => Ok(parts(before, after)),
        None => Err((FaultKind::ThinkNotClosed, format!("{} bytes of thinking", inner.len()))),
    }
}

fn parts(before: &str, after: &str) -> Parts {
    let breaks = ['\n', '\r'];
    (Some(before.trim_matches(breaks).to_owned()), after.trim_start_matches(breaks).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leading_pair_is_taken_apart() {
        let ok = |text: &str, mode| split(text.to_owned(), mode).unwrap();
        let some = |r: &str, a: &str| (Some(r.to_owned()), a.to_owned());
        assert_eq!(ok("<think>\na\n\nb\n</think>\n\n4", ThinkTags::Split), some("a\n\nb", "4"));
        assert_eq!(ok(" \n<think>a</think>4", ThinkTags::Split), some("a", "4"));
        assert_eq!(ok("<think>\n\n</think>\n\n4", ThinkTags::Split), some("", "4"));
        assert_eq!(ok("plain", ThinkTags::Split), (None, "plain".into()));
        assert_eq!(ok("a</think>\n4", ThinkTags::SplitPrefilled), some("a", "4"));
        assert_eq!(ok("x <think>", ThinkTags::Keep), (None, "x <think>".into()));
    }

    #[test]
    fn every_other_shape_is_a_fault() {
        let kind = |text: &str| split(text.to_owned(), ThinkTags::Split).unwrap_err().0;
        assert_eq!(kind("<think>a"), FaultKind::ThinkNotClosed);
        assert_eq!(kind("a</think>4"), FaultKind::ThinkNotOpened);
        assert_eq!(kind("x<think>a</think>4"), FaultKind::ThinkNotAtStart);
        assert_eq!(kind("</think><think>4"), FaultKind::ThinkNotAtStart);
        assert_eq!(kind("<think>a</think>4</think>"), FaultKind::ThinkRepeated);
        assert_eq!(kind("<think><think>a</think>"), FaultKind::ThinkRepeated);
    }
}
