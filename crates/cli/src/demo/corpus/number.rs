//! Rows about numbers: bins and grades by stated rules, running sums, comparing, sorting, picking.
use super::field::Field;
use super::words::WORDS;
use super::{Row, by, one};
use loar_eval::credit::Language;
use loar_eval::rng::Draw;

/// Bounds in rising order, with a number of points for each bin (one more than bounds).
fn bins(draw: &mut Draw) -> (Vec<u32>, Vec<u32>) {
    let count = 1 + draw.below(3);
    let top = if draw.percent(35) { 9 } else { 99 };
    let mut bounds: Vec<u32> = (0..count)
        .map(|_| {
            let bound = draw.between(1, top);
            // Round bounds are the usual ones.
            if top > 9 && draw.percent(60) { (bound / 5).max(1) * 5 } else { bound }
        })
        .collect();
    bounds.sort_unstable();
    bounds.dedup();
    let mut points: Vec<u32> = (0..=bounds.len()).map(|_| 5 * draw.between(0, 6)).collect();
    points.sort_unstable();
    if draw.percent(50) {
        points.reverse();
    }
    (bounds, points)
}

fn near(bounds: &[u32], draw: &mut Draw) -> u32 {
    let top = if bounds.iter().all(|&b| b < 10) { 12 } else { 99 };
    match (draw.below(4), draw.pick(bounds)) {
        (0, Some(&bound)) => bound,
        (1, Some(&bound)) => bound.saturating_sub(1),
        _ => draw.between(0, top),
    }
}

/// Numbers by a rule of bounds that the prompt states.
pub fn bin_rule(language: Language, draw: &mut Draw) -> Row {
    let (bounds, points) = bins(draw);
    let mut rule: Vec<String> = bounds
        .iter()
        .zip(&points)
        .map(|(bound, points)| match language {
            Language::En => format!("below {bound} gives {points}"),
            Language::Zh => format!("低于{bound}得{points}"),
        })
        .collect();
    let last = points.last().copied().unwrap_or(0);
    rule.push(match language {
        Language::En => format!("else {last}"),
        Language::Zh => format!("否则{last}"),
    });
    let numbers: Vec<u32> = (0..1 + draw.below(5)).map(|_| near(&bounds, draw)).collect();
    let answer: Vec<String> = numbers
        .iter()
        .map(|number| {
            let bin = bounds.iter().position(|bound| number < bound).unwrap_or(bounds.len());
            format!("[{number},{}]", points.get(bin).copied().unwrap_or(0))
        })
        .collect();
    let asked: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    let text = match language {
        Language::En => format!("Rule: {}.\nNow: {}", rule.join(", "), asked.join(", ")),
        Language::Zh => format!("规则：{}。\n现在：{}", rule.join("，"), asked.join("、")),
    };
    Row::new(text, format!("[{}]", answer.join(",")))
}

/// A list of named or bare numbers with the sum so far.
pub fn running_sum(fields: &[Field], language: Language, most: usize, draw: &mut Draw) -> Row {
    let count = 1 + draw.below(most);
    // Multiples of five keep the sums short and are the usual points of score cards.
    let step = if draw.percent(85) { 5 } else { 1 };
    let named = draw.percent(60);
    let (mut sum, mut asked, mut answer) = (0, Vec::new(), Vec::new());
    for _ in 0..count {
        let number = step * draw.between(0, if step == 5 { 6 } else { 12 });
        sum += number;
        if named {
            let word = draw.pick(fields).map_or("", |field| field.key.as_str());
            asked.push(format!("{word} {number}"));
            answer.push(format!("[\"{word}\",{number},{sum}]"));
        } else {
            asked.push(number.to_string());
            answer.push(format!("[{number},{sum}]"));
        }
    }
    let question = match language {
        Language::En => one(&["Running sum:", "Add step by step:", "Keep the balance:"], draw),
        Language::Zh => one(&["逐步求和：", "累计：", "依次相加："], draw),
    };
    let separator = by(language, ", ", "、");
    Row::new(format!("{question} {}", asked.join(separator)), format!("[{}]", answer.join(",")))
}

/// Words for numbers by a rule of lower bounds that the prompt states.
pub fn grades(language: Language, draw: &mut Draw) -> Row {
    let mut names: Vec<&str> = Vec::new();
    while names.len() < 3 {
        let word = one(&WORDS, draw);
        if !names.contains(&word) {
            names.push(word);
        }
    }
    let low = draw.between(2, 12) * 5;
    let high = low + draw.between(1, 7) * 5;
    let rule = match language {
        Language::En => format!("from {high} {}, from {low} {}, else {}", names[0], names[1], names[2]),
        Language::Zh => format!("{high}起为{}，{low}起为{}，否则{}", names[0], names[1], names[2]),
    };
    let (mut asked, mut answer) = (Vec::new(), Vec::new());
    for _ in 0..1 + draw.below(5) {
        let number = match draw.below(4) {
            0 => low,
            1 => high,
            2 => high - 5,
            _ => 5 * draw.between(0, 20),
        };
        let name = if number >= high {
            names[0]
        } else if number >= low {
            names[1]
        } else {
            names[2]
        };
        asked.push(number.to_string());
        answer.push(format!("[{number},\"{name}\"]"));
    }
    let text = match language {
        Language::En => format!("Grades: {rule}.\nNow: {}", asked.join(", ")),
        Language::Zh => format!("等级：{rule}。\n现在：{}", asked.join("、")),
    };
    Row::new(text, format!("[{}]", answer.join(",")))
}

/// Names whose number is at most a bound.
pub fn pick_small(fields: &[Field], language: Language, draw: &mut Draw) -> Row {
    let bound = 5 * draw.between(0, 3);
    let (mut asked, mut picked) = (Vec::new(), Vec::new());
    let mut used: Vec<&str> = Vec::new();
    for _ in 0..2 + draw.below(5) {
        let word = draw.pick(fields).map_or("", |field| field.key.as_str());
        if used.contains(&word) {
            continue;
        }
        used.push(word);
        let number = 5 * draw.between(0, 5);
        asked.push(format!("{word} {number}"));
        if number <= bound {
            picked.push(format!("\"{word}\""));
        }
    }
    let text = match language {
        Language::En => format!("Which are at most {bound}? {}", asked.join(", ")),
        Language::Zh => format!("哪些不超过{bound}？{}", asked.join("、")),
    };
    Row::new(text, format!("[{}]", picked.join(",")))
}

/// Larger, smaller, yes or no.
pub fn compare(language: Language, draw: &mut Draw) -> Row {
    let (a, b) = (draw.between(0, 99), draw.between(0, 99));
    let yes = |holds: bool| by(language, if holds { "yes" } else { "no" }, if holds { "是" } else { "否" }).to_string();
    let (text, answer) = match draw.below(3) {
        0 => (by(language, "Is {a} below {b}?", "{a}低于{b}吗？"), yes(a < b)),
        1 => (by(language, "Larger of {a} and {b}", "{a}和{b}中较大的"), a.max(b).to_string()),
        _ => (by(language, "Smaller of {a} and {b}", "{a}和{b}中较小的"), a.min(b).to_string()),
    };
    Row::new(text.replace("{a}", &a.to_string()).replace("{b}", &b.to_string()), answer)
}

/// Numbers in rising order.
pub fn sort(language: Language, draw: &mut Draw) -> Row {
    let mut numbers: Vec<u32> = (0..2 + draw.below(3)).map(|_| draw.between(0, 99)).collect();
    let list =
        |numbers: &[u32], between: &str| numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(between);
    let asked = list(&numbers, by(language, ", ", "、"));
    numbers.sort_unstable();
    Row::new(format!("{} {asked}", by(language, "Sort:", "排序：")), format!("[{}]", list(&numbers, ",")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use loar_eval::credit::Policy;

    #[test]
    fn running_sums_are_sums() {
        let fields = crate::demo::corpus::field::all(&Policy::from_toml(crate::demo::POLICY).unwrap());
        for i in 0..500 {
            let row = running_sum(&fields, Language::En, 7, &mut Draw::new(1, i));
            let list: Vec<Vec<serde_json::Value>> = serde_json::from_str(&row.assistant).unwrap();
            let mut sum = 0;
            for step in list {
                sum += step[step.len() - 2].as_u64().unwrap();
                assert_eq!(step[step.len() - 1].as_u64(), Some(sum), "{}", row.assistant);
            }
        }
    }

    #[test]
    fn bins_follow_the_stated_rule() {
        for i in 0..500 {
            let row = bin_rule(Language::En, &mut Draw::new(2, i));
            let rule = row.user.strip_prefix("Rule: ").unwrap().split(".\n").next().unwrap();
            let pairs: Vec<(u32, u32)> = serde_json::from_str(&row.assistant).unwrap();
            for (number, points) in pairs {
                let clause = rule
                    .split(", ")
                    .find(|clause| {
                        let words: Vec<&str> = clause.split(' ').collect();
                        words[0] == "else" || number < words[1].parse().unwrap()
                    })
                    .unwrap();
                assert_eq!(clause.rsplit(' ').next().unwrap(), points.to_string(), "{} -> {}", row.user, row.assistant);
            }
        }
    }
}
