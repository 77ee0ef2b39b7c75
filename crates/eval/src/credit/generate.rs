//! Applications by the million, from a seed.
//!
//! Takes a policy and a seed, gives applications written in several ways (fields shuffled, lines that do not matter,
//! values at the bounds, fields left out) with the answer that the policy demands. Case `i` of a seed is always the
//! same text. Never gives one record twice, so what is held out was not trained on.
use crate::credit::answer::Conclusion;
use crate::credit::application::{Application, Language, Value};
use crate::credit::policy::{Factor, Kind, Policy};
use crate::rng::Draw;
use serde_json::json;
use std::collections::HashSet;

/// An application as text, with the answer that the policy demands.
#[derive(Clone, Debug)]
pub struct CreditCase {
    /// `credit-<language>-<number>`.
    pub id: String,
    /// Language of the text.
    pub language: Language,
    /// The record behind it.
    pub application: Application,
    /// What the user says.
    pub prompt: String,
    /// The JSON form.
    pub answer: String,
}

impl CreditCase {
    /// The case as one line of a conversations file, without the line end.
    pub fn to_row(&self) -> String {
        self.row(&self.answer)
    }

    /// The same with an answer that holds no steps.
    pub fn to_direct_row(&self, policy: &Policy) -> String {
        self.row(&Conclusion::from(self.application.answer(policy)).to_json())
    }

    fn row(&self, answer: &str) -> String {
        json!({"messages": [
            {"role": "user", "content": self.prompt},
            {"role": "assistant", "content": answer},
        ]})
        .to_string()
    }
}

/// Gives cases without end; a record that came once does not come again.
pub struct Generator<'a> {
    policy: &'a Policy,
    seed: u64,
    next: u64,
    seen: HashSet<Application>,
}

struct Wording {
    asks: &'static [&'static str],
    separators: &'static [(&'static str, &'static str)],
    names: &'static [&'static str],
    name: &'static str,
    cities: &'static [&'static str],
    city: &'static str,
    age: (&'static str, &'static str),
    notes: &'static [&'static str],
    unknown: &'static [&'static str],
}

const EN: Wording = Wording {
    asks: &["Assess this loan application.", "Decide on this credit application.", "Check this loan request."],
    separators: &[(": ", "\n"), (" = ", "; "), (": ", ", ")],
    names: &["Anna Berg", "Tom Hill", "Maria Lopez", "John Stone", "Eva Lind", "Paul Weber", "Li Na", "Sam Reed"],
    name: "name",
    cities: &["Berlin", "Madrid", "Oslo", "Boston", "Leeds", "Turin"],
    city: "city",
    age: ("age", "{}"),
    notes: &["prefers e-mail", "called on Monday", "has a dog", "speaks German", "new phone number"],
    unknown: &["not stated", "unknown"],
};

const ZH: Wording = Wording {
    asks: &["请评估这份贷款申请。", "请对这份信贷申请作出决定。", "请审核这份贷款请求。"],
    separators: &[("：", "\n"), ("：", "；"), ("=", "，")],
    names: &["王芳", "李强", "张伟", "刘洋", "陈静", "赵敏", "周杰", "孙丽"],
    name: "姓名",
    cities: &["北京", "上海", "广州", "成都", "武汉", "西安"],
    city: "城市",
    age: ("年龄", "{}岁"),
    notes: &["希望用邮件联系", "周一来过电话", "养了一只狗", "会说英语", "换了新电话"],
    unknown: &["未提供", "不详"],
};

/// How likely good values are, in per cent: three kinds of applicants keep the three decisions about equally frequent.
const GOOD: [usize; 3] = [90, 60, 20];

impl<'a> Generator<'a> {
    /// Cases of `seed`.
    pub fn new(policy: &'a Policy, seed: u64) -> Generator<'a> {
        Generator { policy, seed, next: 0, seen: HashSet::new() }
    }

    /// The next `count` cases in one of `languages` each.
    pub fn cases(&mut self, count: usize, languages: &[Language]) -> Vec<CreditCase> {
        let mut cases = Vec::with_capacity(count);
        while cases.len() < count {
            let number = self.next;
            self.next += 1;
            let mut draw = Draw::new(self.seed, number);
            let application = Application { values: values(self.policy, &mut draw) };
            if !self.seen.insert(application.clone()) {
                continue;
            }
            let language = draw.pick(languages).copied().unwrap_or(Language::En);
            let prompt = write(self.policy, &application, language, &mut draw);
            let answer = application.answer(self.policy).to_json();
            cases.push(CreditCase {
                id: format!("credit-{}-{number}", language.as_str()),
                language,
                application,
                prompt,
                answer,
            });
        }
        cases
    }
}

fn values(policy: &Policy, draw: &mut Draw) -> Vec<Value> {
    let good = GOOD[draw.below(GOOD.len())];
    let mut values: Vec<Value> = policy
        .factors
        .iter()
        .map(|factor| match &factor.kind {
            Kind::Choice { options } => {
                let mut order: Vec<usize> = (0..options.len()).collect();
                order.sort_by_key(|&i| options.get(i).map(|o| std::cmp::Reverse(o.points)));
                Value::Choice(tilted(&order, good, draw))
            }
            Kind::Number { highest, bins, .. } => {
                let mut ranges: Vec<(u32, u32, u32)> = Vec::new();
                let mut from = 0;
                for bin in bins {
                    let to = bin.below.map_or(*highest, |below| below.saturating_sub(1));
                    ranges.push((bin.points, from, to));
                    from = to + 1;
                }
                ranges.sort_by_key(|&(points, from, _)| (std::cmp::Reverse(points), from));
                let &(_, low, high) = &ranges[tilted(&(0..ranges.len()).collect::<Vec<_>>(), good, draw)];
                // A quarter of the numbers lie at a bound, where the rule is decided.
                Value::Number(match draw.below(8) {
                    0 => low,
                    1 => high,
                    _ => draw.between(low, high),
                })
            }
        })
        .collect();
    if draw.percent(18) {
        let missing = draw.below(values.len());
        if let Some(value) = values.get_mut(missing) {
            *value = Value::Missing;
        }
    }
    values
}

/// An item of the better half of `best_first` in `good` of a hundred draws, else of the worse half.
fn tilted(best_first: &[usize], good: usize, draw: &mut Draw) -> usize {
    let (better, worse) = best_first.split_at(best_first.len().div_ceil(2));
    let half = if draw.percent(good) || worse.is_empty() { better } else { worse };
    draw.pick(half).copied().unwrap_or(0)
}

fn one<'t, S: AsRef<str>>(texts: &'t [S], draw: &mut Draw) -> &'t str {
    draw.pick(texts).map_or("", |text| text.as_ref())
}

fn written(factor: &Factor, value: Value, language: Language, draw: &mut Draw) -> Option<String> {
    match (&factor.kind, value) {
        (Kind::Number { values, .. }, Value::Number(number)) => {
            Some(one(values.of(language), draw).replace("{}", &number.to_string()))
        }
        (Kind::Choice { options }, Value::Choice(index)) => {
            options.get(index).map(|option| one(option.words.of(language), draw).to_string())
        }
        _ => None,
    }
}

fn write(policy: &Policy, application: &Application, language: Language, draw: &mut Draw) -> String {
    let words = match language {
        Language::En => &EN,
        Language::Zh => &ZH,
    };
    let &(colon, separator) = draw.pick(words.separators).unwrap_or(&(": ", "\n"));
    let mut fields: Vec<String> = Vec::new();
    for (factor, &value) in policy.factors.iter().zip(&application.values) {
        let label = one(factor.labels.of(language), draw);
        match written(factor, value, language, draw) {
            Some(text) => fields.push(format!("{label}{colon}{text}")),
            // A missing field is named as unknown or not there at all.
            None if draw.percent(50) => fields.push(format!("{label}{colon}{}", one(words.unknown, draw))),
            None => {}
        }
    }
    if draw.percent(40) {
        let (label, text) = words.age;
        fields.push(format!("{label}{colon}{}", text.replace("{}", &draw.between(19, 75).to_string())));
    }
    if draw.percent(30) {
        fields.push(format!("{}{colon}{}", words.city, one(words.cities, draw)));
    }
    if draw.percent(30) {
        fields.push(one(words.notes, draw).to_string());
    }
    draw.shuffle(&mut fields);
    if draw.percent(60) {
        fields.insert(0, format!("{}{colon}{}", words.name, one(words.names, draw)));
    }
    format!("{}\n{}", one(words.asks, draw), fields.join(separator))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credit::check::check;
    use std::collections::BTreeMap;

    fn policy() -> Policy {
        Policy::from_toml(include_str!("../../../../demo/policy.toml")).unwrap()
    }

    const BOTH: [Language; 2] = [Language::En, Language::Zh];

    #[test]
    fn every_generated_answer_satisfies_the_policy() {
        let policy = policy();
        for case in Generator::new(&policy, 3).cases(3_000, &BOTH) {
            let verdict = check(&policy, &case.application, &case.answer);
            assert!(verdict.policy_ok(), "{}: {:?}", case.id, verdict.violations);
        }
    }

    #[test]
    fn a_changed_digit_is_always_caught() {
        let policy = policy();
        for case in Generator::new(&policy, 4).cases(300, &BOTH) {
            for (at, byte) in case.answer.bytes().enumerate().filter(|(_, b)| b.is_ascii_digit()) {
                let mut text = case.answer.clone().into_bytes();
                text[at] = if byte == b'9' { b'8' } else { byte + 1 };
                let text = String::from_utf8(text).unwrap();
                assert!(!check(&policy, &case.application, &text).policy_ok(), "{text}");
            }
        }
    }

    #[test]
    fn no_record_comes_twice_so_a_split_is_disjoint() {
        let policy = policy();
        let mut generator = Generator::new(&policy, 1);
        let train = generator.cases(4_000, &BOTH);
        let held_out = generator.cases(400, &BOTH);
        let seen: HashSet<&Application> = train.iter().map(|c| &c.application).collect();
        assert_eq!(seen.len(), train.len());
        assert!(held_out.iter().all(|c| !seen.contains(&c.application)));
        let texts: HashSet<&str> = train.iter().chain(&held_out).map(|c| c.prompt.as_str()).collect();
        assert_eq!(texts.len(), train.len() + held_out.len());
    }

    #[test]
    fn the_same_seed_gives_the_same_cases_and_another_seed_others() {
        let policy = policy();
        let rows =
            |seed| Generator::new(&policy, seed).cases(50, &BOTH).iter().map(CreditCase::to_row).collect::<Vec<_>>();
        assert_eq!(rows(5), rows(5));
        assert_ne!(rows(5), rows(6));
    }

    #[test]
    fn every_decision_bin_bound_and_gap_occurs() {
        let policy = policy();
        let cases = Generator::new(&policy, 2).cases(2_000, &[Language::Zh]);
        let mut decisions: BTreeMap<String, usize> = BTreeMap::new();
        for case in &cases {
            *decisions.entry(case.application.answer(&policy).decision).or_default() += 1;
        }
        assert!(decisions.len() == 3 && decisions.values().all(|&n| n > 400), "{decisions:?}");
        for (i, factor) in policy.factors.iter().enumerate() {
            let values: HashSet<Value> = cases.iter().map(|c| c.application.values[i]).collect();
            assert!(values.contains(&Value::Missing), "{} is never missing", factor.key);
            match &factor.kind {
                Kind::Number { bins, .. } => {
                    for bound in bins.iter().filter_map(|bin| bin.below) {
                        assert!(values.contains(&Value::Number(bound)) && values.contains(&Value::Number(bound - 1)));
                    }
                }
                Kind::Choice { options } => {
                    assert!((0..options.len()).all(|o| values.contains(&Value::Choice(o))));
                }
            }
        }
    }

    #[test]
    fn a_text_holds_every_stated_value() {
        let policy = policy();
        for case in Generator::new(&policy, 9).cases(500, &BOTH) {
            for (factor, &value) in policy.factors.iter().zip(&case.application.values) {
                match (&factor.kind, value) {
                    (_, Value::Number(number)) => {
                        assert!(case.prompt.contains(&number.to_string()), "{}", case.prompt)
                    }
                    (Kind::Choice { options }, Value::Choice(i)) => assert!(
                        options[i].words.of(case.language).iter().any(|w| case.prompt.contains(w)),
                        "{}",
                        case.prompt
                    ),
                    _ => {}
                }
            }
        }
    }
}
