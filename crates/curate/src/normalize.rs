//! What filters look at: a text without invisible characters, in NFKC, optionally in lower case and
//! with runs of white space as one space. Two spellings of one phrase then compare equal. It is
//! never what is trained on: NFKC turns DeepSeek's `<｜User｜>` into `<|User|>` and `①` into `1`.
//!
//! The text is walked once. ASCII, ideographs, kana and their punctuation are copied (or moved, for
//! full width forms) by their bytes alone; only runs of other characters, together with the
//! character before them (a mark composes with it), go through the Unicode tables. The same walk,
//! counting instead of writing, leads from a place in the view back to the text.

use std::borrow::Cow;
use std::ops::Range;

use unicode_normalization::UnicodeNormalization;

/// What is folded besides invisible characters and compatibility forms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fold {
    /// Lower case, character by character; `ß` is `ss` and `ς` is `σ`.
    pub case: bool,
    /// Each run of white space is one space.
    pub space: bool,
}

/// Everything folded: the view that phrases are looked up in.
pub const FILTER: Fold = Fold { case: true, space: true };
/// Invisible characters and compatibility forms only.
pub const COMPATIBLE: Fold = Fold { case: false, space: false };

/// The filter view of a text; borrowed when it is the text itself.
pub fn filter_view(text: &str) -> Cow<'_, str> {
    fold(text, FILTER)
}

/// The text folded; borrowed when nothing changes.
pub fn fold(text: &str, how: Fold) -> Cow<'_, str> {
    let upper = how.case && text.bytes().any(|b| b.is_ascii_uppercase());
    let mut writer = Writer { text, out: String::new() };
    let whole = walk(text, how, &mut writer);
    if whole && !upper {
        return Cow::Borrowed(text);
    }
    let mut out = if whole { text.to_owned() } else { writer.out };
    if how.case {
        out.make_ascii_lowercase();
    }
    Cow::Owned(out)
}

/// The bytes of `text` that bytes `view` of [`fold`]`(text, how)` come from. A character that
/// became several is given whole.
pub fn origin(text: &str, how: Fold, view: Range<usize>) -> Range<usize> {
    let mut finder = Finder { text, how, view, seen: 0, start: None, end: None };
    if walk(text, how, &mut finder) {
        return finder.view;
    }
    let start = finder.start.unwrap_or(text.len());
    start..finder.end.unwrap_or(text.len()).max(start)
}

/// Characters that no one sees: joiners, marks of direction, soft hyphens, byte order marks. They
/// stand inside words to hide them from filters.
pub fn is_invisible(c: char) -> bool {
    matches!(c, '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{115F}' | '\u{1160}' | '\u{17B4}' | '\u{17B5}' | '\u{3164}'
        | '\u{180B}'..='\u{180F}' | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}'
        | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{FFA0}' | '\u{E0000}'..='\u{E0FFF}')
}

/// The last place between characters at or before a byte.
pub(crate) fn floor(text: &str, byte: usize) -> usize {
    let byte = byte.min(text.len());
    (0..=byte).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// Takes the pieces of a walk.
trait Sink {
    /// Bytes that stay as they are.
    fn same(&mut self, range: Range<usize>);
    /// Bytes that become another text.
    fn other(&mut self, range: Range<usize>, text: &str);
}

struct Writer<'t> {
    text: &'t str,
    out: String,
}

impl Sink for Writer<'_> {
    fn same(&mut self, range: Range<usize>) {
        if self.out.capacity() == 0 {
            self.out.reserve(self.text.len() + 8);
        }
        self.out.push_str(&self.text[range]);
    }

    fn other(&mut self, _: Range<usize>, text: &str) {
        self.out.push_str(text);
    }
}

/// Finds where a range of the view comes from.
struct Finder<'t> {
    text: &'t str,
    how: Fold,
    view: Range<usize>,
    seen: usize,
    start: Option<usize>,
    end: Option<usize>,
}

impl Finder<'_> {
    /// Bytes of a changed run whose fold is the first `len` bytes of `piece`: as few as can be, or
    /// as many. The whole run, or nothing of it, where its characters cannot be told apart.
    fn part(&self, run: &str, piece: &str, len: usize, most: bool) -> usize {
        let ends = run.char_indices().map(|(at, c)| at + c.len_utf8());
        let fits = |end: &usize| {
            let part = fold(&run[..*end], self.how);
            part.len() == len && piece.as_bytes()[..len].eq_ignore_ascii_case(part.as_bytes())
        };
        let mut ends = std::iter::once(0).chain(ends).filter(fits);
        let found = if most { ends.next_back() } else { ends.next() };
        found.unwrap_or(if most { 0 } else { run.len() })
    }
}

impl Sink for Finder<'_> {
    fn same(&mut self, range: Range<usize>) {
        let view = self.seen..self.seen + range.len();
        if self.start.is_none() && view.contains(&self.view.start) {
            self.start = Some(range.start + self.view.start - view.start);
        }
        if self.end.is_none() && self.view.end <= view.end {
            self.end = Some(range.start + self.view.end.saturating_sub(view.start));
        }
        self.seen = view.end;
    }

    fn other(&mut self, range: Range<usize>, text: &str) {
        let view = self.seen..self.seen + text.len();
        let run = &self.text[range.clone()];
        if self.start.is_none() && view.contains(&self.view.start) {
            self.start = Some(range.start + self.part(run, text, self.view.start - view.start, true));
        }
        if self.end.is_none() && self.view.end <= view.end {
            self.end = Some(range.start + self.part(run, text, self.view.end - view.start, false));
        }
        self.seen = view.end;
    }
}

/// What a byte begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Begin {
    /// An ASCII character that stays.
    Ascii,
    /// ASCII white space.
    Space,
    /// An ideograph from U+4000 to U+9FFF: stays.
    Ideograph,
    /// U+3000 to U+3FFF.
    Cjk,
    /// U+2000 to U+2FFF.
    Symbol,
    /// U+F000 to U+FFFF.
    Form,
    /// Anything else.
    Rest,
}

const BEGIN: [Begin; 256] = {
    let mut table = [Begin::Rest; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = Begin::Ascii;
        byte += 1;
    }
    let spaces = [b' ', b'\t', b'\n', b'\r', 0x0B, 0x0C];
    let mut at = 0;
    while at < spaces.len() {
        table[spaces[at] as usize] = Begin::Space;
        at += 1;
    }
    byte = 0xE4;
    while byte <= 0xE9 {
        table[byte] = Begin::Ideograph;
        byte += 1;
    }
    table[0xE2] = Begin::Symbol;
    table[0xE3] = Begin::Cjk;
    table[0xEF] = Begin::Form;
    table
};

/// What becomes of one character, by its bytes alone.
enum Step {
    Same,
    /// One ASCII character.
    Ascii(u8),
    Ellipsis,
    /// The tables must say.
    Ask,
}

/// A character of three bytes that begins with E2, E3 or EF. U+2011, U+2017 and the like go to the
/// tables; that the others stay is tested over all of them.
fn step(begin: Begin, second: u8, third: u8) -> Step {
    match (begin, second, third) {
        (Begin::Cjk, 0x80, 0x80) => Step::Ascii(b' '),
        (Begin::Cjk, 0x80, 0xAA..=0xAF | 0xB6 | 0xB8..=0xBA) => Step::Ask,
        (Begin::Cjk, 0x82, 0x97..=0x9F) | (Begin::Cjk, 0x83, 0xBF) => Step::Ask,
        (Begin::Cjk, 0x80..=0x83 | 0x90..=0xBF, _) => Step::Same,
        (Begin::Symbol, 0x80, 0x90 | 0x92..=0x96 | 0x98..=0xA3) => Step::Same,
        (Begin::Symbol, 0x80, 0xA6) => Step::Ellipsis,
        (Begin::Form, 0xBC, 0x81..=0xBF) => Step::Ascii(third - 0x81 + 0x21),
        (Begin::Form, 0xBD, 0x80..=0x9E) => Step::Ascii(third - 0x80 + 0x60),
        _ => Step::Ask,
    }
}

/// Gives the pieces of the folded text in order, ASCII letters in the case they have; true, without
/// a piece, when the folded text is the text.
fn walk(text: &str, how: Fold, sink: &mut impl Sink) -> bool {
    let bytes = text.as_bytes();
    let (mut at, mut pending, mut whole) = (0, 0, true);
    // Whether the view so far ends in white space.
    let mut spaced = false;
    while at < bytes.len() {
        let begin = BEGIN[bytes[at] as usize];
        let (len, step) = match begin {
            Begin::Ascii => {
                at += 1;
                while at < bytes.len() && BEGIN[bytes[at] as usize] == Begin::Ascii {
                    at += 1;
                }
                spaced = false;
                continue;
            }
            Begin::Space if !how.space || (bytes[at] == b' ' && !spaced) => {
                spaced = true;
                at += 1;
                continue;
            }
            Begin::Space => (1, Step::Ascii(b' ')),
            Begin::Ideograph => {
                spaced = false;
                at += 3;
                continue;
            }
            Begin::Rest => (0, Step::Ask),
            _ => (3, step(begin, bytes[at + 1], bytes[at + 2])),
        };
        // A form that becomes a letter may compose with a mark after it.
        let step =
            if matches!(step, Step::Ascii(_) | Step::Ellipsis) && asks(bytes, at + len) { Step::Ask } else { step };
        let (range, piece): (Range<usize>, Cow<'_, str>) = match step {
            Step::Same => {
                spaced = false;
                at += len;
                continue;
            }
            Step::Ascii(b' ') if how.space && spaced => (at..at + len, "".into()),
            Step::Ascii(byte) => {
                spaced = byte == b' ';
                (at..at + len, ascii(byte).into())
            }
            Step::Ellipsis => {
                spaced = false;
                (at..at + len, "...".into())
            }
            Step::Ask => {
                let before = text[pending..at].chars().next_back().filter(|c| !c.is_whitespace());
                let start = at - before.map_or(0, char::len_utf8);
                let mut end = at;
                while asks(bytes, end) {
                    end += text[end..].chars().next().map_or(1, char::len_utf8);
                }
                // The character asked for may be one that the bytes alone decide, before a mark.
                if end == at {
                    end += len;
                    while asks(bytes, end) {
                        end += text[end..].chars().next().map_or(1, char::len_utf8);
                    }
                }
                let folded = fold_run(&text[start..end], how, &mut spaced);
                if folded == text[start..end] {
                    at = end;
                    continue;
                }
                // What stands unchanged at the head of the run is no part of the change.
                let head = text[start..end].chars().zip(folded.chars()).take_while(|(a, b)| a == b);
                let head: usize = head.map(|(c, _)| c.len_utf8()).sum();
                (start + head..end, folded[head..].to_owned().into())
            }
        };
        whole = false;
        if pending < range.start {
            sink.same(pending..range.start);
        }
        (at, pending) = (range.end, range.end);
        sink.other(range, &piece);
    }
    if !whole && pending < bytes.len() {
        sink.same(pending..bytes.len());
    }
    whole
}

/// Whether the character at a byte needs the tables.
fn asks(bytes: &[u8], at: usize) -> bool {
    let Some(byte) = bytes.get(at) else { return false };
    match BEGIN[*byte as usize] {
        Begin::Ascii | Begin::Space | Begin::Ideograph => false,
        Begin::Rest => true,
        begin => matches!(step(begin, bytes[at + 1], bytes[at + 2]), Step::Ask),
    }
}

/// The printable ASCII characters, as texts.
fn ascii(byte: u8) -> &'static str {
    const PRINTABLE: &str = concat!(
        " !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        "[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~"
    );
    let at = usize::from(byte - b' ');
    &PRINTABLE[at..=at]
}

/// A run through the tables: invisible characters out, then NFKC, then case and space.
fn fold_run(run: &str, how: Fold, spaced: &mut bool) -> String {
    let mut out = String::with_capacity(run.len());
    for c in run.chars().filter(|c| !is_invisible(*c)).nfkc() {
        let white = c.is_whitespace();
        if how.space && white {
            if !*spaced {
                out.push(' ');
            }
        } else if how.case && !c.is_ascii() {
            lower(c, &mut out);
        } else {
            // ASCII letters are lowered at the end, all at once.
            out.push(c);
        }
        *spaced = white;
    }
    out
}

fn lower(c: char, out: &mut String) {
    match c {
        'ß' | 'ẞ' => out.push_str("ss"),
        'ς' => out.push('σ'),
        _ => out.extend(c.to_lowercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, by the library alone.
    fn defined(text: &str) -> String {
        text.chars().filter(|c| !is_invisible(*c)).nfkc().collect()
    }

    fn folded(text: &str) -> String {
        let mut out = String::new();
        let mut spaced = false;
        for c in defined(text).chars() {
            if !c.is_whitespace() {
                lower(c, &mut out);
            } else if !spaced {
                out.push(' ');
            }
            spaced = c.is_whitespace();
        }
        out
    }

    /// Texts of characters that meet each other badly.
    fn texts() -> impl Strategy<Value = String> {
        let kinds = "[ -~]|[一-三]|[！-～]|[。、「」　…“”‘’—]|[か-ごゝ゛゜]|[\u{300}-\u{30a}\u{338}\u{3099}]|[é-ÿÀ-Ý]\
            |[\u{200b}\u{ad}\u{feff}\u{2060}]|[①Ⅷﬁ㎏℡⩴]|[가-깋\u{1100}-\u{1112}\u{1161}-\u{1175}]|[А-я]|[\t\n \u{a0}\u{2003}]|[ßẞςΣİ]";
        prop::collection::vec(kinds, 0..24).prop_map(|parts| parts.concat())
    }

    #[test]
    fn every_character_alone_and_before_a_mark_is_as_the_library_has_it() {
        for c in (0..=0x2_FFFF).filter_map(char::from_u32) {
            for text in [format!("a{c}b"), format!("{c}\u{308}"), format!("{c}\u{3099}x"), format!("　{c}")] {
                assert_eq!(fold(&text, COMPATIBLE), defined(&text), "{text:?} ({:X})", c as u32);
            }
        }
    }

    #[test]
    fn what_does_not_change_is_borrowed() {
        for text in ["", "plain text, one space", "法院认为。原告的请求成立", "ひらがな"] {
            assert!(matches!(filter_view(text), Cow::Borrowed(_)), "{text}");
        }
        assert!(matches!(fold("ABC  def\n", COMPATIBLE), Cow::Borrowed(_)));
    }

    #[test]
    fn spellings_of_a_phrase_become_one() {
        for text in ["As an AI", "ＡＳ　ＡＮ　ＡＩ", "as\n\tan  A\u{200B}I", "𝐀s an ＡI"] {
            assert_eq!(filter_view(text), "as an ai", "{text:?}");
        }
        assert_eq!(filter_view("作为……ＡＩ"), "作为......ai");
    }

    #[test]
    fn a_place_in_the_view_leads_back_to_the_text() {
        let text = "请问：ＡＩ　 能…吗";
        let view = filter_view(text);
        let found = view.find("ai").unwrap();
        assert_eq!(&text[origin(text, FILTER, found..found + 2)], "ＡＩ");
        let dots = view.find("...").unwrap();
        assert_eq!(&text[origin(text, FILTER, dots + 1..dots + 2)], "…");
        let plain = "no change";
        assert_eq!(origin(plain, FILTER, 3..9), 3..9);
    }

    proptest! {
        #[test]
        fn the_walk_is_what_the_library_says(text in texts()) {
            prop_assert_eq!(fold(&text, COMPATIBLE), defined(&text));
            prop_assert_eq!(filter_view(&text), folded(&text));
        }

        /// A word that survives folding as itself is found again at its own bytes.
        #[test]
        fn origins_are_exact_for_words_that_stay(before in texts(), after in texts()) {
            let text = format!("{before}§甲乙§{after}");
            let view = filter_view(&text).into_owned();
            let at = view.find("甲乙").unwrap();
            let range = origin(&text, FILTER, at..at + 6);
            prop_assert_eq!(text.find("甲乙").map(|at| at..at + 6), Some(range));
        }

        #[test]
        fn every_origin_is_a_slice_of_the_text(text in texts(), from in 0usize..40, len in 0usize..9) {
            let view = filter_view(&text).into_owned();
            let near = |at: usize| (at.min(view.len())..=view.len()).find(|at| view.is_char_boundary(*at)).unwrap();
            let range = origin(&text, FILTER, near(from)..near(from + len));
            prop_assert!(text.get(range).is_some());
        }
    }
}
