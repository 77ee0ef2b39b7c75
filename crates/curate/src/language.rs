//! Language of a row and of a text. Scripts decide first: a histogram of bytes tells Han, kana,
//! Hangul, Latin, Cyrillic and the rest apart, which settles Chinese, Japanese, Korean and mixed
//! texts. Latin text with the function words of English is English. Only what is left (other Latin
//! languages, Cyrillic, Arabic, …) is given to `whatlang`, and only its head.
//!
//! Short Latin texts without a function word stay `und`: a guess on four words is worse than none.

use std::sync::Arc;

use arrow_array::{ArrayRef, Float32Array, StringArray};
use arrow_schema::{DataType, Field as ArrowField};
use serde::{Deserialize, Serialize};

use crate::batch::Batch;
use crate::operator::{Action, Finding, Operator, Outcome};
use crate::options::OptionFault;

/// Options of the stage `language`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Languages that are kept, such as `["zh", "en", "mixed", "code"]`. Default empty: all.
    pub keep: Vec<String>,
    /// Bytes of a text that are given to the statistical model. Default 512.
    pub prefix: usize,
    /// Share of letters, by bytes, that the smaller of Han and Latin needs for `mixed`. Default 0.2.
    pub mixed: f32,
}

impl Default for Options {
    fn default() -> Self {
        Options { keep: Vec::new(), prefix: 512, mixed: 0.2 }
    }
}

/// Bytes of letters by script.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scripts {
    /// Ideographs.
    pub han: u32,
    /// Hiragana and katakana.
    pub kana: u32,
    /// Korean syllables.
    pub hangul: u32,
    /// ASCII letters and Latin letters with marks.
    pub latin: u32,
    /// Of `latin`, those that are not ASCII.
    pub accented: u32,
    /// Letters of any other script.
    pub other: u32,
    /// `{}[]()<>=;_/\*&|+#$` and the like: what code is full of.
    pub symbols: u32,
    /// All bytes.
    pub bytes: u32,
}

/// Classes of bytes that begin a character (or are one).
const CLASS: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b'A'..=b'Z' | b'a'..=b'z' => LATIN,
            b'{' | b'}' | b'[' | b']' | b'(' | b')' | b'<' | b'>' | b'=' | b';' | b'_' | b'/' | b'\\' | b'*' | b'&'
            | b'|' | b'+' | b'#' | b'$' | b'`' | b'@' | b'^' | b'~' => SYMBOL,
            0xC3..=0xC9 => ACCENTED,
            0xCD..=0xDF => OTHER2,
            0xE0 | 0xE1 => OTHER3,
            0xE3 => CJK,
            0xE4..=0xE9 | 0xF0 => HAN,
            0xEA..=0xED => HANGUL,
            _ => NONE,
        };
        byte += 1;
    }
    table
};
const NONE: u8 = 0;
const LATIN: u8 = 1;
const SYMBOL: u8 = 2;
const ACCENTED: u8 = 3;
const OTHER2: u8 = 4;
const OTHER3: u8 = 5;
const CJK: u8 = 6;
const HAN: u8 = 7;
const HANGUL: u8 = 8;

/// Counts the scripts of a text.
pub fn scripts(text: &str) -> Scripts {
    let bytes = text.as_bytes();
    // Four tables: neighbours of one class do not wait for each other.
    let mut counts = [[0u32; 16]; 4];
    let mut chunks = bytes.chunks_exact(4);
    for four in &mut chunks {
        for (table, byte) in counts.iter_mut().zip(four) {
            table[CLASS[*byte as usize] as usize & 15] += 1;
        }
    }
    for byte in chunks.remainder() {
        counts[0][CLASS[*byte as usize] as usize & 15] += 1;
    }
    let count = |class: u8| counts.iter().map(|table| table[class as usize]).sum::<u32>();
    let (mut kana, mut han) = (0, count(HAN) * 3);
    if count(CJK) > 0 {
        for at in memchr::memchr_iter(0xE3, bytes) {
            match bytes[at + 1] {
                0x81..=0x83 => kana += 3,
                0x90..=0xBF => han += 3,
                _ => {}
            }
        }
    }
    let accented = count(ACCENTED) * 2;
    Scripts {
        han,
        kana,
        hangul: count(HANGUL) * 3,
        latin: count(LATIN) + accented,
        accented,
        other: count(OTHER2) * 2 + count(OTHER3) * 3,
        symbols: count(SYMBOL),
        bytes: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
    }
}

impl Scripts {
    /// Bytes of letters.
    pub fn letters(&self) -> u32 {
        self.han + self.kana + self.hangul + self.latin + self.other
    }

    /// Share of letters that are ideographs.
    pub fn han_share(&self) -> f32 {
        share(self.han, self.letters())
    }

    /// Share of letters that are Latin.
    pub fn latin_share(&self) -> f32 {
        share(self.latin, self.letters())
    }

    fn plus(self, more: Scripts) -> Scripts {
        Scripts {
            han: self.han + more.han,
            kana: self.kana + more.kana,
            hangul: self.hangul + more.hangul,
            latin: self.latin + more.latin,
            accented: self.accented + more.accented,
            other: self.other + more.other,
            symbols: self.symbols + more.symbols,
            bytes: self.bytes.saturating_add(more.bytes),
        }
    }
}

fn share(part: u32, whole: u32) -> f32 {
    if whole == 0 { 0.0 } else { (f64::from(part) / f64::from(whole)) as f32 }
}

/// A language code: `zh`, `en`, `ja`, `ko`, `mixed` (Chinese with Latin), `code`, `und` (cannot be
/// told: numbers, a name), or the two letters of ISO 639-1 of another language.
pub type Language = &'static str;

/// Function words of English, and words of everyday sums. Those of other languages that look the
/// same (`a`, `in`, `is`, `do`) are left out.
const ENGLISH: [&str; 96] = [
    "the", "and", "of", "to", "that", "for", "with", "this", "from", "are", "was", "be", "have", "has", "you", "your",
    "it", "what", "which", "how", "who", "why", "when", "where", "there", "their", "they", "would", "should", "could",
    "will", "can", "not", "by", "or", "we", "if", "my", "he", "she", "his", "her", "him", "them", "each", "than",
    "then", "more", "had", "were", "been", "into", "its", "our", "these", "those", "about", "after", "also", "any",
    "but", "did", "does", "get", "just", "like", "many", "make", "much", "need", "only", "out", "over", "some", "such",
    "two", "three", "up", "very", "while", "every", "left", "total", "first", "cost", "costs", "makes", "takes",
    "pays", "buys", "sold", "spent", "day", "week", "year", "hours",
];

/// A word of at most eight ASCII letters as one number.
const fn packed(word: &[u8]) -> u64 {
    let (mut number, mut at) = (0, 0);
    while at < word.len() {
        number = (number << 8) | word[at] as u64;
        at += 1;
    }
    number
}

/// Slot of a packed word in [`ENGLISH_TABLE`].
const fn slot(word: u64) -> usize {
    (word.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 55) as usize
}

/// The words of [`ENGLISH`] by slot, the next free one when taken.
const ENGLISH_TABLE: [u64; 512] = {
    let mut table = [0; 512];
    let mut at = 0;
    while at < ENGLISH.len() {
        let word = packed(ENGLISH[at].as_bytes());
        let mut to = slot(word);
        while table[to] != 0 {
            to = (to + 1) % 512;
        }
        table[to] = word;
        at += 1;
    }
    table
};

fn is_english(word: u64) -> bool {
    let mut at = slot(word);
    while ENGLISH_TABLE[at] != 0 {
        if ENGLISH_TABLE[at] == word {
            return true;
        }
        at = (at + 1) % 512;
    }
    false
}

/// The language of one text.
pub fn identify(text: &str, options: &Options) -> Language {
    decide(&scripts(text), options, true, || text.into())
}

/// The language of one text where scripts and function words tell it, else `und`: a hundred times
/// faster than [`identify`] on texts that they do not tell.
pub fn identify_plainly(text: &str, options: &Options) -> Language {
    decide(&scripts(text), options, false, || text.into())
}

/// `head` gives the beginning of the text, for what scripts do not tell.
fn decide<'t>(
    scripts: &Scripts,
    options: &Options,
    model: bool,
    head: impl FnOnce() -> std::borrow::Cow<'t, str>,
) -> Language {
    let letters = scripts.letters();
    if letters == 0 {
        return "und";
    }
    let part = |bytes: u32| f64::from(bytes) / f64::from(letters);
    if part(scripts.hangul) > 0.3 {
        return "ko";
    }
    if scripts.kana > 0 && part(scripts.kana) > 0.1 && scripts.kana * 10 > scripts.han {
        return "ja";
    }
    // Han text is shorter than its translation: three bytes stand for about four letters.
    let (han, latin) = (part(scripts.han), part(scripts.latin));
    if han + latin > 0.8 {
        let mixed = f64::from(options.mixed);
        let symbols = f64::from(scripts.symbols) / f64::from(scripts.bytes);
        if han >= 1.0 - mixed {
            return "zh";
        }
        if han > mixed {
            return "mixed";
        }
        let head = head();
        let head = prefix(&head, options.prefix);
        if symbols > 0.08 && is_code(head) {
            return "code";
        }
        if part(scripts.accented) < 0.03 {
            let (words, english) = count_english(head);
            if english > 0 && english * 12 >= words {
                return "en";
            }
        }
        return if model { statistical(head) } else { "und" };
    }
    if model { statistical(prefix(&head(), options.prefix)) } else { "und" }
}

/// At most `bytes` of a text, cut between characters.
fn prefix(text: &str, bytes: usize) -> &str {
    &text[..crate::normalize::floor(text, bytes)]
}

/// Words, and those of them that are function words of English; no further than needed to tell.
fn count_english(head: &str) -> (usize, usize) {
    let (mut words, mut english) = (0, 0);
    let (mut word, mut len) = (0u64, 0);
    // A blank at the end closes the last word. Bytes of letters with marks count as letters.
    for byte in head.bytes().chain([b' ']) {
        if byte.is_ascii_alphabetic() || byte == b'\'' || byte >= 0x80 {
            word = (word << 8) | u64::from(byte.to_ascii_lowercase());
            len += 1;
        } else if len > 0 {
            words += 1;
            english += usize::from(len <= 8 && is_english(word));
            (word, len) = (0, 0);
            if english >= 4 && english * 6 >= words {
                break;
            }
        }
    }
    (words, english)
}

/// Whether lines look like a program: end in `;`, `{`, `}`, begin with a keyword, or indent.
fn is_code(head: &str) -> bool {
    const STARTS: [&str; 20] = [
        "def ",
        "class ",
        "import ",
        "from ",
        "#include",
        "fn ",
        "pub ",
        "let ",
        "const ",
        "var ",
        "function ",
        "return ",
        "if (",
        "for (",
        "while (",
        "public ",
        "private ",
        "SELECT ",
        "package ",
        "using ",
    ];
    let (mut lines, mut code) = (0, 0);
    for line in head.lines().map(str::trim).filter(|line| !line.is_empty()) {
        lines += 1;
        let ends =
            line.ends_with([';', '{', '}']) || line.ends_with("):") || line.ends_with("})") || line.ends_with("),");
        let assigns = line.contains(" = ") || line.contains("();") || line.contains("->") || line.contains("::");
        code += usize::from(
            ends || assigns || STARTS.iter().any(|start| line.starts_with(start)) || line.starts_with("```"),
        );
    }
    lines > 0 && code * 2 >= lines
}

fn statistical(head: &str) -> Language {
    // Below some twenty letters whatlang's trigrams say nothing.
    let letters = head.chars().filter(|c| c.is_alphabetic()).take(40).count();
    if letters < 20 {
        return "und";
    }
    match whatlang::detect(head) {
        Some(found) if letters >= 40 || found.is_reliable() => two_letters(found.lang()),
        _ => "und",
    }
}

/// ISO 639-1 where it exists, else 639-3.
fn two_letters(lang: whatlang::Lang) -> Language {
    use whatlang::Lang::*;
    match lang {
        Eng => "en",
        Cmn => "zh",
        Fra => "fr",
        Deu => "de",
        Spa => "es",
        Por => "pt",
        Ita => "it",
        Nld => "nl",
        Rus => "ru",
        Ukr => "uk",
        Pol => "pl",
        Ces => "cs",
        Tur => "tr",
        Vie => "vi",
        Ind => "id",
        Ara => "ar",
        Heb => "he",
        Pes => "fa",
        Hin => "hi",
        Tha => "th",
        Jpn => "ja",
        Kor => "ko",
        Ell => "el",
        Swe => "sv",
        Dan => "da",
        Nob => "nb",
        Fin => "fi",
        Hun => "hu",
        Ron => "ro",
        Bul => "bg",
        Cat => "ca",
        Lat => "la",
        other => other.code(),
    }
}

/// The code of a column `language` as a constant; `und` for one that no stage writes.
pub(crate) fn known(code: &str) -> Language {
    const OURS: [&str; 6] = ["zh", "en", "mixed", "code", "ja", "ko"];
    let ours = OURS.iter().find(|known| **known == code).copied();
    ours.or_else(|| whatlang::Lang::all().iter().map(|lang| two_letters(*lang)).find(|known| *known == code))
        .unwrap_or("und")
}

/// Scripts and language of all texts of a row together.
pub fn identify_row(row: &crate::batch::Row<'_>, options: &Options) -> (Scripts, Language) {
    let all = row.texts().fold(Scripts::default(), |sum, (_, _, text)| sum.plus(scripts(text)));
    let head = || {
        let mut head = String::new();
        for (_, _, text) in row.texts() {
            head.push_str(prefix(text, options.prefix));
            head.push('\n');
            if head.len() >= options.prefix {
                break;
            }
        }
        head.into()
    };
    (all, decide(&all, options, true, head))
}

/// The stage `language`: adds the columns `language` (text), `han` and `latin` (shares of letters,
/// by bytes), and leaves out languages that are not wanted.
pub struct Op {
    options: Options,
}

impl Op {
    /// # Errors
    /// All faults of the options.
    pub fn new(options: Options) -> Result<Op, Vec<OptionFault>> {
        let mut faults = Vec::new();
        for code in &options.keep {
            if !(2..=5).contains(&code.len()) || !code.bytes().all(|b| b.is_ascii_lowercase()) {
                let mend = "write `zh`, `en`, `mixed`, `code`, `und` or another two-letter code";
                faults.push(OptionFault::new("keep", format!("`{code}`"), mend));
            }
        }
        if options.prefix < 64 {
            faults.push(OptionFault::new("prefix", options.prefix.to_string(), "give the model at least 64 bytes"));
        }
        if !(0.0..=0.5).contains(&options.mixed) {
            faults.push(OptionFault::new("mixed", options.mixed.to_string(), "write a share from 0 to 0.5"));
        }
        if faults.is_empty() { Ok(Op { options }) } else { Err(faults) }
    }
}

impl Operator for Op {
    fn name(&self) -> &'static str {
        "language"
    }

    fn version(&self) -> u32 {
        1
    }

    fn apply(&self, batch: &Batch) -> Outcome {
        let mut outcome = Outcome::default();
        let (mut codes, mut han, mut latin) = (Vec::new(), Vec::new(), Vec::new());
        for row in batch.rows() {
            let (scripts, language) = identify_row(&row, &self.options);
            if !self.options.keep.is_empty() && !self.options.keep.iter().any(|keep| keep == language) {
                let wanted = self.options.keep.join(", ");
                let finding = Finding::new(row.index(), "language", Action::Drop);
                outcome.findings.push(finding.note(format!("{language}, wanted {wanted}")));
            }
            codes.push(language);
            han.push(scripts.han_share());
            latin.push(scripts.latin_share());
        }
        let mut add = |name: &str, kind: DataType, array: ArrayRef| {
            outcome.columns.push((Arc::new(ArrowField::new(name, kind, false)), array));
        };
        add("language", DataType::Utf8, Arc::new(StringArray::from(codes)));
        add("han", DataType::Float32, Arc::new(Float32Array::from(han)));
        add("latin", DataType::Float32, Arc::new(Float32Array::from(latin)));
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{chat, text};

    fn code(text: &str) -> Language {
        identify(text, &Options::default())
    }

    #[test]
    fn scripts_are_counted_in_bytes_of_letters() {
        let s = scripts("法律abcé １ かな한글Я。");
        assert_eq!((s.han, s.latin, s.accented, s.kana, s.hangul, s.other), (6, 5, 2, 6, 6, 2));
        assert_eq!(s.letters(), 25);
        assert_eq!(scripts(""), Scripts::default());
        assert_eq!(scripts("㐀𠀀").han, 6);
    }

    #[test]
    fn languages_are_told_apart() {
        let cases = [
            ("请写出以下案件的判决：赵四与妻子王五通过相亲认识。", "zh"),
            ("请把下面的 JSON 翻译成英文", "zh"),
            ("请解释 the difference between list and tuple 的区别是什么", "mixed"),
            ("How many clips did Natalia sell altogether in April and May?", "en"),
            ("Il a mangé une pomme, puis il est rentré à la maison avec ses amis.", "fr"),
            ("Der Hund läuft schnell über die Straße und bellt die Katze an.", "de"),
            ("El perro corre rápidamente por la calle y persigue al gato negro.", "es"),
            ("Собака быстро бежит по улице и лает на кошку соседа.", "ru"),
            ("これは日本語の文章です。漢字も含まれています。", "ja"),
            ("이것은 한국어로 쓴 문장입니다.", "ko"),
            ("def f(x):\n    return x[0] + g(x)\nprint(f([1, 2]))\ny = {k: v}", "code"),
            ("42", "und"),
            ("Paris", "und"),
            ("", "und"),
        ];
        for (text, language) in cases {
            assert_eq!(code(text), language, "{text}");
        }
    }

    #[test]
    fn every_function_word_is_known_and_no_other() {
        for word in ENGLISH {
            assert_eq!(count_english(&word.to_uppercase()), (1, 1), "{word}");
        }
        assert_eq!(count_english("theatre, thé; otherwise a-b don't"), (6, 0));
        assert_eq!(count_english(""), (0, 0));
    }

    #[test]
    fn the_stage_adds_columns_and_leaves_out_what_is_not_wanted() {
        let op = Op::new(Options { keep: vec!["zh".into()], ..Options::default() }).unwrap();
        let out = op.apply(&chat(&[("user", "什么是诉讼时效？"), ("assistant", "权利人请求保护权利的法定期间。")]));
        assert!(out.findings.is_empty());
        let names: Vec<_> = out.columns.iter().map(|(field, _)| field.name().as_str()).collect();
        assert_eq!(names, ["language", "han", "latin"]);
        let out = op.apply(&text("The court found for the plaintiff and ordered costs."));
        assert_eq!(out.findings[0].note, "en, wanted zh");
        assert_eq!(out.findings[0].action, Action::Drop);
    }

    #[test]
    fn faults_are_all_named() {
        let bad = Options { keep: vec!["Chinese".into()], prefix: 3, mixed: 2.0 };
        assert_eq!(Op::new(bad).err().unwrap().len(), 3);
    }
}
