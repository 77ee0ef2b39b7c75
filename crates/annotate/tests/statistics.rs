//! Statistics of agreement against published values: Krippendorff 2011, Wikipedia's examples, Gwet
//! 2008, and the anaesthetists of Dawid and Skene 1979.

use loar_annotate::agreement::{Metric, Ratings, Values, masi};
use loar_annotate::dawid_skene::{self, Options, Vote};
use loar_annotate::kappa::{Weights, cohen, fleiss, gwet_ac1};

fn matrix(rows: &[&str]) -> Ratings {
    let row = |r: &&str| r.split_whitespace().map(|v| v.parse().ok()).collect();
    Ratings::from_matrix(&rows.iter().map(row).collect::<Vec<_>>())
}

fn near(found: Option<f64>, expected: f64, within: f64) {
    let found = found.expect("defined");
    assert!((found - expected).abs() < within, "{found} is not {expected}");
}

/// Krippendorff (2011), example D: 4 observers, 12 units, missing values.
fn krippendorff() -> Ratings {
    matrix(&[
        "1 2 3 3 2 1 4 1 2 . . .",
        "1 2 3 3 2 2 4 1 2 5 . 3",
        ". 3 3 3 2 3 4 2 2 5 1 .",
        "1 2 3 3 2 4 4 1 2 5 1 .",
    ])
}

#[test]
fn alpha_of_krippendorff_2011() {
    let ratings = krippendorff();
    near(ratings.alpha(Metric::Nominal), 0.743421, 5e-7);
    near(ratings.alpha(Metric::Ordinal), 0.815388, 5e-7);
    near(ratings.alpha(Metric::Interval), 0.849107, 5e-7);
    near(ratings.alpha(Metric::Ratio), 0.797403, 5e-7);
    assert_eq!(ratings.pairable(), 11);
}

#[test]
fn alpha_of_wikipedia() {
    let ratings =
        matrix(&[". . . . . 3 4 1 2 1 1 3 3 . 3", "1 . 2 1 3 3 4 3 . . . . . . .", ". . 2 1 3 4 4 . 2 1 1 3 3 . 4"]);
    near(ratings.alpha(Metric::Nominal), 0.691358, 5e-7);
    near(ratings.alpha(Metric::Interval), 0.810845, 5e-7);
    near(ratings.alpha(Metric::Ordinal), 0.806721, 5e-7);
}

#[test]
fn alpha_is_undefined_where_nothing_varies() {
    let same = matrix(&["2 2 2 .", "2 2 2 2"]);
    assert_eq!(same.alpha(Metric::Nominal), None);
    assert_eq!(same.alpha_interval(Metric::Nominal, 1000, 1), None);
    assert_eq!(matrix(&["1 2 3", ". . ."]).alpha(Metric::Interval), None);
}

#[test]
fn leaving_a_rater_out_is_the_alpha_of_the_others() {
    let rows = ["1 2 3 3 2 1 4 1 2 . . .", "1 2 3 3 2 2 4 1 2 5 . 3", "1 2 3 3 2 4 4 1 2 5 1 ."];
    let without = krippendorff().alpha_without_each(Metric::Ordinal);
    near(without[2], matrix(&rows).alpha(Metric::Ordinal).unwrap(), 1e-12);
    assert_eq!(without.len(), 4);
}

#[test]
fn the_bootstrap_holds_alpha_and_repeats_itself() {
    let ratings = krippendorff();
    let interval = ratings.alpha_interval(Metric::Nominal, 2000, 7).unwrap();
    assert!(interval.low < 0.743421 && 0.743421 < interval.high && interval.high <= 1.0, "{interval:?}");
    assert!(interval.high - interval.low > 0.1, "{interval:?}");
    assert_eq!(ratings.alpha_interval(Metric::Nominal, 2000, 7), Some(interval));
    assert_ne!(ratings.alpha_interval(Metric::Nominal, 2000, 8), Some(interval));
}

#[test]
fn masi_weighs_subsets_above_overlaps() {
    assert_eq!(masi(0b11, 0b11), 0.0);
    assert_eq!(masi(0b01, 0b10), 1.0);
    assert!((masi(0b01, 0b11) - (1.0 - 0.5 * 2.0 / 3.0)).abs() < 1e-12);
    assert!((masi(0b011, 0b110) - (1.0 - 1.0 / 9.0)).abs() < 1e-12);
    // two raters, three units: equal, subset, disjoint. By hand: o(A,AB) and o(B,A) once each way;
    // margins A 4 (2 + 1 + 1), AB 1, B 1; D_o = (2·2/3 + 2·1)/6, D_e = 2(4·2/3 + 4·1 + 1·2/3)/30.
    let mut ratings = Ratings::new(Values::Sets(vec![0b01, 0b11, 0b10]), 2);
    for unit in [[(0, 0), (1, 0)], [(0, 0), (1, 1)], [(0, 2), (1, 0)]] {
        ratings.push(unit.to_vec()).unwrap();
    }
    let (observed, expected) = ((4.0 / 3.0 + 2.0) / 6.0, 2.0 * (8.0 / 3.0 + 4.0 + 2.0 / 3.0) / 30.0);
    near(ratings.alpha(Metric::Masi), 1.0 - observed / expected, 1e-12);
    assert_eq!(ratings.push(vec![(2, 0)]), Err((2, 0)));
}

#[test]
fn kappas_of_the_textbooks() {
    let cases = [([20.0, 5.0, 10.0, 15.0], 0.4), ([45.0, 15.0, 25.0, 15.0], 0.1304), ([25.0, 35.0, 5.0, 35.0], 0.2593)];
    for (t, expected) in cases {
        let table = vec![vec![t[0], t[1]], vec![t[2], t[3]]];
        near(cohen(&table, Weights::Equal), expected, 5e-5);
        // two categories: one distance only
        near(cohen(&table, Weights::Quadratic), cohen(&table, Weights::Equal).unwrap(), 1e-12);
    }
    assert_eq!(cohen(&[vec![9.0, 0.0], vec![0.0, 0.0]], Weights::Equal), None);
    let counts: Vec<Vec<u32>> = [
        [0, 0, 0, 0, 14],
        [0, 2, 6, 4, 2],
        [0, 0, 3, 5, 6],
        [0, 3, 9, 2, 0],
        [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0],
        [3, 2, 6, 3, 0],
        [2, 5, 3, 2, 2],
        [6, 5, 2, 1, 0],
        [0, 2, 2, 3, 7],
    ]
    .map(|row| row.to_vec())
    .to_vec();
    near(fleiss(&counts), 0.209931, 5e-7);
    assert_eq!(fleiss(&[vec![1, 1], vec![2, 1]]), None);
}

#[test]
fn weighted_kappa_by_hand() {
    // rows 3 2 0 / 1 4 1 / 0 1 3; margins 5 6 4 and 4 7 4 of 15
    let table = vec![vec![3.0, 2.0, 0.0], vec![1.0, 4.0, 1.0], vec![0.0, 1.0, 3.0]];
    let observed = 2.0 + 1.0 + 1.0 + 1.0;
    let linear = (5.0 * 7.0 + 2.0 * 5.0 * 4.0 + 6.0 * 4.0 + 6.0 * 4.0 + 2.0 * 4.0 * 4.0 + 4.0 * 7.0) / 15.0;
    near(cohen(&table, Weights::Linear), 1.0 - observed / linear, 1e-12);
    let quadratic = (5.0 * 7.0 + 4.0 * 5.0 * 4.0 + 6.0 * 4.0 + 6.0 * 4.0 + 4.0 * 4.0 * 4.0 + 4.0 * 7.0) / 15.0;
    near(cohen(&table, Weights::Quadratic), 1.0 - observed / quadratic, 1e-12);
}

/// Gwet (2008), table 3: 125 units, 118 and 0 agreed, 5 and 2 not; κ is below zero there.
#[test]
fn ac1_where_kappa_fails() {
    let mut counts = vec![vec![2, 0]; 118];
    counts.extend(vec![vec![1, 1]; 7]);
    near(gwet_ac1(&counts), 0.9408, 5e-5);
    near(cohen(&[vec![118.0, 5.0], vec![2.0, 0.0]], Weights::Equal), -0.0234, 5e-5);
}

/// Table 1 of Dawid and Skene (1979): 45 patients; the first anaesthetist rated thrice. One copy in
/// circulation has patient 7 as 1 2 2 by the first; this one, 1 1 2, gives the published estimates.
const ANAESTHETISTS: &str = "\
    1111111 3334334 1122122 2223121 2223222 2223322 1122111 3333433 2222223 2322223 4444444 2223343 \
    1111111 2223212 1211111 1112111 1111111 1111111 2222221 2221322 2222222 2222221 2223222 2212222 \
    1111111 1111111 2322222 1111111 1111111 1121121 1111111 3333233 1111111 2222222 2223232 4334343 \
    2212232 2323233 3333432 1111111 1111111 1212111 2322222 1211111 2222222";

fn anaesthetists() -> Vec<Vote> {
    let patients = ANAESTHETISTS.split_whitespace().enumerate();
    let votes = patients.flat_map(|(item, ratings)| {
        let classes = ratings.bytes().map(|b| usize::from(b - b'1'));
        classes.zip([0, 0, 0, 1, 2, 3, 4]).map(move |(class, rater)| Vote { item, rater, class })
    });
    votes.collect()
}

#[test]
fn dawid_and_skene_1979() {
    let votes = anaesthetists();
    assert_eq!(votes.len(), 315);
    let options = Options { smoothing: 0.0, full_from: 0, tolerance: 1e-12, ..Options::default() };
    let found = dawid_skene::estimate(&votes, 4, &[], &options).unwrap();
    assert!(found.converged);
    assert_eq!(found.iterations, 31);
    assert!((found.log_likelihood + 190.730997).abs() < 5e-7, "{}", found.log_likelihood);
    for (p, expected) in found.priors.iter().zip([0.4000, 0.4216, 0.1118, 0.0667]) {
        assert!((p - expected).abs() < 5e-5, "{:?}", found.priors);
    }
    for (p, expected) in found.raters[1].confusion[1].iter().zip([0.05, 0.63, 0.31, 0.0]) {
        assert!((p - expected).abs() < 6e-3, "{:?}", found.raters[1].confusion);
    }
    let labels = "1 4 2 2 2 2 1 3 2 2 4 3 1 2 1 1 1 1 2 2 2 2 2 2 1 1 2 1 1 1 1 3 1 2 2 4 2 3 3 1 1 1 2 1 2";
    let best: Vec<String> = (0..45).map(|i| (found.best(i).0 + 1).to_string()).collect();
    assert_eq!(best.join(" "), labels);
}

#[test]
fn few_items_give_one_accuracy() {
    let found = dawid_skene::estimate(&anaesthetists(), 4, &[], &Options::default()).unwrap();
    for rater in &found.raters {
        assert!(rater.one_coin && rater.items == 45);
        for (j, row) in rater.confusion.iter().enumerate() {
            assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            assert!((row[j] - rater.accuracy).abs() < 1e-12);
            assert!((row[(j + 1) % 4] - row[(j + 2) % 4]).abs() < 1e-12);
        }
    }
}

#[test]
fn gold_clamps_the_truth() {
    let options = Options { full_from: 0, ..Options::default() };
    // patient 3 is a 2 by the votes; told that it is a 1, it stays one
    let mut gold = vec![None; 45];
    gold[2] = Some(0);
    let found = dawid_skene::estimate(&anaesthetists(), 4, &gold, &options).unwrap();
    assert_eq!(found.posteriors[2], [1.0, 0.0, 0.0, 0.0]);
    let free = dawid_skene::estimate(&anaesthetists(), 4, &[], &options).unwrap();
    assert_eq!(free.best(2).0, 1);
    assert!(found.log_likelihood < free.log_likelihood);
}

#[test]
fn votes_out_of_range_are_named() {
    let vote = Vote { item: 3, rater: 0, class: 4 };
    let error = dawid_skene::estimate(&[vote], 4, &[], &Options::default()).unwrap_err();
    assert_eq!(error.to_string(), "a vote on item 3 has class 4; there are 4");
    assert!(dawid_skene::estimate(&[], 4, &[], &Options::default()).is_err());
}
