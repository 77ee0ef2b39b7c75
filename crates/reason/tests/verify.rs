//! Verifiers on chains as people and models write them, on anything at all, and on corrupted chains.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use loar_reason::verify::{
    ArithmeticVerifier, AutoVerifier, Claim, NAMES, Verdict, Verifier, by_name, split_ranges, split_steps,
};
use proptest::prelude::*;

fn look(verifier: &dyn Verifier, question: &str, steps: &[String]) -> (Option<usize>, Verdict) {
    let found = verifier.verify(&Claim { question, steps, answer: None, context: &[] });
    (found.first_wrong(), found.outcome())
}

fn arithmetic(step: &str) -> Verdict {
    look(&ArithmeticVerifier, "", &[step.to_owned()]).1
}

#[test]
fn arithmetic_in_prose() {
    let right = [
        "3 × 4 = 12",
        "(2+3)*4 - 1 = 20 - 1 = 19",
        "$5 x 3 = $15",
        "20% of 50 = 10",
        "1/2 of 40 = 20",
        "10/3 = 3.33",
        "22/7 ≈ 3.14",
        "1,200 + 300 = 1,500",
        "3 加 4 等于 7",
        "三乘以四等于十二",
        "１２＋３＝１５",
        "\\frac{3}{4} \\times 8 = 6",
        "$2^3 = 8$",
        "<<48/2=24>>24 clips",
        "75 cents * 4 = $3",
        "2 1/2 * 4 = 10",
        "2 * 3 < 7",
        "5! = 120",
        "15/60*100 = 25%",
        "\\sqrt{16} = 4",
        "3 plus 4 equals 7",
        "5 apples + 3 apples = 8 apples",
        "3 * 5 \\equiv 1 (mod 7)",
    ];
    for step in right {
        assert_eq!(arithmetic(step), Verdict::Pass, "{step}");
    }
    let wrong = [
        "3 × 4 = 13",
        "(2+3)*4 - 1 = 20 - 1 = 18",
        "$5 x 3 = $16",
        "20% of 50 = 11",
        "10/3 = 3.35",
        "7/2 = 3.4",
        "22/7 ≈ 3.4",
        "3 加 4 等于 8",
        "三乘以四等于十三",
        "\\frac{3}{4} \\times 8 = 7",
        "<<48/2=25>>25 clips",
        "2 * 4 < 7",
        "5! = 100",
        "3 * 5 \\equiv 2 (mod 7)",
    ];
    for step in wrong {
        assert_eq!(arithmetic(step), Verdict::Fail, "{step}");
    }
    let silent = [
        "1 foot = 12 inches",
        "price * 3 = 12",
        "4.5 gallons = 4.5 * 8 pints",
        "at 3:45 + 15 minutes = 4:00",
        "x = 5",
        "",
        "1/4 cup + 1 and 1/4 cup = 1.5 cups",
        "Catch-22 = 5",
    ];
    for step in silent {
        assert_eq!(arithmetic(step), Verdict::Unsure, "{step}");
    }
}

#[test]
fn traces_of_puzzles() {
    let cases: [(&str, &str, Option<usize>); 6] = [
        (
            "[ {",
            "[ ; stack: [|{ ; stack: [ {|The final stack is \"[ {\".|So, we need \"}\", \"]\". So the answer is } ]",
            None,
        ),
        ("[ {", "[ ; stack: [|{ ; stack: {|The final stack is \"{\".", Some(1)),
        (
            "Take the last letters of \"Amy Bob\".",
            "The last letter of \"Amy\" is \"y\".|The last letter of \"Bob\" is \"b\".|The answer is yb.",
            None,
        ),
        (
            "Take the last letters of \"Amy Bob\".",
            "The last letter of \"Amy\" is \"m\".|The last letter of \"Bob\" is \"b\".|The answer is mb.",
            Some(0),
        ),
        (
            "Al has a red ball, and Bo has a blue ball. First, Al and Bo swap balls. At the end, Al has the\nOptions:\n(A) red ball.\n(B) blue ball.",
            "At the start: Al: red, Bo: blue.|Al and Bo swap: Al: blue, Bo: blue.",
            Some(1),
        ),
        (
            "oven cord cost",
            "The first letter: \"oven\": \"o\" (15). \"cord\": \"c\" (3). \"cost\": \"c\" (3).|We now have: (3) [\"cord\" ? \"cost\"] < (15) \"oven\".|\
             Now let's sort this subpart [\"cord\" ? \"cost\"] by looking at their second letters. The second letter: \"cord\": \"o\" (14). \"cost\": \"o\" (15).",
            Some(2),
        ),
    ];
    for (question, chain, wrong) in cases {
        let steps: Vec<String> = chain.split('|').map(str::to_owned).collect();
        assert_eq!(look(&AutoVerifier::default(), question, &steps).0, wrong, "{chain}");
    }
}

proptest! {
    #[test]
    fn nothing_panics_and_no_character_is_lost(text in "\\PC{0,200}|[0-9+*/=^().,%$\\\\{}<>x \n三加等于frac⊕⁰]{0,120}") {
        let steps = split_steps(&text);
        let solid = |t: &str| t.chars().filter(|c| !c.is_whitespace()).collect::<String>();
        prop_assert_eq!(solid(&steps.concat()), solid(&text));
        prop_assert_eq!(split_ranges(&text).len(), steps.len());
        for name in NAMES {
            let found = look(by_name(name).unwrap().as_ref(), &text, &steps);
            prop_assert_eq!(found, look(by_name(name).unwrap().as_ref(), &text, &steps));
        }
    }
}

#[test]
fn a_megabyte_takes_time_in_proportion() {
    let pieces = [
        "1+1=2 ",
        "(",
        "1+(",
        "5x",
        "中",
        "\\frac{1}{2}+",
        "3 apples ",
        "9*",
        "1,111,",
        "\"a\": \"a\" (1). ",
        "= ",
        "$",
        "1/3+",
        "<<1=1",
    ];
    for piece in pieces {
        let text = piece.repeat((1 << 20) / piece.len());
        let start = Instant::now();
        let steps = split_steps(&text);
        look(&AutoVerifier::default(), &text, &steps);
        // linear work takes about a second in a test build; quadratic work takes hours
        assert!(start.elapsed() < Duration::from_secs(60), "{piece:?} took {:?}", start.elapsed());
    }
}

/// Right chains of GSM8K: few are flagged, and one corrupted result of the calculator is found where it is.
#[test]
fn corrupted_solutions_are_located() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/gsm8k/train.jsonl");
    let Ok(text) = fs::read_to_string(&file) else {
        return println!("skipped: no GSM8K beside the repository");
    };
    let (mut rows, mut flagged, mut corrupted, mut located) = (0, 0, 0, 0);
    for line in text.lines().step_by(5) {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let mut steps = split_steps(row["answer"].as_str().unwrap());
        let question = row["question"].as_str().unwrap();
        let clean = look(&AutoVerifier::default(), question, &steps).0;
        rows += 1;
        flagged += usize::from(clean.is_some());
        let place = steps.iter().rposition(|s| s.contains(">>"));
        if let (None, Some(step)) = (clean, place) {
            let end = steps[step].find(">>").unwrap();
            let digit = steps[step].as_bytes()[end - 1];
            if digit.is_ascii_digit() {
                let other = char::from(b'0' + (digit - b'0' + 3) % 10);
                steps[step].replace_range(end - 1..end, &other.to_string());
                corrupted += 1;
                located += usize::from(look(&AutoVerifier::default(), question, &steps).0 == Some(step));
            }
        }
    }
    println!("{flagged} of {rows} right chains flagged; {located} of {corrupted} corruptions located");
    assert!(flagged * 100 < rows, "{flagged} of {rows} right chains flagged");
    assert!(located * 100 >= corrupted * 90, "{located} of {corrupted} corruptions located");
}
