//! Every transform in both languages where it has both, the gate, the checks, links, determinism.

use loar_text::{Conversation, Message};
use proptest::prelude::*;
use serde_json::Map;

use super::*;
use crate::batch::BatchBuilder;
use crate::models::Scorer;

fn chat(question: &str, answer: &str) -> Body {
    let messages = vec![Message::user(question), Message::assistant(answer)];
    Body::Chat(Conversation { messages, ..Conversation::default() })
}

fn batch(bodies: &[Body]) -> Batch {
    let mut builder = BatchBuilder::new();
    for (at, body) in bodies.iter().enumerate() {
        builder.push(at as u64 + 10, 0, at as u64 + 1, body, &Map::new());
    }
    builder.finish()
}

fn only(transform: &str, seed: u64) -> Augmenter {
    let options = Options { transforms: vec![transform.into()], share: 1.0, seed, ..Options::default() };
    Augmenter::new(options, None).unwrap()
}

fn turn(made: &Made, at: usize) -> &str {
    let Body::Chat(chat) = &made.body else { panic!("a chat") };
    &chat.messages[at].content
}

/// The request that a transform makes of one, if any.
fn said(transform: &str, question: &str) -> Option<String> {
    let (made, _) = only(transform, 1).batch(&batch(&[chat(question, "x")]));
    made.first().map(|m| {
        assert_eq!(m.parents, [10]);
        assert_eq!(turn(m, 1), "x", "the answer stays");
        turn(m, 0).to_owned()
    })
}

#[test]
fn sentence_forms_in_both_languages() {
    for (transform, before, after) in [
        ("question", "请翻译下面的句子：你好", "能请你翻译下面的句子吗：你好"),
        ("question", "Explain how tides work.", "Could you explain how tides work?"),
        ("imperative", "你能帮我写一首诗吗？", "请写一首诗。"),
        ("imperative", "Could you please list the planets?", "List the planets."),
        ("clause-order", "如果明天下雨，那么比赛改到何时？", "比赛改到何时，如果明天下雨？"),
        ("clause-order", "比赛改到何时，如果明天下雨？", "如果明天下雨，那么比赛改到何时？"),
        ("clause-order", "If the rain stops, where do we meet?", "Where do we meet if the rain stops?"),
        ("ba-jiang", "请把这句话译成英文", "请将这句话译成英文"),
        ("list-prose", "Compare these:\n- apples\n- pears\n- plums", "Compare these:\napples; pears; plums"),
        ("case", "Explain how Tides work", "explain how tides work"),
        ("width", "请解释，什么是潮汐？", "请解释,什么是潮汐?"),
    ] {
        assert_eq!(said(transform, before).as_deref(), Some(after), "{transform}: {before}");
    }
    assert!(said("polite", "解释潮汐").unwrap().ends_with("解释潮汐"));
    assert!(said("polite", "Write a poem about tea").unwrap().ends_with("rite a poem about tea"));
    // forms that do not fit are left alone
    for (transform, text) in [
        ("question", "潮汐是什么"),
        ("imperative", "Explain tides"),
        ("clause-order", "If the cat is ill, why does it sleep?"),
        ("ba-jiang", "公司将于明日开会"),
        ("list-prose", "- a\n- b"),
    ] {
        assert_eq!(said(transform, text), None, "{transform}: {text}");
    }
}

#[test]
fn synonyms_and_typos_never_touch_what_is_protected() {
    assert_eq!(said("synonym", "Please help me").as_deref(), Some("Please assist me"));
    assert_eq!(said("synonym", "请“解释”它"), None, "a quoted word stays");
    assert_eq!(said("synonym", "run `help` now"), None, "code stays");
    let slip = said("typo-homophone", "他在家做饭").unwrap();
    assert_eq!(slip.chars().count(), 5);
    assert_ne!(slip, "他在家做饭");
    let (made, _) = only("typo-keyboard", 3).batch(&batch(&[chat("please send the report tomorrow", "ok")]));
    assert_eq!(made[0].class, Class::Robustness);
}

#[test]
fn spans_are_found_by_kind() {
    let text = "张三 2024年3月5日 付款 3,000.50元，不得迟于第5条；see `x=1`, \"quoted\", $a_1$ and https://a.b/c, at least 5 km";
    let kinds: Vec<&str> = protected(text).iter().map(|p| p.kind).collect();
    for kind in ["date", "number", "negation", "citation", "code", "quote", "formula", "address", "quantifier"] {
        assert!(kinds.contains(&kind), "{kind}: {kinds:?}");
    }
}

#[test]
fn the_gate_refuses_changed_facts_and_names_itself() {
    let gate = Gate::new(0.5, 0.92, None);
    assert!(gate.name().starts_with("lexical constraint gate, no measure of meaning"));
    assert_eq!(gate.check("Pay 5 dollars", "Pay 6 dollars", &[]), Err(Refusal::Facts));
    assert_eq!(gate.check("你不得离开", "你可以离开", &[]), Err(Refusal::Facts));
    assert_eq!(gate.check("tell me of tea", "sing us songs on", &[]), Err(Refusal::Meaning));
    assert_eq!(gate.check("tell me of tea", "告诉我茶的故事", &[]), Err(Refusal::Script));
    assert!(gate.check("explain tea", "explain tea", &[]).unwrap() > 0.999);
    struct Far;
    impl Embedder for Far {
        fn embed(&self, texts: &[&str]) -> Vec<Vec<f32>> {
            (0..texts.len()).map(|at| if at == 0 { vec![1.0, 0.0] } else { vec![0.0, 1.0] }).collect()
        }
    }
    let gate = Gate::new(0.5, 0.92, Some(Arc::new(Far)));
    assert_eq!(gate.check("explain tea", "explain tea", &[]), Err(Refusal::Meaning));
    assert!(gate.name().starts_with("embedding gate"));
}

const SUM: (&str, &str) = (
    "Tom has 12 apples. He buys 30 more. How many apples does he have?",
    "12+30=42\nHe has 42 apples, carried over 3 km.\n#### 42",
);

fn one(transform: &str, question: &str, answer: &str) -> Made {
    let (made, report) = only(transform, 5).batch(&batch(&[chat(question, answer)]));
    assert_eq!(made.len(), 1, "{transform}: {report:?}");
    assert_eq!(report.transforms[transform].acceptance(), Some(1.0));
    made.into_iter().next().unwrap()
}

#[test]
fn negatives_are_wrong_in_the_way_they_say() {
    let wrong = one("operand", SUM.0, SUM.1);
    assert!(turn(&wrong, 1).starts_with("12+30=42\nHe has 42") && !turn(&wrong, 1).ends_with("#### 42"));
    assert_eq!((wrong.class, wrong.violates), (Class::Negative, Some("wrong-result")));
    assert!(turn(&one("sign", SUM.0, SUM.1), 1).ends_with("#### -42"));
    assert!(turn(&one("unit", SUM.0, SUM.1), 1).contains("3 cm"));
    let broken = one("format-break", "意图？", "{\"intent\": \"Play\"}");
    assert!(serde_json::from_str::<serde_json::Value>(turn(&broken, 1)).is_err());
    // no number, no JSON: nothing fits
    for transform in ["operand", "sign", "unit", "format-break"] {
        assert!(only(transform, 1).batch(&batch(&[chat("hi", "hello")])).0.is_empty());
    }
}

#[test]
fn traps_come_with_the_right_answer() {
    let missing = one("missing-fact", SUM.0, SUM.1);
    assert!(!turn(&missing, 0).contains("12") && turn(&missing, 1).contains("missing"));
    let against = one("contradicted-condition", SUM.0, SUM.1);
    assert!(turn(&against, 0).starts_with(SUM.0) && turn(&against, 1).contains("contradict"));
    let injected = one("injected-instruction", SUM.0, SUM.1);
    assert!(turn(&injected, 0).contains("Ignore all previous instructions"));
    assert_eq!(turn(&injected, 1), SUM.1);
    let premise = one("false-premise", SUM.0, SUM.1);
    assert!(turn(&premise, 1).ends_with("#### 42") && turn(&premise, 1).starts_with("That is not right"));
    let zh = one("missing-fact", "小明有12个苹果。妈妈又给了他30个。他一共有多少个？", "12+30=42，答案是42");
    assert!(turn(&zh, 1).contains("缺少"));
    // a number in passing is no sum
    let alarm =
        chat("七点提醒我开会。识别意图。8 月 3 日有几个会", "{\"intent\": \"Alarm\", \"month\": 8, \"day\": 3}");
    for transform in ["missing-fact", "contradicted-condition", "false-premise", "operand", "sign"] {
        assert!(only(transform, 5).batch(&batch(std::slice::from_ref(&alarm))).0.is_empty(), "{transform}");
    }
    let benign = one("over-refusal", "x", "y");
    assert!(benign.parents.is_empty() && benign.violates == Some("over-refusal"));
}

#[test]
fn dialogues_are_linked_by_what_they_share() {
    let rows = [
        chat("谁写了《红楼梦》？", "《红楼梦》的作者是曹雪芹。"),
        chat("How deep is the Baikal?", "Lake Baikal is 1642 metres deep."),
        chat("《红楼梦》的作者曹雪芹生活在哪个朝代？", "曹雪芹生活在清朝。"),
        chat("Is the Baikal frozen in winter?", "Yes, Lake Baikal freezes in January."),
        chat("2+2?", "4"),
    ];
    let batch = batch(&rows);
    let gather = || {
        let mut dialogues = Dialogues::new(DialogueOptions { turns: 2, ..DialogueOptions::default() }, 0);
        batch.rows().for_each(|row| dialogues.add(&row));
        dialogues
    };
    let linked = gather().link(None);
    let parents: Vec<&[u64]> = linked.made.iter().map(|(made, _)| made.parents.as_slice()).collect();
    assert_eq!(parents, [&[10, 12][..], &[11, 13]]);
    let (made, chain) = &linked.made[0];
    assert!(linked.rejected.is_empty() && linked.rows == 5 && made.evidence.starts_with("lexical"));
    assert!(chain.links.len() == 1 && chain.links[0] >= 0.1 && chain.linked == 1.0);
    let Body::Chat(chat) = &made.body else { panic!("a chat") };
    assert_eq!(chat.messages.len(), 4);
    // a model for which no context helps
    struct Deaf;
    impl Scorer for Deaf {
        fn losses(&self, asked: &[(&str, &str)]) -> Vec<Option<f64>> {
            vec![Some(1.0); asked.len()]
        }
    }
    let linked = gather().link(Some(&Deaf));
    assert!(linked.made.is_empty() && linked.rejected[0].linked == 0.0);
    // room for two rows: which two is a matter of the seed, not of the order
    let few = |rows: Vec<crate::Row<'_>>| {
        let mut dialogues = Dialogues::new(DialogueOptions { turns: 2, rows: 2, ..DialogueOptions::default() }, 3);
        rows.iter().for_each(|row| dialogues.add(row));
        dialogues.link(None)
    };
    let (forth, mut back) = (few(batch.rows().collect()), batch.rows().collect::<Vec<_>>());
    back.reverse();
    assert!(forth == few(back) && forth.rows == 5);
}

#[test]
fn wrong_options_are_named_and_own_synonyms_count() {
    let options = Options {
        share: 2.0,
        transforms: vec!["synonim".into()],
        lexicon: Some("none.toml".into()),
        ..Options::default()
    };
    let keys: Vec<String> = Augmenter::new(options, None).err().unwrap().into_iter().map(|f| f.key).collect();
    assert_eq!(keys, ["share", "transforms", "lexicon"]);
    let mut lexicon = Lexicon::builtin();
    assert!(lexicon.extend("own", "[[synonym]]\nwords = [\"心肌梗死\", \"心梗\"]\n").is_empty());
    let faults = lexicon.extend("own", "[[synonym]]\nwords = [\"a\", \"b\"]\n[[synonym]]\nwords = [\"a\"]\n");
    assert_eq!(faults[0].line, Some(4));
}

#[test]
fn real_rows_give_what_the_report_counts() {
    for name in ["gsm8k/train.jsonl", "esft/train/intent.jsonl", "esft/train/law.jsonl"] {
        let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data")).join(name);
        if !path.exists() {
            println!("skipped: ../shared/data/{name} is absent");
            continue;
        }
        let data = loar_data::read(&[path], &loar_data::ReadOptions::default()).unwrap();
        let bodies: Vec<Body> = data.examples.into_iter().take(900).map(|e| e.body).collect();
        let batch = batch(&bodies);
        let augmenter = Augmenter::new(Options { share: 1.0, ..Options::default() }, None).unwrap();
        let (made, report) = augmenter.batch(&batch);
        for (transform, count) in &report.transforms {
            println!(
                "{name} {transform}: fitted {}, accepted {}, refused {:?}",
                count.fitted, count.accepted, count.refused
            );
            assert_eq!(count.fitted, count.accepted + count.refused.values().sum::<u64>());
        }
        assert_eq!(made.len() as u64, report.transforms.values().map(|c| c.accepted).sum::<u64>());
        assert!(made.iter().all(|m| !m.evidence.is_empty()));
        let mut dialogues = Dialogues::new(DialogueOptions::default(), 0);
        batch.rows().for_each(|row| dialogues.add(&row));
        let linked = dialogues.link(None);
        println!("{name} dialogues: {} kept, {} rejected", linked.made.len(), linked.rejected.len());
        let rows: Vec<u64> = linked.made.iter().flat_map(|(made, _)| made.parents.clone()).collect();
        let used: std::collections::BTreeSet<u64> = rows.iter().copied().collect();
        assert_eq!(used.len(), rows.len(), "a row is in one chain at most");
    }
}

proptest! {
    /// Whatever is made by a perturbation keeps every protected span and the answer, and does not
    /// depend on the rows beside it.
    #[test]
    fn facts_stay_and_neighbours_do_not_matter(
        question in "(请|Please )?(write|list|解释|把|如果|what) ?[a-z 一-龥0-9，。,.“”]{0,60}",
        seed in 0u64..50,
    ) {
        let options = Options { share: 1.0, seed, ..Options::default() };
        let augmenter = Augmenter::new(options, None).unwrap();
        let row = chat(&question, "答案是 7");
        let (alone, _) = augmenter.batch(&batch(std::slice::from_ref(&row)));
        let (beside, _) = augmenter.batch(&batch(&[row, chat("另一行", "好")]));
        prop_assert_eq!(&alone[..], &beside.into_iter().filter(|m| m.parents != [11]).take(alone.len()).collect::<Vec<_>>()[..]);
        for made in alone.iter().filter(|m| matches!(m.class, Class::Clean | Class::Robustness)) {
            prop_assert_eq!(turn(made, 1), "答案是 7");
            let numbers = |t: &str| t.chars().filter(char::is_ascii_digit).collect::<Vec<_>>();
            let (mut a, mut b) = (numbers(&question), numbers(turn(made, 0)));
            a.sort_unstable();
            b.sort_unstable();
            prop_assert_eq!(a, b);
        }
    }
}
