//! Fields of records: names and ways to write their values, in both languages.
use loar_eval::credit::policy::{Both, Kind as FactorKind};
use loar_eval::credit::{Language, Policy};
use loar_eval::rng::Draw;

/// A field of records.
pub struct Field {
    /// Short name.
    pub key: String,
    labels: Both<Vec<String>>,
    kind: Kind,
}

enum Kind {
    /// `0..=highest`, with texts in which `{}` stands for the number.
    Number(u32, Both<Vec<String>>),
    /// Codes with their words.
    Words(Vec<(String, Both<Vec<String>>)>),
}

/// A drawn value.
pub struct Drawn {
    /// As a record writes it.
    pub text: String,
    /// As JSON writes it: the number, or the code in quotes.
    pub json: String,
}

impl Field {
    /// A name of the field as records write it: its key in `plain` of a hundred draws, else a label.
    pub fn label(&self, language: Language, plain: usize, draw: &mut Draw) -> String {
        if draw.percent(plain) {
            return self.key.clone();
        }
        draw.pick(self.labels.of(language)).cloned().unwrap_or_default()
    }

    /// A value.
    pub fn value(&self, language: Language, draw: &mut Draw) -> Drawn {
        match &self.kind {
            Kind::Number(highest, texts) => {
                // Small numbers are rarer in 0..=highest than in life.
                let top = if draw.percent(30) { 9.min(*highest) } else { *highest };
                let number = draw.between(0, top).to_string();
                let text = draw.pick(texts.of(language)).map_or("{}", String::as_str);
                Drawn { text: text.replace("{}", &number), json: number }
            }
            Kind::Words(options) => {
                let Some((code, words)) = draw.pick(options) else {
                    return Drawn { text: String::new(), json: "null".into() };
                };
                let text = draw.pick(words.of(language)).cloned().unwrap_or_default();
                Drawn { text, json: format!("\"{code}\"") }
            }
        }
    }

    /// Codes with a word each, for fields of words.
    pub fn options(&self, language: Language, draw: &mut Draw) -> Vec<(String, String)> {
        match &self.kind {
            Kind::Number(..) => Vec::new(),
            Kind::Words(options) => options
                .iter()
                .map(|(code, words)| (code.clone(), draw.pick(words.of(language)).cloned().unwrap_or_default()))
                .collect(),
        }
    }
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

/// Key, English labels, Chinese labels, highest value, English texts, Chinese texts.
type NumberField<'a> = (&'a str, &'a [&'a str], &'a [&'a str], u32, &'a [&'a str], &'a [&'a str]);

const NUMBERS: &[NumberField<'_>] = &[
    ("age", &["age"], &["年龄"], 90, &["{}", "{} years"], &["{}岁", "{}"]),
    ("stock", &["stock", "in stock", "items left"], &["库存", "剩余数量"], 99, &["{}", "{} pieces"], &["{}件", "{}"]),
    ("score", &["score", "test score"], &["成绩", "得分"], 99, &["{}", "{} points"], &["{}分"]),
    ("term", &["term", "contract"], &["期限", "合同期"], 60, &["{} months"], &["{}个月"]),
];

/// Key, English labels, Chinese labels, options of (code, English words, Chinese words).
type WordField<'a> = (&'a str, &'a [&'a str], &'a [&'a str], &'a [(&'a str, &'a [&'a str], &'a [&'a str])]);

const WORDS: &[WordField<'_>] = &[
    (
        "color",
        &["color", "colour"],
        &["颜色"],
        &[
            ("red", &["red"], &["红色", "红"]),
            ("blue", &["blue"], &["蓝色", "蓝"]),
            ("green", &["green"], &["绿色", "绿"]),
            ("black", &["black"], &["黑色", "黑"]),
        ],
    ),
    (
        "job",
        &["job", "profession"],
        &["职业", "工作"],
        &[
            ("teacher", &["teacher"], &["教师", "老师"]),
            ("doctor", &["doctor", "physician"], &["医生", "大夫"]),
            ("driver", &["driver"], &["司机", "驾驶员"]),
            ("cook", &["cook", "chef"], &["厨师"]),
        ],
    ),
];

/// All fields: those of the policy's applications first, then the others.
pub fn all(policy: &Policy) -> Vec<Field> {
    let mut fields: Vec<Field> = policy
        .factors
        .iter()
        .map(|factor| Field {
            key: factor.key.clone(),
            labels: factor.labels.clone(),
            kind: match &factor.kind {
                FactorKind::Number { highest, values, .. } => Kind::Number(*highest, values.clone()),
                FactorKind::Choice { options } => {
                    Kind::Words(options.iter().map(|o| (o.code.clone(), o.words.clone())).collect())
                }
            },
        })
        .collect();
    let both = |en: &[&str], zh: &[&str]| Both { en: strings(en), zh: strings(zh) };
    for &(key, en, zh, highest, texts_en, texts_zh) in NUMBERS {
        let kind = Kind::Number(highest, both(texts_en, texts_zh));
        fields.push(Field { key: key.into(), labels: both(en, zh), kind });
    }
    for &(key, en, zh, options) in WORDS {
        let kind = Kind::Words(options.iter().map(|&(code, en, zh)| (code.to_string(), both(en, zh))).collect());
        fields.push(Field { key: key.into(), labels: both(en, zh), kind });
    }
    fields
}
