//! Spans of a text that no perturbation may touch.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

/// A span with its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protected {
    /// `number`, `date`, `code`, `formula`, `quote`, `name`, `address`, `negation`, `quantifier`,
    /// `modal`, `citation`.
    pub kind: &'static str,
    /// Bytes.
    pub span: Range<usize>,
}

static PATTERNS: LazyLock<Vec<(&str, Regex)>> = LazyLock::new(|| {
    let all = [
        ("code", r"(?s)```.*?```|`[^`\n]+`|\{[^{}\n]*:[^{}\n]*\}|<\w+[^>]*>"),
        ("formula", r"\$\$[^$]+\$\$|\$[^$\n]*[\\^_=][^$\n]*\$|\\[a-zA-Z]+(\{[^}]*\})*"),
        ("quote", "“[^”]*”|「[^」]*」|《[^》]*》|\"[^\"\\n]*\""),
        ("address", r"https?://\S+|[\w.+-]+@[\w-]+\.\w[\w.]*"),
        ("citation", r"第[0-9零一二三四五六七八九十百千]+[条款项章]|(?i:section|article|§)\s*\d+"),
        (
            "date",
            r"\d{1,4}[-/年.]\d{1,2}([-/月.]\d{1,2}日?)?|\d{1,2}月\d{1,2}[日号]|(?i:\b(january|february|march|april|may|june|july|august|september|october|november|december)\s+\d{1,2}\b)",
        ),
        (
            "number",
            r"[+\-−]?[$¥€£]?\d[\d,.]*\s*(%|‰|°C|℃|[a-zA-Z]{1,3}\b|元|块|角|米|千米|公里|厘米|克|千克|公斤|斤|吨|升|毫升|毫克|个|只|人|年|月|天|日|小时|分钟|秒|岁|次|倍|章|条|页|字|词)?|[零一二两三四五六七八九十百千万亿半]+(个|只|人|年|月|天|小时|分钟|次|倍|元|条|页|米|斤)|(?i:\b(one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty|fifty|hundred|thousand|million|half|twice|double|dozen)\b)",
        ),
        ("negation", r"不|没|勿|非|无|未|别|(?i:\b(not|no|never|none|nor|without|cannot)\b|n't\b)"),
        (
            "quantifier",
            r"所有|全部|每|任何|部分|至少|至多|最多|最少|只|仅|都|(?i:\b(all|every|each|any|some|most|few|only|both|at least|at most|more than|less than)\b)",
        ),
        (
            "modal",
            r"应当|应该|必须|可以|可能|能够|需要|须|(?i:\b(must|may|might|shall|should|ought|can|could|would)\b)",
        ),
        (
            "name",
            r"\b[A-Z][a-z]+(?:\s+[A-Z][a-z]+)+\b|\b[A-Z]{2,}\b|[\p{Han}]{2,6}(?:省|市|县|区|公司|大学|法院|银行|医院)",
        ),
    ];
    all.into_iter().map(|(kind, pattern)| (kind, Regex::new(pattern).expect("patterns are tested"))).collect()
});

/// Protected spans in order, without overlaps: of two that overlap the earlier kind of the list
/// (code first) stands.
pub fn protected(text: &str) -> Vec<Protected> {
    let mut spans: Vec<Protected> = Vec::new();
    for (kind, pattern) in PATTERNS.iter() {
        for found in pattern.find_iter(text) {
            let span = found.range();
            if !spans.iter().any(|s| s.span.start < span.end && span.start < s.span.end) {
                spans.push(Protected { kind, span });
            }
        }
    }
    spans.sort_by_key(|s| s.span.start);
    spans
}

/// Kind and text of every protected span, sorted: what must stay the same. Kinds in `free` are
/// left out.
pub(super) fn facts<'a>(text: &'a str, free: &[&str]) -> Vec<(&'static str, &'a str)> {
    let all = protected(text).into_iter().filter(|s| !free.contains(&s.kind));
    let mut facts: Vec<_> = all.map(|s| (s.kind, text[s.span].trim())).collect();
    facts.sort_unstable();
    facts
}
