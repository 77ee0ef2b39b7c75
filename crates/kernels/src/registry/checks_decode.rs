//! The checks of what decoding runs on: streamed products of few rows and attention over pages.
use super::checks::{differing, larger, mixed, normal};
use crate::elementwise::{narrow, widen};
use crate::paged::{self, Cells, CellsMut, Heads, PAGE, PageShape, Query};
use crate::streamed::{Stream, linear_many_on};
use crate::{Isa, Matrix, Pool, Precision, Values, quant};

/// A weight `[n, k]` in every stored form.
struct Forms {
    f32s: Vec<f32>,
    words: Vec<u16>,
    eight: quant::Int8,
    four: quant::Int4,
    fp8: quant::Fp8,
}

impl Forms {
    fn new(n: usize, k: usize) -> Forms {
        let (pool, f32s) = (Pool::new(1), normal(n * k, 2));
        let row = |r: usize, out: &mut [f32]| out.copy_from_slice(&f32s[r * k..(r + 1) * k]);
        let (eight, four) = (quant::quantize_int8(&pool, n, k, &row), quant::quantize_int4(&pool, n, k, &row));
        let fp8 = quant::quantize_fp8(&pool, n, k, &row);
        Forms { words: f32s.iter().map(|x| narrow(*x)).collect(), eight, four, fp8, f32s }
    }

    fn all(&self) -> [Values<'_>; 5] {
        [
            Values::F32(&self.f32s),
            Values::Bf16(&self.words),
            Values::Int8 { q: &self.eight.q, scales: &self.eight.scales },
            Values::Int4 { q: &self.four.q, scales: &self.four.scales },
            Values::Fp8 { q: &self.fp8.q, scales: &self.fp8.scales },
        ]
    }
}

fn product(isa: Isa, threads: usize, precision: Precision, x: &[f32], values: Values, [n, k]: [usize; 2]) -> Vec<f32> {
    let mut out = vec![f32::NAN; x.len() / k * n];
    let w = Matrix { values, stride: k, transposed: false };
    linear_many_on(isa, &Pool::new(threads), precision, x.len() / k, k, x, &mut [Stream::new(w, n, &mut out)]);
    out
}

/// Every form of weight, ragged rows and columns, one row of x and several.
pub(super) fn streamed(isa: Isa) -> f64 {
    let mut worst = 0f64;
    for (m, n, k) in [(1, 40, 64), (1, 35, 300), (3, 17, 129), (18, 50, 200)] {
        let (x, forms) = (normal(m * k, 1), Forms::new(n, k));
        for values in forms.all() {
            for precision in [Precision::F32, Precision::Bf16] {
                let round = |v: f32| if precision == Precision::Bf16 { widen(narrow(v)) } else { v };
                let mut w = vec![0f32; n * k];
                w.chunks_exact_mut(k).enumerate().for_each(|(r, line)| values.row_into(k, r, line));
                if matches!(values, Values::F32(_)) {
                    w.iter_mut().for_each(|v| *v = round(*v));
                }
                for (i, got) in product(isa, 2, precision, &x, values, [n, k]).into_iter().enumerate() {
                    let (x, w) = (&x[i / n * k..][..k], &w[i % n * k..][..k]);
                    let terms = || x.iter().zip(w).map(|(x, w)| f64::from(round(*x)) * f64::from(*w));
                    // Two more roundings where a scale multiplies a sum.
                    let bound = (k + 5) as f64 * 2f64.powi(-24) * terms().map(f64::abs).sum::<f64>() + 1e-37;
                    worst = larger(worst, (f64::from(got) - terms().sum::<f64>()).abs() / bound);
                }
            }
        }
    }
    worst
}

/// Rows of x alone and other thread counts must give the bits of the whole.
pub(super) fn streamed_invariance(isa: Isa) -> f64 {
    let (m, n, k) = (20, 70, 330);
    let (x, forms) = (normal(m * k, 1), Forms::new(n, k));
    let mut differ = 0.0;
    for values in forms.all() {
        for precision in [Precision::F32, Precision::Bf16] {
            let run = |from: usize, to: usize, threads| {
                product(isa, threads, precision, &x[from * k..to * k], values, [n, k])
            };
            let all = run(0, m, 2);
            differ += differing(&all, &run(0, m, 1));
            for (from, to) in [(0, 1), (3, 5), (2, 19)] {
                differ += differing(&all[from * n..to * n], &run(from, to, 3));
            }
        }
    }
    differ
}

/// Grouped heads and latent attention over bf16 and int8 pages, one page and several spans.
pub(super) fn paged(isa: Isa) -> f64 {
    let cases = [
        (PageShape { kv_heads: 2, k: 64, v: 48 }, Heads { num_heads: 12, dv: 48, scale: 0.12 }),
        (PageShape { kv_heads: 1, k: 88, v: 0 }, Heads { num_heads: 5, dv: 72, scale: 0.1 }),
    ];
    let mut worst = 0f64;
    for (shape, heads) in cases {
        for len in [1, 64, 130, 600] {
            let (kw, vw) = (shape.kv_heads * shape.k, shape.kv_heads * shape.v);
            let (k, v, q) = (normal(len * kw, 1), normal(len * vw, 2), normal(heads.num_heads * shape.k, 3));
            let mut pages: Vec<_> = (0..len.div_ceil(PAGE))
                .map(|_| (vec![0u16; shape.elements()], vec![0i8; shape.elements()], vec![0f32; shape.scales()]))
                .collect();
            for i in 0..len {
                let (words, q, scales) = &mut pages[i / PAGE];
                for mut cells in [CellsMut::Bf16(words), CellsMut::Int8 { q, scales }] {
                    cells.store(&shape, i % PAGE, &k[i * kw..(i + 1) * kw], &v[i * vw..(i + 1) * vw]);
                }
            }
            let bf16: Vec<Cells> = pages.iter().map(|(words, ..)| Cells::Bf16(words)).collect();
            let int8: Vec<Cells> = pages.iter().map(|(_, q, scales)| Cells::Int8 { q, scales }).collect();
            for pages in [&bf16, &int8] {
                let queries = [Query { pages, len }];
                let mut out = vec![f32::NAN; heads.num_heads * heads.dv];
                paged::attend_on(isa, &Pool::new(2), &shape, &heads, &queries, &q, &mut out);
                worst = larger(worst, mixed(&out, &paged::reference(&shape, &heads, &queries, &q)));
            }
        }
    }
    worst
}
