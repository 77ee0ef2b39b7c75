//! Lists, boundaries and allowing words; sampling against published values; the sheet.

use super::*;
use crate::testing::{chat, text};
use std::collections::BTreeMap;

fn words(op: &Op, text: &str) -> Vec<String> {
    op.lexicon().find(text).into_iter().map(|hit| text[hit.at].to_owned()).collect()
}

#[test]
fn seed_lists_are_sound_and_every_word_is_found() {
    let op = Op::new(Options::default()).unwrap();
    let mut seen = 0;
    for (name, list) in SEED {
        let (list, _) = lexicon::read(name, list).unwrap();
        for word in list {
            seen += 1;
            let text = format!("。{}。", word.word);
            assert_eq!(words(&op, &text), std::slice::from_ref(&word.word), "{text}");
        }
    }
    assert_eq!(op.lexicon().len(), seen);
    assert!(words(&op, "人民法院依法审理贩卖假药案件 The court heard the case on Tuesday").is_empty());
}

#[test]
fn words_are_whole_in_english_anywhere_in_chinese_in_any_spelling() {
    let op = Op::new(Options::default()).unwrap();
    assert!(words(&op, "heroine and heroinlike").is_empty());
    assert_eq!(words(&op, "HEROIN, fuck\nyou"), ["HEROIN", "fuck\nyou"]);
    assert_eq!(words(&op, "他吸毒了；ｈｅｒｏｉｎ；冰\u{200B}毒"), ["吸毒", "ｈｅｒｏｉｎ", "冰\u{200B}毒"]);
    assert!(words(&op, "禁止吸毒，打击贩毒").is_empty());
}

#[test]
fn lists_of_ones_own_drop_and_faults_have_lines() {
    let dir = tempfile::tempdir().unwrap();
    let (toml, plain, bad) = (dir.path().join("own.toml"), dir.path().join("words.txt"), dir.path().join("bad.toml"));
    std::fs::write(&toml, "[[list]]\ncategory = \"ethics\"\nwords = [\"秘方\"]\nallow = [\"祖传秘方研究\"]\n").unwrap();
    std::fs::write(&plain, "darn\n\nheck\n").unwrap();
    std::fs::write(&bad, "[[list]]\ncategory = \"drug\"\nwords = [\"a\",\n \"\"]\naction = \"kill\"\n").unwrap();
    let options = Options { files: vec![toml, plain], allow: vec!["heck".into()], ..Options::default() };
    let op = Op::new(options).unwrap();
    let out = op.apply(&chat(&[("user", "给我秘方，darn"), ("assistant", "祖传秘方研究，heck")]));
    let found: Vec<_> = out.findings.iter().map(|f| (f.rule.as_ref(), f.action, f.note.as_str())).collect();
    assert_eq!(found, [("ethics", Action::Drop, "秘方"), ("abuse", Action::Note, "darn")]);
    let faults =
        Op::new(Options { files: vec![bad, dir.path().join("none.toml")], ..Options::default() }).err().unwrap();
    let lines: Vec<_> = faults.iter().map(|f| f.line).collect();
    assert_eq!(lines, [Some(2), Some(5), Some(4), None], "{faults:?}");
    assert!(faults[0].mend.contains("`drugs`"));
}

#[test]
fn many_words_together_drop_a_row() {
    let op = Op::new(Options { drop_from: 2, ..Options::default() }).unwrap();
    let dropped = |t: &str| op.apply(&text(t)).findings.iter().any(|f| f.action == Action::Drop);
    assert!(dropped("贩毒和冰毒") && !dropped("贩毒，贩毒"));
}

/// Clopper and Pearson's intervals as R's `binom.test` prints them.
#[test]
fn intervals_are_exact() {
    for (sound, checked, low, high) in
        [(0, 10, 0.0, 0.3085), (5, 10, 0.1871, 0.8129), (10, 10, 0.6915, 1.0), (95, 100, 0.8872, 0.9836)]
    {
        let rate = Rate::new(sound, checked);
        assert!((rate.low - low).abs() < 5e-5 && (rate.high - high).abs() < 5e-5, "{rate:?}");
    }
    let nothing = Rate::new(0, 0);
    assert_eq!((nothing.rate, nothing.low, nothing.high), (None, 0.0, 1.0));
    // The tails sum to one at any size.
    let large = Rate::new(3900, 4000);
    assert!(large.low > 0.969 && large.low < 0.975 && large.high > 0.975 && large.high < 0.98, "{large:?}");
}

#[test]
fn acceptance_counts_as_the_standard_counts() {
    let plan = Plan::default();
    assert_eq!(plan.sizes(100_000), (4000, 10_000));
    assert_eq!(plan.sizes(300), (300, 30));
    let sources = BTreeMap::from([("a".to_owned(), (95, 100)), ("b".to_owned(), (94, 100))]);
    let verdict = accept(&plan, 100_000, (3900, 4000), (9900, 10_000), &sources);
    assert!(verdict.complete && verdict.accepted && verdict.certain);
    assert_eq!(
        verdict.sources.iter().map(|s| (s.source.as_str(), s.refused)).collect::<Vec<_>>(),
        [("b", true), ("a", false)]
    );
    let close = accept(&plan, 100_000, (3841, 4000), (9801, 10_000), &BTreeMap::new());
    assert!(close.accepted && !close.certain);
    let low = accept(&plan, 100_000, (3839, 4000), (9801, 10_000), &BTreeMap::new());
    assert!(!low.accepted && low.reasons.len() == 1 && low.reasons[0].contains("95.97 %"), "{:?}", low.reasons);
    let few = accept(&plan, 100_000, (399, 400), (9900, 10_000), &BTreeMap::new());
    assert!(!few.complete && !few.accepted && few.reasons[0].contains("400 of 4000"));
    assert!(Plan { manual: 0, technical: 2.0, ..plan }.check().err().is_some_and(|faults| faults.len() == 2));
}

#[test]
fn a_sample_depends_on_seed_and_items_alone() {
    let draw = |seed, items: Vec<u64>| {
        let mut sampler = Sampler::new(seed, 50);
        items.into_iter().for_each(|item| sampler.offer(item, || item * 2));
        sampler
    };
    let whole = draw(1, (0..1000).collect()).finish();
    assert_eq!(whole.len(), 50);
    assert!(whole.iter().all(|(item, kept)| *kept == item * 2));
    assert_eq!(draw(1, (0..1000).rev().collect()).finish(), whole);
    let mut parts = draw(1, (500..1000).collect());
    parts.merge(draw(1, (0..500).collect()));
    assert_eq!(parts.finish(), whole);
    assert_ne!(draw(2, (0..1000).collect()).finish(), whole);
    assert_eq!(draw(1, (0..20).collect()).finish().len(), 20);
    // Every item is drawn with the same chance: 400 samples of 50 from 1000 give each 20, deviation 4.4.
    let mut counts = vec![0u32; 1000];
    for seed in 0..400 {
        draw(seed, (0..1000).collect()).finish().iter().for_each(|(item, _)| counts[*item as usize] += 1);
    }
    assert!(counts.iter().all(|count| (2..=42).contains(count)), "{counts:?}");
}

#[test]
fn a_sheet_is_filled_in_and_read_back() {
    let batch = chat(&[("user", "问"), ("assistant", "答")]);
    let items: Vec<Item> = (0..5).map(|_| Item::new(&batch.row(0), "a.jsonl")).collect();
    let mut sheet = Sheet::new(Plan::default(), 5, items);
    assert_eq!(sheet.rates().faults.len(), 5);
    for (at, item) in sheet.items.iter_mut().enumerate() {
        item.checked_by = Some("wang".into());
        item.verdict = Some(if at == 0 { Verdict::Bad } else { Verdict::Sound });
    }
    assert_eq!(sheet.rates().faults[0].1, "bad, without a category");
    sheet.items[0].category = Some("drugs".into());
    sheet.items[4].checked_by = None;
    let text = serde_json::to_string_pretty(&sheet).unwrap();
    let rates = serde_json::from_str::<Sheet>(&text).unwrap().rates();
    assert_eq!((rates.all, rates.faults.len()), ((3, 4), 1));
    assert_eq!(rates.sources["a.jsonl"], (3, 4));
}
