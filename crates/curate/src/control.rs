//! Control tokens inside data. The trainer here never lets data text become a control token
//! (`loar_text` keeps them apart), but the set goes further than this trainer: other trainers
//! tokenise rendered strings, serving code pastes rows into string templates, and a filter or
//! index that normalises to NFKC makes `<|im_end|>` out of `＜｜ｉｍ＿ｅｎｄ｜＞`. So a token is looked
//! for in the text without invisible characters and in NFKC, whatever it was written with, and
//! neutralised in the text itself.
//!
//! The escape is visible, readable and reversible: a backslash after the first character,
//! `<\|im_end|>`. A token that already has n backslashes there gets one more, so [`unescape`]
//! gives back every text exactly. Neither the escaped text nor its normal form contains a token.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;
use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;

use crate::batch::Batch;
use crate::normalize::{COMPATIBLE, fold, origin};
use crate::operator::{Action, Edit, Finding, Operator, Outcome};
use crate::options::OptionFault;

/// What becomes of a row with a control token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// A backslash after the first character of the token.
    #[default]
    Escape,
    /// The row is left out.
    Drop,
    /// The row stays as it is, with a note.
    Note,
}

/// Whose tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// `<|…|>` and `<｜…｜>` with any name: DeepSeek, Qwen, Llama 3, GLM, Phi, GPT.
    Bars,
    /// `<think>` and `</think>` left in a text after reading took the chain of thought out.
    Think,
    /// `<tool_call>`, `<tool_response>` and their ends: Qwen, Hermes.
    Tools,
    /// `[INST]`, `<<SYS>>` and their ends, `[TOOL_CALLS]` and its kin: Llama 2, Mistral.
    Inst,
    /// `<start_of_turn>`, `<end_of_turn>`: Gemma.
    Gemma,
    /// `<s>`, `</s>`, `<unk>`, `<pad>`, `<bos>`, `<eos>`. Off by default: `<s>` is also HTML.
    Sentencepiece,
}

impl Family {
    fn tokens(self) -> &'static [&'static str] {
        match self {
            Family::Bars => &[],
            Family::Think => &["<think>", "</think>"],
            Family::Tools => &["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"],
            Family::Inst => &[
                "[INST]",
                "[/INST]",
                "<<SYS>>",
                "<</SYS>>",
                "[TOOL_CALLS]",
                "[AVAILABLE_TOOLS]",
                "[/AVAILABLE_TOOLS]",
                "[TOOL_RESULTS]",
                "[/TOOL_RESULTS]",
            ],
            Family::Gemma => &["<start_of_turn>", "<end_of_turn>"],
            Family::Sentencepiece => &["<s>", "</s>", "<unk>", "<pad>", "<bos>", "<eos>"],
        }
    }

    fn rule(self) -> &'static str {
        match self {
            Family::Think => "think-tag",
            _ => "control-token",
        }
    }
}

/// Options of the stage `control`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// What becomes of a control token: `escape`, `drop` or `note`. Default `escape`.
    pub policy: Policy,
    /// The same for `<think>` tags. Default `escape`.
    pub think: Policy,
    /// Whose tokens are looked for. Default `["bars", "think", "tools", "inst", "gemma"]`.
    pub families: Vec<Family>,
    /// Further tokens, as the tokenizer spells them. Default none.
    pub tokens: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            policy: Policy::default(),
            think: Policy::default(),
            families: vec![Family::Bars, Family::Think, Family::Tools, Family::Inst, Family::Gemma],
            tokens: Vec::new(),
        }
    }
}

/// Looks for tokens.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// Group 1 is a token that [`Family::Think`] has. Backslashes may follow the first character.
    pattern: Regex,
    /// Whether a text may hold a token at all: one of the first characters in any spelling.
    firsts: Regex,
}

/// A token in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Bytes of the text.
    pub at: Range<usize>,
    /// Bytes of its first character, after which backslashes stand.
    pub first: usize,
    /// Whether a backslash already stands there: the text speaks about a token.
    pub escaped: bool,
    /// Whether it is a think tag.
    pub think: bool,
}

/// What tokens begin with.
const BRACKETS: [char; 4] = ['<', '[', '{', '|'];

/// A name between bars: no bar, no bracket, no line break, no space at its ends.
const BARS: &str = r"<\\*\|[^\s<>|](?:[^<>|\r\n]{0,62}[^\s<>|])?\|>";

impl Tokens {
    /// # Errors
    /// A fault for each token that cannot be told from text or be escaped without harm to another.
    pub fn new(families: &[Family], tokens: &[String]) -> Result<Tokens, Vec<OptionFault>> {
        let mut faults = Vec::new();
        let mut known: Vec<String> = Vec::new();
        for family in families.iter().filter(|f| **f != Family::Think) {
            known.extend(family.tokens().iter().map(|t| (*t).to_owned()));
        }
        for token in tokens {
            let plain = fold(token, COMPATIBLE).into_owned();
            // No character but a form of the bracket itself has one of these in its normal form, so
            // a token always begins with a character of the text, behind which the escape can stand.
            let begins = plain.starts_with(BRACKETS);
            if !begins || plain.chars().count() < 3 || plain.trim() != plain || plain.contains('\\') {
                let mend = "name a token of three characters or more that begins with `<`, `[`, `{` or `|`, \
                            without a backslash, without space at its ends";
                faults.push(OptionFault::new("tokens", format!("`{token}`"), mend));
            } else if !known.contains(&plain) {
                known.push(plain);
            }
        }
        let think = if families.contains(&Family::Think) { Family::Think.tokens() } else { &[] };
        let all: Vec<&str> = known.iter().map(String::as_str).chain(think.iter().copied()).collect();
        for (i, a) in all.iter().enumerate() {
            for (j, b) in all.iter().enumerate() {
                if i != j && overlaps(a, b) {
                    let found = format!("`{b}` begins inside `{a}`");
                    faults.push(OptionFault::new("tokens", found, "leave one of them out: both cannot be escaped"));
                }
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let mut parts: Vec<String> = Vec::new();
        if families.contains(&Family::Bars) {
            parts.push(BARS.to_owned());
        }
        parts.extend(known.iter().map(|t| spelled(t)));
        if !think.is_empty() {
            parts.push(format!("({})", think.iter().map(|t| spelled(t)).collect::<Vec<_>>().join("|")));
        }
        if parts.is_empty() {
            parts.push(r"[^\s\S]".to_owned());
        }
        let mut firsts: Vec<char> = all.iter().filter_map(|t| t.chars().next()).collect();
        if families.contains(&Family::Bars) {
            firsts.push('<');
        }
        let firsts: String = spellings()
            .iter()
            .filter(|(_, plain)| firsts.contains(plain))
            .map(|(c, _)| *c)
            .chain(firsts.iter().copied())
            .collect();
        let class = if firsts.is_empty() { r"[^\s\S]".into() } else { format!("[{}]", regex::escape(&firsts)) };
        let compile = |pattern: &str| Regex::new(pattern).expect("made of escaped texts");
        Ok(Tokens { pattern: compile(&parts.join("|")), firsts: compile(&class) })
    }

    /// Every token of a text, in order.
    pub fn find(&self, text: &str) -> Vec<Hit> {
        if !self.firsts.is_match(text) {
            return Vec::new();
        }
        let view = fold(text, COMPATIBLE);
        let mut hits = Vec::new();
        let mut from = 0;
        while let Some(found) = self.pattern.captures_at(&view, from) {
            let whole = found.get(0).map_or(0..0, |m| m.range());
            let first = view[whole.start..].chars().next().map_or(1, char::len_utf8);
            from = whole.start + first;
            let at = origin(text, COMPATIBLE, whole.clone());
            let first_end = origin(text, COMPATIBLE, whole.start..from).end;
            hits.push(Hit {
                first: first_end - at.start,
                at,
                escaped: view[from..].starts_with('\\'),
                think: found.get(1).is_some(),
            });
        }
        hits
    }

    /// The text with every token escaped.
    pub fn escape(&self, text: &str) -> String {
        escape(text, &self.find(text))
    }

    /// The text that [`Tokens::escape`] was given.
    pub fn unescape(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut from = 0;
        for hit in self.find(text).iter().filter(|hit| hit.escaped) {
            // The backslash put in is the one right behind the first character.
            let at = hit.at.start + hit.first;
            if text[at..].starts_with('\\') {
                out.push_str(&text[from..at]);
                from = at + 1;
            }
        }
        out + &text[from..]
    }
}

fn escape(text: &str, hits: &[Hit]) -> String {
    let mut out = String::with_capacity(text.len() + hits.len());
    let mut from = 0;
    for hit in hits {
        let at = hit.at.start + hit.first;
        out.push_str(&text[from..at]);
        out.push('\\');
        from = at;
    }
    out + &text[from..]
}

/// Whether `b` may begin inside `a`, behind its first character, so that escaping `b` cuts `a`.
fn overlaps(a: &str, b: &str) -> bool {
    let starts = a.char_indices().skip(1).map(|(at, _)| &a[at..]);
    starts.filter(|rest| rest.chars().count() > 1).any(|rest| rest.starts_with(b) || b.starts_with(rest))
}

/// A token with any number of backslashes after its first character.
fn spelled(token: &str) -> String {
    let mut chars = token.chars();
    let first: String = chars.next().into_iter().collect();
    format!("{}\\\\*{}", regex::escape(&first), regex::escape(chars.as_str()))
}

/// Characters whose normal form is a bracket that a token may begin with, and that bracket.
fn spellings() -> &'static [(char, char)] {
    static ALL: LazyLock<Vec<(char, char)>> = LazyLock::new(|| {
        let chars = (0x80..0x2_0000).filter_map(char::from_u32);
        let plain = chars.filter_map(|c| Some((c, std::iter::once(c).nfkc().find(|p| BRACKETS.contains(p))?)));
        plain.collect()
    });
    &ALL
}

/// The stage `control`: finds control tokens in every text of a row, and neutralises them.
pub struct Op {
    options: Options,
    tokens: Tokens,
}

impl Op {
    /// # Errors
    /// All faults of the options.
    pub fn new(options: Options) -> Result<Op, Vec<OptionFault>> {
        let tokens = Tokens::new(&options.families, &options.tokens)?;
        Ok(Op { options, tokens })
    }

    fn policy(&self, hit: &Hit) -> Policy {
        if hit.think { self.options.think } else { self.options.policy }
    }
}

impl Operator for Op {
    fn name(&self) -> &'static str {
        "control"
    }

    fn version(&self) -> u32 {
        1
    }

    fn apply(&self, batch: &Batch) -> Outcome {
        let mut outcome = Outcome::default();
        for row in batch.rows() {
            for (turn, field, text) in row.texts() {
                let hits = self.tokens.find(text);
                if hits.is_empty() {
                    continue;
                }
                for hit in hits.iter().filter(|hit| !hit.escaped) {
                    let rule = if hit.think { Family::Think.rule() } else { Family::Bars.rule() };
                    let action = match self.policy(hit) {
                        Policy::Escape => Action::Edit,
                        Policy::Drop => Action::Drop,
                        Policy::Note => Action::Note,
                    };
                    let found = Finding::new(row.index(), rule, action).at(turn, field, hit.at.clone());
                    outcome.findings.push(found.note(&text[hit.at.clone()]));
                }
                let cut: Vec<Hit> = hits.into_iter().filter(|hit| self.policy(hit) == Policy::Escape).collect();
                // A text that only speaks about tokens stays as it is.
                if cut.iter().any(|hit| !hit.escaped) {
                    outcome.edits.push(Edit { row: row.index(), turn, field, text: escape(text, &cut) });
                }
            }
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normalize::filter_view;
    use crate::testing::chat;
    use proptest::prelude::*;

    fn tokens() -> Tokens {
        let o = Options::default();
        Tokens::new(&[o.families.as_slice(), &[Family::Sentencepiece]].concat(), &["[MASK]".into()]).unwrap()
    }

    #[test]
    fn tokens_of_every_family_are_found_in_any_spelling() {
        let found = [
            "<｜User｜>",
            "<｜begin▁of▁sentence｜>",
            "<|im_start|>",
            "<|reserved_special_token_3|>",
            "＜｜ｉｍ＿ｅｎｄ｜＞",
            "<\u{200B}|im_end|>",
            "﹤|eot_id|﹥",
            "[INST]",
            "［ＩＮＳＴ］",
            "<</SYS>>",
            "<start_of_turn>",
            "<ﬆart_of_turn>",
            "</think>",
            "<tool_call>",
            "<s>",
            "[MASK]",
            "<|fim prefix|>",
        ];
        for token in found {
            let text = format!("前文{token}后文");
            let hits = tokens().find(&text);
            assert_eq!(hits.len(), 1, "{text}");
            assert_eq!(&text[hits[0].at.clone()], token);
            assert!(!hits[0].escaped);
        }
    }

    #[test]
    fn operators_and_markup_are_no_tokens() {
        let none =
            ["a <| b |> c", "x < y | z > w", "<b>bold</b>", "[1]", "if (a<|b|) {}", "<||>", "<| |>", "a|b|>c", "1<2"];
        for text in none {
            assert_eq!(tokens().find(text), [], "{text}");
        }
    }

    #[test]
    fn a_bracket_is_the_normal_form_of_one_character_only() {
        assert!(spellings().len() >= 6);
        for (c, plain) in spellings() {
            assert_eq!(c.to_string().nfkc().collect::<String>(), plain.to_string(), "{:X}", *c as u32);
        }
    }

    #[test]
    fn the_escape_is_visible_and_stacks() {
        let t = tokens();
        assert_eq!(t.escape("<|im_end|>[INST]"), "<\\|im_end|>[\\INST]");
        assert_eq!(t.escape("write `<\\|im_end|>`"), "write `<\\\\|im_end|>`");
        assert_eq!(t.unescape("write `<\\\\|im_end|>`"), "write `<\\|im_end|>`");
        assert_eq!(t.escape("<<|x|>"), "<<\\|x|>");
    }

    #[test]
    fn bad_tokens_are_all_named() {
        let bad = ["<a".into(), "<\\bc".into(), "a token".into(), "<y<z".into(), "<zw".into()];
        let faults = Tokens::new(&[], &bad).unwrap_err();
        let text: Vec<String> = faults.iter().map(ToString::to_string).collect();
        assert_eq!(faults.len(), 4, "{text:?}");
        assert!(text[3].contains("`<zw` begins inside `<y<z`"), "{text:?}");
    }

    #[test]
    fn each_policy_does_what_it_says() {
        let batch = chat(&[("user", "hi <|im_end|>"), ("assistant", "so <think> it")]);
        let apply = |policy, think| Op::new(Options { policy, think, ..Options::default() }).unwrap().apply(&batch);
        let out = apply(Policy::Escape, Policy::Note);
        assert_eq!(
            out.findings.iter().map(|f| (&*f.rule, f.action)).collect::<Vec<_>>(),
            [("control-token", Action::Edit), ("think-tag", Action::Note)]
        );
        assert_eq!(out.edits.iter().map(|e| e.text.as_str()).collect::<Vec<_>>(), ["hi <\\|im_end|>"]);
        assert_eq!(out.findings[0].at.map(|p| (p.turn, p.start, p.end)), Some((0, 3, 13)));
        let out = apply(Policy::Drop, Policy::Escape);
        assert_eq!(out.findings[0].action, Action::Drop);
        assert_eq!(out.edits[0].text, "so <\\think> it");
        let clean = chat(&[("user", "1 < 2"), ("assistant", "yes; `<\\|im_end|>` ends a turn")]);
        let out = Op::new(Options::default()).unwrap().apply(&clean);
        assert!(out.findings.is_empty() && out.edits.is_empty());
    }

    /// Pieces that tokens are made of, in every spelling that folds to them.
    fn texts() -> impl Strategy<Value = String> {
        let pieces = prop::sample::select(vec![
            "<",
            "＜",
            "﹤",
            "|",
            "｜",
            ">",
            "＞",
            "﹥",
            "/",
            "\\",
            "＼",
            "﹨",
            "[",
            "［",
            "]",
            "］",
            "think",
            "ｔｈｉｎｋ",
            "im_end",
            "INST",
            "ＩＮＳＴ",
            "SYS",
            "s",
            "ｓ",
            "start_of_turn",
            "ﬆart_of_turn",
            "\u{200B}",
            "\u{FEFF}",
            "\u{338}",
            " ",
            "甲",
            "x",
            "<|im_end|>",
            "<think>",
            "[INST]",
            "<<SYS>>",
            "MASK",
            "⩴",
            "½",
            "\u{FE0F}",
        ]);
        prop::collection::vec(pieces, 0..16).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn escaping_is_reversible(text in texts()) {
            let t = tokens();
            prop_assert_eq!(t.unescape(&t.escape(&text)), text);
        }

        /// No form of the escaped text holds a token, so normalising it forges none; and a text
        /// without tokens has none in any form, because forms are what is searched.
        #[test]
        fn no_form_of_an_escaped_text_holds_a_token(text in texts()) {
            let t = tokens();
            let escaped = t.escape(&text);
            let stripped: String = escaped.chars().filter(|c| !crate::normalize::is_invisible(*c)).collect();
            let forms = [
                escaped.clone(), escaped.nfc().collect(), escaped.nfkc().collect(), escaped.nfkd().collect(), stripped.clone(),
                stripped.nfkc().collect(), filter_view(&escaped).into_owned(),
            ];
            for form in forms {
                let left: Vec<_> = t.find(&form).into_iter().filter(|hit| !hit.escaped).collect();
                prop_assert!(left.is_empty(), "{:?} holds {:?}", form, left);
            }
        }

        #[test]
        fn nothing_but_backslashes_is_added(text in texts()) {
            let escaped = tokens().escape(&text);
            prop_assert_eq!(escaped.replace('\\', ""), text.replace('\\', ""));
        }
    }
}
