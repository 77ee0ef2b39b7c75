//! What the pool-level functions promise: the same bits for any thread count, refusals with numbers, and gradients
//! that are derivatives. Accuracy of each instruction set is the registry's subject.
use super::*;
use crate::Pool;
use crate::rng::Stream;

fn normal(n: usize, purpose: u32) -> Vec<f32> {
    let mut v = vec![0f32; n];
    Stream::new(5, purpose, 0).fill_normal(0, 1.0, &mut v);
    v
}

fn narrowed(pool: &Pool, x: &[f32]) -> Vec<u16> {
    let mut y = vec![0u16; x.len()];
    narrow_into(pool, x, &mut y);
    y
}

fn widened(pool: &Pool, x: &[u16]) -> Vec<f32> {
    let mut y = vec![0f32; x.len()];
    widen_into(pool, x, &mut y);
    y
}

/// Everything the module computes, on `threads` threads.
fn everything(threads: usize) -> Vec<Vec<f32>> {
    let pool = Pool::new(threads);
    let (t, width) = (57, 999);
    let n = t * width;
    let (x, g, u, dy, w) = (normal(n, 0), normal(n, 1), normal(n, 2), normal(n, 3), normal(width, 4));
    let mut all = vec![];
    let (mut y, mut inv) = (vec![0f32; n], vec![0f32; t]);
    rmsnorm_forward(&pool, &x, &w, 1e-6, &mut y, &mut inv);
    let (mut dx, mut dw) = (vec![0f32; n], vec![0.5f32; width]);
    rmsnorm_backward(&pool, &x, &w, &inv, &dy, &mut dx, Some(&mut dw));
    all.extend([y, inv, dx, dw]);
    let (mut y, mut dg, mut du) = (vec![0f32; n], vec![0f32; n], vec![0f32; n]);
    silu_mul_forward(&pool, &g, &u, &mut y);
    silu_mul_backward(&pool, &g, &u, &dy, &mut dg, &mut du);
    all.extend([y, dg, du]);
    let mut y = x.clone();
    layernorm(&pool, &mut y, &w, &g[..width], 1e-5);
    gelu(&pool, &mut y);
    all.push(y);
    let mut y = x.clone();
    let layout =
        RopeLayout { row_stride: width, offset: 7, head_stride: 100, num_heads: 9, half: 40, interleaved: true };
    let positions: Vec<u32> = (0..t as u32).map(|i| i % 10).collect();
    rope(&pool, &mut y, &layout, &positions, &g[..400], &u[..400], false);
    all.push(y);
    let [g16, u16s, dy16] = [&g, &u, &dy].map(|x| narrowed(&pool, x));
    let [mut a, mut b, mut c, mut turned] = std::array::from_fn(|_| vec![0u16; n]);
    let mut inv = vec![0f32; t];
    rmsnorm_forward_bf16(&pool, &x, &w, 1e-6, &mut a, &mut inv);
    rope_narrow(&pool, &x, &layout, &positions, &g[..400], &u[..400], true, &mut turned);
    all.extend([widened(&pool, &a), inv.clone(), widened(&pool, &turned)]);
    silu_mul_forward_bf16(&pool, &g16, &u16s, &mut a);
    silu_mul_backward_bf16(&pool, &g16, &u16s, &dy16, &mut b, &mut c);
    let mut turned = g16.clone();
    rope_bf16(&pool, &mut turned, &layout, &positions, &g[..400], &u[..400], false);
    let (mut dx, mut dw) = (g.clone(), vec![0.5f32; width]);
    rmsnorm_backward_add(&pool, &x, &w, &inv, &dy, &mut dx, Some(&mut dw));
    add_bf16(&pool, &dy16, &mut dx);
    all.extend([widened(&pool, &a), widened(&pool, &b), widened(&pool, &c), widened(&pool, &turned), dx, dw]);
    let targets: Vec<u32> = (0..t as u32).map(|i| if i % 5 == 0 { IGNORE } else { i * 17 }).collect();
    let (mut logits, mut losses, mut only) = (x.clone(), vec![0f32; t], vec![0f32; t]);
    cross_entropy(&pool, &logits, width, &targets, &mut only);
    cross_entropy_gradient(&pool, &mut logits, width, &targets, &vec![0.25; t], &mut losses);
    assert_eq!(only, losses);
    assert!(losses[0] == 0.0 && logits[..width].iter().all(|v| *v == 0.0) && losses[1] > 0.0);
    all.extend([logits, losses]);
    let mut y = x.clone();
    softmax_rows(&pool, &mut y, width);
    all.push(y);
    let options = AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.01, step: 3 };
    let (mut p, mut m, mut v) = (x.clone(), g.clone(), dy.iter().map(|x| x * x).collect::<Vec<_>>());
    adamw(&pool, &options, &mut p, &u, &mut m, &mut v);
    all.extend([p, m, v]);
    let mut half = vec![0u16; n];
    narrow_into(&pool, &x, &mut half);
    let mut y = vec![0f32; n];
    widen_into(&pool, &half, &mut y);
    add(&pool, &x, &mut y);
    axpy(&pool, 0.3, &g, &mut y);
    scale(&pool, 1.7, &mut y);
    add_rows(&pool, &w, &mut y);
    let mut sums = vec![0f32; width];
    sum_rows(&pool, &y, &mut sums);
    let mut dropped = vec![0f32; n];
    dropout(&pool, &y, 0.1, Stream::new(1, 2, 3), 12_345, &mut dropped);
    let (d, q) = (dot(&pool, &x, &g), sum_squares(&pool, &x));
    all.extend([y, sums, dropped, vec![d as f32, q as f32, (d - f64::from(d as f32)) as f32]]);
    all
}

#[test]
fn threads_cannot_be_told_from_the_result() {
    let one = everything(1);
    for threads in [2, 3, 5] {
        for (i, (a, b)) in one.iter().zip(everything(threads)).enumerate() {
            assert!(*a == b, "result {i} differs on {threads} threads");
        }
    }
}

#[test]
fn rows_do_not_depend_on_their_neighbours() {
    let pool = Pool::new(2);
    let (t, width) = (40, 130);
    let (x, w) = (normal(t * width, 0), normal(width, 1));
    let (mut y, mut inv) = (vec![0f32; t * width], vec![0f32; t]);
    rmsnorm_forward(&pool, &x, &w, 1e-6, &mut y, &mut inv);
    for r in [0, 17, 39] {
        let (mut one, mut i) = (vec![0f32; width], vec![0f32; 1]);
        rmsnorm_forward(&pool, &x[r * width..(r + 1) * width], &w, 1e-6, &mut one, &mut i);
        assert!(one == y[r * width..(r + 1) * width] && i[0] == inv[r]);
    }
}

/// The f64 gradients against central differences of the f64 forward functions.
#[test]
fn reference_gradients_are_derivatives() {
    let (x, w, dy) = (normal(9, 0), normal(9, 1), normal(9, 2));
    let objective = |x: &[f32], w: &[f32]| -> f64 {
        reference::rmsnorm(x, w, 1e-5).0.iter().zip(&dy).map(|(y, d)| y * f64::from(*d)).sum()
    };
    let (dx, dw) = reference::rmsnorm_backward(&x, &w, 1e-5, &dy);
    for i in 0..9 {
        for (which, gradient) in [(0, dx[i]), (1, dw[i])] {
            let at = |shift: f32| {
                let mut arrays = [x.clone(), w.clone()];
                arrays[which][i] += shift;
                (objective(&arrays[0], &arrays[1]), f64::from(arrays[which][i]))
            };
            let ((high, to), (low, from)) = (at(1e-3), at(-1e-3));
            assert!(((high - low) / (to - from) - gradient).abs() < 1e-5, "{which} {i}");
        }
        let (dg, du) = reference::silu_mul_backward(x[i], w[i], dy[i]);
        let f = |g: f32, u: f32| reference::silu_mul(g, u) * f64::from(dy[i]);
        let (gh, gl) = (x[i] + 1e-3, x[i] - 1e-3);
        let (uh, ul) = (w[i] + 1e-3, w[i] - 1e-3);
        assert!(((f(gh, w[i]) - f(gl, w[i])) / (f64::from(gh) - f64::from(gl)) - dg).abs() < 1e-5);
        assert!(((f(x[i], uh) - f(x[i], ul)) / (f64::from(uh) - f64::from(ul)) - du).abs() < 1e-5);
    }
}

/// The forms over bf16 are the f32 ones on widened operands, rounded once.
#[test]
fn bf16_forms_are_the_f32_forms_rounded() {
    let pool = Pool::new(2);
    let (t, width) = (30, 77);
    let n = t * width;
    let [g, u, dy] = [0, 1, 2].map(|i| narrowed(&pool, &normal(n, i)));
    let [gw, uw, dyw] = [&g, &u, &dy].map(|x| widened(&pool, x));
    let w = normal(width, 3);
    let [mut a, mut b] = [vec![0u16; n], vec![0u16; n]];
    let [mut aw, mut bw] = [vec![0f32; n], vec![0f32; n]];
    silu_mul_forward_bf16(&pool, &g, &u, &mut a);
    silu_mul_forward(&pool, &gw, &uw, &mut aw);
    assert_eq!(a, narrowed(&pool, &aw));
    silu_mul_backward_bf16(&pool, &g, &u, &dy, &mut a, &mut b);
    silu_mul_backward(&pool, &gw, &uw, &dyw, &mut aw, &mut bw);
    assert!(a == narrowed(&pool, &aw) && b == narrowed(&pool, &bw));
    let (mut inv, mut inv_wide) = (vec![0f32; t], vec![0f32; t]);
    rmsnorm_forward_bf16(&pool, &gw, &w, 1e-6, &mut a, &mut inv);
    rmsnorm_forward(&pool, &gw, &w, 1e-6, &mut aw, &mut inv_wide);
    assert!(a == narrowed(&pool, &aw) && inv == inv_wide);
    let positions: Vec<u32> = (0..t as u32).map(|i| i % 3).collect();
    let (cos, sin) = (normal(3 * 12, 4), normal(3 * 12, 5));
    for interleaved in [false, true] {
        let layout = RopeLayout { row_stride: width, offset: 5, head_stride: 36, num_heads: 2, half: 12, interleaved };
        aw.copy_from_slice(&gw);
        rope(&pool, &mut aw, &layout, &positions, &cos, &sin, true);
        rope_narrow(&pool, &gw, &layout, &positions, &cos, &sin, true, &mut a);
        assert_eq!(a, narrowed(&pool, &aw));
        b.copy_from_slice(&g);
        rope_bf16(&pool, &mut b, &layout, &positions, &cos, &sin, true);
        assert_eq!(a, b);
    }
    let mut sum = dyw.clone();
    add_bf16(&pool, &g, &mut sum);
    assert!(sum.iter().zip(&dyw).zip(&gw).all(|((s, d), g)| *s == d + g));
}

/// Adding in place is the plain gradient plus what was there.
#[test]
fn the_added_norm_gradient_is_a_sum() {
    let pool = Pool::new(2);
    let (t, width) = (9, 130);
    let (x, dy, w, before) = (normal(t * width, 0), normal(t * width, 1), normal(width, 2), normal(t * width, 3));
    let (mut y, mut inv) = (vec![0f32; t * width], vec![0f32; t]);
    rmsnorm_forward(&pool, &x, &w, 1e-6, &mut y, &mut inv);
    let (mut plain, mut added) = (vec![0f32; t * width], before.clone());
    let (mut dw, mut dw_added) = (vec![0f32; width], vec![0f32; width]);
    rmsnorm_backward(&pool, &x, &w, &inv, &dy, &mut plain, Some(&mut dw));
    rmsnorm_backward_add(&pool, &x, &w, &inv, &dy, &mut added, Some(&mut dw_added));
    assert_eq!(dw, dw_added);
    assert!((0..t * width).all(|i| (added[i] - before[i] - plain[i]).abs() < 4e-6 * (1.0 + plain[i].abs())));
}

#[test]
fn rope_and_its_inverse_undo_each_other() {
    let pool = Pool::new(2);
    let angles = normal(6 * 8, 0);
    let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
    for interleaved in [false, true] {
        let layout = RopeLayout { row_stride: 50, offset: 3, head_stride: 20, num_heads: 2, half: 8, interleaved };
        let x = normal(4 * 50, 1);
        let mut y = x.clone();
        rope(&pool, &mut y, &layout, &[5, 0, 3, 3], &cos, &sin, false);
        assert!(y.iter().zip(&x).filter(|(a, b)| a == b).count() == 4 * (50 - 32), "only the heads' columns move");
        rope(&pool, &mut y, &layout, &[5, 0, 3, 3], &cos, &sin, true);
        assert!(y.iter().zip(&x).all(|(a, b)| (a - b).abs() < 1e-6));
    }
}

#[test]
fn dropout_keeps_its_rate_and_its_mask() {
    let pool = Pool::new(2);
    let x = vec![1f32; 100_000];
    let (mut y, mut again) = (vec![0f32; x.len()], vec![0f32; x.len()]);
    let stream = Stream::new(3, 1, 4);
    dropout(&pool, &x, 0.25, stream, 0, &mut y);
    dropout(&pool, &x[10..], 0.25, stream, 10, &mut again[10..]);
    assert!(y[10..] == again[10..], "the mask is a function of position");
    let dropped = y.iter().filter(|v| **v == 0.0).count();
    assert!((dropped as i64 - 25_000).abs() < 600, "{dropped}");
    assert!(y.iter().all(|v| *v == 0.0 || (*v - 4.0 / 3.0).abs() < 1e-6));
    dropout(&pool, &x, 0.0, stream, 0, &mut y);
    assert_eq!(y, x);
}

/// Two steps from zero moments, worked by hand: the first step moves by lr, whatever the gradient's size.
#[test]
fn adamw_moves_by_the_learning_rate_at_first() {
    let pool = Pool::new(1);
    let (mut p, mut m, mut v) = (vec![1f32, 1.0], vec![0f32; 2], vec![0f32; 2]);
    let mut options = AdamW { lr: 0.1, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.5, step: 1 };
    adamw(&pool, &options, &mut p, &[3.0, -1e-3], &mut m, &mut v);
    assert!((p[0] - (0.95 - 0.1)).abs() < 1e-5 && (p[1] - (0.95 + 0.1)).abs() < 1e-5, "{p:?}");
    options.step = 2;
    options.weight_decay = 0.0;
    adamw(&pool, &options, &mut p, &[3.0, -1e-3], &mut m, &mut v);
    assert!((p[0] - 0.75).abs() < 1e-5 && (p[1] - 1.15).abs() < 1e-5, "{p:?}");
}

#[test]
#[should_panic(expected = "target 9 is outside the vocabulary of 5")]
fn a_target_outside_the_vocabulary_is_refused() {
    cross_entropy(&Pool::new(1), &[0.0; 5], 5, &[9], &mut [0.0]);
}

#[test]
#[should_panic(expected = "position 4 is outside the rotary table of 2 positions")]
fn a_position_outside_the_table_is_refused() {
    let layout = RopeLayout { row_stride: 4, offset: 0, head_stride: 4, num_heads: 1, half: 2, interleaved: false };
    rope(&Pool::new(1), &mut [0.0; 4], &layout, &[4], &[1.0; 4], &[0.0; 4], false);
}
