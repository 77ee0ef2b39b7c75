//! Products of several terms, every operand kind, epilogues, packed operands and groups, against f64 and bit for bit.
use super::*;
use crate::arena::Buf;
use crate::rng::Stream;

const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::Bf16];

fn random(len: usize, seed: u64, purpose: u32) -> Vec<f32> {
    let mut v = vec![0f32; len];
    Stream::new(seed, purpose, 0).fill_uniform(0, -1.0, 1.0, &mut v);
    v
}

/// A matrix in one of the forms of [`Values`], owned.
enum Held {
    F32(Vec<f32>),
    Bf16(Vec<u16>),
    Int8(quant::Int8),
    Int4(quant::Int4),
    Fp8(Vec<u8>, Vec<f32>),
}

const KINDS: usize = 5;

struct Owned {
    held: Held,
    stride: usize,
    transposed: bool,
}

impl Owned {
    /// `rows x columns` as the product sees it. Plain kinds have rows 3 longer than needed.
    fn new(kind: usize, rows: usize, columns: usize, transposed: bool, seed: u64) -> Owned {
        let (r, c) = if transposed { (columns, rows) } else { (rows, columns) };
        let stride = if kind < 2 { c + 3 } else { c };
        let v = random(r * stride, seed, kind as u32);
        let pool = Pool::new(1);
        let row = |i: usize, out: &mut [f32]| out.copy_from_slice(&v[i * stride..(i + 1) * stride]);
        let held = match kind {
            0 => Held::F32(v),
            1 => Held::Bf16(v.iter().map(|x| half::bf16::from_f32(*x).to_bits()).collect()),
            2 => Held::Int8(quant::quantize_int8(&pool, r, c, &row)),
            3 => Held::Int4(quant::quantize_int4(&pool, r, c, &row)),
            _ => {
                // All bytes but the two NaNs, small exponents so that nothing dominates.
                let q = v.iter().map(|x| ((x + 1.0) * 56.0) as u8 | if *x < 0.3 { 0x80 } else { 0 }).collect();
                let blocks = r.div_ceil(quant::FP8_BLOCK) * c.div_ceil(quant::FP8_BLOCK);
                Held::Fp8(q, random(blocks.max(1), seed, 9).iter().map(|s| 0.01 + s.abs() * 0.01).collect())
            }
        };
        Owned { held, stride, transposed }
    }

    fn matrix(&self) -> Matrix<'_> {
        let values = match &self.held {
            Held::F32(v) => Values::F32(v),
            Held::Bf16(v) => Values::Bf16(v),
            Held::Int8(v) => Values::Int8 { q: &v.q, scales: &v.scales },
            Held::Int4(v) => Values::Int4 { q: &v.q, scales: &v.scales },
            Held::Fp8(q, scales) => Values::Fp8 { q, scales },
        };
        Matrix { values, stride: self.stride, transposed: self.transposed }
    }
}

/// Runs into both output kinds, with a stride 2 longer than n whose tail must survive.
fn outputs(p: &Product, isa: Isa, pool: &Pool, before: f32) -> (Vec<f32>, Option<Vec<f32>>) {
    let stride = p.n + 2;
    let mut c = vec![before; p.m * stride];
    p.run_on(isa, pool, Output::F32(&mut c), stride);
    let half = (!p.accumulate).then(|| {
        let mut c = vec![0x4049u16; p.m * stride];
        p.run_on(isa, pool, Output::Bf16(&mut c), stride);
        assert!(c.chunks(stride).all(|r| r[p.n..] == [0x4049; 2]), "{isa}: columns past n were written");
        c.iter().map(|x| half::bf16::from_bits(*x).to_f32()).collect()
    });
    assert!(c.chunks(stride).all(|r| r[p.n..] == [before; 2]), "{isa}: columns past n were written");
    (c, half)
}

/// Panics unless the product is within rounding of f64 and its bf16 output is its f32 output rounded.
fn against_f64(p: &Product, isa: Isa, pool: &Pool, what: &str) -> Vec<f32> {
    let (before, stride) = (0.5f32, p.n + 2);
    let want = product_f64(p, &vec![before; p.m * stride], stride);
    let (c, half) = outputs(p, isa, pool, before);
    let k: usize = p.terms.iter().map(|t| t.k).sum();
    for i in 0..p.m {
        for j in 0..p.n {
            let (value, magnitude) = want[i * p.n + j];
            let bound = (k + 6) as f64 * 2f64.powi(-24) * magnitude + 1e-37;
            let got = c[i * stride + j];
            assert!((f64::from(got) - value).abs() <= bound, "{isa} {what} at ({i}, {j}): {got} for {value}");
            if let Some(half) = &half {
                let rounded = half::bf16::from_f32(got).to_f32();
                assert_eq!(half[i * stride + j], rounded, "{isa} {what} at ({i}, {j})");
            }
        }
    }
    c
}

#[test]
fn every_kind_of_right_operand_both_ways() {
    let pool = Pool::new(2);
    for (m, n, k) in [(1, 5, 64), (3, 150, 130), (33, 40, 300), (70, 129, 66), (2, 64, 7)] {
        for kind in 0..KINDS {
            for tb in [false, true] {
                let b = Owned::new(kind, k, n, tb, 3);
                for (ka, ta) in [(0, false), (1, false), (0, true), (1, true)] {
                    let a = Owned::new(ka, m, k, ta, 4);
                    let terms = [Term { k, a: Left::Matrix(a.matrix()), b: b.matrix() }];
                    for precision in PRECISIONS {
                        let p = Product {
                            m,
                            n,
                            terms: &terms,
                            alpha: 1.0,
                            bias: None,
                            residual: None,
                            accumulate: false,
                            precision,
                        };
                        for isa in Isa::available() {
                            let what = format!("{m}x{n}x{k} kinds {ka} {kind} transposed {ta} {tb} {precision:?}");
                            against_f64(&p, isa, &pool, &what);
                        }
                    }
                }
            }
        }
    }
}

/// Quantised left operands are allowed, if nobody's hot path.
#[test]
fn quantised_left_operands() {
    let pool = Pool::new(2);
    let (m, n, k) = (37, 20, 140);
    let b = Owned::new(0, k, n, true, 3);
    for kind in 2..KINDS {
        for ta in [false, true] {
            let a = Owned::new(kind, m, k, ta, 4);
            let terms = [Term { k, a: Left::Matrix(a.matrix()), b: b.matrix() }];
            for precision in PRECISIONS {
                let p = Product { m, n, terms: &terms, precision, ..EMPTY };
                for isa in Isa::available() {
                    against_f64(&p, isa, &pool, &format!("left kind {kind} {ta} {precision:?}"));
                }
            }
        }
    }
}

const EMPTY: Product<'static> = Product {
    m: 0,
    n: 0,
    terms: &[],
    alpha: 1.0,
    bias: None,
    residual: None,
    accumulate: false,
    precision: Precision::Bf16,
};

/// The forms of a LoRA step: a wide term and a narrow one, six terms, every epilogue, packed operands.
#[test]
fn terms_epilogues_and_packed_operands() {
    let pool = Pool::new(2);
    for (m, n) in [(1, 33), (50, 48), (97, 200), (130, 31)] {
        let (bias, residual) = (random(n, 1, 20), random(m * n, 1, 21));
        for sizes in [vec![320, 32], vec![65, 1, 40, 96, 7, 130], vec![0, 9], vec![]] {
            let owned: Vec<_> = sizes
                .iter()
                .enumerate()
                .map(|(i, k)| {
                    let seed = i as u64;
                    (
                        Owned::new(i % 2, m, *k, i % 3 == 1, seed),
                        Owned::new((i * 3) % KINDS, *k, n, i % 2 == 0, seed + 50),
                    )
                })
                .collect();
            for precision in PRECISIONS {
                let terms: Vec<_> = sizes
                    .iter()
                    .zip(&owned)
                    .map(|(k, (a, b))| Term { k: *k, a: Left::Matrix(a.matrix()), b: b.matrix() })
                    .collect();
                for (alpha, with_bias, with_residual, accumulate) in [
                    (1.0, false, false, false),
                    (0.5, true, true, false),
                    (-2.0, true, false, true),
                    (1.0, false, true, true),
                ] {
                    let p = Product {
                        m,
                        n,
                        terms: &terms,
                        alpha,
                        bias: with_bias.then_some(&bias[..]),
                        residual: with_residual.then_some(&residual[..]),
                        accumulate,
                        precision,
                    };
                    for isa in Isa::available() {
                        let what = format!("{m}x{n} terms {sizes:?} {precision:?} alpha {alpha}");
                        let want = against_f64(&p, isa, &pool, &what);
                        let packed: Vec<_> = sizes
                            .iter()
                            .zip(&owned)
                            .map(|(k, (a, _))| Packed::left_on(isa, &pool, precision, m, *k, a.matrix()))
                            .collect();
                        let again: Vec<_> =
                            terms.iter().zip(&packed).map(|(t, a)| Term { a: Left::Packed(a), ..*t }).collect();
                        let (got, _) = outputs(&Product { terms: &again, ..p }, isa, &pool, 0.5);
                        assert!(got == want, "{what} on {isa}: packed beforehand");
                    }
                }
            }
        }
    }
}

/// Rows of bf16 on cache lines, which tiles read where they lie, give the bits of the same rows elsewhere in memory, in
/// wide and narrow products, beside terms that must be packed, as right operands of few rows, and at strides that fall
/// on the same sets of the cache.
#[test]
fn rows_read_in_place_are_the_rows_packed() {
    let pool = Pool::new(2);
    for (m, n, k, stride) in [(70, 300, 96, 96), (64, 40, 1568, 1568), (31, 300, 64, 96), (75, 300, 1024, 1024)] {
        let aligned = |lines: usize, seed: u64| {
            let mut v = Buf::<u16>::zeros((lines * stride).max(1 << 15));
            v.iter_mut()
                .zip(random(lines * stride, seed, 30))
                .for_each(|(o, x)| *o = half::bf16::from_f32(x).to_bits());
            assert!(v.as_ptr().addr().is_multiple_of(64));
            v
        };
        let (a, b, u, w) = (aligned(m, 1), aligned(n, 2), random(m * 7, 3, 31), random(7 * n, 4, 32));
        // One element further on: no line starts where a cache line does.
        let apart = |v: &[u16]| [&[0], v].concat();
        let (a_apart, b_apart) = (apart(&a), apart(&b));
        let extra = Term { k: 7, a: Left::Matrix(Matrix::f32(&u, 7)), b: Matrix::f32(&w, n) };
        for isa in Isa::available() {
            let run = |a: &[u16], b: &[u16]| {
                let long = Term { k, a: Left::Matrix(Matrix::bf16(a, stride)), b: Matrix::bf16(b, stride).t() };
                let mut results = vec![];
                for terms in [vec![long], vec![long, extra]] {
                    let p = Product { m, n, terms: &terms, ..EMPTY };
                    results.push(against_f64(&p, isa, &pool, &format!("{m}x{n}x{k} in place")));
                }
                results
            };
            assert!(run(&a, &b) == run(&a_apart[1..], &b_apart[1..]), "{isa}: {m}x{n}x{k}");
            let packs = Packed::left_unless_in_place(&pool, Precision::Bf16, m, k, Matrix::bf16(&a, stride)).is_some();
            let tiles = Isa::best().level() == crate::isa::Level::Amx;
            assert!(packs == (!tiles || stride == 1024), "stride {stride}");
        }
    }
}

/// Fewer rows, fewer columns and other thread counts give the same bits, whatever the operands; and so do groups.
#[test]
fn neither_the_batch_nor_the_threads_nor_the_group_changes_a_bit() {
    let (m, n, sizes) = (301, 333, [1000, 32]);
    let pools = [Pool::new(1), Pool::new(2), Pool::new(3)];
    for kind in 0..KINDS {
        for transposed in [false, true] {
            let owned = sizes.map(|k| (Owned::new(kind % 2, m, k, false, 1), Owned::new(kind, k, n, transposed, 2)));
            let term = |i: usize| Term { k: sizes[i], a: Left::Matrix(owned[i].0.matrix()), b: owned[i].1.matrix() };
            let terms = [term(0), term(1)];
            for precision in PRECISIONS {
                for isa in Isa::available() {
                    let p = Product { m, n, terms: &terms, alpha: 0.5, precision, ..EMPTY };
                    let whole = {
                        let mut c = vec![0f32; m * n];
                        p.run_on(isa, &pools[0], Output::F32(&mut c), n);
                        c
                    };
                    let sizes =
                        [(301, 333), (1, 333), (2, 333), (5, 17), (31, 100), (33, 32), (40, 1), (96, 333), (150, 20)];
                    let mut parts: Vec<_> = sizes.iter().map(|(m, n)| vec![0f32; m * n]).collect();
                    let compare = |parts: &[Vec<f32>], what: &str| {
                        for ((m1, n1), part) in sizes.iter().zip(parts) {
                            for i in 0..*m1 {
                                assert!(
                                    part[i * n1..(i + 1) * n1] == whole[i * n..i * n + n1],
                                    "{isa} {precision:?} kind {kind} {transposed}: {what} {m1}x{n1} row {i}"
                                );
                            }
                        }
                    };
                    // Fewer columns of a quantised [k, n] matrix are another matrix, so n is cut only where it may be.
                    let narrow = |n1: usize| n1 == n || transposed || kind < 2;
                    for pool in &pools[1..] {
                        for ((m1, n1), part) in sizes.iter().zip(&mut parts) {
                            if narrow(*n1) {
                                Product { m: *m1, n: *n1, ..p }.run_on(isa, pool, Output::F32(part), *n1);
                            } else {
                                copy(&whole, n, part, *n1);
                            }
                        }
                        compare(&parts, "alone");
                        parts.iter_mut().for_each(|p| p.fill(0.0));
                        let mut group: Vec<_> = sizes
                            .iter()
                            .zip(&mut parts)
                            .filter(|((_, n1), _)| narrow(*n1))
                            .map(|((m1, n1), part)| Grouped {
                                product: Product { m: *m1, n: *n1, ..p },
                                c: Output::F32(part),
                                c_stride: *n1,
                            })
                            .collect();
                        run_grouped_on(isa, pool, &mut group);
                        drop(group);
                        for ((_, n1), part) in sizes.iter().zip(&mut parts) {
                            if !narrow(*n1) {
                                copy(&whole, n, part, *n1);
                            }
                        }
                        compare(&parts, "in a group");
                    }
                }
            }
        }
    }
}

fn copy(whole: &[f32], n: usize, part: &mut [f32], n1: usize) {
    for (i, row) in part.chunks_exact_mut(n1).enumerate() {
        row.copy_from_slice(&whole[i * n..i * n + n1]);
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let pool = Pool::new(1);
    let x = vec![1f32; 12];
    let terms = [Term { k: 3, a: Left::Matrix(Matrix::f32(&x, 3)), b: Matrix::f32(&x, 2) }];
    let p = Product { m: 2, n: 2, terms: &terms, ..EMPTY };
    let refused = |f: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).is_err();
    assert!(!refused(&|| p.run(&pool, Output::F32(&mut [0.0; 4]), 2)));
    assert!(refused(&|| p.run(&pool, Output::F32(&mut [0.0; 3]), 2)), "short output");
    assert!(refused(&|| p.run(&pool, Output::F32(&mut [0.0; 4]), 1)), "stride below n");
    assert!(refused(&|| Product { accumulate: true, ..p }.run(&pool, Output::Bf16(&mut [0; 4]), 2)));
    assert!(refused(&|| Product { bias: Some(&x[..1]), ..p }.run(&pool, Output::F32(&mut [0.0; 4]), 2)));
    assert!(refused(&|| Product { residual: Some(&x[..3]), ..p }.run(&pool, Output::F32(&mut [0.0; 4]), 2)));
    let packed = Packed::left(&pool, Precision::F32, 2, 3, Matrix::f32(&x, 3));
    let terms = [Term { a: Left::Packed(&packed), ..terms[0] }];
    assert!(refused(&|| Product { terms: &terms, ..p }.run(&pool, Output::F32(&mut [0.0; 4]), 2)), "other precision");
    let f32s = Product { terms: &terms, precision: Precision::F32, ..p };
    assert!(!refused(&|| f32s.run(&pool, Output::F32(&mut [0.0; 4]), 2)));
    assert!(refused(&|| Product { m: 1, ..f32s }.run(&pool, Output::F32(&mut [0.0; 4]), 2)), "other shape");
}
