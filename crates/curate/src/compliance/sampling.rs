//! Acceptance sampling of a corpus as TC260-003 (2024) asks for it: by hand at least 4 000 items
//! with 96 % of them sound, by keywords and classifiers at least 10 % of all with 98 %, and a
//! source with more than 5 % of bad items is refused. The numbers are options.
//!
//! A sample is the items with the least keyed hashes. It depends on the seed and the items alone,
//! neither on their order nor on how many threads or machines offered them, and samples of parts
//! merge into the sample of the whole.

use std::collections::{BTreeMap, BinaryHeap};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::options::OptionFault;

/// How much is checked and what must pass.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Plan {
    /// Items checked by hand. Default 4000.
    pub manual: u64,
    /// Share of them that must be sound. Default 0.96.
    pub manual_rate: f64,
    /// Share of all items that is checked by keywords and classifiers. Default 0.1.
    pub technical: f64,
    /// Share of those that must be sound. Default 0.98.
    pub technical_rate: f64,
    /// Share of bad items from which on a source is refused. Default 0.05.
    pub source_limit: f64,
    /// Which items are drawn. Default 0.
    pub seed: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Plan { manual: 4000, manual_rate: 0.96, technical: 0.1, technical_rate: 0.98, source_limit: 0.05, seed: 0 }
    }
}

impl Plan {
    /// # Errors
    /// All faults of the plan.
    pub fn check(&self) -> Result<(), Vec<OptionFault>> {
        let mut faults = Vec::new();
        if self.manual == 0 {
            faults.push(OptionFault::new("plan.manual", "0", "check at least one item by hand"));
        }
        let shares = [
            ("plan.manual_rate", self.manual_rate),
            ("plan.technical", self.technical),
            ("plan.technical_rate", self.technical_rate),
            ("plan.source_limit", self.source_limit),
        ];
        for (key, share) in shares {
            if !(share > 0.0 && share <= 1.0) {
                faults.push(OptionFault::new(key, share.to_string(), "write a share above 0, at most 1"));
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    /// Items to check by hand and by machine, of `items`: never more than there are.
    pub fn sizes(&self, items: u64) -> (u64, u64) {
        let technical = (self.technical * items as f64).ceil() as u64;
        (self.manual.min(items), technical.min(items))
    }
}

/// Draws the items with the least keyed hashes, with what is kept of each.
pub struct Sampler<T> {
    seed: u64,
    size: usize,
    least: BinaryHeap<Drawn<T>>,
}

struct Drawn<T> {
    hash: [u8; 16],
    item: u64,
    kept: T,
}

impl<T> Drawn<T> {
    fn key(&self) -> ([u8; 16], u64) {
        (self.hash, self.item)
    }
}

impl<T> PartialEq for Drawn<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}
impl<T> Eq for Drawn<T> {}
impl<T> PartialOrd for Drawn<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Drawn<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl<T> Sampler<T> {
    /// A sample of `size` items.
    pub fn new(seed: u64, size: usize) -> Self {
        Sampler { seed, size, least: BinaryHeap::new() }
    }

    /// Offers an item by its number; `keep` is called when it is drawn so far.
    pub fn offer(&mut self, item: u64, keep: impl FnOnce() -> T) {
        let mut hash = Sha256::new();
        hash.update(self.seed.to_le_bytes());
        hash.update(item.to_le_bytes());
        let digest = hash.finalize();
        let mut hash = [0; 16];
        hash.copy_from_slice(&digest[..16]);
        let full = self.least.len() >= self.size;
        if self.size == 0 || (full && self.least.peek().is_some_and(|top| (hash, item) >= top.key())) {
            return;
        }
        if full {
            self.least.pop();
        }
        self.least.push(Drawn { hash, item, kept: keep() });
    }

    /// Takes in the sample of another part with the same seed and size.
    pub fn merge(&mut self, other: Sampler<T>) {
        for drawn in other.least {
            self.least.push(drawn);
            if self.least.len() > self.size {
                self.least.pop();
            }
        }
    }

    /// The items in order of their numbers.
    pub fn finish(self) -> Vec<(u64, T)> {
        let mut items: Vec<(u64, T)> = self.least.into_iter().map(|drawn| (drawn.item, drawn.kept)).collect();
        items.sort_by_key(|(item, _)| *item);
        items
    }
}

/// A rate of sound items with its exact 95 % interval (Clopper and Pearson 1934).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rate {
    /// Items checked.
    pub checked: u64,
    /// Sound ones.
    pub sound: u64,
    /// Their share; absent when nothing was checked.
    pub rate: Option<f64>,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Rate {
    /// The rate of counts.
    pub fn new(sound: u64, checked: u64) -> Rate {
        let sound = sound.min(checked);
        let low = if sound == 0 { 0.0 } else { bisect(|p| upper_tail(sound, checked, p) < 0.025) };
        let high = if sound == checked { 1.0 } else { bisect(|p| upper_tail(sound + 1, checked, p) < 0.975) };
        let rate = (checked > 0).then(|| sound as f64 / checked as f64);
        Rate { checked, sound, rate, low, high: if checked == 0 { 1.0 } else { high } }
    }
}

/// The least probability for which `below` no longer holds.
fn bisect(below: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if below(middle) { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// P(X >= k) for X binomial(n, p), by terms from the largest outwards.
fn upper_tail(k: u64, n: u64, p: f64) -> f64 {
    if k == 0 || p >= 1.0 {
        return 1.0;
    }
    if p <= 0.0 {
        return 0.0;
    }
    let log_term = |i: u64| log_choose(n, i) + i as f64 * p.ln() + (n - i) as f64 * (-p).ln_1p();
    let odds = p / (1.0 - p);
    let mean = (n as f64 * p) as u64;
    // The shorter tail, downhill from its largest term.
    let sum_up = |from: u64| {
        let mut term = log_term(from).exp();
        let mut sum = 0.0;
        for i in from..=n {
            sum += term;
            if term < sum * 1e-17 {
                break;
            }
            term *= (n - i) as f64 / (i + 1) as f64 * odds;
        }
        sum
    };
    let sum_down = |from: u64| {
        let mut term = log_term(from).exp();
        let mut sum = 0.0;
        for i in (0..=from).rev() {
            sum += term;
            if term < sum * 1e-17 {
                break;
            }
            term *= i as f64 / (n - i + 1) as f64 / odds;
        }
        sum
    };
    if k > mean { sum_up(k).min(1.0) } else { (1.0 - sum_down(k - 1)).max(0.0) }
}

fn log_choose(n: u64, k: u64) -> f64 {
    log_factorial(n) - log_factorial(k) - log_factorial(n - k)
}

/// ln n!, by the sum for small n and Stirling's series with four terms for others.
fn log_factorial(n: u64) -> f64 {
    if n < 32 {
        return (2..=n).map(|i| (i as f64).ln()).sum();
    }
    let x = n as f64 + 1.0;
    let r = 1.0 / (x * x);
    (x - 0.5) * x.ln() - x
        + 0.5 * std::f64::consts::TAU.ln()
        + (1.0 / 12.0 - r * (1.0 / 360.0 - r * (1.0 / 1260.0 - r / 1680.0))) / x
}

/// What the checks say.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Acceptance {
    /// Checked by hand.
    pub manual: Rate,
    /// Checked by machine.
    pub technical: Rate,
    /// Enough items were checked by hand and by machine.
    pub complete: bool,
    /// Complete, and both rates are met by the sample, as TC260-003 counts.
    pub accepted: bool,
    /// Both rates are met by the lower ends of the intervals: true whatever the draw, at 97.5 %.
    pub certain: bool,
    /// Sources with the share of bad items, those refused first by share.
    pub sources: Vec<SourceVerdict>,
    /// What is missing or not met, in words.
    pub reasons: Vec<String>,
}

/// One source.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SourceVerdict {
    /// Its name.
    pub source: String,
    /// Items checked and sound.
    pub rate: Rate,
    /// More bad items than the limit.
    pub refused: bool,
}

/// Judges counts of (sound, checked): by hand, by machine, and by source.
pub fn accept(
    plan: &Plan,
    items: u64,
    manual: (u64, u64),
    technical: (u64, u64),
    sources: &BTreeMap<String, (u64, u64)>,
) -> Acceptance {
    let (need_manual, need_technical) = plan.sizes(items);
    let (manual, technical) = (Rate::new(manual.0, manual.1), Rate::new(technical.0, technical.1));
    let mut reasons = Vec::new();
    let mut missing = |what: &str, checked: u64, need: u64| {
        if checked < need {
            reasons.push(format!("{what}: {checked} of {need} items checked"));
        }
        checked >= need && need > 0
    };
    let complete =
        missing("by hand", manual.checked, need_manual) & missing("by machine", technical.checked, need_technical);
    let mut met = true;
    for (what, rate, need) in [("by hand", &manual, plan.manual_rate), ("by machine", &technical, plan.technical_rate)]
    {
        if rate.rate.is_some_and(|rate| rate < need) {
            met = false;
            let share = rate.rate.unwrap_or(0.0) * 100.0;
            reasons.push(format!("{what}: {share:.2} % sound, {:.2} % needed", need * 100.0));
        }
    }
    let mut verdicts: Vec<SourceVerdict> = Vec::new();
    for (source, (sound, checked)) in sources {
        let rate = Rate::new(*sound, *checked);
        let refused = rate.rate.is_some_and(|rate| 1.0 - rate > plan.source_limit + 1e-12);
        if refused {
            let bad = (1.0 - rate.rate.unwrap_or(1.0)) * 100.0;
            reasons.push(format!("source `{source}`: {bad:.2} % bad, at most {:.2} %", plan.source_limit * 100.0));
        }
        verdicts.push(SourceVerdict { source: source.clone(), rate, refused });
    }
    verdicts.sort_by(|a, b| b.refused.cmp(&a.refused).then(a.source.cmp(&b.source)));
    let certain = complete && manual.low >= plan.manual_rate && technical.low >= plan.technical_rate;
    Acceptance { manual, technical, complete, accepted: complete && met, certain, sources: verdicts, reasons }
}
