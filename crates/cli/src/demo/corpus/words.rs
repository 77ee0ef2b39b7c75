//! Rows about words: lists as JSON, translation, short talk.
use super::field::Field;
use super::{Row, by, one};
use loar_eval::credit::Language;
use loar_eval::rng::Draw;

/// Common words of office, home and nature.
pub const WORDS: [&str; 28] = [
    "apple", "river", "garden", "market", "home", "business", "house", "car", "tea", "review", "approve", "decline",
    "decision", "reasons", "steps", "total", "missing", "debt", "work", "late", "security", "purpose", "account",
    "points", "high", "low", "middle", "none",
];

/// Words of a text as a JSON list.
pub fn word_list(language: Language, draw: &mut Draw) -> Row {
    let words: Vec<&str> = (0..1 + draw.below(5)).map(|_| one(&WORDS, draw)).collect();
    let mut shown = words.clone();
    let question = match draw.below(3) {
        0 => by(language, "As a JSON list:", "写成 JSON 列表："),
        1 => {
            shown.reverse();
            by(language, "Backwards as a JSON list:", "倒序写成 JSON 列表：")
        }
        _ => {
            shown.truncate(1);
            by(language, "The first as a JSON list:", "第一个写成 JSON 列表：")
        }
    };
    let list: Vec<String> = shown.iter().map(|word| format!("\"{word}\"")).collect();
    Row::new(format!("{question} {}", words.join(by(language, ", ", "、"))), format!("[{}]", list.join(",")))
}

const PAIRS: [(&str, &str); 24] = [
    ("apple", "苹果"),
    ("bread", "面包"),
    ("river", "河流"),
    ("stone", "石头"),
    ("letter", "信件"),
    ("garden", "花园"),
    ("window", "窗户"),
    ("market", "市场"),
    ("family", "家庭"),
    ("summer", "夏天"),
    ("winter", "冬天"),
    ("music", "音乐"),
    ("review", "复核"),
    ("approve", "批准"),
    ("decline", "拒绝"),
    ("decision", "决定"),
    ("reasons", "理由"),
    ("steps", "步骤"),
    ("total", "总计"),
    ("missing", "缺少"),
    ("good", "好"),
    ("bad", "坏"),
    ("high", "高"),
    ("low", "低"),
];

/// A word in the other language, or as its code.
pub fn translate(fields: &[Field], language: Language, draw: &mut Draw) -> Row {
    if draw.percent(60) {
        let (mut asked, mut codes) = (Vec::new(), Vec::new());
        for _ in 0..1 + draw.below(3) {
            let options = draw.pick(fields).map(|f| f.options(language, draw)).unwrap_or_default();
            if let Some((code, word)) = draw.pick(&options) {
                asked.push(word.clone());
                codes.push(format!("\"{code}\""));
            }
        }
        if !codes.is_empty() {
            let question = by(language, "Codes of", "代码：");
            let text = format!("{question} {}", asked.join(by(language, ", ", "、")));
            return Row::new(text, format!("[{}]", codes.join(",")));
        }
    }
    let &(en, zh) = draw.pick(&PAIRS).unwrap_or(&("good", "好"));
    match language {
        Language::En => Row::new(format!("{en} in Chinese"), zh),
        Language::Zh => Row::new(format!("{zh}的英文"), en),
    }
}

const TALK: [(&str, &str, &str, &str); 8] = [
    ("Hello!", "Hello, how can I help you?", "你好！", "你好，有什么可以帮你？"),
    ("Who are you?", "I am a small assistant.", "你是谁？", "我是一个小助手。"),
    ("Thank you.", "You are welcome.", "谢谢。", "不客气。"),
    ("Good morning.", "Good morning to you.", "早上好。", "早上好。"),
    ("What can you do?", "I read records and follow rules.", "你会做什么？", "我能读记录，按规则回答。"),
    ("Are you ready?", "Yes, I am ready.", "准备好了吗？", "准备好了。"),
    ("Goodbye.", "Goodbye, see you soon.", "再见。", "再见，下次见。"),
    ("Please wait.", "I wait for your question.", "请稍等。", "我等你的问题。"),
];

/// A greeting, or a short sentence said again.
pub fn talk(language: Language, draw: &mut Draw) -> Row {
    if draw.percent(25) {
        let &(en, en_answer, zh, zh_answer) = draw.pick(&TALK).unwrap_or(&("Hello!", "Hello.", "你好！", "你好。"));
        return match language {
            Language::En => Row::new(en, en_answer),
            Language::Zh => Row::new(zh, zh_answer),
        };
    }
    let (who, does, what) = match language {
        Language::En => (
            one(&["The teacher", "My friend", "The bank", "A doctor", "The child", "Our team"], draw),
            one(&["reads", "sends", "reviews", "keeps", "opens", "approves", "declines", "decides on"], draw),
            one(&["the letter", "the application", "the loan", "the report", "a request", "the account"], draw),
        ),
        Language::Zh => (
            one(&["老师", "我的朋友", "银行", "医生", "孩子", "我们"], draw),
            one(&["阅读", "发送", "审核", "评估", "打开", "批准", "拒绝", "决定"], draw),
            one(&["信件", "这份申请", "贷款", "报告", "请求", "账户"], draw),
        ),
    };
    let sentence = match language {
        Language::En => format!("{who} {does} {what}."),
        Language::Zh => format!("{who}{does}{what}。"),
    };
    match draw.below(3) {
        0 => Row::new(format!("{} {sentence}", by(language, "Say again:", "请重复：")), sentence),
        1 => Row::new(format!("{} {sentence}", by(language, "Who does it?", "谁在做？")), by(language, who, who)),
        _ => Row::new(format!("{} {sentence}", by(language, "With what?", "对什么？")), what),
    }
}
