//! One text as rules see it. Every fact is computed when a rule first asks and kept for the next:
//! counts of characters in one pass, words, lines, repetition.

use std::cell::OnceCell;
use std::sync::LazyLock;

use jieba_rs::Jieba;

use super::repeat::{Duplicates, Pieces};
use crate::language::Language;

/// Marks that end a sentence. Closing quotes and brackets may follow them.
pub(crate) const ENDS: [char; 14] = ['.', '?', '!', '。', '？', '！', '…', '．', '｡', '।', '؟', '‽', ';', '；'];
/// What closes: quotes, brackets.
pub(crate) const CLOSERS: [char; 15] =
    ['"', '\'', '”', '’', '」', '』', ')', '）', ']', '】', '》', '>', '}', '`', '*'];

/// Characters of a text by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub chars: usize,
    pub letters: usize,
    pub digits: usize,
    pub space: usize,
    pub newlines: usize,
    pub parens: usize,
    /// Usual punctuation.
    pub marks: usize,
    pub hashes: usize,
    pub braces: usize,
    pub replacements: usize,
    pub controls: usize,
    pub invisibles: usize,
    pub longest_run: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Letter,
    Digit,
    Space,
    Paren,
    Mark,
    Symbol,
    Control,
}

const ASCII: [Kind; 128] = {
    let mut table = [Kind::Symbol; 128];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = match byte as u8 {
            b'a'..=b'z' | b'A'..=b'Z' => Kind::Letter,
            b'0'..=b'9' => Kind::Digit,
            b' ' | b'\n' | b'\t' | b'\r' | 0x0B | 0x0C => Kind::Space,
            b'(' | b')' | b'[' | b']' | b'{' | b'}' => Kind::Paren,
            b'.' | b',' | b'!' | b'?' | b';' | b':' | b'\'' | b'"' | b'-' | b'/' | b'%' => Kind::Mark,
            0..=31 | 127 => Kind::Control,
            _ => Kind::Symbol,
        };
        byte += 1;
    }
    table
};

fn kind(c: char) -> Kind {
    match c {
        '\u{4E00}'..='\u{9FFF}' | '\u{3400}'..='\u{4DBF}' | '\u{3041}'..='\u{30FA}' => Kind::Letter,
        '，' | '。' | '、' | '；' | '：' | '？' | '！' | '“' | '”' | '‘' | '’' | '…' | '—' | '·' | '～' | '–'
        | '「' | '」' | '『' | '』' | '《' | '》' | '〈' | '〉' => Kind::Mark,
        '（' | '）' | '【' | '】' | '［' | '］' | '｛' | '｝' | '〔' | '〕' => Kind::Paren,
        '０'..='９' => Kind::Digit,
        _ if c.is_whitespace() => Kind::Space,
        _ if c.is_control() => Kind::Control,
        _ if c.is_numeric() => Kind::Digit,
        _ if c.is_alphabetic() => Kind::Letter,
        _ => Kind::Symbol,
    }
}

fn count(text: &str) -> Counts {
    let mut counts = Counts::default();
    let mut kinds = [0usize; 7];
    let (mut before, mut run) = ('\0', 0);
    for c in text.chars() {
        counts.chars += 1;
        let kind = if c.is_ascii() { ASCII[c as usize] } else { kind(c) };
        kinds[kind as usize] += 1;
        run = if c == before { run + 1 } else { 1 };
        before = c;
        if run > counts.longest_run
            && !matches!(c, '-' | '=' | '_' | '*' | '#' | '.' | '…' | '—')
            && kind != Kind::Space
        {
            counts.longest_run = run;
        }
        if kind == Kind::Symbol || kind == Kind::Control || c == '{' || c == '\n' {
            match c {
                '\n' => counts.newlines += 1,
                '#' => counts.hashes += 1,
                '{' => counts.braces += 1,
                '\u{FFFD}' => counts.replacements += 1,
                // Joiners and variation selectors make emoji and Indic letters.
                '\u{200C}' | '\u{200D}' | '\u{FE0E}' | '\u{FE0F}' | '\u{E0020}'..='\u{E007F}' => {}
                c if crate::normalize::is_invisible(c) => counts.invisibles += 1,
                _ => {}
            }
        }
    }
    counts.letters = kinds[Kind::Letter as usize];
    counts.digits = kinds[Kind::Digit as usize];
    counts.space = kinds[Kind::Space as usize];
    counts.parens = kinds[Kind::Paren as usize];
    counts.marks = kinds[Kind::Mark as usize];
    counts.controls = kinds[Kind::Control as usize];
    counts
}

/// Facts about the words of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Words {
    /// Words, punctuation counted as words.
    pub all: usize,
    /// Words that are not only punctuation.
    pub plain: usize,
    /// Characters of those.
    pub plain_chars: usize,
    /// Words with a letter.
    pub alpha: usize,
}

/// One text with what was found out about it.
pub(crate) struct Facts<'t> {
    /// The text.
    pub text: &'t str,
    /// Its language, or that of its row where it does not tell.
    pub language: Language,
    counts: OnceCell<Counts>,
    words: OnceCell<Vec<&'t str>>,
    word_counts: OnceCell<Words>,
    pieces: OnceCell<Pieces>,
    lines: OnceCell<Duplicates>,
    plain_lines: OnceCell<Duplicates>,
    paragraphs: OnceCell<Duplicates>,
}

/// The dictionary, built at first use: a quarter of a second and some 60 MB.
static JIEBA: LazyLock<Jieba> = LazyLock::new(Jieba::new);

impl<'t> Facts<'t> {
    pub fn new(text: &'t str, language: Language) -> Facts<'t> {
        Facts {
            text,
            language,
            counts: OnceCell::new(),
            words: OnceCell::new(),
            word_counts: OnceCell::new(),
            pieces: OnceCell::new(),
            lines: OnceCell::new(),
            plain_lines: OnceCell::new(),
            paragraphs: OnceCell::new(),
        }
    }

    pub fn counts(&self) -> &Counts {
        self.counts.get_or_init(|| count(self.text))
    }

    /// Words; every other character that is not white space is a word of its own.
    pub fn words(&self) -> &[&'t str] {
        self.words.get_or_init(|| words(self.text, matches!(self.language, "zh" | "mixed")))
    }

    pub fn word_counts(&self) -> Words {
        *self.word_counts.get_or_init(|| {
            let mut counts = Words::default();
            for word in self.words() {
                counts.all += 1;
                if word.chars().any(char::is_alphanumeric) {
                    counts.plain += 1;
                    counts.plain_chars += super::repeat::char_count(word);
                }
                counts.alpha += usize::from(word.chars().any(char::is_alphabetic));
            }
            counts
        })
    }

    pub fn pieces(&self) -> &Pieces {
        self.pieces.get_or_init(|| Pieces::words(self.words().iter().copied()))
    }

    /// Lines as Gopher's measures split them: at runs of line breaks.
    pub fn lines(&self) -> Duplicates {
        *self.lines.get_or_init(|| {
            let text = self.text;
            // A run of line breaks separates once, also at the ends.
            let parts = || text.split('\n').enumerate().filter(move |(at, part)| !part.is_empty() || *at == 0);
            let tail = (text.ends_with('\n')).then_some("");
            Duplicates::of(parts().map(|(_, part)| part).chain(tail))
        })
    }

    /// Lines that are not blank.
    pub fn plain_lines(&self) -> Duplicates {
        *self.plain_lines.get_or_init(|| Duplicates::of(plain_lines(self.text)))
    }

    /// Paragraphs: what blank lines separate.
    pub fn paragraphs(&self) -> Duplicates {
        *self.paragraphs.get_or_init(|| {
            let text = self.text.trim();
            Duplicates::of(paragraphs(text))
        })
    }
}

pub(crate) fn plain_lines(text: &str) -> impl Iterator<Item = &str> + Clone {
    text.split('\n').filter(|line| !line.trim().is_empty())
}

/// What two or more line breaks separate.
fn paragraphs(text: &str) -> impl Iterator<Item = &str> + Clone {
    text.split("\n\n").enumerate().filter_map(|(at, part)| {
        let part = if at == 0 { part } else { part.trim_start_matches('\n') };
        (at == 0 || !part.is_empty()).then_some(part)
    })
}

/// Runs of letters and digits, with `'`, `’`, `-`, `.`, `_` between them, are words; every other
/// character that is not white space is one. With `segment`, runs of ideographs go through jieba.
fn words(text: &str, segment: bool) -> Vec<&str> {
    let mut words = Vec::with_capacity(text.len() / 5 + 1);
    let mut chars = text.char_indices().peekable();
    while let Some((start, c)) = chars.next() {
        if c.is_whitespace() {
            continue;
        }
        let mut end = start + c.len_utf8();
        if c.is_alphanumeric() {
            while let Some((at, next)) = chars.peek().copied() {
                let joins = matches!(next, '\'' | '’' | '-' | '.' | '_' | '\u{300}'..='\u{36F}')
                    && text[at + next.len_utf8()..].chars().next().is_some_and(char::is_alphanumeric);
                if !next.is_alphanumeric() && !joins {
                    break;
                }
                end = at + next.len_utf8();
                chars.next();
            }
        }
        let word = &text[start..end];
        if segment && word.len() > 3 && word.chars().any(|c| ('\u{3400}'..='\u{9FFF}').contains(&c)) {
            words.extend(JIEBA.cut(word, true).into_iter().map(|token| token.word));
        } else {
            words.push(word);
        }
    }
    words
}

/// Whether a line ends with a mark, closing quotes and brackets after it left out.
pub(crate) fn ends_with_mark(line: &str) -> bool {
    let bare = line.trim_end().trim_end_matches(CLOSERS);
    bare.ends_with(ENDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_counted_by_kind() {
        let c = *Facts::new("法律 A1（x）#{\u{FFFD}\u{1}\u{200B}，\n", "zh").counts();
        assert_eq!((c.chars, c.letters, c.digits, c.space, c.parens, c.marks), (15, 4, 1, 2, 3, 1));
        assert_eq!((c.hashes, c.braces, c.replacements, c.controls, c.invisibles, c.newlines), (1, 1, 1, 1, 1, 1));
        assert_eq!(Facts::new("好啊啊啊啊----------", "zh").counts().longest_run, 4);
    }

    #[test]
    fn words_are_runs_and_marks() {
        assert_eq!(
            words("I can't, e.g. 3.5 #ok...", false),
            ["I", "can't", ",", "e.g", ".", "3.5", "#", "ok", ".", ".", "."]
        );
        assert_eq!(words("原告请求法院判决离婚。", true), ["原告", "请求", "法院", "判决", "离婚", "。"]);
        assert_eq!(words("用 Rust 语言", true), ["用", "Rust", "语言"]);
    }

    #[test]
    fn lines_and_paragraphs_split_as_gopher_splits_them() {
        // Python: re.split(r"\n+", "a\n\nb\n") is ['a', 'b', '']; re.split(r"\n{2,}", "a\n\n\nb\nc") is ['a', 'b\nc'].
        assert_eq!(Facts::new("a\n\nb\n", "en").lines().pieces, 3);
        assert_eq!(Facts::new("\na", "en").lines().pieces, 2);
        assert_eq!(Facts::new("a\n\n\nb\nc", "en").paragraphs().pieces, 2);
        assert_eq!(Facts::new("", "en").lines().pieces, 1);
    }
}
