//! Requests said in another way. A transform gives a text where the form of the request fits it,
//! nothing otherwise; the gate decides.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::LazyLock;

use loar_text::Body;
use regex::Regex;

use super::gate::{Gate, Refusal};
use super::lexicon::{Draw, Lexicon};
use super::protect::{Protected, protected};
use super::{Class, Made};
use crate::batch::Row;
use crate::terms::{cjk_share, is_cjk};

/// Verbs that begin an English request as an imperative.
const VERBS: [&str; 34] = [
    "write",
    "explain",
    "list",
    "describe",
    "summarize",
    "translate",
    "give",
    "find",
    "create",
    "generate",
    "calculate",
    "compute",
    "solve",
    "name",
    "identify",
    "classify",
    "compare",
    "analyze",
    "suggest",
    "provide",
    "rewrite",
    "convert",
    "tell",
    "show",
    "design",
    "make",
    "outline",
    "discuss",
    "implement",
    "fix",
    "edit",
    "draft",
    "extract",
    "answer",
];

/// Verbs that begin a Chinese request as an imperative.
const VERBS_ZH: [&str; 28] = [
    "写", "解释", "列出", "描述", "总结", "翻译", "给出", "找出", "生成", "计算", "求", "分析", "比较", "判断", "推荐",
    "提供", "改写", "概括", "说明", "设计", "制定", "编写", "介绍", "提取", "回答", "预测", "把", "将",
];

/// The first request of a row, with its turn.
pub(super) fn request<'a>(row: &Row<'a>) -> Option<(usize, &'a str)> {
    row.turns().enumerate().find(|(_, t)| t.is_request() && !t.content.trim().is_empty()).map(|(at, t)| (at, t.content))
}

/// The row with another text in one turn.
pub(super) fn with_text(row: &Row<'_>, turn: usize, text: String) -> Body {
    let mut body = row.body();
    match &mut body {
        Body::Text(old) => *old = text,
        Body::Completion { prompt, completion } => *(if turn == 0 { prompt } else { completion }) = text,
        Body::Chat(chat) => chat.messages[turn].content = text,
    }
    body
}

/// Perturbs the request of a row. `None` where its form does not fit.
pub(super) fn perturb(
    row: &Row<'_>,
    name: &'static str,
    class: Class,
    lexicon: &Lexicon,
    share: f64,
    draw: &Draw,
    gate: &Gate,
) -> Option<Result<Made, Refusal>> {
    let (turn, before) = request(row)?;
    let after = transform(name, before, lexicon, share, draw)?;
    if after == before {
        return None;
    }
    // a polite form adds a modal by design, another case or width is read again as other spans
    let free: &[&str] = match name {
        "polite" | "question" | "imperative" => &["modal"],
        "case" => &["name"],
        _ => &[],
    };
    let checked = gate.check(before, &after, free);
    Some(checked.map(|cosine| Made {
        parents: vec![row.number()],
        transform: name,
        class,
        violates: None,
        evidence: format!("{}; measured {cosine:.3}", gate.name()),
        body: with_text(row, turn, after),
    }))
}

fn transform(name: &str, text: &str, lexicon: &Lexicon, share: f64, draw: &Draw) -> Option<String> {
    match name {
        "synonym" => synonym(text, lexicon, share, draw),
        "polite" => polite(text, draw),
        "question" => question(text),
        "imperative" => imperative(text),
        "clause-order" => clauses(text),
        "ba-jiang" => ba(text),
        "list-prose" => list(text),
        "case" => case(text),
        "width" => width(text),
        _ => slip(text, name, lexicon.slips(name), share, draw),
    }
}

/// Words: runs of ASCII letters, and single CJK characters.
fn words(text: &str) -> usize {
    let mut inside = false;
    let mut count = 0;
    for c in text.chars() {
        let letter = c.is_ascii_alphabetic();
        count += usize::from(is_cjk(c) || letter && !inside);
        inside = letter;
    }
    count
}

fn hits(span: &Range<usize>, all: &[Protected]) -> bool {
    all.iter().any(|p| p.span.start < span.end && span.start < p.span.end)
}

/// Replaces up to a share of the words (one at least) by synonyms, outside of protected spans.
fn synonym(text: &str, lexicon: &Lexicon, share: f64, draw: &Draw) -> Option<String> {
    let kept = protected(text);
    let mut places: Vec<(Range<usize>, &Vec<String>)> = Vec::new();
    for (word, others) in lexicon.synonyms() {
        for (at, found) in text.match_indices(word.as_str()) {
            let span = at..at + found.len();
            let letter = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
            let inside =
                word.is_ascii() && (letter(text[..at].chars().next_back()) || letter(text[span.end..].chars().next()));
            if !inside && !hits(&span, &kept) && !places.iter().any(|(p, _)| p.start < span.end && span.start < p.end) {
                places.push((span, others));
            }
        }
    }
    let most = ((words(text) as f64 * share) as usize).max(1);
    let mut order: Vec<(u32, usize)> =
        (0..places.len()).map(|at| ((draw.uniform(8 + at as u64) * 1e6) as u32, at)).collect();
    order.sort_unstable();
    order.truncate(most);
    let mut chosen: Vec<usize> = order.into_iter().map(|(_, at)| at).collect();
    chosen.sort_by_key(|at| std::cmp::Reverse(places[*at].0.start));
    let mut out = text.to_owned();
    for at in &chosen {
        let (span, others) = &places[*at];
        out.replace_range(span.clone(), &others[draw.below(4000 + *at as u64, others.len())]);
    }
    (!chosen.is_empty()).then_some(out)
}

/// First sentence and the rest, where the first is an imperative without its "please".
fn command(text: &str) -> Option<(bool, &str, &str)> {
    let text = text.trim_start();
    let bare =
        text.strip_prefix("Please ").or(text.strip_prefix("please ")).or(text.strip_prefix('请')).unwrap_or(text);
    let zh = cjk_share(bare) > 0.5;
    let fits = if zh {
        VERBS_ZH.iter().any(|v| bare.starts_with(v))
    } else {
        let first: String = bare.chars().take_while(char::is_ascii_alphabetic).flat_map(char::to_lowercase).collect();
        VERBS.contains(&first.as_str())
    };
    if !fits {
        return None;
    }
    let ends: &[char] = if zh { &['。', '：', '\n', '！', '？'] } else { &['.', ':', '\n', '!', '?'] };
    let end = bare.char_indices().find(|(at, c)| {
        // a point between digits ends nothing
        ends.contains(c) && !(*c == '.' && bare[at + 1..].starts_with(|n: char| !n.is_whitespace()))
    });
    let end = end.map_or(bare.len(), |(at, _)| at);
    (end > 0).then(|| (zh, &bare[..end], &bare[end..]))
}

/// The mark after a sentence that became a question; a colon still introduces what follows.
fn asked(rest: &str, zh: bool) -> String {
    let mark = if zh { "？" } else { "?" };
    match rest.chars().next() {
        Some('.' | '。' | '!' | '！') => format!("{mark}{}", &rest[rest.chars().next().map_or(0, char::len_utf8)..]),
        None => mark.to_owned(),
        _ => rest.to_owned(),
    }
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |c| c.to_lowercase().chain(chars).collect())
}

fn upper_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |c| c.to_uppercase().chain(chars).collect())
}

/// Imperative → polite request.
fn polite(text: &str, draw: &Draw) -> Option<String> {
    let (zh, sentence, rest) = command(text)?;
    if zh {
        let ways = ["麻烦你", "劳驾，请帮我", "请你帮忙"];
        return Some(format!("{}{sentence}{rest}", ways[draw.below(1, ways.len())]));
    }
    let ways = ["Please ", "I would appreciate it if you would ", "Kindly "];
    Some(format!("{}{}{rest}", ways[draw.below(1, ways.len())], lower_first(sentence)))
}

/// Imperative → question.
fn question(text: &str) -> Option<String> {
    let (zh, sentence, rest) = command(text)?;
    Some(if zh {
        format!("能请你{sentence}吗{}", asked(rest, true))
    } else {
        format!("Could you {}{}", lower_first(sentence), asked(rest, false))
    })
}

static ASKED: LazyLock<[Regex; 2]> = LazyLock::new(|| {
    [
        r"^(?:你能|你可以|能否请你|能否|可否|可以|能不能)(?:帮我)?([^？?。\n]+?)吗?[？?]",
        r"^(?i:can|could|would|will) you (?:please )?([^?\n]+)\?",
    ]
    .map(|p| Regex::new(p).expect("tested"))
});

/// Question → imperative.
fn imperative(text: &str) -> Option<String> {
    let text = text.trim_start();
    for (pattern, zh) in ASKED.iter().zip([true, false]) {
        if let Some(found) = pattern.captures(text) {
            let rest = &text[found[0].len()..];
            let what = &found[1];
            return Some(if zh { format!("请{what}。{rest}") } else { format!("{}.{rest}", upper_first(what)) });
        }
    }
    None
}

static CLAUSES: LazyLock<[Regex; 3]> = LazyLock::new(|| {
    [
        r"^(如果|要是|假如)([^，。？！\n]+)，(?:那么|就)?([^，。？！\n]+)([。？！]?)$",
        r"^([^，。？！\n]+)，(如果|要是|假如)([^，。？！\n]+)([。？！]?)$",
        r"^If ([^,.?!\n]+), (?:then )?([^,.?!\n]+)([.?!]?)$",
    ]
    .map(|p| Regex::new(p).expect("tested"))
});

/// `如果A，那么B` ↔ `B，如果A`; `If A, B` → `B if A`: requests of one such sentence only.
fn clauses(text: &str) -> Option<String> {
    let text = text.trim();
    if let Some(c) = CLAUSES[0].captures(text) {
        return Some(format!("{}，{}{}{}", &c[3], &c[1], &c[2], &c[4]));
    }
    if let Some(c) = CLAUSES[1].captures(text) {
        return Some(format!("{}{}，那么{}{}", &c[2], &c[3], &c[1], &c[4]));
    }
    // what stands first names what `it` means later
    let pronoun = Regex::new(r"(?i)\b(it|he|she|they|them|him|her|its|their)\b").ok()?;
    CLAUSES[2]
        .captures(text)
        .filter(|c| !pronoun.is_match(&c[2]))
        .map(|c| format!("{} if {}{}", upper_first(&c[2]), &c[1], &c[3]))
}

static BA: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^(请|请你|麻烦你)?(把|将)([^把将，。\n]+)").expect("tested"));

/// 把 ↔ 将 at the head of a request, where both mark the object; elsewhere 将 may mean the future.
fn ba(text: &str) -> Option<String> {
    let found = BA.captures(text)?;
    let other = if &found[2] == "把" { "将" } else { "把" };
    let head = found.get(1).map_or("", |m| m.as_str());
    Some(format!("{head}{other}{}{}", &found[3], &text[found[0].len()..]))
}

/// A list of three or more marked lines → one sentence; the marks themselves say nothing.
fn list(text: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    let item =
        |line: &str| line.trim_start().strip_prefix("- ").or(line.trim_start().strip_prefix("* ")).map(str::to_owned);
    let start = lines.iter().position(|l| item(l).is_some())?;
    let items: Vec<String> = lines[start..].iter().map_while(|l| item(l)).collect();
    if items.len() < 3 || items.iter().any(|i| i.contains([';', '；'])) {
        return None;
    }
    let mark = if cjk_share(text) > 0.3 { "；" } else { "; " };
    let trimmed: Vec<&str> = items.iter().map(|i| i.trim_end_matches(['.', '。', ';', '；', ','])).collect();
    let mut out: Vec<String> = lines[..start].iter().map(|l| (*l).to_owned()).collect();
    out.push(trimmed.join(mark));
    out.extend(lines[start + items.len()..].iter().map(|l| (*l).to_owned()));
    Some(out.join("\n"))
}

/// English without capitals, protected spans as they are.
fn case(text: &str) -> Option<String> {
    (cjk_share(text) < 0.1).then(|| outside(text, |part| part.to_lowercase()))
}

/// Chinese punctuation in half width, or ASCII punctuation in full width.
fn width(text: &str) -> Option<String> {
    if cjk_share(text) < 0.3 {
        return None;
    }
    let pairs = [('，', ','), ('？', '?'), ('！', '!'), ('：', ':'), ('；', ';'), ('（', '('), ('）', ')')];
    let wide = pairs.iter().any(|(wide, _)| text.contains(*wide));
    Some(outside(text, |part| {
        let turn = |c: char| match pairs.iter().find(|(w, n)| c == if wide { *w } else { *n }) {
            Some((w, n)) => {
                if wide {
                    *n
                } else {
                    *w
                }
            }
            None => c,
        };
        part.chars().map(turn).collect()
    }))
}

/// Changes the text between protected spans.
fn outside(text: &str, change: impl Fn(&str) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for span in protected(text).into_iter().map(|p| p.span) {
        out.push_str(&change(&text[at..span.start]));
        out.push_str(&text[span.clone()]);
        at = span.end;
    }
    out.push_str(&change(&text[at..]));
    out
}

/// A slip of the keyboard or of the input method in up to a share of the words.
fn slip(text: &str, name: &str, table: &BTreeMap<char, Vec<char>>, share: f64, draw: &Draw) -> Option<String> {
    let kept = protected(text);
    let chars: Vec<(usize, char)> = text.char_indices().collect();
    let open: Vec<usize> = (0..chars.len())
        .filter(|at| {
            let (byte, c) = chars[*at];
            // the first letter of a word is rarely mistyped, and the word stays readable
            let inside = name != "typo-keyboard" || *at > 0 && chars[*at - 1].1.is_ascii_alphabetic();
            inside && table.contains_key(&c) && !hits(&(byte..byte + c.len_utf8()), &kept)
        })
        .collect();
    if open.is_empty() {
        return None;
    }
    let most = ((words(text) as f64 * share) as usize).clamp(1, 3);
    let mut out: Vec<char> = chars.iter().map(|(_, c)| *c).collect();
    for n in 0..most as u64 {
        let at = open[draw.below(100 + n, open.len())];
        let near = &table[&chars[at].1];
        out[at] = near[draw.below(200 + n, near.len())];
    }
    Some(out.into_iter().collect())
}
