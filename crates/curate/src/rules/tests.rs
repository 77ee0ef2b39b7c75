//! Presets against the expectations of the projects they come from, every measure with a text that
//! passes and one that fails, faults of rule files, preview.

use super::*;
use crate::testing::{chat, rows, talk, text};
use loar_text::Body;

fn preset(name: &str) -> Op {
    Op::new(Options { presets: vec![name.into()], ..Options::default() }).unwrap_or_else(|faults| {
        panic!("{}", faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
    })
}

/// Rules of one file.
fn own(rules: &str) -> Op {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("own.toml");
    std::fs::write(&path, rules).unwrap();
    Op::new(Options { presets: vec![], files: vec![path], ..Options::default() }).unwrap()
}

/// Ids that speak against a text, in the order of the file.
fn ids(op: &Op, batch: &Batch) -> Vec<String> {
    let mut ids: Vec<(usize, String)> = op
        .apply(batch)
        .findings
        .iter()
        .map(|f| {
            let at = op.rules().iter().position(|rule| rule.name == f.rule).unwrap();
            (at, f.rule.split('/').next_back().unwrap().to_owned())
        })
        .collect();
    ids.sort();
    ids.into_iter().map(|(_, id)| id).collect()
}

/// The reason that a filter which stops at the first would give.
fn first(op: &Op, content: &str) -> Option<String> {
    ids(op, &text(content)).into_iter().next()
}

/// Only the repetition rules of the preset.
fn gopher_repetition() -> Op {
    let all = preset("gopher");
    let off = all.rules().iter().map(|r| r.name.clone()).filter(|name| name.starts_with("gopher/gopher_"));
    Op::new(Options { presets: vec!["gopher".into()], off: off.collect(), ..Options::default() }).unwrap()
}

#[test]
fn gopher_repetition_gives_datatroves_reasons() {
    let op = gopher_repetition();
    let x30 = "x".repeat(30);
    let x40 = "x".repeat(40);
    let tail = "Nobody on the island had seen the lighthouse keeper since the storm, yet every evening at dusk the lamp \
                turned as before. Some said that he had gone mad; others that it burned by itself, as old things may do \
                when people have relied on them for long enough to forget how they work.";
    let cases = [
        ("We sail at dawn.\n".repeat(4), "dup_line_frac"),
        ("We sail at dawn.\n\n".repeat(4), "dup_para_frac"),
        (
            format!("One is here.\n\nTwo are over there.\n\nThree went home now.\n\n{x30}.\n\n{x30}.\n\n"),
            "dup_para_char_frac",
        ),
        (format!("One is here.\nTwo are over there.\nThree went home now.\n{x40}.\n{x40}.\n"), "dup_line_char_frac"),
        ("I am Peter, I am Peter, I am Peter".into(), "top_2_gram"),
        ("I am Peter, you are Anne. I am Peter. I am Peter you are Anne".into(), "top_3_gram"),
        (format!("{}{tail}", "I was a calm philosopher ".repeat(4)), "duplicated_5_n_grams"),
    ];
    for (content, reason) in cases {
        assert_eq!(first(&op, &content).as_deref(), Some(reason), "{content}");
    }
    assert_eq!(first(&op, tail), None);
}

#[test]
fn gopher_quality_gives_datatroves_reasons() {
    // Its tests use 10 to 1000 words.
    let rules = PRESETS.iter().find(|(name, _)| *name == "gopher").unwrap().1;
    let op = own(&rules.replace("min = 50", "min = 10").replace("max = 100000", "max = 1000"));
    let off: Vec<String> = op.rules().iter().map(|rule| rule.name.clone()).collect();
    assert!(off.iter().any(|name| name == "own/gopher_short_doc"));
    let cases = [
        ("Much too short...".to_owned(), "gopher_short_doc"),
        ("word ".repeat(1001), "gopher_long_doc"),
        ("I am ".repeat(20), "gopher_below_avg_threshold"),
        ("internationally ".repeat(20), "gopher_above_avg_threshold"),
        ("# remark ".repeat(20), "gopher_too_many_hashes"),
        ("... remark ".repeat(20), "gopher_too_many_ellipsis"),
        (
            "the ./!*?<><> pear <?////> quince  ++ intercontinental !<>??? have".repeat(20),
            "gopher_below_alpha_threshold",
        ),
        (format!("{}\n", "- many words stand here to be counted as such").repeat(20), "gopher_too_many_bullets"),
        (
            format!("{}\n", "many words stand here to be counted, the more the merrier…").repeat(8),
            "gopher_too_many_end_ellipsis",
        ),
        (
            "Every sentence here lacks those little helpers, which makes parsing very awkward indeed.".into(),
            "gopher_enough_stop_words",
        ),
    ];
    for (content, reason) in cases {
        assert_eq!(first(&op, &content).as_deref(), Some(reason), "{content}");
    }
    let good =
        "Nobody on the island had seen the keeper since the storm, and they began to wonder what he would have done.";
    assert!(!ids(&op, &text(good)).iter().any(|id| id.starts_with("gopher_")));
}

#[test]
fn c4_gives_datatroves_reasons() {
    let off = vec!["c4/too_few_long_lines".into()];
    let op = Op::new(Options { presets: vec!["c4".into()], off, ..Options::default() }).unwrap();
    let line = "This line has more than three words.\n";
    assert_eq!(first(&op, &line.repeat(5)), None);
    assert_eq!(
        first(&op, &format!("{line}Here is lorem ipsum dolor once more.\n{}", line.repeat(4))).as_deref(),
        Some("lorem_ipsum")
    );
    assert_eq!(
        first(&op, &format!("{line}A brace {{ stands in it.\n{}", line.repeat(4))).as_deref(),
        Some("curly_bracket")
    );
    assert_eq!(first(&op, "Only one sentence.").as_deref(), Some("too_few_sentences"));
    // Lines without an end mark, with two words, with a policy phrase or a script do not count.
    let rest = "no mark at the end\nTwo words.\nThis page uses cookies for that.\nPlease enable JavaScript to go on.\nand so on...\n";
    assert_eq!(first(&op, &format!("{}{rest}", line.repeat(4))).as_deref(), Some("too_few_sentences"));
    let paragraphs = preset("c4");
    let long = "y".repeat(250);
    assert!(!ids(&paragraphs, &text(&format!("{long}\n{long}\n{long}"))).contains(&"too_few_long_lines".to_owned()));
    assert!(ids(&paragraphs, &text("short\nshort\nshort")).contains(&"too_few_long_lines".to_owned()));
}

#[test]
fn fineweb_gives_datatroves_reasons() {
    let op = preset("fineweb");
    let own_line =
        own(&PRESETS.iter().find(|(name, _)| *name == "fineweb").unwrap().1.replace("min = 0.12", "min = 0.5"));
    assert_eq!(first(&op, "").as_deref(), Some("empty"));
    assert_eq!(first(&own_line, "No mark here\nNor in this line\nStill nothing").as_deref(), Some("line_punct_ratio"));
    assert_eq!(first(&op, "hey.\nbye.\nok.\nno.\nyes.").as_deref(), Some("short_line_ratio"));
    let lines = [
        "The first line is long enough and has its mark.",
        "The second line says something else at length.",
        "The third one ends the little text with dignity.",
    ];
    assert_eq!(first(&op, &lines.join("\n")), None);
    let doubled = [lines[0], lines[1], lines[2], lines[0]].join("\n");
    assert_eq!(first(&op, &doubled).as_deref(), Some("char_dup_ratio"));
    let list = (0..50).map(|i| format!("{i:0>31}.")).collect::<Vec<_>>().join("\n");
    assert!(ids(&op, &text(&list)).contains(&"list_ratio".to_owned()));
}

#[test]
fn chinese_web_pages_have_their_own_bounds() {
    let op = preset("fineweb2-zh");
    let good = "人民法院在审理案件的时候，应当依照法律的规定，查明案件的事实，分清是非和责任，保护当事人的合法权益。\
                审判人员应当认真听取双方的意见，并在判决书中写明理由，使当事人明白为什么胜诉或者败诉。";
    assert_eq!(first(&op, good), None);
    assert!(ids(&op, &text(&"好好好好好好好好".repeat(9))).iter().any(|id| id.starts_with("duplicated_")));
    assert!(ids(&op, &text("第一 第二 第三")).contains(&"stop_words".to_owned()));
    assert_eq!(first(&op, "An English text is no business of these rules"), None);
}

#[test]
fn nemo_bounds_are_held() {
    let op = preset("nemo");
    let good = "A page of ordinary prose has few digits. It has no links to speak of.\nIt ends its lines with marks.";
    assert_eq!(first(&op, good), None);
    let cases = [
        ("!!! ??? *** a b c", "non_alpha_numeric"),
        ("12345 and 67890 are numbers.", "numbers"),
        ("See https://example.com/a/very/long/path now.", "urls"),
        ("a           b.", "white_space"),
        ("f(a)(b)(c) is.", "parentheses"),
        ("our privacy policy.\nother words.", "boilerplate"),
        ("one line\nanother line", "punctuation"),
        ("same.\nsame.\nsame.", "repeated_lines"),
        ("same.\nsame.\nsame.", "repeated_lines_by_char"),
        ("same.\n\nsame.\n\nsame.", "repeated_paragraphs"),
        ("same.\n\nsame.\n\nsame.", "repeated_paragraphs_by_char"),
    ];
    for (content, reason) in cases {
        assert!(ids(&op, &text(content)).contains(&reason.to_owned()), "{reason}: {:?}", ids(&op, &text(content)));
    }
}

const GOOD_ZH: (&str, &str) = (
    "什么是诉讼时效？",
    "诉讼时效是权利人请求人民法院保护其民事权利的法定期间。一般为三年，自知道权利受到损害之日起算。",
);
const GOOD_EN: (&str, &str) =
    ("What is a statute of limitations?", "It is the time within which a claim must be brought before a court.");

fn talk2(pair: (&str, &str)) -> Body {
    talk(&[("user", pair.0), ("assistant", pair.1)])
}

/// Each rule of the default presets with one row that it speaks against; good rows get no finding.
#[test]
fn every_default_rule_passes_good_rows_and_speaks_against_a_bad_one() {
    let op = Op::new(Options::default()).unwrap();
    let good =
        rows(&[talk2(GOOD_ZH), talk2(GOOD_EN), talk(&[("system", "简短回答"), ("user", "1+1=?"), ("assistant", "2")])]);
    assert_eq!(ids(&op, &good), Vec::<String>::new());
    let long_zh = "人民法院审理民事案件，应当保障当事人行使诉讼权利";
    let filler_zh: String = (0..80).map(|i| format!("第{i}条规定了不同的事项；")).collect();
    let filler_en: String = (0..80).map(|i| format!("Clause {i} deals with another matter; ")).collect();
    let q = "请说明民事诉讼的基本原则是什么";
    let qe = "Please explain the basic principles of civil procedure to me.";
    let cases: Vec<(&str, Body)> = vec![
        ("sft/turn-order", talk(&[("user", "a question"), ("user", "another question")])),
        (
            "sft/blank-request",
            Body::Completion { prompt: String::new(), completion: "A text that follows nothing.".into() },
        ),
        ("sft/blank-response", Body::Completion { prompt: "Say it".into(), completion: " ".into() }),
        ("sft/replacement-characters", talk2((q, "原\u{FFFD}则"))),
        ("sft/control-characters", talk2((q, "原则\u{8}是"))),
        ("sft/mojibake", talk2((q, "æ³•å¾‹ï¼Œæ³•é™¢"))),
        ("sft/invisible-characters", talk2((q, &"原\u{200B}".repeat(10)))),
        ("sft/open-fence", talk2((q, "```python\nprint(1)"))),
        ("sft/open-brackets", talk2((q, &format!("（（（{filler_zh}")))),
        ("sft/dangling-end", talk2((q, &format!("{filler_zh}首先，")))),
        ("sft/one-character-run", talk2((q, &"啊".repeat(101)))),
        ("sft/repeated-lines", talk2((q, &"人民法院审理民事案件。\n".repeat(60)))),
        ("sft/echo", talk2((q, q))),
        ("sft/language-differs", talk2((q, "The principles are those of equality and of good faith."))),
        ("sft/urls", talk2((q, &format!("https://example.com/{}", "path/".repeat(40))))),
        ("sft/long-response", talk2((q, &"好。".repeat(50_001)))),
        ("sft-zh/short-request", talk2(("啊", "您好，请问您想问什么？"))),
        ("sft-zh/repetition", talk2((q, &long_zh.repeat(20)))),
        ("sft-zh/symbols", talk2((q, &format!("{}法律", "★☆■".repeat(30))))),
        ("sft-zh/cut-off", talk2((q, &format!("{filler_zh}法院应")))),
        ("sft-zh/ai-disclaimer", talk2((q, "作为一个ＡＩ语言模型，我认为如此。"))),
        ("sft-zh/foreign-identity", talk2((q, "我是由OpenAI开发的助手。我由OpenAI训练。"))),
        ("sft-zh/refusal", talk2((q, "很抱歉，我无法回答这个问题。"))),
        ("sft-zh/boilerplate", talk2((q, "原则如下。关注公众号了解详情。"))),
        ("sft-zh/placeholder", talk2((q, "第一，平等。（此处省略若干字）"))),
        ("sft-en/short-request", talk2(("the", "What would you like to know?"))),
        (
            "sft-en/repetition",
            talk2((qe, &"The court shall hear both of the parties to the case before it decides. ".repeat(20))),
        ),
        ("sft-en/symbols", talk2((qe, &format!("{} the end of that and this", "@#".repeat(50))))),
        ("sft-en/cut-off", talk2((qe, &format!("{filler_en}and then the court shal")))),
        ("sft-en/long-word", talk2((qe, &format!("This is what it was: {}.", "ab".repeat(300))))),
        ("sft-en/ai-disclaimer", talk2((qe, "As an AI\nlanguage model, I think that it is so."))),
        ("sft-en/foreign-identity", talk2((qe, "I was trained by OpenAI to help you with that."))),
        ("sft-en/refusal", talk2((qe, "I'm sorry, but I can't help you with that."))),
        ("sft-en/boilerplate", talk2((qe, "These are the principles. All rights reserved."))),
        ("sft-en/placeholder", talk2((qe, "Dear Sir, this is from [Your Name] for you."))),
    ];
    for rule in op.rules() {
        let (_, body) =
            cases.iter().find(|(name, _)| *name == rule.name).unwrap_or_else(|| panic!("no row for `{}`", rule.name));
        let found = op.apply(&rows(std::slice::from_ref(body))).findings;
        let hit = found.iter().find(|f| f.rule == rule.name);
        assert!(hit.is_some(), "`{}` lets its row pass: {found:?}", rule.name);
        assert_eq!(hit.map(|f| f.action), Some(rule.action));
    }
    assert_eq!(cases.len(), op.rules().len());
}

/// Every measure with bounds that one text keeps and another breaks.
#[test]
fn every_measure_tells_two_texts_apart() {
    let zh = "法院";
    let cases: Vec<(&str, &str, &str, &str)> = vec![
        ("chars", "max = 2", zh, "人民法院"),
        ("words", "min = 2", "two words", "one."),
        ("lines", "max = 1", "a\n\n", "a\nb"),
        ("mean-word-length", "max = 3", "the cat", "parliament"),
        ("longest-word", "max = 5", "a b", "abcdefg"),
        ("alpha-words", "min = 0.5", "a b 1", "1 2 3"),
        ("stop-words", "min = 1\nwords = [\"the\"]", "the cat", "a cat"),
        ("hashes-per-word", "max = 0.2", "no", "# # a"),
        ("ellipses-per-word", "max = 0.2", "no", "a … b"),
        ("newlines-per-word", "max = 0.5", "a b", "a\n\n\nb"),
        ("bullet-lines", "max = 0.5", "a\n- b", "- a\n• b"),
        ("ellipsis-lines", "max = 0.3", "a\nb", "a…\nb..."),
        ("ended-lines", "min = 0.5", "a.\nb", "a\nb"),
        ("short-lines", "max = 0.5\nn = 3", "abcd\nabcde", "a\nb"),
        ("long-lines", "min = 1\nn = 3", "abc", "ab"),
        ("blank", "max = 0", "a", " \n"),
        ("dup-lines", "max = 0.2", "a\nb", "a\na"),
        ("dup-line-chars", "max = 0.2", "a\nb", "a\na"),
        ("dup-paragraphs", "max = 0.2", "a\n\nb", "a\n\na"),
        ("dup-paragraph-chars", "max = 0.2", "a\n\nb", "a\n\na"),
        ("dup-text-chars", "max = 0.2", "a\nb", "a\na"),
        ("unique-lines", "min = 0.7", "a\nb", "a\na"),
        ("unique-line-chars", "min = 0.7", "a\nb", "a\na"),
        ("unique-paragraphs", "min = 0.7", "a\n\nb", "a\n\na"),
        ("unique-paragraph-chars", "min = 0.7", "a\n\nb", "a\n\na"),
        ("top-ngram", "max = 0.6\nn = 2", "a b c d e f", "a b a b a b"),
        ("dup-ngram", "max = 0.2\nn = 2", "a b c d", "a b a b"),
        ("dup-char-ngram", "max = 0.2\nn = 2", "原告被告", "原告原告"),
        ("longest-run", "max = 3", "aaab----------", "aaaa"),
        ("non-alnum", "max = 0.4", "ab.", "a.."),
        ("digits", "max = 0.4", "ab1", "a12"),
        ("urls", "max = 0.3", "no link", "http://a.cn"),
        ("space", "max = 0.3", "ab c", "a  b"),
        ("parens", "max = 0.4", "ab(c", "（）a"),
        ("symbols", "max = 0.3", "法，。", "法★★"),
        ("replacements", "max = 0", "a", "\u{FFFD}"),
        ("controls", "max = 0", "a\t\r\n", "\u{7}"),
        ("invisibles", "max = 0", "👨\u{200D}👩", "a\u{200B}b"),
        ("mojibake", "max = 0", "café", "cafÃ©"),
        ("unended", "max = 0.5", "a.\nb", "a\nb"),
        ("ended", "min = 1", "好。", "好"),
        ("dangling", "max = 0", "好。", "好，"),
        ("open-fence", "max = 0", "```\na\n```", "```\na"),
        ("open-brackets", "max = 0", "（a）", "（a"),
        ("sentences", "min = 1", "This is one sentence.", "no sentence here"),
        ("braces", "max = 0", "a", "{"),
        ("phrases", "max = 0\nwords = [\"as an AI\"]", "was an aide", "Ａs an ai, I"),
        ("phrase-lines", "max = 0.4\nwords = [\"terms of use\"]", "a\nb\nTerms of use", "Terms of use\na"),
        ("matches", "max = 0\npattern = '\\d{4}'", "123", "1234"),
        ("json", "min = 1", "{\"a\": 1}", "{\"a\": 1}。"),
        ("json-keys", "min = 1\nwords = [\"a\", \"b\"]", "{\"a\": 1, \"b\": 2}", "{\"a\": 1}"),
        ("label", "min = 1\nwords = [\"正面\", \"负面\"]", "负面。", "中立"),
        ("number", "min = 1", "#### 7", "seven"),
        ("fence", "min = 1", "```\na\n```", "a"),
        ("list", "min = 2", "1. a\n2. b", "1. a"),
    ];
    for (measure, keys, passes, fails) in &cases {
        let op = own(&format!("[[rule]]\nid = \"it\"\nmeasure = \"{measure}\"\n{keys}\n"));
        assert_eq!(ids(&op, &text(passes)), Vec::<String>::new(), "`{measure}` of {passes:?}");
        assert_eq!(ids(&op, &text(fails)), ["it"], "`{measure}` of {fails:?}");
    }
    let same = talk(&[("user", "法院是什么机关呢？"), ("assistant", "法院是什么机关呢？")]);
    let translated =
        talk(&[("user", "请翻译：法院依法独立审判"), ("assistant", "The court adjudicates independently by law.")]);
    let differs =
        talk(&[("user", "法院依法做什么工作？"), ("assistant", "The court adjudicates independently by law.")]);
    let whole: Vec<(&str, &str, Body, Body)> = vec![
        ("turn-faults", "max = 0", talk2(GOOD_ZH), talk(&[("assistant", "a")])),
        ("turns", "max = 2", talk2(GOOD_ZH), talk(&[("system", "s"), ("user", "u"), ("assistant", "a")])),
        ("language-differs", "max = 0\nwords = [\"翻译\"]", translated, differs),
        ("length-ratio", "max = 4", talk2(("four", "four")), talk2(("a", "abcdef"))),
        ("echo", "max = 0", talk2(GOOD_ZH), same),
    ];
    for (measure, keys, passes, fails) in &whole {
        let op = own(&format!("[[rule]]\nid = \"it\"\nmeasure = \"{measure}\"\n{keys}\n"));
        assert_eq!(ids(&op, &rows(std::slice::from_ref(passes))), Vec::<String>::new(), "`{measure}`");
        assert_eq!(ids(&op, &rows(std::slice::from_ref(fails))), ["it"], "`{measure}`");
    }
    let tried: Vec<&str> = cases.iter().map(|c| c.0).chain(whole.iter().map(|c| c.0)).collect();
    for entry in MEASURES.iter().filter(|entry| entry.measure != Measure::Tokens) {
        assert!(tried.contains(&entry.name), "`{}` is not tried", entry.name);
        assert_eq!(entry.measure.entry().name, entry.name);
    }
}

#[test]
fn turn_order_knows_tools_calls_and_pairs() {
    let op = own("[[rule]]\nid = \"order\"\nmeasure = \"turn-faults\"\nmax = 0\n");
    let mut call = loar_text::Message::assistant("");
    call.tool_calls = vec![serde_json::json!({"id": "1"})];
    let messages = vec![
        loar_text::Message::user("u"),
        call,
        loar_text::Message::new("tool", "42"),
        loar_text::Message::assistant("a"),
    ];
    let tools = Body::Chat(loar_text::Conversation { messages, ..Default::default() });
    let good = [tools, Body::Text("t".into()), Body::Completion { prompt: "p".into(), completion: "c".into() }];
    assert!(op.apply(&rows(&good)).findings.is_empty());
    let bad = [
        talk(&[("user", "u"), ("assistant", "")]),
        talk(&[("user", "u"), ("system", "s"), ("assistant", "a")]),
        talk(&[("user", "u"), ("assistant", "a"), ("assistant", "b")]),
        talk(&[("user", "u"), ("assistant", "a"), ("tool", "t")]),
        talk(&[("user", "u"), ("narrator", "a")]),
    ];
    for body in &bad {
        assert_eq!(op.apply(&rows(std::slice::from_ref(body))).findings.len(), 1, "{body:?}");
    }
}

#[test]
fn task_types_select_contracts() {
    let rules =
        "[[rule]]\nid = \"contract\"\nmeasure = \"json\"\nmin = 1\nfield = \"response\"\ntask = \"extraction\"\n";
    let op = own(rules);
    assert!(op.asks_for_task());
    let bodies = [talk2(("抽取实体", "没有")), talk2(("抽取实体", "没有"))];
    let batch = rows(&bodies);
    let column: arrow_array::ArrayRef = std::sync::Arc::new(StringArray::from(vec!["extraction", "chat"]));
    let field = arrow_schema::Field::new("task_type", arrow_schema::DataType::Utf8, true);
    let found = op.apply(&batch.with_columns(vec![(std::sync::Arc::new(field), column)])).findings;
    assert_eq!(found.iter().map(|f| f.row).collect::<Vec<_>>(), [0]);
    let mut builder = crate::batch::BatchBuilder::new();
    let mut kept = serde_json::Map::new();
    kept.insert("task_type".into(), "extraction".into());
    builder.push(0, 0, 1, &bodies[0], &kept);
    assert_eq!(op.apply(&builder.finish()).findings.len(), 1);
}

#[test]
fn evidence_names_value_bound_and_place() {
    let op = Op::new(Options::default()).unwrap();
    let found =
        op.apply(&chat(&[("user", "介绍一下自己"), ("assistant", "你好。作为一个ＡＩ语言模型，我很好。")])).findings;
    let hit = found.iter().find(|f| f.rule == "sft-zh/ai-disclaimer").unwrap();
    let place = hit.at.unwrap();
    assert_eq!(&"你好。作为一个ＡＩ语言模型，我很好。"[place.start..place.end], "作为一个ＡＩ语言模型");
    assert_eq!((place.turn, hit.value, hit.bound), (1, Some(1.0), Some(0.0)));
    assert!(!hit.note.is_empty());
}

#[test]
fn every_fault_of_a_file_has_its_line() {
    let bad = "\
[[rule]]
id = \"one\"
measure = \"mean-word-lenght\"
max = 1

[[rule]]
id = \"two\"
measure = \"chars\"
mx = 3

[[rule]]
id = \"three\"
measure = \"top-ngram\"
max = \"ten\"

[[rule]]
id = \"four\"
measure = \"matches\"
pattern = '(?=x)'
max = 0
action = \"delete\"
field = [\"answer\"]

[[rule]]
id = \"two\"
measure = \"turns\"
min = 5
max = 2
field = \"request\"
words = [1]

[other]
x = 1
";
    let faults = read("bad", "bad.toml", bad).unwrap_err();
    let lines: Vec<(usize, String)> = faults.iter().map(|f| (f.line.unwrap(), f.to_string())).collect();
    let expected = [
        (3, "did you mean `mean-word-length`"),
        (9, "did you mean `max`"),
        (6, "neither `min` nor `max`"),
        (14, "`max` is the text `ten`"),
        (11, "without `n`"),
        (19, "look-around"),
        (21, "`delete`"),
        (22, "`answer`"),
        (24, "`min` 5 above `max` 2"),
        (29, "leave `field` out"),
        (30, "the number 1"),
        (30, "leave it out"),
        (32, "`other` at the top"),
    ];
    for (line, text) in expected {
        assert!(lines.iter().any(|(at, fault)| *at == line && fault.contains(text)), "line {line}: {text}\n{lines:#?}");
    }
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    let twice =
        "[[rule]]\nid = \"a\"\nmeasure = \"chars\"\nmax = 1\n[[rule]]\nid = \"a\"\nmeasure = \"chars\"\nmax = 1\n";
    assert!(read("t", "t.toml", twice).unwrap_err()[0].to_string().contains("first at line 1"));
    assert!(read("t", "t.toml", "[[rule]\n").unwrap_err()[0].line == Some(1));
    assert!(read("t", "t.toml", "").unwrap_err()[0].to_string().contains("no rule"));
}

#[test]
fn faults_of_options_are_all_named() {
    let bad = Options {
        presets: vec!["sft-cn".into()],
        files: vec!["missing/rules.toml".into()],
        off: vec!["sft/none".into()],
        ..Options::default()
    };
    let faults = Op::new(bad).err().unwrap();
    assert_eq!(faults.iter().map(|f| f.key.as_str()).collect::<Vec<_>>(), ["presets", "files", "off"]);
    assert!(faults[0].mend.contains("`sft-zh`") || faults[0].mend.contains("`sft-en`"));
}

#[test]
fn actions_can_be_changed_and_rules_left_out() {
    let options = Options {
        off: vec!["sft/echo".into()],
        note: vec!["sft/open-fence".into()],
        drop: vec!["sft-zh/refusal".into()],
        ..Options::default()
    };
    let op = Op::new(options).unwrap();
    let action = |name: &str| op.rules().iter().find(|rule| rule.name == name).map(|rule| rule.action);
    assert_eq!(action("sft/echo"), None);
    assert_eq!(action("sft/open-fence"), Some(Action::Note));
    assert_eq!(action("sft-zh/refusal"), Some(Action::Drop));
}

#[test]
fn a_preview_counts_every_rule_and_merges() {
    let op = Op::new(Options::default()).unwrap();
    let bodies: Vec<Body> = (0..20)
        .map(|i| match i % 4 {
            0 => talk2(("请说明民事诉讼的基本原则", "请说明民事诉讼的基本原则")),
            1 => talk2(("写一段代码，并且解释它", "```python\nprint(1)")),
            _ => talk2(GOOD_ZH),
        })
        .collect();
    let batch = rows(&bodies);
    let mut whole = Preview::new(&op, 3);
    whole.add(&batch);
    assert_eq!(whole.rows(), (20, 10));
    let killed = whole.finish();
    let echo = killed.iter().find(|k| k.rule == "sft/echo").unwrap();
    assert_eq!((echo.rows, echo.alone, echo.looked_at, echo.share), (5, 5, 20, 0.25));
    assert_eq!(echo.examples.iter().map(|e| (e.row, e.line)).collect::<Vec<_>>(), [(0, 1), (4, 5), (8, 9)]);
    assert!(echo.examples[0].text.starts_with("请说明"));
    // Two halves, the second first.
    let mut one = Preview::new(&op, 3);
    let mut two = Preview::new(&op, 3);
    one.add(&batch);
    two.add(&batch);
    two.merge(one);
    let doubled = two.finish();
    assert!(doubled.iter().zip(&killed).all(|(a, b)| a.rows == 2 * b.rows && a.share == b.share));
    assert_eq!(ids(&op, &batch).iter().filter(|id| *id == "echo").count() as u64, echo.rows);
}

/// The reference in the documentation is the tables of the code.
#[test]
fn the_documentation_names_every_key_measure_and_category() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/screening.md");
    let page = std::fs::read_to_string(path).unwrap();
    let takes = |key| match key {
        None => "",
        Some(Key::N) => "`n`",
        Some(Key::Words) => "`words`",
        Some(Key::SomeWords) => "`words`?",
        Some(Key::Pattern) => "`pattern`",
    };
    let measures = MEASURES.iter().map(|e| format!("| `{}` | {} | {} |", e.name, takes(e.key), e.about));
    let keys = KEYS.iter().map(|(key, about)| format!("| `{key}` | {about} |"));
    let categories = crate::compliance::CATEGORIES.iter().map(|(name, about)| format!("| `{name}` | {about} |"));
    let rows: Vec<String> = keys.chain(measures).chain(categories).collect();
    for row in &rows {
        assert!(page.lines().any(|line| line == row), "not in docs/screening.md:\n{row}");
    }
    let table_rows = page.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(table_rows, rows.len(), "docs/screening.md has rows that no code has");
    assert!(PRESETS.iter().all(|(name, _)| page.contains(&format!("`{name}`"))));
}
