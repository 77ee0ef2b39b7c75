//! What a rule can measure. One row of the table a measure: its name in rule files, what further
//! keys it takes, and what it is, so that the reader of rule files, the reference in the
//! documentation and the code cannot drift apart.

/// A measure of a text or of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Measure {
    Chars,
    Words,
    Tokens,
    Lines,
    MeanWordLength,
    LongestWord,
    AlphaWords,
    StopWords,
    HashesPerWord,
    EllipsesPerWord,
    NewlinesPerWord,
    BulletLines,
    EllipsisLines,
    EndedLines,
    ShortLines,
    LongLines,
    BlankText,
    DupLines,
    DupLineChars,
    DupParagraphs,
    DupParagraphChars,
    DupTextChars,
    UniqueLines,
    UniqueLineChars,
    UniqueParagraphs,
    UniqueParagraphChars,
    TopNgram,
    DupNgram,
    DupCharNgram,
    LongestRun,
    NonAlnum,
    Digits,
    Urls,
    Space,
    Parens,
    Symbols,
    Replacements,
    Controls,
    Invisibles,
    Mojibake,
    Unended,
    Ended,
    Dangling,
    OpenFence,
    OpenBrackets,
    Sentences,
    Braces,
    Phrases,
    PhraseLines,
    Matches,
    Json,
    JsonKeys,
    Label,
    Number,
    Fence,
    List,
    TurnFaults,
    Turns,
    LanguageDiffers,
    LengthRatio,
    Echo,
}

/// A further key that a measure needs or takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// `n`: a whole number from 1.
    N,
    /// `words`: a list of texts.
    Words,
    /// `words`, which may be left out.
    SomeWords,
    /// `pattern`: a regular expression.
    Pattern,
}

/// A measure as the reference shows it.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The name in rule files.
    pub name: &'static str,
    /// The measure.
    pub measure: Measure,
    /// What it takes.
    pub key: Option<Key>,
    /// True when it looks at the whole row, so that `field` says nothing.
    pub row: bool,
    /// What it is.
    pub about: &'static str,
}

const fn of(name: &'static str, measure: Measure, about: &'static str) -> Entry {
    Entry { name, measure, key: None, row: false, about }
}

const fn with(name: &'static str, measure: Measure, key: Key, about: &'static str) -> Entry {
    Entry { name, measure, key: Some(key), row: false, about }
}

const fn row(name: &'static str, measure: Measure, key: Option<Key>, about: &'static str) -> Entry {
    Entry { name, measure, key, row: true, about }
}

use Measure::*;

/// All measures. "Share" is from 0 to 1; a share of chars counts characters, not bytes.
pub const MEASURES: &[Entry] = &[
    of("chars", Chars, "characters"),
    of("words", Words, "words that are not only punctuation; Chinese is segmented by jieba"),
    of("tokens", Tokens, "tokens, by the tokenizer that the option `tokenizer` names"),
    of("lines", Lines, "lines that are not blank"),
    of("mean-word-length", MeanWordLength, "mean characters of words that are not only punctuation"),
    of("longest-word", LongestWord, "characters of the longest stretch without white space"),
    of("alpha-words", AlphaWords, "share of words, punctuation counted as words, with a letter"),
    with("stop-words", StopWords, Key::Words, "how many of `words` occur as words, each counted once"),
    of("hashes-per-word", HashesPerWord, "`#` over words, punctuation counted as words"),
    of("ellipses-per-word", EllipsesPerWord, "`...` and `…` over words, punctuation counted as words"),
    of("newlines-per-word", NewlinesPerWord, "line breaks over words, punctuation counted as words"),
    of("bullet-lines", BulletLines, "share of lines that begin with `•` or `-`"),
    of("ellipsis-lines", EllipsisLines, "share of lines that end with `...` or `…`"),
    of("ended-lines", EndedLines, "share of lines, blank ones left out, that end with a mark such as `.`, `？`, `。`"),
    with("short-lines", ShortLines, Key::N, "share of lines, blank ones left out, of at most `n` characters"),
    with("long-lines", LongLines, Key::N, "how many lines have at least `n` characters"),
    of("blank", BlankText, "1 when nothing but white space stands there, else 0"),
    of("dup-lines", DupLines, "share of lines that repeat an earlier line"),
    of("dup-line-chars", DupLineChars, "characters of such lines over all characters"),
    of("dup-paragraphs", DupParagraphs, "share of paragraphs (blank lines between) that repeat an earlier one"),
    of("dup-paragraph-chars", DupParagraphChars, "characters of such paragraphs over all characters"),
    of("dup-text-chars", DupTextChars, "characters of repeated lines over all but line breaks, blank lines left out"),
    of("unique-lines", UniqueLines, "different lines over lines, blank ones left out"),
    of("unique-line-chars", UniqueLineChars, "their characters over those of all lines"),
    of("unique-paragraphs", UniqueParagraphs, "different paragraphs over paragraphs"),
    of("unique-paragraph-chars", UniqueParagraphChars, "their characters over those of all paragraphs"),
    with("top-ngram", TopNgram, Key::N, "length times count of the most frequent `n` words over all characters"),
    with(
        "dup-ngram",
        DupNgram,
        Key::N,
        "characters in repeated runs of `n` words over all characters; a run counts once",
    ),
    with(
        "dup-char-ngram",
        DupCharNgram,
        Key::N,
        "share of characters in repeated runs of `n` characters; a run counts once",
    ),
    of("longest-run", LongestRun, "longest run of one character other than space, `-`, `=`, `_`, `*`, `#`, `.`"),
    of("non-alnum", NonAlnum, "share of characters that are no letters, digits or white space"),
    of("digits", Digits, "share of characters that are digits"),
    of("urls", Urls, "share of characters inside web addresses"),
    of("space", Space, "share of characters that are white space"),
    of("parens", Parens, "share of characters that are brackets of any kind"),
    of("symbols", Symbols, "share of characters that are no letters, digits, white space or usual punctuation"),
    of("replacements", Replacements, "how many U+FFFD: bytes that a decoder could not read"),
    of("controls", Controls, "how many control characters besides tab and line breaks"),
    of("invisibles", Invisibles, "how many zero-width and direction characters, joiners of emoji left out"),
    of("mojibake", Mojibake, "how many marks of text decoded in the wrong encoding, such as `æ³•`, `â€™`, `锟斤拷`"),
    of("unended", Unended, "share of lines, blank ones left out, without a mark at the end"),
    of("ended", Ended, "1 when the text ends with a mark, a closing bracket or quote, a fence or a digit, else 0"),
    of("dangling", Dangling, "1 when the text ends with a comma, an opening bracket or a joining word, else 0"),
    of("open-fence", OpenFence, "1 when a code fence is not closed, else 0"),
    of("open-brackets", OpenBrackets, "brackets that are not closed, those in code fences left out"),
    of("sentences", Sentences, "sentences in the lines that C4 keeps: ended, three words, no script or policy phrase"),
    of("braces", Braces, "how many `{`"),
    with("phrases", Phrases, Key::Words, "how many of `words` occur, in any case, width and spacing"),
    with("phrase-lines", PhraseLines, Key::Words, "share of lines with one of `words`"),
    with("matches", Matches, Key::Pattern, "how often `pattern` matches"),
    of("json", Json, "1 when the text (or the fenced block it consists of) is JSON, else 0"),
    with("json-keys", JsonKeys, Key::Words, "share of `words` that are keys of the JSON object, 0 for anything else"),
    with("label", Label, Key::Words, "1 when the text is one of `words`, an end mark left out, else 0"),
    of("number", Number, "1 when the text ends in a number or is one, unit and mark left out, else 0"),
    of("fence", Fence, "how many code fences are opened and closed"),
    of("list", List, "how many list items"),
    row("turn-faults", TurnFaults, None, "breaks of system? (user assistant)+ with tools between, and empty turns"),
    row("turns", Turns, None, "how many turns"),
    row(
        "language-differs",
        LanguageDiffers,
        Some(Key::SomeWords),
        "1 when question and answer are in different languages and no question has one of `words`, else 0",
    ),
    row("length-ratio", LengthRatio, None, "characters of all answers over those of all questions"),
    row("echo", Echo, None, "1 when an answer is its question, or is it and little more, else 0"),
];

impl Measure {
    /// Its row of the table.
    pub fn entry(self) -> &'static Entry {
        // A test holds that every measure has one.
        MEASURES.iter().find(|entry| entry.measure == self).unwrap_or(&MEASURES[0])
    }

    /// The measure of a name.
    pub fn named(name: &str) -> Option<&'static Entry> {
        MEASURES.iter().find(|entry| entry.name == name)
    }
}
