//! Every form of weight against a reference, every row count, one thread and several.
use super::*;
use crate::rng::Stream as Random;

fn normal(n: usize, purpose: u32) -> Vec<f32> {
    let mut v = vec![0f32; n];
    Random::new(77, purpose, 0).fill_normal(0, 1.0, &mut v);
    v
}

const FORMATS: [&str; 5] = ["f32", "bf16", "int8", "int4", "fp8"];

/// A stored matrix `[rows, columns]`.
struct Stored {
    f32s: Vec<f32>,
    words: Vec<u16>,
    bytes: Vec<u8>,
    codes: Vec<i8>,
    rows: usize,
    columns: usize,
    format: &'static str,
}

impl Stored {
    fn new(format: &'static str, rows: usize, columns: usize, purpose: u32) -> Stored {
        let x = normal(rows * columns, purpose);
        let pool = Pool::new(1);
        let row = |r: usize, out: &mut [f32]| out.copy_from_slice(&x[r * columns..(r + 1) * columns]);
        let mut s = Stored { f32s: vec![], words: vec![], bytes: vec![], codes: vec![], rows, columns, format };
        match format {
            "f32" => s.f32s = x.clone(),
            "bf16" => s.words = x.iter().map(|v| narrow(*v)).collect(),
            "int8" => {
                let q = quant::quantize_int8(&pool, rows, columns, &row);
                (s.codes, s.f32s) = (q.q, q.scales);
            }
            "int4" => {
                let q = quant::quantize_int4(&pool, rows, columns, &row);
                (s.bytes, s.words) = (q.q, q.scales);
            }
            _ => {
                let random = Random::new(5, purpose, 1);
                s.bytes = (0..rows * columns)
                    .map(|i| (random.u64_at(i as u64) >> 20) as u8)
                    .map(|b| if b & 0x7f == 0x7f { 0x38 } else { b })
                    .collect();
                s.f32s = normal(rows.div_ceil(128) * columns.div_ceil(128), purpose + 9);
            }
        }
        s
    }

    fn matrix(&self) -> Matrix<'_> {
        let values = match self.format {
            "f32" => Values::F32(&self.f32s),
            "bf16" => Values::Bf16(&self.words),
            "int8" => Values::Int8 { q: &self.codes, scales: &self.f32s },
            "int4" => Values::Int4 { q: &self.bytes, scales: &self.words },
            _ => Values::Fp8 { q: &self.bytes, scales: &self.f32s },
        };
        Matrix { values, stride: self.columns, transposed: false }
    }

    /// What the product is defined over (see the head of the module).
    fn dense(&self, precision: Precision) -> Vec<f32> {
        let mut all = vec![0f32; self.rows * self.columns];
        for (r, line) in all.chunks_exact_mut(self.columns).enumerate() {
            self.matrix().values.row_into(self.columns, r, line);
        }
        if precision == Precision::Bf16 && self.format == "f32" {
            all.iter_mut().for_each(|v| *v = widened(narrow(*v)));
        }
        all
    }
}

/// Shapes with ragged rows, columns shorter than a chunk, several chunks with a rest, an fp8 block and a half.
const SHAPES: [(usize, usize, usize); 7] =
    [(1, 1, 1), (1, 40, 64), (3, 16, 129), (8, 33, 320), (17, 130, 200), (33, 20, 90), (50, 48, 1000)];

#[test]
fn every_format_is_the_product_of_its_numbers() {
    let pool = Pool::new(2);
    for isa in Isa::available() {
        for precision in [Precision::F32, Precision::Bf16] {
            for format in FORMATS {
                for (m, n, k) in SHAPES {
                    let x = normal(m * k, 1);
                    let w = Stored::new(format, n, k, 2);
                    let mut out = vec![f32::NAN; m * n];
                    linear_many_on(isa, &pool, precision, m, k, &x, &mut [Stream::new(w.matrix(), n, &mut out)]);
                    let dense = w.dense(precision);
                    for j in 0..m {
                        for i in 0..n {
                            let (mut want, mut size) = (0f64, 0f64);
                            for l in 0..k {
                                let v = x[j * k + l];
                                let v = if precision == Precision::Bf16 { widened(narrow(v)) } else { v };
                                let t = f64::from(v) * f64::from(dense[i * k + l]);
                                want += t;
                                size += t.abs();
                            }
                            // Any order of f32 sums, and two more roundings for a scale applied to the sum.
                            let bound = (k + 5) as f64 * 2f64.powi(-24) * size + 1e-37;
                            let got = f64::from(out[j * n + i]);
                            assert!(
                                (got - want).abs() <= bound,
                                "{isa} {precision:?} {format} {m}x{n}x{k} ({j}, {i}): {got} for {want}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_does_not_know_its_neighbours_or_the_threads() {
    let (m, n, k) = (40, 70, 450);
    let x = normal(m * k, 1);
    for isa in Isa::available() {
        for precision in [Precision::F32, Precision::Bf16] {
            for format in FORMATS {
                let w = Stored::new(format, n, k, 2);
                let run = |rows: std::ops::Range<usize>, threads: usize| {
                    let mut out = vec![0f32; rows.len() * n];
                    let x = &x[rows.start * k..rows.end * k];
                    let mut streams = [Stream::new(w.matrix(), n, &mut out)];
                    linear_many_on(isa, &Pool::new(threads), precision, rows.len(), k, x, &mut streams);
                    out
                };
                let all = run(0..m, 2);
                assert!(all == run(0..m, 1), "{isa} {precision:?} {format}: threads");
                for rows in [0..1, 5..6, 3..5, 10..18, 2..33] {
                    let part = run(rows.clone(), 3);
                    assert!(part == all[rows.start * n..rows.end * n], "{isa} {precision:?} {format}: rows {rows:?}");
                }
            }
        }
    }
}

/// int4 treats one row of x apart, four steps of two groups at a time: every number of groups up to two such fours and
/// more, whole and cut short, has the bits it has among other rows.
#[test]
fn one_row_of_int4_is_one_of_many() {
    let (m, n) = (3, 37);
    for isa in Isa::available() {
        for k in (1..=19).flat_map(|groups| [64 * groups - 27, 64 * groups]) {
            let x = normal(m * k, 1);
            let w = Stored::new("int4", n, k, 2);
            let run = |x: &[f32], threads: usize| {
                let mut out = vec![f32::NAN; x.len() / k * n];
                let mut streams = [Stream::new(w.matrix(), n, &mut out)];
                linear_many_on(isa, &Pool::new(threads), Precision::Bf16, x.len() / k, k, x, &mut streams);
                out
            };
            let all = run(&x, 2);
            for (i, x) in x.chunks_exact(k).enumerate() {
                assert!(run(x, 1 + i % 2) == all[i * n..(i + 1) * n], "{isa} k {k} row {i}");
            }
        }
    }
}

#[test]
fn several_weights_with_everything_on_them() {
    let (m, k, rank) = (5, 100, 12);
    let x = normal(m * k, 1);
    for isa in Isa::available() {
        for precision in [Precision::F32, Precision::Bf16] {
            let (wide, narrow_one) = (Stored::new("int8", 90, k, 2), Stored::new("bf16", 17, k, 3));
            let (a, b) = (Stored::new("f32", rank, k, 4), Stored::new("f32", 90, rank, 5));
            let (scale, bias) = (normal(90, 6), normal(17, 7));
            let (mut first, mut second) = (vec![1.5f32; m * 90], vec![f32::NAN; m * 17]);
            let low_rank = LowRank { a: a.matrix(), b: b.matrix(), rank, scaling: 0.5 };
            linear_many_on(
                isa,
                &Pool::new(2),
                precision,
                m,
                k,
                &x,
                &mut [
                    Stream {
                        low_rank: Some(low_rank),
                        row_scale: Some(&scale),
                        add: true,
                        ..Stream::new(wide.matrix(), 90, &mut first)
                    },
                    Stream { bias: Some(&bias), ..Stream::new(narrow_one.matrix(), 17, &mut second) },
                ],
            );
            // The same from bare products.
            let bare = |x: &[f32], w: &Stored| {
                let mut out = vec![0f32; m * w.rows];
                let mut streams = [Stream::new(w.matrix(), w.rows, &mut out)];
                linear_many_on(isa, &Pool::new(1), precision, m, w.columns, x, &mut streams);
                out
            };
            let (y, u) = (bare(&x, &wide), bare(&x, &a));
            let low = bare(&u, &b);
            for i in 0..m * 90 {
                assert_eq!(first[i], 1.5 + (y[i] + 0.5 * low[i]) * scale[i % 90], "{isa} {precision:?} {i}");
            }
            for (i, y) in bare(&x, &narrow_one).into_iter().enumerate() {
                assert_eq!(second[i], y + bias[i % 17], "{isa} {precision:?} {i}");
            }
        }
    }
}

#[test]
fn damaged_numbers_stay_visible() {
    for isa in Isa::available() {
        for precision in [Precision::F32, Precision::Bf16] {
            let x = vec![1f32; 130];
            let mut q = vec![0x38u8; 2 * 130];
            q[7] = 0xff;
            let values = Values::Fp8 { q: &q, scales: &[2.0, 3.0] };
            let mut out = [0f32; 2];
            let w = Matrix { values, stride: 130, transposed: false };
            linear_many_on(isa, &Pool::new(1), precision, 1, 130, &x, &mut [Stream::new(w, 2, &mut out)]);
            assert!(out[0].is_nan() && out[1] == 262.0, "{isa} {precision:?} {out:?}");
        }
    }
}
