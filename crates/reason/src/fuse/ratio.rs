//! What a verdict is worth: the likelihood ratio P(v | right) / P(v | wrong), measured.
//!
//! Paths with an answer are counted by verdict and by being right, plus one each (Laplace). The interval
//! of each log ratio is taken **over questions**, not paths, since paths of one question share their
//! fate: the sandwich variance of the linearised ratio, never below the binomial one. A verdict whose
//! 99 % interval contains 1 weighs exactly nothing, so a worthless verifier drops out by itself.
//!
//! Paths that agree also share their verdict: five copies of one mistake that a checker overlooks are not
//! five proofs. Verdicts within one answer class are therefore Dirichlet-multinomial with a concentration
//! for right and one for wrong classes, fitted by marginal likelihood; for one path this is the plain
//! ratio. What one verifier says of one class is clipped to ±ln 10⁴.

use super::Groups;
use super::special::{ln_dirichlet_multinomial_of, maximise};
use crate::verify::Verdict;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// Most that one verifier may say for or against a class: ln 10⁴.
pub const CLIP: f64 = 9.210_340_371_976_184;
/// Two-sided 99 % point of the normal distribution.
const Z: f64 = 2.576;
const VERDICTS: [Verdict; 3] = [Verdict::Pass, Verdict::Fail, Verdict::Unsure];

fn place(verdict: Verdict) -> usize {
    match verdict {
        Verdict::Pass => 0,
        Verdict::Fail => 1,
        Verdict::Unsure => 2,
    }
}

/// A verifier's measured worth. Lists are in the order pass, fail, unsure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// Verdicts on right paths.
    pub right: [usize; 3],
    /// Verdicts on wrong paths that have an answer.
    pub wrong: [usize; 3],
    /// ln ratio of each verdict as estimated.
    pub ln_ratio: [f64; 3],
    /// Half width of its 99 % interval.
    pub half_width: [f64; 3],
    /// Whether the verdict weighs anything: its interval does not contain 0.
    pub counts: [bool; 3],
    /// Concentration of verdicts within a right class; large: paths are judged independently.
    pub spread_right: f64,
    /// The same within a wrong class.
    pub spread_wrong: f64,
}

/// One question for [`Ratio::fit`]: classes and verdicts of its paths and the class that is right.
pub type Judged<'a> = (&'a [Option<usize>], &'a [Verdict], Option<usize>);

impl Ratio {
    /// Measures a verifier on questions with known answers.
    pub fn fit(questions: &[Judged]) -> Self {
        let mut totals = [[0_usize; 3]; 2];
        let mut each: Vec<[[f64; 3]; 2]> = Vec::new();
        let mut classes: [Vec<[usize; 3]>; 2] = [Vec::new(), Vec::new()];
        for (paths, verdicts, truth) in questions {
            let mut here = [[0.0; 3]; 2];
            for (class, members) in Groups::of(paths).classes {
                let wrong = usize::from(Some(class) != *truth);
                let mut counts = [0; 3];
                for v in members.iter().filter_map(|&i| verdicts.get(i)) {
                    counts[place(*v)] += 1;
                    here[wrong][place(*v)] += 1.0;
                    totals[wrong][place(*v)] += 1;
                }
                classes[wrong].push(counts);
            }
            each.push(here);
        }
        let n: [f64; 2] = totals.map(|t| t.iter().sum::<usize>() as f64);
        let p: [[f64; 3]; 2] = [0, 1].map(|c| totals[c].map(|x| (x as f64 + 1.0) / (n[c] + 3.0)));
        let ln_ratio = [0, 1, 2].map(|v| (p[0][v] / p[1][v]).ln());
        let half_width = [0, 1, 2].map(|v| {
            let binomial: f64 = (0..2).map(|c| (1.0 - p[c][v]) / (p[c][v] * (n[c] + 3.0))).sum();
            let influence = |q: &[[f64; 3]; 2], c: usize| {
                let all: f64 = q[c].iter().sum();
                (q[c][v] - p[c][v] * all) / (p[c][v] * (n[c] + 3.0))
            };
            let sandwich: f64 = each.iter().map(|q| (influence(q, 0) - influence(q, 1)).powi(2)).sum();
            Z * binomial.max(sandwich).sqrt()
        });
        let counts = [0, 1, 2].map(|v| ln_ratio[v].abs() > half_width[v] && n[0] > 0.0 && n[1] > 0.0);
        let spread = |c: usize| {
            let likelihood = |s: &[f64]| {
                let a = p[c].map(|p| p * s[0].exp());
                let fit: f64 = classes[c].iter().map(|n| ln_dirichlet_multinomial_of(n, &a)).sum();
                // A weak prior around 1 (standard deviation e^2) for the case of few classes.
                fit - s[0] * s[0] / 8.0
            };
            maximise(&[0.0], -7.0, 7.0, likelihood)[0].exp()
        };
        let (spread_right, spread_wrong) = (spread(0), spread(1));
        Self { right: totals[0], wrong: totals[1], ln_ratio, half_width, counts, spread_right, spread_wrong }
    }

    /// Whether any verdict weighs anything.
    pub fn is_worth_something(&self) -> bool {
        self.counts.contains(&true)
    }

    /// P(verdict | right) or P(verdict | wrong), in the order pass, fail, unsure.
    fn shares(counts: &[usize; 3]) -> [f64; 3] {
        let n = counts.iter().sum::<usize>() as f64;
        counts.map(|x| (x as f64 + 1.0) / (n + 3.0))
    }

    /// ln ratio of the verdicts on the paths of one class, clipped; verdicts that weigh nothing are left out.
    pub fn of_class(&self, verdicts: impl Iterator<Item = Verdict>) -> f64 {
        let mut n = [0; 3];
        for v in verdicts.map(place).filter(|&v| self.counts[v]) {
            n[v] += 1;
        }
        let ln_p = |counts, spread| ln_dirichlet_multinomial_of(&n, &Self::shares(counts).map(|p| p * spread));
        (ln_p(&self.right, self.spread_right) - ln_p(&self.wrong, self.spread_wrong)).clamp(-CLIP, CLIP)
    }

    /// ln ratio of one path's verdict, clipped; 0 for a verdict that weighs nothing.
    pub fn of_path(&self, verdict: Verdict) -> f64 {
        let v = place(verdict);
        if self.counts[v] { self.ln_ratio[v].clamp(-CLIP, CLIP) } else { 0.0 }
    }
}

/// The likelihood ratios as a table.
pub fn table<'a>(ratios: impl Iterator<Item = (&'a str, &'a Ratio)>) -> String {
    let mut out = format!(
        "{:<20} {:<7} {:>7} {:>7} {:>10} {:>22}  weight\n",
        "verifier", "verdict", "right", "wrong", "ratio", "99 % interval"
    );
    for (name, ratio) in ratios {
        for (v, verdict) in VERDICTS.iter().enumerate() {
            let (low, high) = (ratio.ln_ratio[v] - ratio.half_width[v], ratio.ln_ratio[v] + ratio.half_width[v]);
            let word = match verdict {
                Verdict::Pass => "pass",
                Verdict::Fail => "fail",
                Verdict::Unsure => "unsure",
            };
            let interval = format!("{:.3} – {:.3}", low.exp(), high.exp());
            let _ = writeln!(
                out,
                "{name:<20} {word:<7} {:>7} {:>7} {:>10.4} {interval:>22}  {:+.3}",
                ratio.right[v],
                ratio.wrong[v],
                ratio.ln_ratio[v].exp(),
                ratio.of_path(*verdict),
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuse::folds::Draw;

    type Row = (Vec<Option<usize>>, Vec<Verdict>, Option<usize>);

    /// 300 questions of 5 paths, 70 % right; `fails` of right and of wrong paths fail, each by itself or
    /// all paths of a question alike.
    fn questions(fails: [f64; 2], together: bool, seed: u64) -> Vec<Row> {
        let mut draw = Draw::new(seed, 0);
        (0..300)
            .map(|_| {
                let shared = draw.unit();
                let classes: Vec<_> = (0..5).map(|_| Some(usize::from(draw.unit() > 0.7))).collect();
                let verdict = |class: &Option<usize>, draw: &mut Draw| {
                    let u = if together { shared } else { draw.unit() };
                    if u < fails[class.unwrap()] { Verdict::Fail } else { Verdict::Pass }
                };
                let verdicts = classes.iter().map(|c| verdict(c, &mut draw)).collect();
                (classes, verdicts, Some(0))
            })
            .collect()
    }

    fn fit(rows: &[Row]) -> Ratio {
        let judged: Vec<Judged> = rows.iter().map(|(c, v, t)| (&c[..], &v[..], *t)).collect();
        Ratio::fit(&judged)
    }

    #[test]
    fn a_worthless_verifier_weighs_exactly_nothing() {
        for together in [false, true] {
            let worth = (0..40).filter(|&s| fit(&questions([0.05, 0.05], together, s)).is_worth_something()).count();
            assert!(worth <= 3, "{worth} of 40 worthless verifiers weighed something (together: {together})");
        }
        let ratio = fit(&questions([0.05, 0.05], false, 1));
        assert_eq!(ratio.of_class([Verdict::Fail; 4].into_iter()), 0.0);
        assert_eq!(ratio.of_path(Verdict::Pass), 0.0);
    }

    #[test]
    fn a_good_verifier_weighs_what_it_is_worth() {
        let ratio = fit(&questions([0.02, 0.8], false, 1));
        assert!(ratio.counts[0] && ratio.counts[1]);
        assert!((ratio.of_path(Verdict::Fail) - (0.02_f64 / 0.8).ln()).abs() < 0.5);
        assert!((ratio.of_path(Verdict::Pass) - (0.98_f64 / 0.2).ln()).abs() < 0.3);
        let one = ratio.of_class([Verdict::Fail].into_iter());
        assert!((one - ratio.of_path(Verdict::Fail)).abs() < 1e-9, "one path: the plain ratio");
    }

    #[test]
    fn even_a_perfect_verifier_is_clipped() {
        let mut ratio = fit(&questions([0.0, 1.0], false, 1));
        (ratio.right, ratio.wrong) = ([1_000_000, 0, 0], [0, 1_000_000, 0]);
        assert_eq!(ratio.of_class([Verdict::Fail; 50].into_iter()), -CLIP);
    }

    #[test]
    fn verdicts_that_come_together_are_not_added_up() {
        let rows: Vec<Row> = questions([0.1, 0.6], true, 5);
        let together = fit(&rows);
        let apart = fit(&questions([0.1, 0.6], false, 5));
        let four = |r: &Ratio| r.of_class([Verdict::Fail; 4].into_iter());
        assert!(four(&together) > four(&apart), "{} {}", four(&together), four(&apart));
        assert!(four(&together) > 2.0 * together.of_path(Verdict::Fail));
        assert!(four(&apart) < 3.0 * apart.of_path(Verdict::Fail));
    }

    #[test]
    fn the_table_shows_every_verdict() {
        let ratio = fit(&questions([0.02, 0.8], false, 1));
        let text = table([("letters", &ratio)].into_iter());
        assert_eq!(text.lines().count(), 4);
        assert!(text.contains("letters              fail") && text.contains("+0.000"), "{text}");
    }
}
