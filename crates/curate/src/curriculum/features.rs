//! What makes a row hard, as far as its text and a scorer tell.

use crate::batch::Row;
use crate::models::Scorer;
use crate::terms::{cjk_share, is_cjk};

/// Measures of one row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Features {
    /// Its number over all input.
    pub row: u64,
    /// Task type, 0 for unknown.
    pub kind: u16,
    /// Mostly Chinese, Japanese or Korean.
    pub cjk: bool,
    /// Estimated tokens of the whole row: a CJK character each, four bytes of anything else.
    pub tokens: u32,
    /// Lines and sentences of the answers.
    pub steps: u32,
    /// Demands of the requests: musts, limits, formats, numbers.
    pub constraints: u32,
    /// loss(answer | request) / loss(answer), mean over answered turns.
    pub ifd: Option<f64>,
}

/// Words that bind an answer.
const DEMANDS: [&str; 30] = [
    "must",
    "should",
    "at least",
    "at most",
    "no more than",
    "exactly",
    "only",
    "without",
    "do not",
    "don't",
    "format",
    "json",
    "words",
    "include",
    "avoid",
    "each",
    "必须",
    "不得",
    "不要",
    "至少",
    "至多",
    "不超过",
    "以内",
    "只能",
    "格式",
    "字数",
    "包括",
    "避免",
    "分别",
    "要求",
];

fn tokens(text: &str) -> f64 {
    text.chars().map(|c| if is_cjk(c) { 1.0 } else { c.len_utf8() as f64 / 4.0 }).sum()
}

/// Measures a row. `kind` is its task type, `ifd` what [`ifd`] gives.
pub fn features(row: &Row<'_>, kind: u16, ifd: Option<f64>) -> Features {
    let (mut all, mut steps, mut constraints) = (0.0, 0, 0);
    let mut shares = (0.0, 0.0);
    for (_, _, text) in row.texts() {
        all += tokens(text);
        shares.0 += cjk_share(text) * text.len() as f64;
        shares.1 += text.len() as f64;
    }
    for turn in row.turns() {
        if turn.is_request() {
            let lower = turn.content.to_lowercase();
            constraints += DEMANDS.iter().map(|d| lower.matches(d).count() as u32).sum::<u32>();
        }
        if turn.is_response() {
            for text in [turn.reasoning.unwrap_or_default(), turn.content] {
                let ends = ['\n', '。', '！', '？', '；', '!', '?', ';'];
                steps += text.split(ends).flat_map(|p| p.split(". ")).filter(|p| !p.trim().is_empty()).count() as u32;
            }
        }
    }
    Features {
        row: row.number(),
        kind,
        cjk: shares.1 > 0.0 && shares.0 / shares.1 > 0.3,
        tokens: (all.ceil() as u32).max(1),
        steps,
        constraints,
        ifd,
    }
}

/// Instruction-following difficulty of rows (Li et al., 2024): loss(answer | all turns before it) /
/// loss(answer), mean over the answered turns. Above 1 the request does not help. All pairs go to
/// the scorer in one call, so that it can batch them. `None` where no turn has both losses.
pub fn ifd(rows: &[Row<'_>], scorer: &dyn Scorer) -> Vec<Option<f64>> {
    let mut asked: Vec<(usize, String, &str)> = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        let mut history = String::new();
        for turn in row.turns() {
            if turn.is_response() && !turn.content.is_empty() {
                asked.push((at, history.clone(), turn.content));
            }
            if !history.is_empty() {
                history.push('\n');
            }
            history.push_str(turn.content);
        }
    }
    let with = asked.iter().map(|(_, history, answer)| (history.as_str(), *answer));
    let pairs: Vec<(&str, &str)> = with.chain(asked.iter().map(|(.., answer)| ("", *answer))).collect();
    let losses = scorer.losses(&pairs);
    let (with, alone) = losses.split_at(asked.len().min(losses.len()));
    let mut sums = vec![(0.0, 0.0); rows.len()];
    for ((at, ..), (with, alone)) in asked.iter().zip(with.iter().zip(alone)) {
        if let (Some(with), Some(alone)) = (with, alone)
            && *alone > 0.0
        {
            sums[*at].0 += with / alone;
            sums[*at].1 += 1.0;
        }
    }
    sums.into_iter().map(|(sum, n)| (n > 0.0).then(|| sum / n)).collect()
}
