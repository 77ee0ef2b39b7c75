//! Clusters over rows on disk, against planted duplicates and against the recall that the S-curve
//! promises.

use std::path::PathBuf;

use arrow_array::{Array, FixedSizeListArray, UInt64Array};
use loar_kernels::rng::Stream;
use loar_text::Body;
use serde_json::Map;

use super::banding::Banding;
use super::cluster::{Clusters, Stored};
use super::keys::{Compared, Keys};
use super::shingle::{Tokens, jaccard};
use crate::batch::BatchBuilder;
use crate::operator::Operator;
use crate::shard::{write_keys, write_rows};

/// Writes texts as shards of `per` rows with their keys.
struct Fixture {
    _dir: tempfile::TempDir,
    keys: Vec<PathBuf>,
    rows: Vec<PathBuf>,
    starts: Vec<u32>,
}

impl Fixture {
    fn new(texts: &[String], per: usize, keys: &Keys) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (mut key_files, mut row_files, mut starts) = (Vec::new(), Vec::new(), vec![0]);
        for (shard, texts) in texts.chunks(per).enumerate() {
            let mut builder = BatchBuilder::new();
            for (at, text) in texts.iter().enumerate() {
                let row = (shard * per + at) as u64;
                builder.push(row, 0, row + 1, &Body::Text(text.clone()), &Map::new());
            }
            let batch = builder.finish();
            let columns = keys.apply(&batch).columns;
            let key = columns[0].1.as_any().downcast_ref::<UInt64Array>().unwrap();
            let bands = columns[1].1.as_any().downcast_ref::<FixedSizeListArray>().unwrap();
            let values = bands.values().as_any().downcast_ref::<UInt64Array>().unwrap();
            let mut all = vec![key.values().to_vec()];
            for band in 0..keys.bands() {
                all.push((0..batch.len()).map(|row| values.value(row * keys.bands() + band)).collect());
            }
            key_files.push(dir.path().join(format!("{shard}.keys")));
            row_files.push(dir.path().join(format!("{shard}.arrow")));
            write_keys(key_files.last().unwrap(), &all).unwrap();
            write_rows(row_files.last().unwrap(), &batch).unwrap();
            starts.push(starts.last().unwrap() + texts.len() as u32);
        }
        Fixture { _dir: dir, keys: key_files, rows: row_files, starts }
    }

    fn stored(&self) -> Stored<'_> {
        Stored { keys: &self.keys, rows: &self.rows, starts: &self.starts }
    }

    fn cluster(&self, keys: &Keys, threshold: f64, budget: usize, threads: usize) -> Clusters {
        let mut clusters = Clusters::new(*self.starts.last().unwrap() as usize);
        clusters.join_alike(self.stored(), 0..1 + keys.bands(), keys, threshold, budget, threads).unwrap();
        clusters
    }
}

fn words(count: usize, salt: u64) -> Vec<String> {
    let random = Stream::new(salt, 1, 0);
    (0..count as u64).map(|i| format!("w{}", random.below(i, 1 << 40))).collect()
}

/// `text` with `edits` words replaced, spread evenly.
fn edited(text: &[String], edits: usize, salt: u64) -> Vec<String> {
    let mut out = text.to_vec();
    let fresh = words(edits, salt);
    for (at, word) in fresh.into_iter().enumerate() {
        let place = (at * 2 + 1) * text.len() / (2 * edits);
        out[place] = word;
    }
    out
}

#[test]
fn planted_duplicates_are_joined_and_nothing_else() {
    let keys = Keys::new("dedup", Compared::Pair, 5, Banding { bands: 16, rows: 8 }, 7);
    let mut texts: Vec<String> = (0..600).map(|at| words(60, at).join(" ")).collect();
    // 400 repeats 20 in other case and punctuation; 401 and 402 change one word; 500 is short and repeated.
    texts[400] = texts[20].to_uppercase().replace(' ', ", ");
    texts[401] = edited(&words(60, 21), 1, 9001).join(" ");
    texts[402] = edited(&words(60, 21), 1, 9002).join(" ");
    texts[500] = "好的。".into();
    texts[7] = "好 的".into();
    texts[8] = "!!".into();
    texts[9] = "??".into();
    for (per, budget, threads) in [(600, usize::MAX, 1), (97, 1000, 3), (1, usize::MAX, 2)] {
        let fixture = Fixture::new(&texts, per, &keys);
        let clusters = fixture.cluster(&keys, 0.7, budget, threads);
        let mut moved: Vec<(u32, u32)> =
            (0..600).map(|row| (row, clusters.first(row))).filter(|(row, first)| row != first).collect();
        moved.sort_unstable();
        assert_eq!(moved, [(400, 20), (401, 21), (402, 21), (500, 7)], "{per} a shard");
        assert_eq!(clusters.joined.len(), 4);
        assert!(clusters.joined.iter().all(|pair| pair.jaccard >= 0.7 && pair.of < pair.row));
    }
}

/// The share of near-duplicates found lies within four deviations of what the S-curve gives for
/// their true similarities.
#[test]
fn recall_is_what_the_curve_promises() {
    let banding = Banding { bands: 16, rows: 8 };
    let keys = Keys::new("dedup", Compared::Pair, 5, banding, 3);
    for edits in [1, 2, 3] {
        let pairs = 400;
        let (mut texts, mut expected, mut variance) = (Vec::new(), 0.0, 0.0);
        let mut originals = Vec::new();
        for at in 0..pairs {
            let text = words(80, 100_000 + at);
            let other = edited(&text, edits, 200_000 + at);
            originals.push(text.join(" "));
            texts.push(other.join(" "));
            let set = |text: &str| {
                let (mut tokens, mut out) = (Tokens::default(), Vec::new());
                tokens.add(text);
                tokens.shingles(5, &mut out);
                out.sort_unstable();
                out.dedup();
                out
            };
            let met = banding.probability(jaccard(&set(&text.join(" ")), &set(&other.join(" "))));
            expected += met;
            variance += met * (1.0 - met);
        }
        originals.extend(texts);
        let fixture = Fixture::new(&originals, 250, &keys);
        // Threshold 0: whoever meets is joined.
        let clusters = fixture.cluster(&keys, 0.0, usize::MAX, 2);
        let found = (0..pairs as u32).filter(|row| clusters.first(row + pairs as u32) == *row).count() as f64;
        assert!((found - expected).abs() <= 4.0 * variance.sqrt() + 1.0, "{edits} edits: {found} of {expected:.1}");
    }
}

#[test]
fn equal_keys_join_without_comparison() {
    let keys = Keys::new("request", Compared::Request, 5, Banding { bands: 1, rows: 1 }, 0);
    let texts: Vec<String> = ["a", "b", "A!", "c", "b"].map(str::to_owned).into();
    let fixture = Fixture::new(&texts, 2, &keys);
    let mut clusters = Clusters::new(5);
    clusters.join_equal(fixture.stored(), 0, 16).unwrap();
    assert_eq!((0..5).map(|row| clusters.first(row)).collect::<Vec<_>>(), [0, 1, 0, 3, 1]);
    assert_eq!(clusters.compared, 0);
}
