//! Dropout whose mask is a function of position: nothing is stored, the backward pass draws the same mask again.
use super::{TASK, same_len};
use crate::Pool;
use crate::rng::Stream;

/// `y[i] = x[i] / (1 - p)` where element `first + i` of the stream is kept, else 0. The backward pass is the same
/// call on the gradient. 0 ≤ p < 1; p is resolved to 2^-32.
pub fn dropout(pool: &Pool, x: &[f32], p: f32, stream: Stream, first: u64, y: &mut [f32]) {
    same_len("x", x.len(), y.len());
    assert!((0.0..1.0).contains(&p), "dropout probability {p} is outside [0, 1)");
    let (drop_below, scale) = ((f64::from(p) * 4_294_967_296.0) as u64, (1.0 / (1.0 - f64::from(p))) as f32);
    pool.pieces_mut(y, TASK, &|i, part| {
        let (mut at, mut block) = (u64::MAX, [0u32; 4]);
        for (j, (y, x)) in part.iter_mut().zip(&x[i * TASK..]).enumerate() {
            let index = first + (i * TASK + j) as u64;
            if index / 4 != at {
                at = index / 4;
                block = stream.block(at);
            }
            *y = if u64::from(block[(index % 4) as usize]) < drop_below { 0.0 } else { x * scale };
        }
    });
}
