//! Extraction and equality as a whole: published failures of other extractors, laws, bounds.

use std::time::{Duration, Instant};

use loar_reason::answer::{Answer, EqualOptions, ExtractOptions, Kind, Percent, Units, classes, equal, extract};
use proptest::prelude::*;

fn found(text: &str, kind: Kind) -> Option<String> {
    extract(text, &ExtractOptions::of(kind)).map(|a| a.canonical())
}

fn same(gold: &str, pred: &str) -> bool {
    let read = |text: &str| extract(text, &ExtractOptions::default());
    matches!((read(gold), read(pred)), (Some(g), Some(p)) if equal(&g, &p, &EqualOptions::default()))
}

#[test]
fn the_order_of_extraction_is_kept() {
    for (text, kind, expected) in [
        ("<think>\\boxed{1}</think> It is \\boxed{2}.", Kind::Auto, Some("2")),
        ("it was \\boxed{1}</think>\nThe answer is 3.", Kind::Auto, Some("3")),
        ("Answer: 4 at first, no. Answer: 5", Kind::Number, Some("5")),
        ("2 + 2 = 4\n#### 4", Kind::Auto, Some("4")),
        ("所以答案为：一百二十三。", Kind::Auto, Some("123")),
        ("so she has 12 eggs and sells 7.", Kind::Number, Some("7")),
        ("A. Because B is not valid", Kind::Choice, Some("A")),
        ("Because B is valid", Kind::Choice, Some("B")),
        ("The answer is probably A or C.", Kind::Choice, Some("A")),
        ("不是，他没有去", Kind::YesNo, Some("no")),
        ("It was on May 3, 2019.", Kind::Date, Some("2019-05-03")),
        ("```json\n{\"a\": 1}\n```", Kind::Json, Some("{\"a\":1}")),
        ("The answer is \"yajo\".", Kind::Text, Some("yajo")),
        ("AZYUK2A", Kind::Number, None),
        ("", Kind::Auto, None),
        ("<think>\\boxed{1} and no end", Kind::Auto, None),
        ("Answer $ \n 9 \n $", Kind::Math, None),
        ("Answer \\[ \n 9 \n \\]", Kind::Math, Some("9")),
    ] {
        assert_eq!(found(text, kind).as_deref(), expected, "{text}");
    }
}

#[test]
fn answers_that_mean_the_same_are_equal() {
    for (gold, pred) in [
        ("1,000", "1000.0"),
        ("1/2", "\\boxed{\\frac12}"),
        ("3/2", "$1\\frac{1}{2}$"),
        ("0.5", "50%"),
        ("50", "50 percent"),
        ("5 km", "5000 m"),
        ("3.5万元", "35000元"),
        ("$1,000.50", "1000.5 dollars"),
        ("两万三", "23000"),
        ("三分之二", "\\frac{2}{3}"),
        ("$\\{1, 2, 3\\}$", "$3, 2, 1$"),
        ("$[0, 1)$", "$[0, 1.0)$"),
        ("$0 < x < 1$", "$(0, 1)$"),
        ("$x \\ge 2$", "$2 \\le x$"),
        ("$\\frac{x+2}{7}$", "$\\frac{x}{7} + \\frac{2}{7}$"),
        ("$(x+1)^{20}$", "$(1+x)^{20}$"),
        ("$\\frac{\\pi}{2}$", "$0.5\\pi$"),
        ("$2\\sqrt{3}$", "$\\sqrt{12}$"),
        ("$x = 11$", "$x = 5 + 6 = 11$"),
        ("$\\pm 3$", "$\\{-3, 3\\}$"),
        ("2024年3月5日", "March 5, 2024"),
        ("是", "Yes."),
        ("{\"a\": 1, \"b\": 2}", "{\"b\": 2.0, \"a\": 1}"),
        ("\\text{Evelyn}", "evelyn"),
        ("yajo", "y-a-j-o"),
        ("a cat", "cat"),
        ("-0", "0"),
        ("1e3", "10^3"),
    ] {
        assert!(same(gold, pred), "{gold} = {pred}");
    }
}

#[test]
fn answers_that_mean_something_else_are_not() {
    for (gold, pred) in [
        ("1", "2"),
        ("5 km", "5 kg"),
        ("5 km", "5 m"),
        ("50%", "50"),
        ("1,23", "123"),
        ("$[0, 1)$", "$(0, 1)$"),
        ("$(1, 3)$", "$(3, 1)$"),
        ("$(0, 1)$", "$0 < x < 1$"),
        ("$x < 1$", "$x > 1$"),
        ("$2x + z = 1$", "$1$"),
        ("$4$", "$4\\sqrt{2}$"),
        ("$x + 1$", "$x + 2$"),
        ("$\\frac{1}{2004!}$", "$\\frac{1}{2006!}$"),
        ("$(x+1)^{20}$", "$(x+1)^{21}$"),
        ("$a = 1, b = 2$", "$a = 2, b = 1$"),
        ("2024-03-05", "2024-05-03"),
        ("yes", "no"),
        ("A", "B"),
        ("dog", "god"),
        ("ab", "ba"),
    ] {
        assert!(!same(gold, pred), "{gold} ≠ {pred}");
    }
}

#[test]
fn policies_change_what_is_equal() {
    let read = |text: &str| Answer::read(text, &ExtractOptions::default());
    let with = |options: EqualOptions, gold: &str, pred: &str| equal(&read(gold), &read(pred), &options);
    let fraction = EqualOptions { percent: Percent::Fraction, ..Default::default() };
    assert!(!with(fraction.clone(), "50", "50%") && with(fraction, "0.5", "50%"));
    let dropped = EqualOptions { percent: Percent::Dropped, ..Default::default() };
    assert!(with(dropped.clone(), "50%", "50") && !with(dropped, "0.5", "50%"));
    let strict = EqualOptions { units: Units::Strict, ..Default::default() };
    assert!(!with(strict.clone(), "5 km", "5") && with(strict, "5 km", "5000 m"));
    let sets = EqualOptions { relation_for_set: true, ..Default::default() };
    assert!(with(sets, "$(0, 1)$", "$0 < x < 1$"));
    let rounded = EqualOptions { places: 2, ..Default::default() };
    assert!(with(rounded, "1/3", "0.33") && !with(EqualOptions::default(), "1/3", "0.33"));
    let comma = ExtractOptions { decimal_comma: true, ..Default::default() };
    assert_eq!(Answer::read("1,22", &comma).canonical(), "61/50");
    let options =
        ExtractOptions { kind: Kind::Choice, choices: vec!["red".into(), "blue".into()], ..Default::default() };
    assert_eq!(extract("The answer is blue.", &options).map(|a| a.canonical()).as_deref(), Some("B"));
}

#[test]
fn a_record_reads_its_answers_again() {
    let answer = extract("The answer is 3/4 km.", &ExtractOptions::default()).unwrap();
    let text = serde_json::to_string(&answer).unwrap();
    assert_eq!(text, r#"{"written":"3/4 km","kind":"number","canonical":"3/4 km"}"#);
    assert_eq!(serde_json::from_str::<Answer>(&text).unwrap(), answer);
}

/// A megabyte of what could make a reader quadratic or overflow its stack.
#[test]
fn long_texts_take_time_in_proportion() {
    let megabyte = |piece: &str| piece.repeat((1 << 20) / piece.len());
    for piece in [
        "1",
        "1,111",
        "(",
        "\\boxed{",
        "{",
        "}",
        "$x$ ",
        "$",
        "\\(",
        "-",
        "二三百",
        "一",
        "the ",
        "A ",
        "\\frac",
        "[\"",
        "[1,",
        "{\"a\":",
        "答案是",
        "answer is ",
        "<think>",
        "#### ",
        "\\pm(",
        "^",
        "é",
        "**",
        "\\[ ",
    ] {
        let text = megabyte(piece);
        for kind in
            [Kind::Auto, Kind::Number, Kind::Math, Kind::Choice, Kind::YesNo, Kind::Date, Kind::Json, Kind::Text]
        {
            let start = Instant::now();
            let answer = extract(&text, &ExtractOptions::of(kind));
            if let Some(answer) = &answer {
                assert!(equal(answer, answer, &EqualOptions::default()));
            }
            assert!(start.elapsed() < Duration::from_secs(20), "{piece} {kind:?}: {:?}", start.elapsed());
        }
    }
}

#[test]
fn deep_nesting_is_text_and_no_overflow() {
    for (open, close) in [("(", ")"), ("\\frac{", "}{2}"), ("\\sqrt{", "}"), ("\\pm(", ")"), ("2^{", "}"), ("|", "|")] {
        let text = format!("{}1{}", open.repeat(400), close.repeat(400));
        let answer = Answer::read(&text, &ExtractOptions::of(Kind::Math));
        assert!(equal(&answer, &answer, &EqualOptions::default()));
    }
    let start = Instant::now();
    let _ = Answer::read("9^{9^{9^{9}}}", &ExtractOptions::default()).canonical();
    let _ = Answer::read("(1000!)!", &ExtractOptions::default()).canonical();
    assert!(start.elapsed() < Duration::from_secs(5));
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Auto),
        Just(Kind::Number),
        Just(Kind::Math),
        Just(Kind::Choice),
        Just(Kind::YesNo),
        Just(Kind::Date),
        Just(Kind::Json),
        Just(Kind::Text),
    ]
}

/// Pieces answers are made of, in any order.
fn answer_like() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "1",
        "23",
        "0.5",
        "-",
        "+",
        "/",
        "(",
        ")",
        "[",
        "]",
        "\\{",
        "\\}",
        "{",
        "}",
        ",",
        ", ",
        " ",
        "x",
        "y",
        "\\frac",
        "\\sqrt",
        "^",
        "_",
        "%",
        "\\%",
        "$",
        "\\pi",
        "=",
        "<",
        "\\le ",
        "\\cup ",
        "\\pm ",
        "km",
        " eggs",
        "万",
        "百",
        "三",
        "分之",
        "元",
        "\\text{ and }",
        "and ",
        ":",
        ";",
        "!",
        "|",
        "sin",
        "\\infty",
        "\\boxed{",
        "A",
        "B. ",
        "yes",
        "年",
        "月",
        "日",
        "\"",
        "²",
        "½",
        "\\begin{pmatrix}",
        "\\end{pmatrix}",
        "&",
        "\\\\",
        "°",
        "e",
        "10^3",
        "**",
        ".",
    ]);
    prop::collection::vec(piece, 0..14).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn extraction_never_panics_and_equality_is_reflexive(text in any::<String>(), kind in kinds()) {
        if let Some(answer) = extract(&text, &ExtractOptions::of(kind)) {
            prop_assert!(equal(&answer, &answer, &EqualOptions::default()));
        }
    }

    #[test]
    fn canonical_forms_are_stable(text in answer_like(), kind in kinds()) {
        if let Some(answer) = extract(&text, &ExtractOptions::of(kind)) {
            prop_assert!(equal(&answer, &answer, &EqualOptions::default()), "{answer:?}");
            let canonical = answer.canonical();
            let again = Answer::read(&canonical, &ExtractOptions::of(answer.kind));
            prop_assert_eq!(again.canonical(), canonical, "{:?}", answer);
        }
    }

    #[test]
    fn classes_do_not_depend_on_copies(texts in prop::collection::vec(answer_like(), 0..8)) {
        let answers: Vec<_> = texts.iter().map(|t| extract(t, &ExtractOptions::default())).collect();
        let once = classes(&answers, &EqualOptions::default());
        let twice: Vec<_> = answers.iter().chain(&answers).cloned().collect();
        let doubled = classes(&twice, &EqualOptions::default());
        prop_assert_eq!(&doubled[..once.len()], &once[..]);
        prop_assert_eq!(&doubled[once.len()..], &once[..]);
        for (i, a) in answers.iter().enumerate() {
            for (j, b) in answers.iter().enumerate() {
                prop_assert!(a.is_none() != b.is_none() || once[i] == once[j] || a.is_some());
                if a.is_none() != b.is_none() { prop_assert_ne!(once[i], once[j]); }
            }
        }
    }

    #[test]
    fn sums_of_fractions_are_recognised(a in -99_i64..99, b in 1_i64..99, c in -99_i64..99, d in 1_i64..99) {
        let gold = format!("$\\frac{{{a}}}{{{b}}} + \\frac{{{c}}}{{{d}}}$");
        let pred = format!("{}/{}", a * d + c * b, b * d);
        prop_assert!(same(&gold, &pred), "{gold} {pred}");
        let wrong = format!("{}/{}", a * d + c * b + 1, b * d);
        prop_assert!(!same(&gold, &wrong), "{gold} {wrong}");
    }
}
