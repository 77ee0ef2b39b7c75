//! Characters: what is written differently and means the same becomes the same character.
//!
//! Compatibility forms (full-width digits, Roman numerals, ligatures) follow Unicode's NFKC. Four
//! things NFKC would spoil are rewritten before it: superscripts (10³ is `10^{3}`, not 103),
//! subscripts (a₁ is `a_{1}`), vulgar fractions (1½ is `1 1/2`, not 11/2) and operators that have
//! an ASCII name (−, ×, ≤, …).

use unicode_normalization::UnicodeNormalization;

/// Folds a text; the length stays within a constant factor.
pub fn characters(text: &str) -> String {
    if text.is_ascii() {
        return text.to_string();
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if let Some(first) = script(c, SUPERSCRIPTS).or_else(|| script(c, SUBSCRIPTS)) {
            let table = if script(c, SUPERSCRIPTS).is_some() { SUPERSCRIPTS } else { SUBSCRIPTS };
            out.push_str(if table == SUPERSCRIPTS { "^{" } else { "_{" });
            out.push(first);
            while let Some(next) = chars.peek().and_then(|c| script(*c, table)) {
                out.push(next);
                chars.next();
            }
            out.push('}');
        } else if let Some((_, fraction)) = VULGAR.iter().find(|(v, _)| *v == c) {
            if out.ends_with(|c: char| c.is_ascii_digit()) {
                out.push(' ');
            }
            out.push_str(fraction);
        } else if let Some((_, name)) = NAMES.iter().find(|(n, _)| *n == c) {
            out.push_str(name);
        } else if c.is_ascii() {
            out.push(c);
        } else {
            out.extend(std::iter::once(c).nfkc());
        }
    }
    out
}

fn script(c: char, table: &[(char, char)]) -> Option<char> {
    table.iter().find(|(s, _)| *s == c).map(|(_, plain)| *plain)
}

/// Raised digits, signs and n.
const SUPERSCRIPTS: &[(char, char)] = &[
    ('⁰', '0'),
    ('¹', '1'),
    ('²', '2'),
    ('³', '3'),
    ('⁴', '4'),
    ('⁵', '5'),
    ('⁶', '6'),
    ('⁷', '7'),
    ('⁸', '8'),
    ('⁹', '9'),
    ('⁻', '-'),
    ('⁺', '+'),
    ('ⁿ', 'n'),
];

/// Lowered digits.
const SUBSCRIPTS: &[(char, char)] = &[
    ('₀', '0'),
    ('₁', '1'),
    ('₂', '2'),
    ('₃', '3'),
    ('₄', '4'),
    ('₅', '5'),
    ('₆', '6'),
    ('₇', '7'),
    ('₈', '8'),
    ('₉', '9'),
];

const VULGAR: &[(char, &str)] = &[
    ('½', "1/2"),
    ('⅓', "1/3"),
    ('⅔', "2/3"),
    ('¼', "1/4"),
    ('¾', "3/4"),
    ('⅕', "1/5"),
    ('⅖', "2/5"),
    ('⅗', "3/5"),
    ('⅘', "4/5"),
    ('⅙', "1/6"),
    ('⅚', "5/6"),
    ('⅛', "1/8"),
    ('⅜', "3/8"),
    ('⅝', "5/8"),
    ('⅞', "7/8"),
];

/// Characters with a plainer name. Chinese punctuation that NFKC leaves alone is here too.
const NAMES: &[(char, &str)] = &[
    ('−', "-"),
    ('–', "-"),
    ('—', "-"),
    ('‐', "-"),
    ('‑', "-"),
    ('×', "\\times "),
    ('·', "\\cdot "),
    ('⋅', "\\cdot "),
    ('÷', "\\div "),
    ('≤', "\\le "),
    ('⩽', "\\le "),
    ('≥', "\\ge "),
    ('⩾', "\\ge "),
    ('≠', "\\ne "),
    ('≈', "\\approx "),
    ('±', "\\pm "),
    ('∞', "\\infty "),
    ('π', "\\pi "),
    ('√', "\\sqrt "),
    ('°', "\\degree "),
    ('∪', "\\cup "),
    ('∩', "\\cap "),
    ('∈', "\\in "),
    ('∅', "\\emptyset "),
    ('θ', "\\theta "),
    ('α', "\\alpha "),
    ('β', "\\beta "),
    ('‘', "'"),
    ('’', "'"),
    ('“', "\""),
    ('”', "\""),
    ('、', ","),
    ('。', "."),
    ('⁄', "/"),
    ('\u{200b}', ""),
    ('\u{200c}', ""),
    ('\u{feff}', ""),
];

/// Words for comparison: lower case, single spaces, no quotes or punctuation at the ends, no article
/// in front; single letters written apart ("y a j o", "y-a-j-o") are the word they spell.
pub fn words(text: &str) -> String {
    let lower = characters(text).to_lowercase();
    let joined = lower.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut folded = joined.as_str();
    loop {
        let inner = folded.trim_matches(|c: char| c.is_whitespace() || "\"'`*.,;:!?".contains(c));
        let inner = ["the ", "a ", "an "].iter().find_map(|a| inner.strip_prefix(a)).unwrap_or(inner);
        if inner == folded {
            break;
        }
        folded = inner;
    }
    let parts: Vec<&str> = folded.split([' ', '-', ',']).filter(|p| !p.is_empty()).collect();
    if parts.len() > 1 && parts.iter().all(|p| p.len() == 1 && p.as_bytes()[0].is_ascii_alphabetic()) {
        return parts.concat();
    }
    folded.to_string()
}

/// A formula without what encloses it: dollar signs and brackets of LaTeX environments, Markdown
/// stars, quotes, a final full stop. A dollar sign without a partner is money.
pub fn bare(text: &str) -> String {
    let mut text = characters(text);
    while text.len() <= MAX_BARE {
        let mut inner = text.trim().trim_end_matches('\\').trim();
        inner = inner.trim_matches(|c| "\"`".contains(c));
        inner = inner.strip_suffix("**").unwrap_or(inner);
        inner = inner.strip_prefix("**").unwrap_or(inner);
        inner = inner
            .strip_suffix(['.', '。', ',', '，', ';', ':', '!'])
            .filter(|_| !inner.ends_with("\\!"))
            .unwrap_or(inner);
        for (open, close) in [("\\[", "\\]"), ("\\(", "\\)"), ("\\boxed{", "}"), ("\\fbox{", "}"), ("\\text{", "}")] {
            if let Some(content) = inner.strip_prefix(open).and_then(|i| i.strip_suffix(close))
                && !content.contains(open)
                && balanced(content)
            {
                inner = content;
            }
        }
        let dollars = inner.replace("\\$", "").matches('$').count();
        let next = if dollars >= 2 && dollars.is_multiple_of(2) {
            let kept = inner.replace("\\$", "\u{1}").replace('$', " ");
            kept.replace('\u{1}', "\\$")
        } else {
            inner.to_string()
        };
        if next == text {
            return text;
        }
        text = next;
    }
    text
}

/// Longest formula whose enclosing marks are taken off, in bytes.
const MAX_BARE: usize = 4000;

/// Whether a text is words in letters only: not a single letter, nor a constant's name.
pub fn only_words(text: &str) -> bool {
    text.chars().filter(|c| c.is_ascii_alphabetic()).count() > 1
        && text.chars().all(|c| c.is_ascii_alphabetic() || c == ' ')
        && !["pi", "inf", "infty", "infinity", "oo"].contains(&text)
}

/// Whether braces close in order.
fn balanced(text: &str) -> bool {
    let mut depth = 0_i32;
    for c in text.chars() {
        depth += match c {
            '{' => 1,
            '}' => -1,
            _ => 0,
        };
        if depth < 0 {
            return false;
        }
    }
    depth == 0
}

/// The words of an answer without LaTeX around them: `\text{Even}` and `Even` are the same.
pub fn plain(text: &str) -> String {
    let mut plain = bare(text);
    for command in ["\\textbf", "\\text", "\\mathrm", "\\mathbf", "\\mbox", "\\left", "\\right", "\\,", "\\ "] {
        if plain.contains(command) {
            plain = plain.replace(command, "");
        }
    }
    words(&plain.replace(['{', '}', '$'], ""))
}
