//! A chain of thought in one text to its steps.
//!
//! Method, the first that applies: lines that begin with a marker (`Step 2:`, `2.`, `(2)`, `Thought 2:`,
//! `第二步`, `步骤2`), each with the lines below it; plain lines; markers inside one line that count 1, 2, …;
//! sentences. Mathematics (`$…$`, `\(…\)`, `\[…\]`, `\begin…\end`) and quotations are never divided. Steps
//! are slices of the text in order, and together hold every character that is no white space.

use std::ops::Range;

/// The steps of a text.
pub fn split_steps(text: &str) -> Vec<String> {
    split_ranges(text).into_iter().map(|range| text[range].to_owned()).collect()
}

/// The steps of a text as ranges of bytes, without white space around them.
pub fn split_ranges(text: &str) -> Vec<Range<usize>> {
    let shielded = mathematics(text);
    let lines = lines(text, &shielded);
    if lines.len() > 1 {
        let marked: Vec<bool> = lines.iter().map(|r| marker(&text[r.clone()]).is_some()).collect();
        if marked.iter().filter(|m| **m).count() < 2 {
            return lines;
        }
        let mut steps: Vec<Range<usize>> = Vec::new();
        let mut seen = false;
        for (line, marked) in lines.into_iter().zip(marked) {
            match steps.last_mut() {
                Some(last) if seen && !marked => last.end = line.end,
                _ => steps.push(line),
            }
            seen |= marked;
        }
        return steps;
    }
    let Some(line) = lines.into_iter().next() else {
        return Vec::new();
    };
    inline_markers(text, line.clone(), &shielded).unwrap_or_else(|| sentences(text, line, &shielded))
}

/// Ranges of mathematics, in order, that a step is never divided in.
fn mathematics(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    // once a closing mark is known to be missing, it is not looked for again: the time stays linear
    let mut missing = [false; 5];
    while let Some(step) = text[at..].find(['$', '\\']) {
        let start = at + step;
        let rest = &text[start..];
        let pairs = [("$$", "$$"), ("\\[", "\\]"), ("\\(", "\\)"), ("\\begin{", "\\end{"), ("$", "$")];
        let hit = pairs.iter().enumerate().find(|(_, (open, _))| rest.starts_with(open));
        at = start + 1;
        let Some((kind, (open, close))) = hit else { continue };
        if missing[kind] || (kind == 4 && rest[1..].starts_with(|c: char| c.is_ascii_digit())) {
            continue; // `$5` is money
        }
        let body = start + open.len();
        let reach = if kind == 4 { text[body..].find('\n').map_or(text.len(), |n| body + n) } else { text.len() };
        match text[body..reach].find(close) {
            Some(length) => {
                at = body + length + close.len();
                found.push(start..at);
            }
            None if kind == 4 => at = reach,
            None => missing[kind] = true,
        }
    }
    found
}

/// Whether a byte lies inside mathematics.
fn inside(shielded: &[Range<usize>], at: usize) -> bool {
    let next = shielded.partition_point(|r| r.end <= at);
    shielded.get(next).is_some_and(|r| r.start < at)
}

fn trimmed(text: &str, range: Range<usize>) -> Option<Range<usize>> {
    let part = &text[range.clone()];
    let inner = part.trim();
    let start = range.start + (part.len() - part.trim_start().len());
    (!inner.is_empty()).then(|| start..start + inner.len())
}

fn lines(text: &str, shielded: &[Range<usize>]) -> Vec<Range<usize>> {
    let mut lines = Vec::new();
    let mut start = 0;
    for (at, _) in text.match_indices('\n') {
        if !inside(shielded, at) {
            lines.extend(trimmed(text, start..at));
            start = at + 1;
        }
    }
    lines.extend(trimmed(text, start..text.len()));
    lines
}

/// The number of the marker a line begins with.
fn marker(line: &str) -> Option<u64> {
    let line = line.trim_start_matches(['*', '#', ' ', '-', '>']);
    for word in ["step", "thought"] {
        if let Some(head) = line.get(..word.len())
            && head.eq_ignore_ascii_case(word)
        {
            return leading_number(line[word.len()..].trim_start()).map(|(n, _)| n);
        }
    }
    if let Some(rest) = line.strip_prefix("步骤").or_else(|| line.strip_prefix('第')) {
        let rest = rest.trim_start();
        let (n, length) = leading_number(rest)?;
        return (line.starts_with("步骤") || rest[length..].trim_start().starts_with('步')).then_some(n);
    }
    let (open, rest) = match line.strip_prefix(['(', '（']) {
        Some(rest) => (true, rest),
        None => (false, line),
    };
    let (n, length) = leading_number(rest)?;
    let behind = &rest[length..];
    let closed = if open {
        behind.starts_with([')', '）'])
    } else {
        behind.starts_with([')', '、', '．', '）'])
            || (behind.starts_with('.') && !behind[1..].starts_with(|c: char| c.is_ascii_digit()))
    };
    (closed && n < 1000).then_some(n)
}

/// A number in digits, circled digits or Chinese numerals up to ten, and its bytes.
fn leading_number(text: &str) -> Option<(u64, usize)> {
    let digits = text.bytes().take(4).take_while(u8::is_ascii_digit).count();
    if digits > 0 {
        return text[..digits].parse().ok().map(|n| (n, digits));
    }
    let first = text.chars().next()?;
    let place = "一二三四五六七八九十".chars().position(|c| c == first)?;
    Some((place as u64 + 1, first.len_utf8()))
}

/// Markers inside one line that count 1, 2, …; at least two of them.
fn inline_markers(text: &str, line: Range<usize>, shielded: &[Range<usize>]) -> Option<Vec<Range<usize>>> {
    let mut starts = Vec::new();
    let mut expected = 1;
    let mut before = ' ';
    for (offset, c) in text[line.clone()].char_indices() {
        let at = line.start + offset;
        let begins = before.is_whitespace() || "。；;.!?！？".contains(before);
        let candidate = c.is_ascii_digit() || "(（Ss第步Tt".contains(c);
        if begins && candidate && !inside(shielded, at) && marker(&text[at..line.end]) == Some(expected) {
            starts.push(at);
            expected += 1;
        }
        before = c;
    }
    if starts.len() < 2 {
        return None;
    }
    let mut steps = Vec::new();
    steps.extend(trimmed(text, line.start..starts[0]));
    for (n, start) in starts.iter().enumerate() {
        steps.extend(trimmed(text, *start..starts.get(n + 1).copied().unwrap_or(line.end)));
    }
    Some(steps)
}

/// Sentences of one line.
fn sentences(text: &str, line: Range<usize>, shielded: &[Range<usize>]) -> Vec<Range<usize>> {
    const ABBREVIATIONS: [&str; 16] =
        ["e.g", "i.e", "mr", "mrs", "ms", "dr", "vs", "no", "fig", "eq", "approx", "st", "cf", "etc", "prof", "resp"];
    let mut steps = Vec::new();
    let mut start = line.start;
    let mut depth = 0_usize;
    let mut chars = text[line.clone()].char_indices().peekable();
    while let Some((offset, c)) = chars.next() {
        let at = line.start + offset;
        match c {
            '(' | '[' | '（' | '“' | '「' => depth += 1,
            ')' | ']' | '）' | '”' | '」' => depth = depth.saturating_sub(1),
            _ => (),
        }
        let wide = "。！？；".contains(c);
        if !(wide || ".!?".contains(c)) || inside(shielded, at) {
            continue;
        }
        // closing quotes and brackets belong to the sentence
        let mut end = at + c.len_utf8();
        while let Some((_, q)) = chars.peek().copied()
            && "\"'”’」)]）".contains(q)
        {
            depth = depth.saturating_sub(usize::from(")]）”」".contains(q)));
            end += q.len_utf8();
            chars.next();
        }
        let space = text[end..line.end].starts_with(char::is_whitespace);
        // an open bracket that is never closed must not swallow the rest
        if !(wide || space) || (depth > 0 && end - start < 400) {
            continue;
        }
        let tail: Vec<char> =
            text[start..at].chars().rev().take(8).take_while(|c| c.is_alphabetic() || *c == '.').collect();
        let word: String = tail.into_iter().rev().collect::<String>().to_lowercase();
        let initial = word.chars().count() == 1 && c == '.' && text[..at].ends_with(char::is_uppercase);
        let numbered = c == '.' && text[start..at].trim().bytes().all(|b| b.is_ascii_digit());
        if c == '.' && (ABBREVIATIONS.contains(&word.as_str()) || initial || numbered) {
            continue;
        }
        steps.extend(trimmed(text, start..end));
        start = end;
        depth = 0;
    }
    steps.extend(trimmed(text, start..line.end));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_markers_and_sentences() {
        assert_eq!(split_steps("a = 1\n\n b = 2\n"), ["a = 1", "b = 2"]);
        assert_eq!(split_steps("Intro\n1. one\n more\n2. two"), ["Intro", "1. one\n more", "2. two"]);
        assert_eq!(split_steps("Step 1: x. Step 2: y."), ["Step 1: x.", "Step 2: y."]);
        assert_eq!(split_steps("第一步：3+4=7。第二步：7×2=14。"), ["第一步：3+4=7。", "第二步：7×2=14。"]);
        assert_eq!(split_steps("第一步 甲\n第二步 乙\n接着\n第三步 丙"), ["第一步 甲", "第二步 乙\n接着", "第三步 丙"]);
        assert_eq!(
            split_steps("The last letter of \"Amy\" is \"y\". It costs $3.50 e.g. today. So 2.5 + 1 = 3.5."),
            ["The last letter of \"Amy\" is \"y\".", "It costs $3.50 e.g. today.", "So 2.5 + 1 = 3.5."]
        );
        assert_eq!(split_steps("先算三加四。再乘二！"), ["先算三加四。", "再乘二！"]);
        assert_eq!(split_steps(""), Vec::<String>::new());
    }

    #[test]
    fn mathematics_stays_whole() {
        let text = "We have \\[ x = 1. Y\n + 2 \\] here.\nThen $a. B$ holds. Done.";
        assert_eq!(split_steps(text), ["We have \\[ x = 1. Y\n + 2 \\] here.", "Then $a. B$ holds. Done."]);
        assert_eq!(split_steps("Then $a. B$ holds. Done."), ["Then $a. B$ holds.", "Done."]);
        assert_eq!(split_steps("It is $5. That is $6."), ["It is $5.", "That is $6."]);
    }
}
