//! Rows about records: fields in any order, read out as pairs, as an object, one by one, or by a stated rule.
use super::field::{Drawn, Field};
use super::{Row, by, one};
use loar_eval::credit::Language;
use loar_eval::rng::Draw;

const NAMES_EN: [&str; 12] = [
    "Anna Berg",
    "Tom Hill",
    "Maria Lopez",
    "John Stone",
    "Eva Lind",
    "Paul Weber",
    "Li Na",
    "Sam Reed",
    "Nora Fox",
    "Ben Gray",
    "Kim Lee",
    "Rosa Diaz",
];
const NAMES_ZH: [&str; 12] =
    ["王芳", "李强", "张伟", "刘洋", "陈静", "赵敏", "周杰", "孙丽", "吴刚", "郑红", "林涛", "何美"];
const NOTES_EN: [&str; 8] = [
    "prefers e-mail",
    "called on Monday",
    "has a dog",
    "speaks German",
    "new phone number",
    "likes tea",
    "sent by post",
    "second visit",
];
const NOTES_ZH: [&str; 8] =
    ["希望用邮件联系", "周一来过电话", "养了一只狗", "会说英语", "换了新电话", "喜欢喝茶", "邮寄送达", "第二次来"];
const STYLES_EN: [(&str, &str); 4] = [(": ", "\n"), (" = ", "; "), (": ", ", "), (" is ", ". ")];
const STYLES_ZH: [(&str, &str); 4] = [("：", "\n"), ("：", "；"), ("=", "，"), ("是", "。")];

/// A record with its text.
struct Record<'a> {
    text: String,
    /// The stated fields with their labels and values, in no order.
    stated: Vec<(&'a Field, String, Drawn)>,
    /// Fields that the record says are unknown, or does not name.
    absent: Vec<&'a Field>,
}

/// How hard records are.
#[derive(Clone, Copy, Debug)]
pub struct Ease {
    /// Of a hundred fields, so many carry the name they are asked for by.
    pub plain: usize,
    /// Most fields of a record; below three, nothing else stands in it.
    pub most: usize,
}

/// Records as most rows have them.
pub const USUAL: Ease = Ease { plain: 20, most: 7 };

fn record<'a>(fields: &'a [Field], language: Language, ease: Ease, draw: &mut Draw) -> Record<'a> {
    let mut order: Vec<&Field> = fields.iter().collect();
    draw.shuffle(&mut order);
    // Most records are about one subject: the first six fields, as applications have them, or the others.
    let least = if ease.most < 5 { ease.most.min(2) } else { 3 };
    let count = least + draw.below(ease.most + 1 - least);
    let bare = ease.most < 3;
    if draw.percent(75) {
        let first: Vec<&str> = fields.iter().take(6).map(|f| f.key.as_str()).collect();
        order.sort_by_key(|field| !first.contains(&field.key.as_str()));
    }
    let (used, rest) = order.split_at(count.min(order.len()));
    let styles = by_styles(language);
    let &(colon, separator) = draw.pick(styles).unwrap_or(&(": ", "\n"));
    let mut lines = Vec::new();
    let (mut stated, mut absent) = (Vec::new(), Vec::new());
    for &field in used {
        let label = field.label(language, ease.plain, draw);
        if !bare && draw.percent(8) {
            let unknown = match language {
                Language::En => one(&["unknown", "not stated"], draw),
                Language::Zh => one(&["未提供", "不详"], draw),
            };
            lines.push(format!("{label}{colon}{unknown}"));
            absent.push(field);
            continue;
        }
        let value = field.value(language, draw);
        lines.push(format!("{label}{colon}{}", value.text));
        stated.push((field, label, value));
    }
    if !bare && draw.percent(8) {
        absent.extend(rest.first());
    }
    if !bare && draw.percent(25) {
        lines.push(match language {
            Language::En => one(&NOTES_EN, draw).to_string(),
            Language::Zh => one(&NOTES_ZH, draw).to_string(),
        });
    }
    draw.shuffle(&mut lines);
    if !bare && draw.percent(50) {
        let name = match language {
            Language::En => format!("name{colon}{}", one(&NAMES_EN, draw)),
            Language::Zh => format!("姓名{colon}{}", one(&NAMES_ZH, draw)),
        };
        lines.insert(0, name);
    }
    Record { text: lines.join(separator), stated, absent }
}

fn by_styles(language: Language) -> &'static [(&'static str, &'static str)] {
    match language {
        Language::En => &STYLES_EN,
        Language::Zh => &STYLES_ZH,
    }
}

/// Question first, or record first.
fn joined(question: &str, record: &str, draw: &mut Draw) -> String {
    if draw.percent(60) { format!("{question}\n{record}") } else { format!("{record}\n{question}") }
}

/// Several fields as pairs, as an object, or as bare values; what the record does not say is `null`.
pub fn pairs(fields: &[Field], language: Language, ease: Ease, draw: &mut Draw) -> Row {
    let record = record(fields, language, ease, draw);
    let mut asked: Vec<(&Field, &str)> =
        record.stated.iter().map(|(field, _, value)| (*field, value.json.as_str())).collect();
    asked.extend(record.absent.iter().map(|field| (*field, "null")));
    if draw.percent(70) {
        asked.sort_by_key(|(field, _)| fields.iter().position(|f| f.key == field.key));
    } else {
        draw.shuffle(&mut asked);
    }
    let keys: Vec<&str> = asked.iter().map(|(field, _)| field.key.as_str()).collect();
    let list = keys.join(by(language, ", ", "、"));
    let (question, answer) = match draw.below(10) {
        0..6 => (
            match language {
                Language::En => one(&["Pairs of", "List as pairs:", "Read these as pairs:"], draw),
                Language::Zh => one(&["列出键值对：", "按对给出：", "读出这些键值对："], draw),
            },
            format!("[{}]", asked.iter().map(|(f, v)| format!("[\"{}\",{v}]", f.key)).collect::<Vec<_>>().join(",")),
        ),
        6..8 => (
            by(language, "As a JSON object:", "写成 JSON 对象："),
            format!("{{{}}}", asked.iter().map(|(f, v)| format!("\"{}\":{v}", f.key)).collect::<Vec<_>>().join(",")),
        ),
        _ => (
            by(language, "Only the values of", "只给出数值："),
            format!("[{}]", asked.iter().map(|(_, v)| *v).collect::<Vec<_>>().join(",")),
        ),
    };
    Row::new(joined(&format!("{question} {list}"), &record.text, draw), answer)
}

/// One field, asked for by its label or key.
pub fn one_field(fields: &[Field], language: Language, draw: &mut Draw) -> Row {
    let record = record(fields, language, USUAL, draw);
    let Some((field, label, value)) = draw.pick(&record.stated) else {
        return pairs(fields, language, USUAL, draw);
    };
    let name = if draw.percent(50) { label.as_str() } else { field.key.as_str() };
    let question = match language {
        Language::En => one(&["What is the {}?", "Give the {}.", "{}?"], draw),
        Language::Zh => one(&["{}是多少？", "给出{}。", "{}？"], draw),
    };
    Row::new(joined(&question.replace("{}", name), &record.text, draw), value.json.trim_matches('"'))
}

/// Values of words by a rule that the prompt states.
pub fn word_rule(fields: &[Field], language: Language, draw: &mut Draw) -> Row {
    let of_words: Vec<&Field> = fields.iter().filter(|f| !f.options(language, &mut draw.clone()).is_empty()).collect();
    let Some(field) = draw.pick(&of_words) else {
        return pairs(fields, language, USUAL, draw);
    };
    let mut options: Vec<(String, String, u32)> =
        field.options(language, draw).into_iter().map(|(code, word)| (code, word, 5 * draw.between(0, 6))).collect();
    draw.shuffle(&mut options);
    let rule: Vec<String> = options
        .iter()
        .map(|(_, word, points)| match language {
            Language::En => format!("{word} gives {points}"),
            Language::Zh => format!("{word}得{points}"),
        })
        .collect();
    let count = 1 + draw.below(3);
    let (mut asked, mut answer) = (Vec::new(), Vec::new());
    for _ in 0..count {
        if let Some((code, word, points)) = draw.pick(&options) {
            asked.push(word.clone());
            answer.push(format!("[\"{code}\",{points}]"));
        }
    }
    let text = match language {
        Language::En => format!("{}: {}.\nNow: {}", field.key, rule.join(", "), asked.join(", ")),
        Language::Zh => format!("{}：{}。\n现在：{}", field.key, rule.join("，"), asked.join("、")),
    };
    Row::new(text, format!("[{}]", answer.join(",")))
}
