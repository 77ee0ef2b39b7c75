//! Planted neighbours against all pairs: every finding is true, nearly none is missed, and neither
//! threads nor cells change what one cell finds.

use loar_kernels::rng::Stream;

use super::*;
use crate::terms::dot;

const WIDTH: usize = 32;

/// Vectors around a few themes; every fifth is near one that stands before it.
fn vectors(rows: usize) -> Vec<Vec<f32>> {
    let mut all: Vec<Vec<f32>> = Vec::new();
    for row in 0..rows {
        let noise = |purpose: u32| {
            let mut values = vec![0.0; WIDTH];
            Stream::new(11, purpose, row as u32).fill_normal(0, 1.0, &mut values);
            values
        };
        let mut vector = noise(1);
        if row % 5 == 4 {
            let near = &all[row * 7919 % row];
            // cosines of about 0.995 down to 0.9
            let share = 0.02 + 0.06 * (row % 7) as f32 / 7.0;
            vector.iter_mut().zip(near).for_each(|(v, n)| *v = n + share * *v);
        } else {
            let theme = Stream::new(5, 3, (row % 40) as u32);
            vector.iter_mut().enumerate().for_each(|(at, v)| *v = 0.7 * *v + theme.normal(at as u64));
        }
        normalise(&mut vector);
        all.push(vector);
    }
    all
}

fn run(all: &[Vec<f32>], rows: &[u32], options: &Options, threads: usize) -> (Vec<Same>, Report) {
    let read = |rows: &[u32]| {
        assert!(rows.is_sorted());
        Ok(rows.iter().flat_map(|row| all[*row as usize].iter().copied()).collect())
    };
    find(rows, WIDTH, options, &Pool::new(threads), read).unwrap()
}

#[test]
fn one_cell_finds_what_all_pairs_find() {
    let all = vectors(900);
    let rows: Vec<u32> = (0..900).filter(|row| row % 11 != 3).collect();
    let options = Options::default();
    let (found, report) = run(&all, &rows, &options, 1);
    let (mut want, mut stay): (Vec<Same>, Vec<u32>) = (Vec::new(), Vec::new());
    for row in &rows {
        let cosine = |of: &u32| dot(&all[*row as usize], &all[*of as usize]);
        let best = stay.iter().map(|of| (cosine(of), *of)).reduce(|a, b| if b.0 > a.0 { b } else { a });
        match best.filter(|(cosine, _)| f64::from(*cosine) >= options.cosine) {
            Some((cosine, of)) => want.push(Same { row: *row, of, cosine }),
            None => stay.push(*row),
        }
    }
    assert!(want.len() > 80, "{} planted", want.len());
    assert_eq!(found.len(), want.len());
    for (got, want) in found.iter().zip(&want) {
        assert_eq!((got.row, got.of), (want.row, want.of));
        assert!((got.cosine - want.cosine).abs() < 1e-5);
    }
    assert_eq!((report.cells, report.rows, report.same), (1, rows.len() as u64, want.len() as u64));
}

#[test]
fn cells_miss_little_and_say_nothing_untrue() {
    let all = vectors(6000);
    let rows: Vec<u32> = (0..6000).collect();
    let whole = run(&all, &rows, &Options { cell: 6000, ..Options::default() }, 2).0;
    let options = Options { cell: 200, ..Options::default() };
    let (found, report) = run(&all, &rows, &options, 1);
    assert_eq!(run(&all, &rows, &options, 3), (found.clone(), report.clone()));
    let gone: Vec<u32> = found.iter().map(|same| same.row).collect();
    for same in &found {
        assert!(same.of < same.row);
        let cosine = dot(&all[same.row as usize], &all[same.of as usize]);
        assert!(f64::from(cosine) >= options.cosine - 1e-6 && (cosine - same.cosine).abs() < 1e-5);
    }
    let missed = whole.iter().filter(|same| gone.binary_search(&same.row).is_err()).count();
    assert!(missed * 50 <= whole.len(), "{missed} of {} missed", whole.len());
    assert!(report.cells == 30 && report.pairs < 6000 * 5999 / 2 / 4, "{report:?}");
}

#[test]
fn a_crowd_of_equals_keeps_its_first() {
    let all = vec![vec![1.0 / (WIDTH as f32).sqrt(); WIDTH]; 5000];
    let rows: Vec<u32> = (0..5000).collect();
    let (found, report) = run(&all, &rows, &Options { cell: 100, ..Options::default() }, 2);
    assert_eq!(found.len(), 4999);
    assert!(found.iter().all(|same| same.cosine > 0.9999));
    // each row meets one that stays: not the square of the crowd
    assert!(report.pairs < 3 * 5000, "{report:?}");
    assert!(run(&all, &[7], &Options::default(), 1).0.is_empty());
}

#[test]
fn options_out_of_range_are_told_together() {
    let options = Options { cosine: 1.5, drop: true, cell: 3, probes: 0 };
    let keys: Vec<String> = options.check().into_iter().map(|fault| fault.key).collect();
    assert_eq!(keys, ["semantic.cosine", "semantic.cell", "semantic.probes"]);
}
