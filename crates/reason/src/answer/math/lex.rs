//! Tokens of LaTeX and plain notation.
//!
//! Spacing and sizing commands vanish; `\frac`, `\dfrac` … are one token; `\text{…}` is a word. A comma
//! between groups of three digits is part of the number only outside brackets: (1,234) is a pair.

use super::Rel;
use crate::answer::number::{self, Number};
use crate::answer::unit;

/// A token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    Number(Number),
    /// One letter, or a named Greek letter.
    Letter(String),
    /// A function name.
    Function(String),
    /// Words of `\text{…}` and letters that spell no product.
    Word(String),
    Frac,
    Binom,
    Sqrt,
    Sum(String),
    /// One of `+ - * / ^ _ ! | ' : , ; & % ±`, and `\` for a set difference, `u`/`n` for ∪/∩.
    Op(char),
    Open(char),
    Close(char),
    Rel(Rel),
    And,
    Row,
    Begin,
    End,
    Degree,
    Money(&'static str),
    Gap,
}

const FUNCTIONS: [&str; 27] = [
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "ln", "log", "lg",
    "exp", "max", "min", "gcd", "lcm", "det", "deg", "dim", "abs", "asin", "acos", "atan",
];
const GREEK: [&str; 30] = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "varepsilon",
    "zeta",
    "eta",
    "theta",
    "vartheta",
    "iota",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
    "rho",
    "sigma",
    "tau",
    "phi",
    "varphi",
    "chi",
    "psi",
    "omega",
    "Gamma",
    "Delta",
    "Omega",
    "Phi",
    "ell",
    "Sigma",
];
/// Commands that only place or style.
const STYLE: [&str; 33] = [
    "left",
    "right",
    "big",
    "Big",
    "bigg",
    "Bigg",
    "bigl",
    "bigr",
    "Bigl",
    "Bigr",
    "displaystyle",
    "textstyle",
    "limits",
    "quad",
    "qquad",
    "mathbb",
    "mathcal",
    "mathbf",
    "boldsymbol",
    "overline",
    "vec",
    "hat",
    "bar",
    "cdots",
    "ldots",
    "dots",
    "boxed",
    "fbox",
    "angle",
    "triangle",
    "operatorname",
    "mathsf",
    "hline",
];

/// Cuts a folded text; none when it is no formula.
pub fn tokens(text: &str, decimal_comma: bool) -> Option<Vec<Token>> {
    let mut out = Vec::new();
    let mut at = 0;
    let mut depth = 0_i32;
    let mut environments = 0_i32;
    while at < text.len() {
        let rest = &text[at..];
        let c = rest.chars().next()?;
        let mut used = c.len_utf8();
        match c {
            '\\' => used = command(rest, &mut out, environments > 0)?,
            _ if c.is_whitespace() || c == '~' => {
                if out.last() != Some(&Token::Gap) {
                    out.push(Token::Gap);
                }
            }
            '0'..='9' | '.' => {
                let (number, length) = literal(rest, decimal_comma, depth > 0)?;
                used = length;
                out.push(Token::Number(number));
            }
            'a'..='z' | 'A'..='Z' => used = letters(rest, &mut out)?,
            '(' | '[' | '{' => out.push(Token::Open(c)),
            ')' | ']' | '}' => out.push(Token::Close(c)),
            '<' | '>' | '=' | '!' => {
                let (rel, length) = relation(rest);
                used = length;
                out.push(rel);
            }
            '+' | '-' | '/' | '^' | '_' | '|' | ':' | ',' | ';' | '&' | '%' | '\'' => out.push(Token::Op(c)),
            '*' if rest.starts_with("**") => {
                used = 2;
                out.push(Token::Op('^'));
            }
            '*' => out.push(Token::Op('*')),
            '$' | '￥' | '¥' | '€' | '£' => out.push(Token::Money(match c {
                '€' => "eur",
                '£' => "gbp",
                '$' => "usd",
                _ => "cny",
            })),
            '和' | '或' | '及' => out.push(Token::And),
            _ if c.is_alphabetic() => {
                used = rest.find(|c: char| c.is_ascii() || !c.is_alphanumeric()).unwrap_or(rest.len());
                out.push(Token::Word(rest[..used].to_string()));
            }
            _ => return None,
        }
        match out.last() {
            Some(Token::Open('(' | '[')) if !rest.starts_with("\\begin") => depth += 1,
            Some(Token::Open('{')) if rest.starts_with("\\{") => depth += 1,
            Some(Token::Close(')' | ']')) => depth -= 1,
            Some(Token::Close('}')) if rest.starts_with("\\}") => depth -= 1,
            Some(Token::Begin) => environments += 1,
            Some(Token::End) => environments -= 1,
            _ => {}
        }
        // a bare brace that holds a list is a set; the parser decides, the comma rule must know now
        if c == '{' && out.len() == 1 {
            depth += 1;
        }
        at += used;
    }
    Some(out)
}

fn literal(rest: &str, decimal_comma: bool, bracketed: bool) -> Option<(Number, usize)> {
    if bracketed {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let with_group = rest[end..].starts_with("{,}") || rest[end..].starts_with(",\\!");
        if !with_group {
            return number::digits(&rest[..end], number::Style::default());
        }
    }
    number::digits(rest, number::Style { decimal_comma, spaces: false })
}

fn relation(rest: &str) -> (Token, usize) {
    for (name, rel) in [
        ("<=", Rel::LessEqual),
        (">=", Rel::GreaterEqual),
        ("!=", Rel::Unequal),
        ("==", Rel::Equal),
        ("<", Rel::Less),
        (">", Rel::Greater),
        ("=", Rel::Equal),
    ] {
        if rest.starts_with(name) {
            return (Token::Rel(rel), name.len());
        }
    }
    (Token::Op('!'), 1)
}

/// A run of letters: a function, a joining word, a named constant, a short product, else a word.
fn letters(rest: &str, out: &mut Vec<Token>) -> Option<usize> {
    let used = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    let run = &rest[..used];
    match run {
        "and" | "or" => out.push(Token::And),
        "sqrt" => out.push(Token::Sqrt),
        "pi" => out.push(Token::Letter("\\pi".into())),
        "infty" | "inf" | "infinity" | "oo" => out.push(Token::Letter("\\infty".into())),
        "in" => out.push(Token::Rel(Rel::In)),
        "U" => out.push(Token::Op('u')),
        _ if FUNCTIONS.contains(&run) => out.push(Token::Function(run.into())),
        _ if run.len() <= 3 => {
            let spaced = out.last() == Some(&Token::Gap);
            let measured = out.iter().rev().find(|t| **t != Token::Gap).is_some_and(after_number);
            // 2ab is a product, 5kg and 12 men are quantities
            if measured && run.len() > 1 && (unit::known(run) || (spaced && run.len() == 3)) {
                out.push(Token::Word(run.into()));
            } else {
                out.extend(run.chars().map(|c| Token::Letter(c.to_string())));
            }
        }
        _ => out.push(Token::Word(run.into())),
    }
    Some(used)
}

fn after_number(token: &Token) -> bool {
    matches!(token, Token::Number(_) | Token::Close(_))
}

/// A command that starts `rest`: its length.
fn command(rest: &str, out: &mut Vec<Token>, in_environment: bool) -> Option<usize> {
    let body = &rest[1..];
    let name_length = body.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(body.len());
    if name_length == 0 {
        let c = body.chars().next()?;
        match c {
            '{' => out.push(Token::Open('s')),
            '}' => out.push(Token::Close('s')),
            '\\' if in_environment => out.push(Token::Row),
            // a doubled backslash outside an environment is one that was escaped twice
            '\\' => {
                return body[1..].starts_with(|c: char| c.is_ascii_alphabetic() || "{}%$!,;".contains(c)).then_some(1);
            }
            '%' => out.push(Token::Op('%')),
            '$' => out.push(Token::Money("usd")),
            '|' => out.push(Token::Op('|')),
            '(' | ')' | '[' | ']' | '!' | ',' | ';' | ':' | ' ' | '&' | '_' | '#' | '\n' => out.push(Token::Gap),
            _ => return None,
        }
        return Some(1 + c.len_utf8());
    }
    let name = &body[..name_length];
    let used = 1 + name_length;
    match name {
        "frac" | "dfrac" | "tfrac" | "cfrac" => out.push(Token::Frac),
        "binom" | "dbinom" | "tbinom" => out.push(Token::Binom),
        "sqrt" => out.push(Token::Sqrt),
        "text" | "textbf" | "textit" | "mathrm" | "rm" | "mbox" | "textnormal" | "textrm" | "mathit" | "hbox" => {
            return worded(rest, used, out);
        }
        "cdot" | "times" | "ast" => out.push(Token::Op('*')),
        "div" => out.push(Token::Op('/')),
        "pm" | "mp" => out.push(Token::Op('±')),
        "cup" => out.push(Token::Op('u')),
        "cap" => out.push(Token::Op('n')),
        "setminus" | "backslash" => out.push(Token::Op('\\')),
        "le" | "leq" | "leqslant" => out.push(Token::Rel(Rel::LessEqual)),
        "ge" | "geq" | "geqslant" => out.push(Token::Rel(Rel::GreaterEqual)),
        "lt" => out.push(Token::Rel(Rel::Less)),
        "gt" => out.push(Token::Rel(Rel::Greater)),
        "ne" | "neq" => out.push(Token::Rel(Rel::Unequal)),
        "approx" | "simeq" => out.push(Token::Rel(Rel::Approximate)),
        "equiv" => out.push(Token::Rel(Rel::Equal)),
        "in" => out.push(Token::Rel(Rel::In)),
        "lbrace" => out.push(Token::Open('s')),
        "rbrace" => out.push(Token::Close('s')),
        "lvert" | "rvert" | "vert" | "mid" => out.push(Token::Op('|')),
        "circ" | "degree" => out.push(Token::Degree),
        "pi" | "infty" => out.push(Token::Letter(format!("\\{name}"))),
        "emptyset" | "varnothing" => out.extend([Token::Open('s'), Token::Close('s')]),
        "sum" | "prod" | "int" | "lim" => out.push(Token::Sum(name.into())),
        "land" | "lor" => out.push(Token::And),
        "prime" => out.push(Token::Op('\'')),
        "begin" => {
            let (environment, length) = braced(&rest[used..])?;
            if !environment.ends_with("matrix") && environment != "array" {
                return None;
            }
            out.push(Token::Begin);
            let mut length = used + length;
            if environment == "array" {
                length += braced(&rest[length..])?.1;
            }
            return Some(length);
        }
        "end" => {
            out.push(Token::End);
            return Some(used + braced(&rest[used..])?.1);
        }
        _ if STYLE.contains(&name) => {
            // \left\{ and \right. : what follows is a bracket or nothing
            if rest[used..].starts_with('.') && name.starts_with(['l', 'r']) {
                return Some(used + 1);
            }
            out.push(Token::Gap);
        }
        _ if FUNCTIONS.contains(&name) => out.push(Token::Function(name.into())),
        _ if GREEK.contains(&name) => out.push(Token::Letter(format!("\\{name}"))),
        // \quadx, as when a space was lost
        _ if name.starts_with("quad") => return Some(1 + "quad".len()),
        _ => out.push(Token::Letter(format!("\\{name}"))),
    }
    Some(used)
}

/// `\text{…}`: a joining word, a single letter, or a word.
fn worded(rest: &str, used: usize, out: &mut Vec<Token>) -> Option<usize> {
    let Some((content, length)) = braced(&rest[used..]) else {
        return Some(used);
    };
    let word = content.trim().trim_matches(['(', ')', ',', '.']).trim();
    if ["and", "or", "和", "或"].contains(&word) || word.ends_with(" and") || word.ends_with(" or") {
        out.push(Token::And);
    } else if word.len() == 1 && word.as_bytes()[0].is_ascii_alphabetic() {
        out.push(Token::Letter(word.into()));
    } else if FUNCTIONS.contains(&word) {
        out.push(Token::Function(word.into()));
    } else if word.is_empty() {
        out.push(Token::Gap);
    } else {
        out.push(Token::Word(word.to_string()));
    }
    Some(used + length)
}

/// The content of a brace group that starts here, without nesting, and its length.
fn braced(text: &str) -> Option<(&str, usize)> {
    let start = text.len() - text.trim_start().len();
    let inner = text[start..].strip_prefix('{')?;
    let end = inner.find('}')?;
    Some((&inner[..end], start + end + 2))
}
