//! Chains of relations in prose: which expressions a text relates, and how.
//!
//! Method: [`token::tokens`] marks what can belong to arithmetic; a shunting-yard reader without recursion
//! takes the longest expression at each place, with words behind numbers as their units; expressions joined
//! by relations form a [`Chain`]. A side that is not read whole (`price × 3`, `3 dozen`, two numbers side by
//! side) stands in the chain as `None`: nothing is ever computed from a part of what was written. Depth is
//! bounded, so the time is linear in the length of the text.

pub mod evaluate;
pub mod token;
mod word;

use num_bigint::BigInt;
use num_rational::BigRational;

use token::{Kind, Literal, Operator, Relation, Token};

/// Brackets inside each other, at most.
const MAX_DEPTH: usize = 48;
/// Words of a unit behind a number, at most.
const UNIT_WORDS: usize = 4;

/// One instruction of an expression in postfix order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Code {
    /// A constant.
    Number(BigRational),
    /// A variable.
    Variable(String),
    /// Two operands.
    Binary(Operator),
    /// Sign.
    Negate,
    /// Square root.
    Root,
    /// Factorial.
    Factorial,
}

/// An expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expression {
    /// What computes it, in postfix order.
    pub code: Vec<Code>,
    /// First byte.
    pub start: usize,
    /// Byte behind the last.
    pub end: usize,
    /// The number, when it is nothing but one; a sign before it is in its value.
    pub literal: Option<Literal>,
    /// All numbers in it.
    pub literals: Vec<Literal>,
    /// Words that stood behind numbers, in lower case.
    pub units: Vec<String>,
}

impl Expression {
    /// The variable it is, when it is nothing but one.
    pub fn variable(&self) -> Option<&str> {
        match &self.code[..] {
            [Code::Variable(name)] => Some(name),
            _ => None,
        }
    }

    /// Whether something is computed in it.
    pub fn computes(&self) -> bool {
        self.literal.is_none() && self.code.len() > 1
    }

    /// Variables, in order of first use.
    pub fn variables(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for code in &self.code {
            if let Code::Variable(name) = code
                && !names.contains(&name.as_str())
            {
                names.push(name.as_str());
            }
        }
        names
    }
}

/// Expressions joined by relations: `sides[i] relations[i] sides[i + 1]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The expressions; `None` where a side cannot be read whole.
    pub sides: Vec<Option<Expression>>,
    /// The relations between them, one fewer.
    pub relations: Vec<Relation>,
    /// The modulus, when the text gives one behind the chain (`mod 7`).
    pub modulus: Option<u64>,
}

/// What a text says: its chains and the expressions that stand in no relation.
#[derive(Debug, Clone, Default)]
pub struct Parsed {
    /// Chains, in order.
    pub chains: Vec<Chain>,
    /// Expressions outside of chains that compute something, in order.
    pub loose: Vec<Expression>,
}

/// Reads a text.
pub fn parse(text: &str) -> Parsed {
    let tokens = token::tokens(text);
    let mut parsed = Parsed::default();
    let mut open: Option<Chain> = None;
    let mut at = 0;
    while at < tokens.len() {
        if let Kind::Relation(relation) = tokens[at].kind {
            let chain = open.get_or_insert_with(|| Chain { sides: vec![None], relations: Vec::new(), modulus: None });
            chain.relations.push(relation);
            at += 1;
            let side = expression(&tokens, at, tokens.len());
            let whole = match &side {
                Some((_, next)) => {
                    at = *next;
                    !cut_behind(&tokens, at)
                }
                None => false,
            };
            chain.sides.push(side.filter(|_| whole).map(|(expression, _)| expression));
            if !matches!(tokens.get(at), Some(Token { kind: Kind::Relation(_), .. })) {
                let mut chain = open.take().expect("a relation opened it");
                chain.modulus = modulus(&tokens, at);
                parsed.chains.push(chain);
            }
        } else if let Some((expression, next)) = expression(&tokens, at, tokens.len()) {
            let whole = !cut_before(&tokens, at) && !cut_behind(&tokens, next);
            if matches!(tokens.get(next), Some(Token { kind: Kind::Relation(_), .. })) {
                let sides = vec![whole.then_some(expression)];
                open = Some(Chain { sides, relations: Vec::new(), modulus: None });
            } else if whole && expression.computes() {
                parsed.loose.push(expression);
            }
            at = next;
        } else {
            at += 1;
        }
    }
    parsed
}

/// Whether what stands before an expression belongs to it: it would be read in part.
fn cut_before(tokens: &[Token], at: usize) -> bool {
    const PART: [&str; 22] = [
        "half", "twice", "double", "triple", "thrice", "square", "cube", "root", "log", "ln", "sin", "cos", "tan",
        "sqrt", "quarter", "third", "by", "than", "mod", "over", "per", "cents",
    ];
    let Some(before) = at.checked_sub(1).map(|n| &tokens[n]) else { return false };
    let glued = before.end == tokens[at].start;
    let number_before = at >= 2 && matches!(tokens[at - 2].kind, Kind::Number(_));
    // `apples - 3`: the sign is an operator whose left side was not read
    if let (Kind::Operator(sign), Kind::Word(_) | Kind::Close) = (&tokens[at].kind, &before.kind) {
        let apart = tokens.get(at + 1).is_some_and(|t| t.start != tokens[at].end);
        if *sign == Operator::Add || apart || glued {
            return true;
        }
    }
    match &before.kind {
        Kind::Operator(_)
        | Kind::Number(_)
        | Kind::Of
        | Kind::Root
        | Kind::Factorial
        | Kind::Name(_)
        | Kind::Unread => true,
        Kind::Word(word) => PART.contains(&word.as_str()) || (number_before && ["and", "又"].contains(&word.as_str())),
        // `16,0000`
        Kind::Break => glued && number_before && tokens[at - 2].end == before.start,
        _ => false,
    }
}

/// Whether what stands behind an expression belongs to it.
fn cut_behind(tokens: &[Token], next: usize) -> bool {
    const PART: [&str; 12] = [
        "dozen", "dozens", "hundred", "half", "halves", "thirds", "quarters", "squared", "cubed", "percent", "score",
        "choose",
    ];
    let slash = matches!(tokens.get(next + 2), Some(Token { kind: Kind::Operator(Operator::Divide), .. }));
    match tokens.get(next).map(|t| &t.kind) {
        Some(Kind::Operator(_) | Kind::Of | Kind::Root | Kind::Unread) => true,
        // `1 and 1/3`
        Some(Kind::Word(word)) if word == "and" && slash => true,
        Some(Kind::Word(word)) => PART.contains(&word.as_str()) || word == "divided" || word == "multiplied",
        _ => false,
    }
}

/// `mod 7`, `(mod 7)`, `\pmod{7}` behind a chain.
fn modulus(tokens: &[Token], at: usize) -> Option<u64> {
    let mut ahead =
        tokens[at.min(tokens.len())..].iter().take(5).filter(|t| !matches!(t.kind, Kind::Open | Kind::Close));
    match &ahead.next()?.kind {
        Kind::Word(word) if ["mod", "modulo", "pmod", "bmod", "模"].contains(&word.as_str()) => (),
        _ => return None,
    }
    match &ahead.next()?.kind {
        Kind::Number(literal) if literal.value.is_integer() => literal.value.to_integer().try_into().ok(),
        _ => None,
    }
}

/// What waits on the stack of the shunting-yard reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Open,
    Binary(Operator),
    Negate,
    Root,
}

impl Waiting {
    fn precedence(self) -> u8 {
        match self {
            Self::Open => 0,
            Self::Binary(Operator::Add | Operator::Subtract) => 1,
            Self::Binary(Operator::Multiply | Operator::Divide) => 2,
            Self::Negate => 3,
            Self::Binary(Operator::Power) => 4,
            Self::Root => 5,
        }
    }
}

struct Reader<'a> {
    tokens: &'a [Token],
    code: Vec<Code>,
    waiting: Vec<Waiting>,
    depth: usize,
    literals: Vec<Literal>,
    units: Vec<String>,
}

/// The longest expression that starts at a token and ends before `limit`, and the token behind it.
fn expression(tokens: &[Token], at: usize, limit: usize) -> Option<(Expression, usize)> {
    let starts = matches!(
        tokens.get(at)?.kind,
        Kind::Number(_) | Kind::Name(_) | Kind::Open | Kind::Root | Kind::Operator(Operator::Subtract | Operator::Add)
    );
    if !starts || at >= limit {
        return None;
    }
    let mut reader =
        Reader { tokens, code: Vec::new(), waiting: Vec::new(), depth: 0, literals: Vec::new(), units: Vec::new() };
    match reader.run(at, limit) {
        Ended::Whole(next) => Some((reader.finish(at, next), next)),
        // the tail did not belong to it: read again up to where it was complete
        Ended::Cut(Some(complete)) if complete > at => expression(tokens, at, complete).map(|(e, _)| (e, complete)),
        Ended::Cut(_) => None,
    }
}

enum Ended {
    /// Complete; the token behind.
    Whole(usize),
    /// In the middle of something; the last place where it was complete.
    Cut(Option<usize>),
}

impl Reader<'_> {
    fn run(&mut self, mut at: usize, limit: usize) -> Ended {
        let mut complete = None;
        loop {
            // an operand
            match self.tokens.get(at).filter(|_| at < limit).map(|t| &t.kind) {
                Some(Kind::Number(literal)) => {
                    at = self.number(literal, at, limit);
                }
                Some(Kind::Name(name)) => {
                    self.code.push(Code::Variable(name.clone()));
                    at += 1;
                }
                Some(Kind::Open) if self.depth < MAX_DEPTH => {
                    self.waiting.push(Waiting::Open);
                    self.depth += 1;
                    at += 1;
                    continue;
                }
                Some(Kind::Operator(Operator::Subtract)) => {
                    self.waiting.push(Waiting::Negate);
                    at += 1;
                    continue;
                }
                Some(Kind::Operator(Operator::Add)) => {
                    at += 1;
                    continue;
                }
                Some(Kind::Root) => {
                    self.waiting.push(Waiting::Root);
                    at += 1;
                    continue;
                }
                _ => return Ended::Cut(complete),
            }
            // what stands behind an operand
            loop {
                if self.depth == 0 {
                    complete = Some(at);
                }
                let Some(token) = self.tokens.get(at).filter(|_| at < limit) else {
                    return if self.depth == 0 { Ended::Whole(at) } else { Ended::Cut(complete) };
                };
                let glued = self.tokens[at - 1].end == token.start;
                match &token.kind {
                    Kind::Close if self.depth > 0 => {
                        while let Some(top) = self.waiting.pop() {
                            if top == Waiting::Open {
                                break;
                            }
                            self.emit(top);
                        }
                        self.depth -= 1;
                        at += 1;
                    }
                    Kind::Factorial => {
                        self.code.push(Code::Factorial);
                        at += 1;
                    }
                    Kind::Operator(operator) => {
                        let unit = *operator == Operator::Divide
                            && matches!(self.tokens.get(at + 1), Some(Token { kind: Kind::Word(_), .. }));
                        if unit && at + 1 < limit {
                            at += 2; // `$12/hour`
                            continue;
                        }
                        self.operator(*operator);
                        at += 1;
                        break;
                    }
                    Kind::Of if self.portion() && self.operand(at + 1) => {
                        self.operator(Operator::Multiply);
                        at += 1;
                        break;
                    }
                    Kind::Name(_) if glued && self.depth == 0 && !self.multiplies() => return Ended::Cut(None),
                    Kind::Name(_) if glued && self.multiplies() => {
                        self.operator(Operator::Multiply);
                        break;
                    }
                    Kind::Open if glued || self.tokens[at - 1].kind == Kind::Close => {
                        if !self.multiplies() {
                            return if self.depth == 0 { Ended::Cut(None) } else { Ended::Cut(complete) };
                        }
                        self.operator(Operator::Multiply);
                        break;
                    }
                    Kind::Word(_) | Kind::Name(_) => match self.unit(at, limit) {
                        Some(next) => at = next,
                        None => return if self.depth == 0 { Ended::Whole(at) } else { Ended::Cut(complete) },
                    },
                    _ => return if self.depth == 0 { Ended::Whole(at) } else { Ended::Cut(complete) },
                }
            }
        }
    }

    /// A number, or a mixed number (`2 1/2`); the token behind it.
    fn number(&mut self, literal: &Literal, at: usize, limit: usize) -> usize {
        self.literals.push(literal.clone());
        let whole = |at: usize| match self.tokens.get(at).map(|t| &t.kind) {
            Some(Kind::Number(l)) if l.value.is_integer() && !l.percent => Some(&l.value),
            _ => None,
        };
        let slash = matches!(self.tokens.get(at + 2), Some(Token { kind: Kind::Operator(Operator::Divide), .. }));
        if let (Some(n), Some(a), true, Some(b)) = (whole(at), whole(at + 1), slash && at + 3 < limit, whole(at + 3))
            && a < b
        {
            self.code.push(Code::Number(n + a / b));
            return at + 4;
        }
        self.code.push(Code::Number(literal.value.clone()));
        at + 1
    }

    fn operand(&self, at: usize) -> bool {
        matches!(self.tokens.get(at), Some(Token { kind: Kind::Number(_) | Kind::Name(_) | Kind::Open, .. }))
    }

    /// Whether a percentage or a fraction of two numbers was just read, so that `of` is a product.
    fn portion(&self) -> bool {
        let fraction = self.waiting.last() == Some(&Waiting::Binary(Operator::Divide))
            && matches!(&self.code[..], [.., Code::Number(_), Code::Number(_)]);
        fraction || self.literals.last().is_some_and(|l| l.percent && matches!(self.code.last(), Some(Code::Number(_))))
    }

    /// Two operands side by side are a product, except for `1/2x` and `f(x)`, which can mean two things.
    fn multiplies(&self) -> bool {
        self.waiting.last() != Some(&Waiting::Binary(Operator::Divide))
            && !matches!(self.code.last(), Some(Code::Variable(n)) if n.len() == 1 && "fghPE".contains(n.as_str()))
    }

    /// Words behind a number that are its unit: an operator, a relation or a bracket follows them. Gives
    /// the token behind.
    fn unit(&mut self, at: usize, limit: usize) -> Option<usize> {
        const NO_UNIT: [&str; 34] = [
            "and",
            "or",
            "but",
            "if",
            "then",
            "so",
            "because",
            "since",
            "is",
            "was",
            "are",
            "were",
            "has",
            "have",
            "had",
            "with",
            "from",
            "to",
            "into",
            "gives",
            "which",
            "that",
            "who",
            "dozen",
            "dozens",
            "percent",
            "squared",
            "cubed",
            "divided",
            "multiplied",
            "hence",
            "thus",
            "half",
            "choose",
        ];
        const SCALES: [(&str, u64); 8] = [
            ("thousand", 1_000),
            ("million", 1_000_000),
            ("billion", 1_000_000_000),
            ("万", 10_000),
            ("亿", 100_000_000),
            ("千", 1_000),
            ("百", 100),
            ("hundred", 100),
        ];
        if let Kind::Word(word) = &self.tokens[at].kind
            && let Some((_, scale)) = SCALES.iter().find(|(name, _)| name == word)
            && matches!(self.code.last(), Some(Code::Number(_)))
        {
            if let Some(Code::Number(value)) = self.code.last_mut() {
                *value *= BigRational::from_integer(BigInt::from(*scale));
            }
            return Some(at + 1);
        }
        let reach = UNIT_WORDS + 1;
        for next in at..limit.min(at + reach).min(self.tokens.len()) {
            match &self.tokens[next].kind {
                Kind::Word(word) if NO_UNIT.contains(&word.as_str()) || word == FRACTION_WORD => return None,
                Kind::Word(_) | Kind::Name(_) => (),
                Kind::Operator(_) | Kind::Relation(_) if next > at => return Some(self.take_units(at, next)),
                Kind::Close if next > at && self.depth > 0 => return Some(self.take_units(at, next)),
                _ => return None,
            }
        }
        None
    }

    fn take_units(&mut self, at: usize, next: usize) -> usize {
        for token in &self.tokens[at..next] {
            if let Kind::Word(word) | Kind::Name(word) = &token.kind {
                self.units.push(word.clone());
            }
        }
        next
    }

    fn operator(&mut self, operator: Operator) {
        let incoming = Waiting::Binary(operator);
        while let Some(&top) = self.waiting.last() {
            let stays = top == Waiting::Open
                || top.precedence() < incoming.precedence()
                || (top == incoming && operator == Operator::Power);
            if stays {
                break;
            }
            self.waiting.pop();
            self.emit(top);
        }
        self.waiting.push(incoming);
    }

    fn emit(&mut self, waiting: Waiting) {
        self.code.push(match waiting {
            Waiting::Binary(operator) => Code::Binary(operator),
            Waiting::Negate => Code::Negate,
            Waiting::Root => Code::Root,
            Waiting::Open => return,
        });
    }

    fn finish(mut self, at: usize, next: usize) -> Expression {
        while let Some(top) = self.waiting.pop() {
            self.emit(top);
        }
        let literal = match (&self.code[..], &self.literals[..]) {
            ([Code::Number(value)], [literal]) => Some(Literal { value: value.clone(), ..literal.clone() }),
            ([Code::Number(value), Code::Negate], [literal]) => Some(Literal { value: -value, ..literal.clone() }),
            _ => None,
        };
        let (start, end) = (self.tokens[at].start, self.tokens[next - 1].end);
        Expression { code: self.code, start, end, literal, literals: self.literals, units: self.units }
    }
}

/// The marker of a LaTeX fraction that could not be read.
const FRACTION_WORD: &str = "\\frac";
