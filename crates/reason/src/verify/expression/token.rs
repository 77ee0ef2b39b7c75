//! Prose to tokens: numbers, variables, operators, relations, and everything else as a break.
//!
//! Method: one pass over the characters. Full-width forms are read as their ASCII ones; LaTeX commands
//! that have a plain form (`\times`, `\frac`, `\left(`, `\%`, …) become that form; words that mean an
//! operation or a relation (`plus`, `等于`) become it. What is no part of arithmetic stays in the list as a
//! word or a break, so that a number is never joined across it. A closing bracket without a partner is a break.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{One, Zero};

/// Digits of one number; a longer one is a break.
const MAX_DIGITS: usize = 120;

/// A relation between two expressions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// `=`, `equals`, `等于`
    Equal,
    /// `≈`, `约等于`
    Approximately,
    /// `≠`
    NotEqual,
    /// `<`
    Less,
    /// `≤`
    LessOrEqual,
    /// `>`
    Greater,
    /// `≥`
    GreaterOrEqual,
    /// `≡`: equal modulo something the text names
    Congruent,
}

/// An operator between two operands, or a sign before one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// `+`
    Add,
    /// `-`
    Subtract,
    /// `×`
    Multiply,
    /// `÷`
    Divide,
    /// `^`
    Power,
}

/// A number as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Literal {
    /// Its value; of `25%` a quarter.
    pub value: BigRational,
    /// Digits after the point (of the number before `%`).
    pub decimals: u32,
    /// Written with a percent sign.
    pub percent: bool,
}

/// What a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A number.
    Number(Literal),
    /// A single letter, Latin or Greek, with an index or not: a variable.
    Name(String),
    /// An operator.
    Operator(Operator),
    /// A relation.
    Relation(Relation),
    /// `(`, `[` or `{` with a partner.
    Open,
    /// The partner.
    Close,
    /// A square root before its operand.
    Root,
    /// `!` behind an operand.
    Factorial,
    /// `of` and `的`, a product behind a percentage or a fraction.
    Of,
    /// Any other word.
    Word(String),
    /// What stands for a number and cannot be read as one (a time of day, `0930`), and a bracket that is
    /// never closed: an expression beside it is a part of something.
    Unread,
    /// Anything else: punctuation, quotes, line ends.
    Break,
}

/// A token and the bytes it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// First byte.
    pub start: usize,
    /// Byte behind the last.
    pub end: usize,
}

/// All tokens of a text, brackets matched. Linear in its length.
pub fn tokens(text: &str) -> Vec<Token> {
    let mut lexer = Lexer { text, at: 0, out: Vec::new() };
    while lexer.at < text.len() {
        lexer.step();
    }
    expand_fractions(match_brackets(lexer.out))
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    out: Vec<Token>,
}

impl Lexer<'_> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next().map(plain)
    }

    fn after(&self, n: usize) -> Option<char> {
        self.text[self.at..].chars().nth(n).map(plain)
    }

    fn push(&mut self, kind: Kind, start: usize) {
        self.out.push(Token { kind, start, end: self.at });
    }

    /// Reads one token or skips one character.
    fn step(&mut self) {
        let start = self.at;
        let rest = &self.text[start..];
        let first = rest.chars().next().expect("not at the end");
        let c = plain(first);
        if c.is_ascii_digit() || (c == '.' && self.after(1).is_some_and(|d| d.is_ascii_digit()) && !self.behind_digit())
        {
            return self.number();
        }
        if let Some((length, kind)) = sign(rest) {
            self.at += length;
            return self.push(kind, start);
        }
        if c == '\\' {
            return self.command();
        }
        if let Some((length, kind)) = super::word::chinese(rest) {
            self.at += length;
            return self.push(kind, start);
        }
        if c.is_alphabetic() {
            return self.word();
        }
        self.at += first.len_utf8();
        match c {
            ' ' | '\t' | '\u{a0}' | '$' | '€' | '£' | '¥' | '￥' | '&' => (),
            '-' => self.hyphen(start),
            '–' | '—' if self.text[..start].ends_with(' ') && self.peek() == Some(' ') => {
                self.push(Kind::Operator(Operator::Subtract), start);
            }
            '!' => {
                let next = self.text[self.at..].trim_start_matches(' ').chars().next();
                let operand = matches!(self.out.last(), Some(Token { kind: Kind::Number(_) | Kind::Close, end, .. }) if *end == start);
                let goes_on = next.is_some_and(|n| "=+-*/)^×÷≈<>".contains(n));
                self.push(if operand && goes_on { Kind::Factorial } else { Kind::Break }, start);
            }
            '%' => match self.out.last_mut() {
                Some(Token { kind: Kind::Number(literal), end, .. }) if !literal.percent => {
                    literal.percent = true;
                    literal.value /= BigRational::from_integer(100.into());
                    *end = self.at;
                }
                _ => self.push(Kind::Break, start),
            },
            _ => self.push(Kind::Break, start),
        }
    }

    fn behind_digit(&self) -> bool {
        self.text[..self.at].chars().next_back().is_some_and(|c| plain(c).is_ascii_digit())
    }

    /// A minus, or the hyphen of a word.
    fn hyphen(&mut self, start: usize) {
        let before = self.text[..start].chars().next_back();
        let next = self.peek();
        let letter_before = before.is_some_and(char::is_alphabetic)
            && !matches!(self.out.last(), Some(Token { kind: Kind::Name(_), end, .. }) if *end == start);
        let word_after = next.is_some_and(char::is_alphabetic) && self.after(1).is_some_and(char::is_alphabetic);
        let glued = before.is_some_and(|c| !c.is_whitespace());
        let hyphen = letter_before || (glued && word_after);
        self.push(if hyphen { Kind::Break } else { Kind::Operator(Operator::Subtract) }, start);
    }

    /// Digits with thousands separators and a decimal point; `%` is read by its own step.
    fn number(&mut self) {
        let start = self.at;
        let mut digits = String::new();
        let mut decimals = 0_u32;
        let mut point = false;
        while let Some(c) = self.peek() {
            let wide = self.text[self.at..].chars().next().map_or(1, char::len_utf8);
            if c.is_ascii_digit() {
                digits.push(c);
                decimals += u32::from(point);
            } else if c == ',' && !point && !digits.is_empty() && self.thousands(start, wide) {
                // the separator is dropped
            } else if c == '.' && !point && self.after(1).is_some_and(|d| d.is_ascii_digit()) {
                point = true;
            } else {
                break;
            }
            self.at += wide;
        }
        // `16.66...` is a number cut short
        if point {
            let dots = if self.text[self.at..].starts_with("...") { 3 } else { 0 };
            let dots = if self.text[self.at..].starts_with('…') { '…'.len_utf8() } else { dots };
            self.at += dots;
        }
        let padded = digits.len() > 1 && digits.starts_with('0') && !point;
        let clock = self.peek() == Some(':') && self.after(1).is_some_and(|d| d.is_ascii_digit());
        let dotted = point && self.peek() == Some('.') && self.after(1).is_some_and(|d| d.is_ascii_digit());
        let ordinal = ["st", "nd", "rd", "th"].iter().any(|s| self.text[self.at..].starts_with(s))
            && !self.after(2).is_some_and(char::is_alphanumeric);
        if clock || dotted || ordinal || padded || digits.len() > MAX_DIGITS {
            while self.peek().is_some_and(|c| c.is_alphanumeric() || ":.".contains(c)) {
                self.at += self.text[self.at..].chars().next().map_or(1, char::len_utf8);
            }
            return self.push(Kind::Unread, start);
        }
        let whole: BigInt = digits.parse().unwrap_or_else(|_| BigInt::zero());
        let scale = BigInt::from(10).pow(decimals);
        let value = BigRational::new(whole, if scale.is_zero() { BigInt::one() } else { scale });
        self.push(Kind::Number(Literal { value, decimals, percent: false }), start);
    }

    /// Whether the comma at hand stands before exactly three digits and behind one to three.
    fn thousands(&self, start: usize, comma: usize) -> bool {
        let behind = self.text[start..self.at].chars().rev().take_while(|c| plain(*c).is_ascii_digit()).count();
        let ahead = self.text[self.at + comma..].chars().take(4).take_while(|c| plain(*c).is_ascii_digit()).count();
        let first = !self.text[start..self.at].contains([',', '，']);
        ahead == 3 && if first { (1..=3).contains(&behind) } else { behind == 3 }
    }

    /// A LaTeX command.
    fn command(&mut self) {
        let start = self.at;
        self.at += 1;
        let name: String = self.text[self.at..].chars().take_while(char::is_ascii_alphabetic).take(24).collect();
        if name.is_empty() {
            let Some(next) = self.text[self.at..].chars().next() else {
                return self.push(Kind::Break, start);
            };
            return match next {
                // `\%` and `\$` are read as their own characters; spaces and delimiters vanish
                '%' | '$' | '{' | '}' => (),
                ' ' | ',' | ';' | '!' | ':' | '(' | ')' | '[' | ']' => self.at += 1,
                '\\' => {
                    self.at += 1;
                    self.push(Kind::Break, start);
                }
                _ => self.push(Kind::Break, start),
            };
        }
        self.at += name.len();
        let kind = match name.as_str() {
            "times" | "cdot" | "ast" => Kind::Operator(Operator::Multiply),
            "div" => Kind::Operator(Operator::Divide),
            "approx" | "simeq" => Kind::Relation(Relation::Approximately),
            "equiv" => Kind::Relation(Relation::Congruent),
            "le" | "leq" | "leqslant" => Kind::Relation(Relation::LessOrEqual),
            "ge" | "geq" | "geqslant" => Kind::Relation(Relation::GreaterOrEqual),
            "lt" => Kind::Relation(Relation::Less),
            "gt" => Kind::Relation(Relation::Greater),
            "ne" | "neq" => Kind::Relation(Relation::NotEqual),
            "left" | "right" | "big" | "Big" | "bigl" | "bigr" | "displaystyle" | "quad" | "qquad" | "boxed" => return,
            "frac" | "dfrac" | "tfrac" | "cfrac" => return self.fraction(start),
            "sqrt" if self.peek() != Some('[') => Kind::Root,
            _ => Kind::Word(name),
        };
        self.push(kind, start);
    }

    /// `\frac12` at once; `\frac{a}{b}` is marked and becomes `((a)/(b))` once brackets are matched.
    fn fraction(&mut self, start: usize) {
        let digits: Vec<char> = self.text[self.at..].chars().take(2).collect();
        if let [a, b] = digits[..]
            && let (Some(a), Some(b)) = (a.to_digit(10), b.to_digit(10))
            && b != 0
        {
            self.at += 2;
            let value = BigRational::new(a.into(), b.into());
            return self.push(Kind::Number(Literal { value, decimals: 0, percent: false }), start);
        }
        self.push(Kind::Word(FRACTION.to_owned()), start);
    }

    /// A word: an operation, a relation, a variable, `x` between numbers, or just a word.
    fn word(&mut self) {
        let start = self.at;
        let rest = &self.text[start..];
        let first = rest.chars().next().expect("a word has a letter");
        if matches!(first, 'x' | 'X') && self.between_operands(start + 1) {
            self.at += 1;
            return self.push(Kind::Operator(Operator::Multiply), start);
        }
        // CJK text has no spaces: one character a word, or nothing would end it
        let cjk = |c: char| ('\u{2e80}'..='\u{ffdc}').contains(&c);
        let ends = |c: char| cjk(c) || !c.is_alphanumeric() && c != '_' && c != '\'';
        let length = if cjk(first) { first.len_utf8() } else { rest.find(ends).unwrap_or(rest.len()) };
        let word = &rest[..length];
        if let Some(kind) = super::word::english(word) {
            self.at += length;
            return self.push(kind, start);
        }
        let tail = &word[first.len_utf8()..];
        self.at += length;
        let greek = ('α'..='ω').contains(&first);
        let index = tail.trim_start_matches('_');
        if (first.is_ascii_alphabetic() || greek) && index.len() <= 4 && index.bytes().all(|b| b.is_ascii_digit()) {
            return self.push(Kind::Name(format!("{first}{index}")), start);
        }
        self.push(Kind::Word(word.to_lowercase()), start);
    }

    /// Whether an `x` is a times sign: an operand lies on both sides of it.
    fn between_operands(&self, behind: usize) -> bool {
        let before = matches!(self.out.last(), Some(Token { kind: Kind::Number(_) | Kind::Close, .. }))
            || matches!(self.out.last(), Some(Token { kind: Kind::Word(_), .. }) if self.text[..self.at].ends_with(' '));
        let next = self.text[behind..].trim_start_matches([' ', '$', '(', '[', '-', '€', '£', '¥']).chars().next();
        before && next.is_some_and(|c| plain(c).is_ascii_digit() || c == '.')
    }
}

/// The marker of a `\frac` whose groups follow.
const FRACTION: &str = "\\frac";

/// The ASCII form of a full-width character, or the character.
pub fn plain(c: char) -> char {
    match c {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(c as u32 - 0xfee0).unwrap_or(c),
        '−' | '﹣' => '-',
        '\u{3000}' => ' ',
        _ => c,
    }
}

/// Operators, relations and brackets of one to three characters: bytes, and the token.
fn sign(rest: &str) -> Option<(usize, Kind)> {
    use Operator::{Add, Divide, Multiply, Power};
    use Relation::{Approximately, Congruent, Equal, Greater, GreaterOrEqual, Less, LessOrEqual, NotEqual};
    for (written, relation) in
        [("==", Equal), ("!=", NotEqual), ("<=", LessOrEqual), (">=", GreaterOrEqual), ("~=", Approximately)]
    {
        if rest.starts_with(written) {
            return Some((2, Kind::Relation(relation)));
        }
    }
    if rest.starts_with("->")
        || rest.starts_with("=>")
        || rest.starts_with("--") && !rest[2..].starts_with(|c: char| c.is_ascii_digit())
    {
        return Some((2, Kind::Break));
    }
    if rest.starts_with("**") {
        return Some((2, Kind::Operator(Power)));
    }
    let first = rest.chars().next()?;
    let kind = match plain(first) {
        '+' => Kind::Operator(Add),
        '*' | '×' | '·' | '⋅' | '∙' | '✕' => Kind::Operator(Multiply),
        '/' | '÷' | '∕' => Kind::Operator(Divide),
        '^' => Kind::Operator(Power),
        '=' => Kind::Relation(Equal),
        '≈' | '≃' | '≒' => Kind::Relation(Approximately),
        '≠' => Kind::Relation(NotEqual),
        '<' => Kind::Relation(Less),
        '>' => Kind::Relation(Greater),
        '≤' | '⩽' | '≦' => Kind::Relation(LessOrEqual),
        '≥' | '⩾' | '≧' => Kind::Relation(GreaterOrEqual),
        '≡' => Kind::Relation(Congruent),
        '(' | '[' | '{' => Kind::Open,
        ')' | ']' | '}' => Kind::Close,
        '√' => Kind::Root,
        _ => return None,
    };
    Some((first.len_utf8(), kind))
}

/// A closing bracket without a partner becomes a break; an opening one, unread.
fn match_brackets(mut tokens: Vec<Token>) -> Vec<Token> {
    let mut open = Vec::new();
    for (at, token) in tokens.iter_mut().enumerate() {
        match token.kind {
            Kind::Open => open.push(at),
            Kind::Close if open.pop().is_none() => token.kind = Kind::Break,
            _ => (),
        }
    }
    for at in open {
        tokens[at].kind = Kind::Unread;
    }
    tokens
}

/// `\frac{a}{b}` becomes `((a)/(b))`; without two groups it is a word.
fn expand_fractions(tokens: Vec<Token>) -> Vec<Token> {
    if !tokens.iter().any(|t| matches!(&t.kind, Kind::Word(w) if w == FRACTION)) {
        return tokens;
    }
    let mut partner = vec![0; tokens.len()];
    let mut open = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        match token.kind {
            Kind::Open => open.push(at),
            Kind::Close => {
                let from = open.pop().expect("brackets are matched");
                partner[from] = at;
            }
            _ => (),
        }
    }
    let is_open = |at: usize| tokens.get(at).is_some_and(|t| t.kind == Kind::Open);
    let mut behind: Vec<(u32, bool)> = vec![(0, false); tokens.len()]; // closings and a slash behind each token
    let mut fraction = vec![false; tokens.len()];
    for (at, token) in tokens.iter().enumerate() {
        if matches!(&token.kind, Kind::Word(w) if w == FRACTION) && is_open(at + 1) && is_open(partner[at + 1] + 1) {
            fraction[at] = true;
            behind[partner[at + 1]].1 = true;
            behind[partner[partner[at + 1] + 1]].0 += 1;
        }
    }
    let mut out = Vec::with_capacity(tokens.len());
    for (at, mut token) in tokens.into_iter().enumerate() {
        let end = token.end;
        let extra = |kind| Token { kind, start: end, end };
        if fraction[at] {
            token.kind = Kind::Open;
        }
        out.push(token);
        if behind[at].1 {
            out.push(extra(Kind::Operator(Operator::Divide)));
        }
        for _ in 0..behind[at].0 {
            out.push(extra(Kind::Close));
        }
    }
    out
}
