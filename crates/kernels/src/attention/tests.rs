//! Against f64, against finite differences, and the bitwise promises.
use super::*;
use crate::rng::Stream;

struct Case {
    s: AttentionShape,
    segments: Vec<Segment>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    dout: Vec<f32>,
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
        Stream::new(9, purpose, 0).fill_normal(0, 1.0, &mut v);
        v
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

impl Case {
    fn forward(&self, isa: Isa, pool: &Pool) -> (Vec<f32>, Vec<f32>) {
        let rows = self.q.len() / self.s.head_dim_qk;
        let (mut out, mut lse) = (vec![f32::NAN; rows * self.s.head_dim_v], vec![f32::NAN; rows]);
        forward_on(isa, pool, &self.s, &self.segments, &self.q, &self.k, &self.v, &mut out, &mut lse);
        (out, lse)
    }
    fn backward(&self, isa: Isa, pool: &Pool) -> [Vec<f32>; 3] {
        let (out, lse) = self.forward(isa, pool);
        let mut d = [vec![f32::NAN; self.q.len()], vec![f32::NAN; self.k.len()], vec![f32::NAN; self.v.len()]];
        let [dq, dk, dv] = &mut d;
        let Case { s, segments, q, k, v, dout } = self;
        backward_on(isa, pool, s, segments, q, k, v, &out, &lse, dout, dq, dk, dv);
        d
    }
}

fn close(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*g) - w).abs();
        assert!(error <= tolerance * (1.0 + w.abs()), "{what}[{i}]: {g} for {w}");
    }
}

fn cases() -> Vec<Case> {
    vec![
        case(1, 1, 8, 8, &[(1, 1)]),
        case(4, 2, 16, 16, &[(5, 5), (1, 1), (70, 70)]),
        case(6, 2, 24, 10, &[(3, 130), (1, 64), (2, 65), (150, 200)]),
        case(3, 3, 33, 65, &[(129, 129), (64, 64)]),
        case(7, 1, 64, 64, &[(140, 140)]),
    ]
}

#[test]
fn every_variant_matches_f64() {
    let pool = Pool::new(2);
    for isa in Isa::available() {
        for c in cases() {
            let (out, lse) = c.forward(isa, &pool);
            let (want, want_lse) = reference_forward(&c.s, &c.segments, &c.q, &c.k, &c.v);
            close("out", &out, &want, 3e-6);
            close("lse", &lse, &want_lse, 3e-6);
            let got = c.backward(isa, &pool);
            let (dq, dk, dv) = reference_backward(&c.s, &c.segments, &c.q, &c.k, &c.v, &c.dout);
            close("dq", &got[0], &dq, 2e-5);
            close("dk", &got[1], &dk, 2e-5);
            close("dv", &got[2], &dv, 2e-5);
        }
    }
}

/// The f64 backward itself is the derivative of the f64 forward (central differences of Σ out∘dout).
#[test]
fn the_reference_gradient_is_the_derivative() {
    let mut c = case(4, 2, 6, 5, &[(3, 5), (4, 4)]);
    let (dq, dk, dv) = reference_backward(&c.s, &c.segments, &c.q, &c.k, &c.v, &c.dout);
    let objective = |c: &Case| -> f64 {
        let (out, _) = reference_forward(&c.s, &c.segments, &c.q, &c.k, &c.v);
        out.iter().zip(&c.dout).map(|(o, d)| o * f64::from(*d)).sum()
    };
    for (which, gradient) in [(0, dq), (1, dk), (2, dv)] {
        for i in (0..gradient.len()).step_by(7) {
            let mut at = |shift: f32| {
                let x = [&mut c.q, &mut c.k, &mut c.v].into_iter().nth(which).expect("three arrays");
                let before = x[i];
                x[i] = before + shift;
                let moved = x[i];
                let value = objective(&c);
                [&mut c.q, &mut c.k, &mut c.v].into_iter().nth(which).expect("three arrays")[i] = before;
                (value, f64::from(moved))
            };
            let ((high, to), (low, from)) = (at(1e-2), at(-1e-2));
            let slope = (high - low) / (to - from);
            assert!((slope - gradient[i]).abs() < 2e-3 * (1.0 + slope.abs()), "{which} {i}: {slope} {}", gradient[i]);
        }
    }
}

#[test]
fn threads_cannot_be_told_from_the_result() {
    for isa in Isa::available() {
        for c in cases() {
            let one = Pool::new(1);
            let (forward, backward) = (c.forward(isa, &one), c.backward(isa, &one));
            for threads in [2, 3, 16] {
                let pool = Pool::new(threads);
                assert!(forward == c.forward(isa, &pool), "{isa} {threads}");
                assert!(backward == c.backward(isa, &pool), "{isa} {threads}");
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

/// A document's rows are the same alone and among others.
#[test]
fn neighbours_do_not_matter() {
    let pool = Pool::new(2);
    let both = case(4, 2, 16, 16, &[(90, 90), (75, 75)]);
    let (out, _) = both.forward(Isa::best(), &pool);
    let alone = Case {
        s: both.s,
        segments: vec![Segment { q_start: 0, q_len: 75, k_start: 0, k_len: 75 }],
        q: both.q[90 * 64..].to_vec(),
        k: both.k[90 * 32..].to_vec(),
        v: both.v[90 * 32..].to_vec(),
        dout: both.dout[90 * 64..].to_vec(),
    };
    assert!(alone.forward(Isa::best(), &pool).0 == out[90 * 64..]);
    let (all, one) = (both.backward(Isa::best(), &pool), alone.backward(Isa::best(), &pool));
    assert!(one[0] == all[0][90 * 64..] && one[1] == all[1][90 * 32..] && one[2] == all[2][90 * 32..]);
}

#[test]
fn large_scores_do_not_overflow() {
    let mut c = case(2, 1, 8, 4, &[(70, 70)]);
    c.q.iter_mut().for_each(|x| *x *= 100.0);
    let (out, _) = c.forward(Isa::best(), &Pool::new(1));
    let (want, _) = reference_forward(&c.s, &c.segments, &c.q, &c.k, &c.v);
    close("out", &out, &want, 1e-4);
}

#[test]
#[should_panic(expected = "share query row 3")]
fn overlapping_segments_are_refused() {
    let mut c = case(1, 1, 4, 4, &[(4, 4), (4, 4)]);
    c.segments[1].q_start = 3;
    c.forward(Isa::best(), &Pool::new(1));
}
