//! Bayes with independent errors.
//!
//! Path i is right with probability p_i; a wrong one falls on each of K alternatives alike. Then
//! S(a) = ln π(a) + Σ_{i says a} [logit p_i + ln K], and each answer that nobody gave has ln π. For two
//! answers (K = 1) it is the Nitzan–Paroush rule; equal p is the vote; p = 1/(K + 1) weighs nothing and
//! less weighs negatively. It is overconfident when paths share their errors: see [`super::posterior`].

use super::special::logit;
use super::{Fused, Groups, Method, Term};

/// How many answers a wrong path could give.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Alternatives {
    /// The question is open: K alternatives by estimate, at least one answer stays unseen.
    Open(f64),
    /// The question offers this many answers: K is one less.
    Closed(usize),
}

impl Alternatives {
    /// (K, answers nobody gave) when `seen` different answers came and `silent` paths gave none.
    /// Silence is an alternative for a wrong path and never the truth.
    pub fn resolve(self, seen: usize, silent: bool) -> (f64, f64) {
        let (seen, silent) = (seen as f64, f64::from(u8::from(silent)));
        match self {
            Alternatives::Open(k) => {
                let k = k.max(seen + silent).max(1.0);
                (k, (k + 1.0 - seen - silent).max(1.0))
            }
            Alternatives::Closed(m) => {
                let offered = (m as f64).max(seen);
                ((offered - 1.0 + silent).max(1.0), offered - seen)
            }
        }
    }
}

/// The terms of each class, in the order of `groups`, and of "none of these".
pub(crate) fn terms(groups: &Groups, p: &[f64], alternatives: Alternatives) -> (Vec<Vec<Term>>, Option<Vec<Term>>) {
    let (k, unseen) = alternatives.resolve(groups.classes.len(), !groups.unanswered.is_empty());
    let witness = |paths: &[usize]| paths.iter().map(|&i| logit(p[i]) + k.ln()).sum::<f64>();
    let each = groups.classes.iter().map(|(_, paths)| vec![Term::new("witnesses", witness(paths))]).collect();
    (each, (unseen > 0.0).then(|| vec![Term::new("unseen answers", unseen.ln())]))
}

/// The posterior with a uniform prior over answers.
///
/// # Panics
/// When `classes` and `p` differ in length.
pub fn independent(classes: &[Option<usize>], p: &[f64], alternatives: Alternatives) -> Fused {
    assert_eq!(classes.len(), p.len(), "one probability a path");
    let groups = Groups::of(classes);
    let (each, none) = terms(&groups, p, alternatives);
    Fused::normalise(Method::Independent, groups, each, none)
}

#[cfg(test)]
mod tests {
    use super::Alternatives::{Closed, Open};
    use super::*;
    use crate::fuse::vote::vote;

    fn classes(ids: &[usize]) -> Vec<Option<usize>> {
        ids.iter().map(|&c| Some(c)).collect()
    }

    #[test]
    fn equal_witnesses_are_a_majority() {
        for ids in [&[3, 1, 1, 2, 1][..], &[0, 1, 2, 2], &[5, 5, 4, 4, 4, 5]] {
            let classes = classes(ids);
            let bayes = independent(&classes, &vec![0.6; ids.len()], Open(10.0));
            let order = |f: &Fused| f.candidates.iter().map(|c| c.class).collect::<Vec<_>>();
            assert_eq!(order(&bayes), order(&vote(&classes)));
        }
    }

    #[test]
    fn two_answers_are_nitzan_and_paroush() {
        let p = [0.9, 0.6, 0.6];
        let fused = independent(&classes(&[0, 1, 1]), &p, Closed(2));
        let log_odds = logit(0.9) - 2.0 * logit(0.6);
        assert!((logit(fused.p_of(0)) - log_odds).abs() < 1e-12);
        assert_eq!(fused.p_none, 0.0);
    }

    #[test]
    fn one_path_has_its_own_probability() {
        for (p, alternatives) in [(0.73, Open(10.0)), (0.2, Open(3.0)), (0.4, Closed(5)), (0.9, Closed(2))] {
            let fused = independent(&classes(&[0]), &[p], alternatives);
            assert!((fused.p() - p).abs() < 1e-12 && (fused.p_none - (1.0 - p)).abs() < 1e-12, "{alternatives:?}");
        }
    }

    #[test]
    fn chance_weighs_nothing_and_less_weighs_negatively() {
        // Five options, K = 4: a path right with probability 1/5 says nothing.
        let ids = classes(&[0, 1]);
        let even = independent(&ids, &[0.5, 0.2], Closed(5));
        let alone = independent(&ids[..1], &[0.5], Closed(5));
        assert!((even.p_of(0) - alone.p_of(0)).abs() < 1e-12);
        let worse = independent(&ids, &[0.5, 0.05], Closed(5));
        assert!(worse.p_of(1) < 1.0 / 5.0 * (1.0 - worse.p_of(0)), "below the share of an unnamed option");
        assert!(worse.candidates.iter().find(|c| c.class == 1).unwrap().score < 0.0);
    }

    #[test]
    fn options_all_seen_leave_nothing_unseen_and_open_questions_always_do() {
        assert_eq!(Closed(3).resolve(3, false), (2.0, 0.0));
        assert_eq!(Closed(3).resolve(2, true), (3.0, 1.0));
        assert_eq!(Open(2.0).resolve(5, false), (5.0, 1.0));
        assert_eq!(Open(10.0).resolve(2, true), (10.0, 8.0));
    }
}
