//! Tokens to a [`Math`], by recursive descent.
//!
//! ```text
//! list  = item { (, | ; | and) item }
//! item  = set { relation set }            trailing words are a unit or a label
//! set   = sum { (∪ | ∩ | \) sum }
//! sum   = term { (+ | - | ±) term }       ± makes two items
//! term  = factor { [* | /] factor }       a missing sign is a product
//! power = primary { ! | ' | % } [^ power]
//! ```
//! Lenient where people are: `\frac12`, `\sqrt2`, `1\frac12` (mixed), `sin 2x`, `{1,2}` for a set.

use num_traits::One;

use super::lex::{Token, tokens};
use super::{Bracket, Expr, Math, Rel, Scalar, SetOp, eval};
use crate::answer::unit;

/// Longest formula in bytes.
const MAX_LENGTH: usize = 4000;
/// Deepest nesting.
const MAX_DEPTH: usize = 40;
/// Most steps of the parser; bounds what ± inside ± costs.
const MAX_STEPS: usize = 40_000;

/// Reads a whole formula; none when it is none.
pub fn read(text: &str, decimal_comma: bool) -> Option<Math> {
    if text.is_empty() || text.len() > MAX_LENGTH {
        return None;
    }
    let mut tokens = tokens(text, decimal_comma)?;
    while matches!(tokens.last(), Some(Token::Gap | Token::Op(',' | ';' | ':'))) {
        tokens.pop();
    }
    let mut parser = Parser { tokens, at: 0, depth: 0, steps: 0, minus: false, both: false };
    let math = parser.list()?;
    parser.skip();
    (parser.at == parser.tokens.len()).then_some(math)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    steps: usize,
    /// The sign ± stands for in this pass.
    minus: bool,
    /// A ± was seen in this item.
    both: bool,
}

impl Parser {
    fn skip(&mut self) {
        while self.tokens.get(self.at) == Some(&Token::Gap) {
            self.at += 1;
        }
    }

    fn peek(&mut self) -> Option<&Token> {
        self.skip();
        self.tokens.get(self.at)
    }

    fn take(&mut self, token: &Token) -> bool {
        let found = self.peek() == Some(token);
        self.at += usize::from(found);
        found
    }

    fn op(&mut self, op: char) -> bool {
        self.take(&Token::Op(op))
    }

    /// One level deeper; none when it is too deep or too long.
    fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        self.steps += 1;
        if self.depth >= MAX_DEPTH || self.steps > MAX_STEPS {
            return None;
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    fn list(&mut self) -> Option<Math> {
        let (mut groups, mut items) = (Vec::new(), Vec::new());
        loop {
            self.items(&mut items)?;
            let separated = loop {
                match self.peek() {
                    Some(Token::Op(',')) | Some(Token::And) => self.at += 1,
                    Some(Token::Op(';')) => {
                        self.at += 1;
                        groups.push(std::mem::take(&mut items));
                    }
                    _ => break self.at > 0 && self.previous_separates(),
                }
            };
            if !separated {
                break;
            }
        }
        if groups.is_empty() {
            return Some(if items.len() == 1 { items.remove(0) } else { Math::Group(Bracket::List, items) });
        }
        groups.push(items);
        let single = groups.iter().all(|g| g.len() == 1);
        // p=5,q=2;p=7,q=2 are two pairs; 1;2;3 are three items
        let parts = groups.into_iter().filter(|g| !g.is_empty()).map(|mut g| match (single, g.len()) {
            (true, _) | (_, 1) => g.remove(0),
            _ => Math::Group(Bracket::Round { left: false, right: false }, g),
        });
        Some(Math::Group(Bracket::List, parts.collect()))
    }

    fn previous_separates(&self) -> bool {
        let before = self.tokens[..self.at].iter().rev().find(|t| **t != Token::Gap);
        matches!(before, Some(Token::Op(',' | ';') | Token::And))
    }

    /// One item, or two when it has a ±.
    fn items(&mut self, out: &mut Vec<Math>) -> Option<()> {
        let (start, outer, minus) = (self.at, self.both, self.minus);
        (self.both, self.minus) = (false, false);
        out.push(self.nested(Self::item)?);
        if self.both {
            (self.at, self.minus) = (start, true);
            out.push(self.nested(Self::item)?);
        }
        (self.both, self.minus) = (outer, minus);
        Some(())
    }

    fn item(&mut self) -> Option<Math> {
        let mut sides = vec![self.side()?];
        let mut relations = Vec::new();
        while let Some(Token::Rel(rel)) = self.peek() {
            relations.push(*rel);
            self.at += 1;
            sides.push(self.side()?);
        }
        // = 5 ≈ 5.0: the rounded value adds nothing
        if relations.len() > 1 && relations.last() == Some(&Rel::Approximate) {
            relations.pop();
            sides.pop();
        }
        Some(if relations.is_empty() { sides.remove(0) } else { Math::Relation(sides, relations) })
    }

    /// A set expression or ratio, with what stands behind it.
    fn side(&mut self) -> Option<Math> {
        let mut value = self.set()?;
        if self.op(':') {
            let mut parts = vec![value, self.set()?];
            while self.op(':') {
                parts.push(self.set()?);
            }
            value = Math::Group(Bracket::Ratio, parts);
        }
        self.tail(value)
    }

    /// Percent sign, unit, label.
    fn tail(&mut self, value: Math) -> Option<Math> {
        let mut words = String::new();
        let mut percent = false;
        while let Some(token) = self.peek() {
            match token {
                Token::Op('%') => percent = true,
                Token::Degree => words.push_str(" degree"),
                Token::Money("usd") if words.is_empty() => words.push_str("usd"),
                Token::Money(code) => words.push_str(code),
                Token::Word(word) => {
                    let word = word.trim().to_string();
                    if words.ends_with("degree") && word.len() == 1 {
                        words = if word == "C" { "celsius".into() } else { "fahrenheit".into() };
                    } else {
                        words.push(' ');
                        words.push_str(&word);
                    }
                }
                Token::Op('^') if !words.is_empty() => {
                    self.at += 1;
                    let power = self.script()?;
                    words.push('^');
                    words.push_str(power.trim());
                    continue;
                }
                Token::Op('/') if !words.is_empty() => words.push('/'),
                Token::Letter(letter) if words.ends_with('/') => words.push_str(&letter.clone()),
                _ => break,
            }
            self.at += 1;
        }
        let words = words.trim();
        if words.is_empty() && !percent {
            return Some(value);
        }
        let Math::Scalar(scalar) = value else { return None };
        if scalar.value.open() || scalar.unit.is_some() {
            return None;
        }
        let is_percent = ["percent", "percentage", "pct", "per cent"].contains(&words);
        Some(Math::Scalar(Scalar { percent: percent || is_percent, unit: unit::read(words), ..scalar }))
    }

    fn set(&mut self) -> Option<Math> {
        let mut left = self.sum()?;
        loop {
            let op = match self.peek() {
                Some(Token::Op('u')) => SetOp::Union,
                Some(Token::Op('n')) => SetOp::Intersection,
                Some(Token::Op('\\')) => SetOp::Difference,
                _ => return Some(left),
            };
            self.at += 1;
            let right = self.sum()?;
            left = match left {
                Math::Sets(before, mut parts) if before == op && op != SetOp::Difference => {
                    parts.push(right);
                    Math::Sets(op, parts)
                }
                left => Math::Sets(op, vec![left, right]),
            };
        }
    }

    fn sum(&mut self) -> Option<Math> {
        let mut negative = self.sign();
        let mut total: Option<Math> = None;
        loop {
            let term = self.nested(Self::term)?;
            let term = if negative { scale(Expr::integer(-1), term)? } else { term };
            total = Some(match total {
                None => term,
                Some(total) => add(total, term)?,
            });
            match self.peek() {
                Some(Token::Op('+' | '-' | '±')) => negative = self.sign(),
                _ => return total,
            }
        }
    }

    /// Signs in a row: whether they are a minus.
    fn sign(&mut self) -> bool {
        let mut negative = false;
        loop {
            match self.peek() {
                Some(Token::Op('+')) => {}
                Some(Token::Op('-')) => negative = !negative,
                Some(Token::Op('±')) => {
                    self.both = true;
                    negative ^= self.minus;
                }
                _ => return negative,
            }
            self.at += 1;
        }
    }

    fn term(&mut self) -> Option<Math> {
        let mut total = self.power()?;
        loop {
            if self.begins_factor() {
                let factor = self.power()?;
                total = multiply(total, factor)?;
                continue;
            }
            let divides = match self.peek() {
                Some(Token::Op('*')) => false,
                Some(Token::Op('/')) => true,
                _ => return Some(total),
            };
            self.at += 1;
            let negative = self.sign();
            let factor = self.power()?;
            let factor = if negative { scale(Expr::integer(-1), factor)? } else { factor };
            total = if divides {
                let (below, above) = (expr(factor)?, total);
                scale(Expr::integer(1).over(below), above)?
            } else {
                multiply(total, factor)?
            };
        }
    }

    /// Whether what follows is multiplied without a sign. A number never is: "3 4" is no product.
    fn begins_factor(&mut self) -> bool {
        matches!(
            self.peek(),
            Some(
                Token::Letter(_)
                    | Token::Function(_)
                    | Token::Frac
                    | Token::Binom
                    | Token::Sqrt
                    | Token::Sum(_)
                    | Token::Begin
                    | Token::Open('(' | '{')
            )
        )
    }

    fn power(&mut self) -> Option<Math> {
        self.nested(|p| {
            let mut base = p.primary()?;
            loop {
                if p.op('!') {
                    base = Math::scalar(Expr::Call("factorial".into(), vec![expr(base)?]));
                } else if p.op('\'') {
                    base = Math::scalar(Expr::Call("prime".into(), vec![expr(base)?]));
                } else if p.op('^') {
                    if p.take(&Token::Degree) || p.braced_degree() {
                        let value = expr(base)?;
                        if value.open() {
                            return None;
                        }
                        return Some(Math::Scalar(Scalar { value, percent: false, unit: unit::read("degree") }));
                    }
                    let negative = p.sign();
                    let exponent = expr(p.power()?)?;
                    let exponent = if negative { exponent.negative() } else { exponent };
                    base = Math::scalar(Expr::Power(Box::new(expr(base)?), Box::new(exponent)));
                } else {
                    return Some(base);
                }
            }
        })
    }

    /// `{\circ}`.
    fn braced_degree(&mut self) -> bool {
        let found = self
            .tokens
            .get(self.at..self.at + 3)
            .is_some_and(|t| t[0] == Token::Open('{') && t[1] == Token::Degree && t[2] == Token::Close('}'));
        self.at += if found { 3 } else { 0 };
        found
    }

    fn primary(&mut self) -> Option<Math> {
        let token = self.peek()?.clone();
        self.at += 1;
        match token {
            Token::Number(number) => {
                if self.op('_') {
                    return Some(Math::scalar(in_base(&number, &self.script()?)?));
                }
                let whole = number.value.is_integer() && !number.decimal;
                let value = Expr::Number(number);
                // 1\frac{1}{2} is one and a half
                if whole && self.tokens.get(self.at) == Some(&Token::Frac) {
                    let start = self.at;
                    self.at += 1;
                    let (above, below) = (expr(self.argument()?)?, expr(self.argument()?)?);
                    if let (Expr::Number(a), Expr::Number(b)) = (&above, &below)
                        && a.value.is_integer()
                        && b.value.is_integer()
                        && a.value < b.value
                    {
                        return Some(Math::scalar(Expr::Sum(vec![value, above.over(below)])));
                    }
                    self.at = start;
                }
                Some(Math::scalar(value))
            }
            Token::Letter(name) => self.symbol(name),
            Token::Money(code) => {
                let value = expr(self.power()?)?;
                Some(Math::Scalar(Scalar { value, percent: false, unit: Some(unit::money(code)) }))
            }
            Token::Frac => {
                let (above, below) = (self.argument()?, self.argument()?);
                scale(Expr::integer(1).over(expr(below)?), above)
            }
            Token::Binom => {
                let (above, below) = (expr(self.argument()?)?, expr(self.argument()?)?);
                Some(Math::scalar(Expr::Call("binomial".into(), vec![above, below])))
            }
            Token::Sqrt => {
                let mut root = Expr::integer(2);
                if self.take(&Token::Open('[')) {
                    root = expr(self.sum()?)?;
                    self.take(&Token::Close(']')).then_some(())?;
                }
                let inside = expr(self.argument()?)?;
                Some(Math::scalar(Expr::Power(Box::new(inside), Box::new(Expr::integer(1).over(root)))))
            }
            Token::Function(name) => self.function(name),
            Token::Sum(name) => {
                let mut full = name;
                while let Some(Token::Op(op @ ('_' | '^'))) = self.peek() {
                    full.push(*op);
                    self.at += 1;
                    full.push_str(&self.script()?);
                }
                let body = expr(self.nested(Self::term)?)?;
                Some(Math::scalar(Expr::Call(full, vec![body])))
            }
            Token::Open(open) => self.bracket(open),
            Token::Op('|') => {
                let inside = expr(self.sum()?)?;
                self.op('|').then_some(())?;
                Some(Math::scalar(Expr::Call("abs".into(), vec![inside])))
            }
            Token::Begin => self.matrix(),
            Token::Word(word) => Some(Math::Word(word.to_lowercase())),
            _ => None,
        }
    }

    /// A letter with its index, or a function of that name.
    fn symbol(&mut self, mut name: String) -> Option<Math> {
        while self.op('_') {
            name.push('_');
            name.push_str(&self.script()?);
        }
        let callable = ["f", "g", "h", "F", "G", "H", "P", "Q", "T", "W"].contains(&name.as_str());
        if callable && self.tokens.get(self.at) == Some(&Token::Open('(')) {
            self.at += 1;
            let mut arguments = vec![expr(self.nested(Self::sum)?)?];
            while self.op(',') {
                arguments.push(expr(self.nested(Self::sum)?)?);
            }
            self.take(&Token::Close(')')).then_some(())?;
            return Some(Math::scalar(Expr::Call(name, arguments)));
        }
        Some(Math::scalar(Expr::Symbol(name)))
    }

    /// `sin^2 x`, `log_2 8`, `sin 2x`, `max(a, b)`.
    fn function(&mut self, name: String) -> Option<Math> {
        let (mut base, mut power) = (None, None);
        loop {
            if name.starts_with('l') && self.op('_') {
                base = Some(expr(self.argument()?)?);
            } else if power.is_none() && self.op('^') {
                let negative = self.sign();
                let exponent = expr(self.argument()?)?;
                power = Some(if negative { exponent.negative() } else { exponent });
            } else {
                break;
            }
        }
        let mut arguments = Vec::new();
        let open = self.peek() == Some(&Token::Open('('));
        if open || self.peek() == Some(&Token::Open('{')) {
            let close = Token::Close(if open { ')' } else { '}' });
            self.at += 1;
            arguments.push(expr(self.nested(Self::sum)?)?);
            while self.op(',') {
                arguments.push(expr(self.nested(Self::sum)?)?);
            }
            self.take(&close).then_some(())?;
        } else {
            let mut argument = expr(self.power()?)?;
            while matches!(self.peek(), Some(Token::Letter(_) | Token::Frac | Token::Sqrt)) {
                argument = Expr::Product(vec![argument, expr(self.power()?)?]);
            }
            arguments.push(argument);
        }
        arguments.extend(base);
        let call = Expr::Call(name, arguments);
        Some(Math::scalar(match power {
            Some(exponent) => Expr::Power(Box::new(call), Box::new(exponent)),
            None => call,
        }))
    }

    /// The argument of a command: `{…}`, or a single digit or symbol (`\frac12`).
    fn argument(&mut self) -> Option<Math> {
        if self.take(&Token::Open('{')) {
            let inside = self.nested(Self::side)?;
            self.take(&Token::Close('}')).then_some(())?;
            return Some(inside);
        }
        if let Some(Token::Number(number)) = self.peek()
            && !number.decimal
            && number.value.is_integer()
        {
            // the first digit is the argument, the others stay
            let digits = number.value.to_string();
            if digits.len() > 1 && digits.is_ascii() {
                let (first, rest) = digits.split_at(1);
                let number = |text: &str| crate::answer::number::digits(text, Default::default()).map(|(n, _)| n);
                let (first, rest) = (number(first)?, number(rest)?);
                self.tokens[self.at] = Token::Number(rest);
                return Some(Math::scalar(Expr::Number(first)));
            }
        }
        self.nested(Self::primary)
    }

    /// An index or power as text: `{…}` or one token.
    fn script(&mut self) -> Option<String> {
        let mut text = String::new();
        let mut depth = 0;
        loop {
            let token = self.peek()?.clone();
            self.at += 1;
            match token {
                Token::Open('{') => depth += 1,
                Token::Close('}') => depth -= 1,
                Token::Number(n) => text.push_str(&n.value.to_string()),
                Token::Letter(name) | Token::Word(name) | Token::Function(name) => text.push_str(&name),
                Token::Op(op) => text.push(op),
                Token::Rel(Rel::Equal) => text.push('='),
                Token::Open(c) | Token::Close(c) => text.push(c),
                _ => return None,
            }
            if depth <= 0 || text.len() > 100 {
                return (depth == 0).then_some(text);
            }
        }
    }

    fn bracket(&mut self, open: char) -> Option<Math> {
        let braces = open == '{' || open == 's';
        let mut items = Vec::new();
        let close = loop {
            if let Some(&Token::Close(close)) = self.peek() {
                self.at += 1;
                break close;
            }
            self.items(&mut items)?;
            while matches!(self.peek(), Some(Token::Op(',' | ';') | Token::And)) {
                self.at += 1;
            }
        };
        let matching = match close {
            '}' => open == '{',
            's' => open == 's',
            _ => !braces,
        };
        if !matching {
            return None;
        }
        let round = open == '(' && close == ')';
        let matrix = matches!(items[..], [Math::Matrix(_)]);
        if (round || open == '{' || matrix) && items.len() == 1 {
            return Some(items.remove(0));
        }
        if braces {
            return Some(Math::Group(Bracket::Set, items));
        }
        if items.is_empty() {
            return None;
        }
        Some(Math::Group(Bracket::Round { left: open == '[', right: close == ']' }, items))
    }

    fn matrix(&mut self) -> Option<Math> {
        let mut rows = vec![Vec::new()];
        loop {
            match self.peek()? {
                Token::End => {
                    self.at += 1;
                    break;
                }
                Token::Row => {
                    self.at += 1;
                    rows.push(Vec::new());
                }
                Token::Op('&') => self.at += 1,
                _ => {
                    let entry = expr(self.nested(Self::sum)?)?;
                    rows.last_mut()?.push(entry);
                }
            }
        }
        rows.retain(|row| !row.is_empty());
        let width = rows.first()?.len();
        rows.iter().all(|row| row.len() == width).then_some(Math::Matrix(rows))
    }
}

/// The expression of a scalar without percent sign or unit; a matrix in brackets of one entry is it.
fn expr(math: Math) -> Option<Expr> {
    match math {
        Math::Scalar(Scalar { value, percent: false, unit: None }) => Some(value),
        _ => None,
    }
}

fn add(a: Math, b: Math) -> Option<Math> {
    match (a, b) {
        (Math::Matrix(a), Math::Matrix(b)) => eval::add(&a, &b).map(Math::Matrix),
        (a, b) => {
            let (a, b) = (expr(a)?, expr(b)?);
            Some(Math::scalar(match a {
                Expr::Sum(mut parts) => {
                    parts.push(b);
                    Expr::Sum(parts)
                }
                a => Expr::Sum(vec![a, b]),
            }))
        }
    }
}

fn multiply(a: Math, b: Math) -> Option<Math> {
    match (a, b) {
        (Math::Matrix(a), Math::Matrix(b)) => eval::multiply(&a, &b).map(Math::Matrix),
        (a @ Math::Matrix(_), b) => scale(expr(b)?, a),
        (a, b) => scale(expr(a)?, b),
    }
}

fn scale(factor: Expr, math: Math) -> Option<Math> {
    match math {
        Math::Matrix(rows) => {
            let entry = |e: Expr| Expr::Product(vec![factor.clone(), e]);
            Some(Math::Matrix(rows.into_iter().map(|row| row.into_iter().map(entry).collect()).collect()))
        }
        Math::Scalar(scalar) => {
            let one = matches!(&factor, Expr::Number(n) if n.value.is_one());
            let value = match (factor, scalar.value) {
                (_, value) if one => value,
                (Expr::Number(a), Expr::Number(b)) if a.value == -num_rational::BigRational::one() => {
                    Expr::Number(b).negative()
                }
                (factor, Expr::Product(mut parts)) => {
                    parts.insert(0, factor);
                    Expr::Product(parts)
                }
                (factor, value) => Expr::Product(vec![factor, value]),
            };
            Some(Math::Scalar(Scalar { value, ..scalar }))
        }
        _ => None,
    }
}

/// `204_5`: the digits in that base. Base ten digits stay as they are.
fn in_base(number: &crate::answer::number::Number, base: &str) -> Option<Expr> {
    let base: u32 = base.parse().ok().filter(|b| (2..=10).contains(b))?;
    if number.decimal || !number.value.is_integer() {
        return None;
    }
    let digits = number.value.to_string();
    let value = num_bigint::BigInt::parse_bytes(digits.as_bytes(), base)?;
    Some(Expr::number(value.into()))
}
