//! What a model shows its reader, without what it thought.
//!
//! `<think>…</think>` is dropped, also when the opening tag is missing (chat templates of the R1 family
//! put it into the prompt). A thought that never ends has no answer behind it: what is left is the
//! text in front of it. Control tokens that end a turn end the text.

/// Tags of thoughts in released models.
const TAGS: [(&str, &str); 2] = [("<think>", "</think>"), ("<thinking>", "</thinking>")];

/// Tokens behind which another turn begins.
const ENDS: [&str; 6] =
    ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "<|eot_id|>", "<｜end▁of▁sentence｜>", "<｜User｜>"];

/// The part of a reply that may hold the answer.
pub fn without(text: &str) -> &str {
    let mut shown = text;
    for (open, close) in TAGS {
        if let Some(end) = shown.rfind(close) {
            shown = &shown[end + close.len()..];
        } else if let Some(start) = shown.find(open) {
            shown = &shown[..start];
        }
    }
    let shown = shown.trim_start();
    let end = ENDS.iter().filter_map(|token| shown.find(token)).filter(|at| *at > 0).min();
    &shown[..end.unwrap_or(shown.len())]
}

#[cfg(test)]
mod tests {
    use super::without;

    #[test]
    fn thoughts_are_dropped_with_and_without_their_opening_tag() {
        assert_eq!(without("<think>\\boxed{1}</think>\nIt is 2."), "It is 2.");
        assert_eq!(without("maybe \\boxed{1}</think>It is 2."), "It is 2.");
        assert_eq!(without("<think>\\boxed{1} and on"), "");
        assert_eq!(without("It is 2.<|im_end|>\n<|im_start|>user\nAnd 3?"), "It is 2.");
        assert_eq!(without("no thought"), "no thought");
    }
}
