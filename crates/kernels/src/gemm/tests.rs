//! Every instruction set x precision x operand type x transposition x shape against f64, and the bitwise promises.
use super::*;
use crate::rng::Stream;

struct Case {
    a: Vec<f32>,
    b: Vec<f32>,
    a16: Vec<u16>,
    b16: Vec<u16>,
}

fn case(m: usize, n: usize, k: usize, seed: u64) -> Case {
    // Strides are 3 longer than a row, in either orientation.
    let fill = |len: usize, purpose: u32| {
        let mut v = vec![0f32; len];
        Stream::new(seed, purpose, 0).fill_uniform(0, -1.0, 1.0, &mut v);
        v
    };
    let a = fill(m.max(k) * (m.max(k) + 3), 0);
    let b = fill(n.max(k) * (n.max(k) + 3), 1);
    let half = |v: &[f32]| v.iter().map(|x| half::bf16::from_f32(*x).to_bits()).collect();
    Case { a16: half(&a), b16: half(&b), a, b }
}

impl Case {
    #[allow(clippy::too_many_arguments)]
    fn gemm(&self, m: usize, n: usize, k: usize, ta: bool, tb: bool, wide: (bool, bool), p: Precision) -> Gemm<'_> {
        let mut a = if wide.0 {
            Matrix::f32(&self.a, if ta { m } else { k } + 3)
        } else {
            Matrix::bf16(&self.a16, if ta { m } else { k } + 3)
        };
        let mut b = if wide.1 {
            Matrix::f32(&self.b, if tb { k } else { n } + 3)
        } else {
            Matrix::bf16(&self.b16, if tb { k } else { n } + 3)
        };
        (a.transposed, b.transposed) = (ta, tb);
        Gemm { m, n, k, a, b, alpha: 1.0, accumulate: false, precision: p }
    }
}

const BOOLS: [bool; 2] = [false, true];

#[test]
fn every_variant_matches_f64() {
    let pool = Pool::new(2);
    let shapes = [
        (1, 1, 1),
        (1, 33, 7),
        (2, 16, 64),
        (3, 17, 129),
        (5, 100, 769),
        (14, 32, 768),
        (15, 33, 31),
        (29, 70, 385),
        (64, 96, 80),
        (7, 5, 0),
    ];
    for isa in Isa::available() {
        for (m, n, k) in shapes {
            let data = case(m, n, k, 11);
            for p in [Precision::F32, Precision::Bf16] {
                for (ta, tb, wa, wb) in combinations() {
                    for (alpha, accumulate) in [(1.0, false), (-0.75, true)] {
                        let g = Gemm { alpha, accumulate, ..data.gemm(m, n, k, ta, tb, (wa, wb), p) };
                        let stride = n + 2;
                        let mut c = vec![0.5f32; m * stride];
                        let want = reference_f64(&g, &c, stride);
                        g.run_on(isa, &pool, &mut c, stride);
                        for i in 0..m {
                            for j in 0..n {
                                let (value, magnitude) = want[i * n + j];
                                let bound = (k + 3) as f64 * 2f64.powi(-24) * magnitude + 1e-37;
                                let got = f64::from(c[i * stride + j]);
                                assert!(
                                    (got - value).abs() <= bound,
                                    "{isa} {m}x{n}x{k} {p:?} ta {ta} tb {tb} f32 {wa} {wb} at ({i}, {j}): {got} for {value}"
                                );
                            }
                            assert_eq!(c[i * stride + n..(i + 1) * stride], [0.5; 2], "columns past n were written");
                        }
                    }
                }
            }
        }
    }
}

fn combinations() -> Vec<(bool, bool, bool, bool)> {
    let mut all = vec![];
    for ta in BOOLS {
        for tb in BOOLS {
            for wa in BOOLS {
                for wb in BOOLS {
                    all.push((ta, tb, wa, wb));
                }
            }
        }
    }
    all
}

/// Rows of a small product equal those of the large one they are part of; so do columns; so do thread counts.
#[test]
fn results_do_not_depend_on_the_batch_or_the_threads() {
    let (m, n, k) = (301, 205, 1000);
    let data = case(m, n, k, 5);
    let pools = [Pool::new(1), Pool::new(2), Pool::new(3)];
    for isa in Isa::available() {
        for p in [Precision::F32, Precision::Bf16] {
            for (ta, tb) in [(false, true), (false, false), (true, false)] {
                let g = data.gemm(m, n, k, ta, tb, (true, false), p);
                let mut whole = vec![0f32; m * n];
                g.run_on(isa, &pools[0], &mut whole, n);
                for pool in &pools[1..] {
                    let mut again = vec![0f32; m * n];
                    g.run_on(isa, pool, &mut again, n);
                    assert!(whole == again, "{isa} {p:?}: {} threads", pool.threads());
                }
                for (m1, n1) in [(1, 205), (2, 205), (5, 17), (8, 100), (13, 16), (40, 1)] {
                    let small = Gemm { m: m1, n: n1, ..g };
                    let mut part = vec![0f32; m1 * n1];
                    small.run_on(isa, &pools[1], &mut part, n1);
                    for i in 0..m1 {
                        assert!(
                            part[i * n1..(i + 1) * n1] == whole[i * n..i * n + n1],
                            "{isa} {p:?} {m1}x{n1} row {i}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn not_accumulating_never_reads_c_and_bad_sizes_panic() {
    let pool = Pool::new(1);
    let (a, b) = (vec![1f32; 6], vec![2f32; 6]);
    let g = Gemm {
        m: 2,
        n: 2,
        k: 3,
        a: Matrix::f32(&a, 3),
        b: Matrix::f32(&b, 2),
        alpha: 1.0,
        accumulate: false,
        precision: Precision::F32,
    };
    let mut c = vec![f32::NAN; 4];
    g.run(&pool, &mut c, 2);
    assert_eq!(c, [6.0; 4]);
    let short = std::panic::catch_unwind(|| Gemm { k: 4, ..g }.run(&Pool::new(1), &mut [0.0; 4], 2));
    assert!(short.is_err());
}

/// Operands larger than what is packed at once take several rounds; the numbers stay those of a single element.
#[test]
fn products_larger_than_the_shared_panels() {
    let (m, n, k) = (30, 4500, 2000);
    let fill = |len: usize, purpose: u32| {
        let mut v = vec![0f32; len];
        Stream::new(3, purpose, 0).fill_uniform(0, -1.0, 1.0, &mut v);
        v
    };
    let (a, b) = (fill(m * k, 0), fill(n * k, 1));
    let g = Gemm {
        m,
        n,
        k,
        a: Matrix::f32(&a, k),
        b: Matrix::f32(&b, k).t(),
        alpha: 1.0,
        accumulate: false,
        precision: Precision::F32,
    };
    let pool = Pool::new(2);
    let mut c = vec![0f32; m * n];
    g.run(&pool, &mut c, n);
    for j in [0, 2097, 2098, 4196, 4499] {
        let mut one = vec![0f32; m];
        Gemm { n: 1, b: Matrix::f32(&b[j * k..], k).t(), ..g }.run(&pool, &mut one, 1);
        for i in 0..m {
            assert_eq!(one[i], c[i * n + j]);
            let exact: f64 = (0..k).map(|l| f64::from(a[i * k + l]) * f64::from(b[j * k + l])).sum();
            assert!((f64::from(one[i]) - exact).abs() < 1e-3);
        }
    }
}
