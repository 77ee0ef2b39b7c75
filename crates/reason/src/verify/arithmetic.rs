//! Equalities and inequalities between numbers, wherever prose holds them, computed exactly.
//!
//! Method: [`expression::parse`] finds chains (`(2+3)*4 - 1 = 20 - 1 = 19`); neighbours in a chain are
//! computed as rationals and compared. Two bare numbers are never compared with `=` (`1 foot = 12 inches`).
//! Tolerance only where the text rounds: `≈`, a word like "about", a result with decimals whose exact value
//! has more of them (less than one unit of its last digit), a percentage, a number that was rounded before.
//! A variable keeps the value the chain gave it (`A = (3 + 4) = 7`); one that gets two values has none.
//! GSM8K's annotations (`<<48/2=24>>`) are checked alone and left out of the prose around them. When the
//! question is one expression (`(3 + 4) * 2 =`), the stated answer is checked against its value.

use std::collections::{HashMap, HashSet};

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{One, Signed, Zero};

use super::expression::token::{Literal, Relation};
use super::expression::{Chain, Expression, Parsed, parse};
use super::units::convertible;
use super::{Claim, Findings, Verification, Verifier};

/// Checks arithmetic; see the module.
#[derive(Debug, Clone, Copy, Default)]
pub struct ArithmeticVerifier;

impl Verifier for ArithmeticVerifier {
    fn name(&self) -> &str {
        "arithmetic"
    }

    fn version(&self) -> u32 {
        1
    }

    fn verify(&self, claim: &Claim) -> Verification {
        let mut state = State { goal: question_value(claim.question), ..State::default() };
        let mut findings = Findings::new(claim.steps.len());
        for (step, text) in claim.steps.iter().enumerate() {
            state.step(step, text, &mut findings);
        }
        findings.verification(self)
    }
}

/// What a chain has said so far.
#[derive(Default)]
struct State {
    /// Values of variables; `None` for one that had two.
    values: HashMap<String, Option<BigRational>>,
    /// Results that were rounded where they were written.
    rounded: HashSet<BigRational>,
    /// Value of the question, when it is one expression.
    goal: Option<BigRational>,
}

impl State {
    fn step(&mut self, step: usize, text: &str, findings: &mut Findings) {
        if text_has(text, &["base ", "binary", "hexadecimal", "octal", "进制"]) {
            return;
        }
        let (prose, annotations) = annotations(text);
        for annotation in annotations {
            // the calculator rounds to what it prints
            self.relations(step, annotation, &parse(annotation), findings);
        }
        let parsed = parse(&prose);
        self.relations(step, &prose, &parsed, findings);
        self.question(step, &prose, findings);
    }

    fn relations(&mut self, step: usize, text: &str, parsed: &Parsed, findings: &mut Findings) {
        let loose = text_has(
            text,
            &["about", "approx", "round", "nearest", "roughly", "almost", "nearly", "约", "左右", "四舍五入", "近似"],
        );
        let remains = text_has(text, &["remain", "left over", "leftover", "剩", "余"]);
        let modular = text_has(text, &["mod ", "mod{", "modulo", "模"]);
        for chain in &parsed.chains {
            if chain.relations.contains(&Relation::Congruent) || (modular && chain.modulus.is_none()) {
                if chain.modulus.is_some() {
                    self.congruence(step, text, chain, findings);
                }
                continue;
            }
            if chain.modulus.is_some() {
                self.congruence(step, text, chain, findings);
                continue;
            }
            let values: Vec<Option<BigRational>> = chain.sides.iter().map(|side| self.value(side.as_ref())).collect();
            for (n, relation) in chain.relations.iter().enumerate() {
                let (Some(left), Some(right)) = (&chain.sides[n], &chain.sides[n + 1]) else { continue };
                // a bare variable is bound below, not compared
                let (Some(a), Some(b)) = (&values[n], &values[n + 1]) else { continue };
                if left.variable().is_some() || right.variable().is_some() || !comparable(*relation, left, right, text)
                {
                    continue;
                }
                // `30 less than Vika = 84 - 30`, `20 minutes = 2 × 60 + 20`: a quantity, not a result
                if n == 0 && left.literal.is_some() && !left.units.is_empty() {
                    continue;
                }
                let relation = if loose && *relation == Relation::Equal { Relation::Approximately } else { *relation };
                let holds = self.holds(text, relation, (left, a), (right, b)) || (remains && *b == a.floor());
                // `100 + 100x = 120` may be about another x than the one that has a value
                let equation = !left.variables().is_empty() && !right.computes()
                    || !right.variables().is_empty() && !left.computes();
                if equation && !holds {
                    continue;
                }
                let written = text[left.start..right.end].trim();
                findings.add(step, holds, format!("`{written}`: left is {}, right is {}", shown(a), shown(b)));
            }
            self.bind(chain, &values);
        }
    }

    fn value(&self, side: Option<&Expression>) -> Option<BigRational> {
        side?.evaluate(&|name| self.values.get(name).cloned().flatten()).ok()
    }

    /// A chain that begins with a variable gives it the last value of the chain.
    fn bind(&mut self, chain: &Chain, values: &[Option<BigRational>]) {
        let Some(name) = chain.sides[0].as_ref().and_then(Expression::variable) else { return };
        if chain.relations.iter().any(|r| !matches!(r, Relation::Equal | Relation::Approximately)) {
            return;
        }
        let Some(value) = values[1..].iter().rev().flatten().next() else { return };
        self.values
            .entry(name.to_owned())
            .and_modify(|have| {
                if have.as_ref() != Some(value) {
                    *have = None;
                }
            })
            .or_insert_with(|| Some(value.clone()));
    }

    fn congruence(&self, step: usize, text: &str, chain: &Chain, findings: &mut Findings) {
        let Some(modulus) = chain.modulus.filter(|m| *m >= 2) else { return };
        for (n, relation) in chain.relations.iter().enumerate() {
            let (Some(left), Some(right)) = (&chain.sides[n], &chain.sides[n + 1]) else { continue };
            if !matches!(relation, Relation::Congruent | Relation::Equal) || !left.variables().is_empty() {
                continue;
            }
            if let (Ok(a), Ok(b)) = (left.evaluate_mod(modulus, &|_| None), right.evaluate_mod(modulus, &|_| None)) {
                let written = text[left.start..right.end].trim();
                findings.add(step, a == b, format!("`{written}` mod {modulus}: left is {a}, right is {b}"));
            }
        }
    }

    fn holds(
        &mut self,
        text: &str,
        relation: Relation,
        left: (&Expression, &BigRational),
        right: (&Expression, &BigRational),
    ) -> bool {
        let ((l, a), (r, b)) = (left, right);
        match relation {
            Relation::Less => a < b,
            Relation::LessOrEqual => a <= b,
            Relation::Greater => a > b,
            Relation::GreaterOrEqual => a >= b,
            Relation::NotEqual => a != b,
            Relation::Congruent => true,
            Relation::Equal | Relation::Approximately => {
                a == b
                    || self.rounds(relation, (l, a), (r, b))
                    || self.rounds(relation, (r, b), (l, a))
                    || convertible(text, left, right)
            }
        }
    }

    /// Whether `written` is what `exact` rounds to.
    fn rounds(
        &mut self,
        relation: Relation,
        written: (&Expression, &BigRational),
        exact: (&Expression, &BigRational),
    ) -> bool {
        let ((expression, b), (source, a)) = (written, exact);
        let Some(literal) = &expression.literal else {
            return relation == Relation::Approximately
                && within(a, b, &(a.abs() / BigRational::from_integer(100.into())));
        };
        // 15/60*100 = 25%
        let hundred = BigRational::from_integer(100.into());
        if literal.percent && !source.literals.iter().any(|l| l.percent) && *a == b * &hundred {
            return true;
        }
        let unit = last_place(literal);
        let inexact = !(a / &unit).is_integer();
        let may_round = literal.decimals > 0 || literal.percent || relation == Relation::Approximately;
        let mut tolerance = if inexact && may_round { unit } else { BigRational::zero() };
        if relation == Relation::Approximately {
            tolerance = tolerance.max(a.abs() / &hundred);
        }
        // what was rounded before carries its error on
        let error: BigRational =
            source.literals.iter().filter(|l| self.is_rounded(l)).map(|l| last_place(l) / l.value.abs()).sum();
        tolerance += a.abs() * error;
        let accepted = !tolerance.is_zero() && within(a, b, &tolerance);
        if accepted {
            self.rounded.insert(b.clone());
        }
        accepted
    }

    /// Whether a number is known to be rounded: it was, or it has the look of a third, sixth, seventh, ….
    fn is_rounded(&self, literal: &Literal) -> bool {
        if literal.value.is_zero() {
            return false;
        }
        let repeating = |q: u32| {
            let scaled = &literal.value * BigRational::from_integer(q.into());
            let half = last_place(literal) * BigRational::new(q.into(), 2.into());
            !scaled.is_integer() && within(&scaled, &scaled.round(), &half)
        };
        let divisors: &[u32] = match literal.decimals {
            0 | 1 => &[],
            2 => &[3, 6],
            _ => &[3, 6, 7, 9, 11, 12],
        };
        self.rounded.contains(&literal.value) || divisors.iter().any(|q| repeating(*q))
    }

    /// The stated answer against the question's own value.
    fn question(&self, step: usize, text: &str, findings: &mut Findings) {
        let Some(goal) = &self.goal else { return };
        if let Some(stated) = stated_answer(text) {
            findings.add(
                step,
                stated == *goal,
                format!("the answer {} against the question's value {}", shown(&stated), shown(goal)),
            );
        }
    }
}

/// Whether the relation of two sides means something that can be computed.
fn comparable(relation: Relation, left: &Expression, right: &Expression, text: &str) -> bool {
    if matches!(relation, Relation::Equal | Relation::Approximately | Relation::NotEqual) {
        return left.computes() || right.computes();
    }
    // `5 km > 300 m` compares units too
    let bare = |e: &Expression| e.units.is_empty() && !text[e.end..].trim_start().starts_with(char::is_alphabetic);
    bare(left) && bare(right)
}

/// One unit of the last digit that was written.
fn last_place(literal: &Literal) -> BigRational {
    let digits = literal.decimals + if literal.percent { 2 } else { 0 };
    BigRational::new(BigInt::one(), BigInt::from(10).pow(digits))
}

fn within(a: &BigRational, b: &BigRational, tolerance: &BigRational) -> bool {
    (a - b).abs() <= *tolerance
}

/// A rational as a person writes it: whole, with few decimals, or as a fraction.
pub(super) fn shown(value: &BigRational) -> String {
    if value.is_integer() {
        return value.numer().to_string();
    }
    let million = BigRational::from_integer(1_000_000.into());
    let scaled = value * &million;
    if scaled.is_integer() {
        let digits = format!("{:07}", scaled.to_integer().abs());
        let (whole, part) = digits.split_at(digits.len() - 6);
        let sign = if value.is_negative() { "-" } else { "" };
        return format!("{sign}{whole}.{}", part.trim_end_matches('0'));
    }
    value.to_string()
}

/// Whether any of the words is in the text, in lower case.
fn text_has(text: &str, words: &[&str]) -> bool {
    let lower = text.to_lowercase();
    words.iter().any(|word| lower.contains(word))
}

/// The text without `<<…>>`, and what stood between.
fn annotations(text: &str) -> (String, Vec<&str>) {
    let mut prose = String::with_capacity(text.len());
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("<<") {
        let Some(length) = rest[start + 2..].find(">>") else { break };
        let inner = &rest[start + 2..start + 2 + length];
        prose.push_str(&rest[..start]);
        if inner.len() < 200 && inner.contains('=') {
            found.push(inner);
        } else {
            prose.push_str(&rest[start..start + length + 4]);
        }
        rest = &rest[start + length + 4..];
    }
    prose.push_str(rest);
    (prose, found)
}

/// The value of a question that is nothing but an expression.
fn question_value(question: &str) -> Option<BigRational> {
    const ASKS: [&str; 9] = ["what is", "calculate", "compute", "evaluate", "find", "solve", "计算", "求", "q:"];
    let mut text = question.trim();
    for ask in ASKS {
        if text.get(..ask.len()).is_some_and(|head| head.eq_ignore_ascii_case(ask)) {
            text = text[ask.len()..].trim_start_matches([':', '：', ' ']);
        }
    }
    let text = text.trim_end_matches(['=', '?', '？', '.', ' ', '。']);
    let parsed = parse(text);
    let [expression] = &parsed.loose[..] else { return None };
    (parsed.chains.is_empty() && expression.start == 0 && expression.end == text.len())
        .then(|| expression.evaluate(&|_| None).ok())?
}

/// The number behind "the answer is".
fn stated_answer(text: &str) -> Option<BigRational> {
    let marks = ["answer is", "答案是", "答案为"];
    let at = marks.iter().filter_map(|mark| text.rfind(mark).map(|at| at + mark.len())).max()?;
    let tail = text[at..].trim().trim_start_matches([':', '：', ' ']).trim_end_matches(['.', '。']);
    let parsed = parse(&format!("0 + {tail}"));
    let [expression] = &parsed.loose[..] else { return None };
    (expression.end == tail.len() + 4).then(|| expression.evaluate(&|_| None).ok())?
}
