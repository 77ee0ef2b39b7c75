//! The forms over bf16, on every set of the machine: against f64 on the same bf16 numbers, and the bitwise promises.
use super::*;
use crate::elementwise::{narrow, widen};
use crate::rng::Stream;

#[derive(Clone)]
struct Case {
    s: AttentionShape,
    segments: Vec<Segment>,
    q: Vec<u16>,
    k: Vec<u16>,
    v: Vec<u16>,
    dout: Vec<u16>,
}

fn case(heads: usize, kv: usize, dqk: usize, dv: usize, lens: &[(usize, usize)]) -> Case {
    let s = AttentionShape {
        num_heads: heads,
        num_key_value_heads: kv,
        head_dim_qk: dqk,
        head_dim_v: dv,
        scale: 1.0 / (dqk as f32).sqrt(),
    };
    let (mut q_start, mut k_start) = (0, 0);
    let mut segments = vec![];
    for (q_len, k_len) in lens {
        segments.push(Segment { q_start, q_len: *q_len, k_start, k_len: *k_len });
        q_start += q_len;
        k_start += k_len;
    }
    let fill = |n: usize, purpose: u32| {
        let mut v = vec![0f32; n];
        Stream::new(11, purpose, 0).fill_normal(0, 1.0, &mut v);
        v.iter().map(|x| narrow(*x)).collect()
    };
    Case {
        s,
        segments,
        q: fill(q_start * heads * dqk, 0),
        k: fill(k_start * kv * dqk, 1),
        v: fill(k_start * kv * dv, 2),
        dout: fill(q_start * heads * dv, 3),
    }
}

fn wide(x: &[u16]) -> Vec<f32> {
    x.iter().map(|x| widen(*x)).collect()
}

impl Case {
    fn forward(&self, isa: Isa, pool: &Pool) -> (Vec<u16>, Vec<f32>) {
        let rows = self.q.len() / self.s.head_dim_qk;
        let (mut out, mut lse) = (vec![0x7fc0; rows * self.s.head_dim_v], vec![f32::NAN; rows]);
        forward_bf16_on(isa, pool, &self.s, &self.segments, &self.q, &self.k, &self.v, &mut out, &mut lse);
        (out, lse)
    }
    fn backward(&self, isa: Isa, pool: &Pool) -> [Vec<u16>; 3] {
        let (out, lse) = self.forward(isa, pool);
        let mut d = [&self.q, &self.k, &self.v].map(|x| vec![0x7fc0; x.len()]);
        let [dq, dk, dv] = &mut d;
        let Case { s, segments, q, k, v, dout } = self;
        backward_bf16_on(isa, pool, s, segments, q, k, v, &out, &lse, dout, dq, dk, dv);
        d
    }
    /// Every result within one rounding of itself and half a rounding of each weight: see [`rows`].
    fn check(&self, isa: Isa, pool: &Pool, what: &str) {
        let Case { s, segments, .. } = self;
        let [q, k, v, dout] = [&self.q, &self.k, &self.v, &self.dout].map(|x| wide(x));
        let (out, lse) = self.forward(isa, pool);
        let got = self.backward(isa, pool);
        let (want, want_lse) = reference_forward(s, segments, &q, &k, &v);
        let (dq, dk, dv) = reference_backward(s, segments, &q, &k, &v, &dout);
        let [m, mq, mk, mv] = reference_magnitudes(s, segments, &q, &k, &v, &dout);
        for (l, w) in lse.iter().zip(&want_lse) {
            assert!((f64::from(*l) - w).abs() <= 3e-6 * (1.0 + w.abs()), "{isa} {what}: lse {l} for {w}");
        }
        rows(&format!("{isa} {what}: out"), &out, &want, &m, s.head_dim_v);
        rows(&format!("{isa} {what}: dq"), &got[0], &dq, &mq, s.head_dim_qk);
        rows(&format!("{isa} {what}: dk"), &got[1], &dk, &mk, s.head_dim_qk);
        rows(&format!("{isa} {what}: dv"), &got[2], &dv, &mv, s.head_dim_v);
    }
}

/// Norm of each row's error at most 2^-8 of the row's and 2^-9 of that of its terms' magnitudes.
fn rows(what: &str, got: &[u16], want: &[f64], magnitudes: &[f64], width: usize) {
    let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    assert_eq!(got.len(), want.len());
    for (r, got) in got.chunks_exact(width).enumerate() {
        let at = r * width..(r + 1) * width;
        let error: Vec<f64> = got.iter().zip(&want[at.clone()]).map(|(g, w)| f64::from(widen(*g)) - w).collect();
        let bound = norm(&want[at.clone()]) / 256.0 + norm(&magnitudes[at]) / 512.0 + 1e-6;
        assert!(norm(&error) <= bound, "{what}, row {r}: {} over {bound}", norm(&error));
    }
}

/// Odd lengths, several documents, groups, cached keys, the head sizes of MLA, more columns than one task takes.
fn cases() -> Vec<(&'static str, Case)> {
    vec![
        ("one", case(1, 1, 8, 8, &[(1, 1)])),
        ("documents", case(4, 2, 16, 16, &[(5, 5), (1, 1), (70, 70)])),
        ("cached keys", case(6, 2, 24, 10, &[(3, 130), (1, 64), (2, 65), (150, 200)])),
        ("odd sizes", case(3, 3, 33, 65, &[(129, 129), (64, 64)])),
        ("wide group", case(14, 2, 64, 64, &[(140, 140), (31, 31)])),
        ("large heads", case(4, 2, 128, 128, &[(97, 97)])),
        ("latent", case(2, 2, 192, 128, &[(77, 77), (20, 99)])),
        ("many columns", case(8, 1, 32, 32, &[(200, 200), (90, 131)])),
    ]
}

#[test]
fn every_set_matches_f64() {
    let pool = Pool::new(2);
    for isa in Isa::available() {
        for (what, c) in cases() {
            c.check(isa, &pool, what);
        }
    }
}

/// Scores that grow from block to block, fall, and reach far: the reference of the weights must follow.
#[test]
fn moving_maxima() {
    let pool = Pool::new(2);
    for isa in Isa::available() {
        for sign in [1.0, -1.0] {
            let mut c = case(3, 1, 32, 32, &[(300, 300)]);
            for (j, row) in c.k.chunks_exact_mut(32).enumerate() {
                row[0] = narrow(sign * (j as f32 * 0.1).floor() * 2.0);
            }
            for (i, row) in c.q.chunks_exact_mut(32).enumerate() {
                row[0] = narrow((i % 7) as f32 * 0.5);
            }
            c.check(isa, &pool, "moving");
        }
        let mut c = case(2, 1, 8, 8, &[(70, 70)]);
        c.q.iter_mut().for_each(|x| *x = narrow(widen(*x) * 100.0));
        let (out, lse) = c.forward(isa, &pool);
        assert!(out.iter().all(|x| widen(*x).is_finite()) && lse.iter().all(|x| x.is_finite()), "{isa}");
    }
}

#[test]
fn threads_cannot_be_told_from_the_result() {
    for isa in Isa::available() {
        for (what, c) in cases() {
            let one = Pool::new(1);
            let (forward, backward) = (c.forward(isa, &one), c.backward(isa, &one));
            for threads in [2, 3, 16] {
                let pool = Pool::new(threads);
                assert!(forward == c.forward(isa, &pool), "{isa} {what} {threads}");
                assert!(backward == c.backward(isa, &pool), "{isa} {what} {threads}");
            }
        }
    }
}

/// Decoding query by query against the cache, and cutting a prompt anywhere, give the bits of one full pass.
#[test]
fn decoding_equals_recomputing() {
    let pool = Pool::new(2);
    let t = 200;
    for isa in Isa::available() {
        let whole = case(6, 2, 40, 24, &[(t, t)]);
        let (out, lse) = whole.forward(isa, &pool);
        let (qw, ow) = (6 * 40, 6 * 24);
        for (start, len) in [(0, 1), (63, 1), (64, 1), (127, 2), (199, 1), (100, 100), (60, 10)] {
            let end = start + len;
            let part = Case {
                segments: vec![Segment { q_start: 0, q_len: len, k_start: 0, k_len: end }],
                q: whole.q[start * qw..end * qw].to_vec(),
                k: whole.k[..end * 2 * 40].to_vec(),
                v: whole.v[..end * 2 * 24].to_vec(),
                dout: vec![],
                s: whole.s,
            };
            let (o, l) = part.forward(isa, &pool);
            assert!(o == out[start * ow..end * ow] && l == lse[start * 6..end * 6], "{isa} {start}+{len}");
        }
    }
}

/// A document's rows are the same alone and among others; rows of no segment keep out and lse and have no gradient.
#[test]
fn neighbours_do_not_matter() {
    let pool = Pool::new(2);
    for isa in Isa::available() {
        let mut both = case(4, 2, 16, 16, &[(90, 90), (10, 10), (75, 75)]);
        let alone = Case {
            s: both.s,
            segments: vec![Segment { q_start: 0, q_len: 75, k_start: 0, k_len: 75 }],
            q: both.q[100 * 64..].to_vec(),
            k: both.k[100 * 32..].to_vec(),
            v: both.v[100 * 32..].to_vec(),
            dout: both.dout[100 * 64..].to_vec(),
        };
        both.segments.remove(1);
        let ((out, lse), (one_out, one_lse)) = (both.forward(isa, &pool), alone.forward(isa, &pool));
        assert!(one_out == out[100 * 64..] && one_lse == lse[400..], "{isa}");
        assert!(out[90 * 64..100 * 64].iter().all(|x| *x == 0x7fc0) && lse[360..400].iter().all(|x| x.is_nan()));
        let (all, one) = (both.backward(isa, &pool), alone.backward(isa, &pool));
        for (i, width) in [64, 32, 32].into_iter().enumerate() {
            assert!(one[i] == all[i][100 * width..], "{isa} {i}");
            assert!(all[i][90 * width..100 * width].iter().all(|x| *x == 0), "{isa} {i}: no gradient in the gap");
        }
    }
}
