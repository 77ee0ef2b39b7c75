//! Dropout whose mask is a function of position: nothing is stored, the backward pass draws the same mask again.
use super::{TASK, same_len};
use crate::rng::Stream;
use crate::simd::simd_fn;
use crate::{Isa, Pool};

/// `y[i] = x[i] / (1 - p)` where element `first + i` of the stream is kept, else 0. The backward pass is the same
/// call on the gradient. 0 ≤ p < 1; p is resolved to 2^-32.
pub fn dropout(pool: &Pool, x: &[f32], p: f32, stream: Stream, first: u64, y: &mut [f32]) {
    same_len("x", x.len(), y.len());
    assert!((0.0..1.0).contains(&p), "dropout probability {p} is outside [0, 1)");
    let (drop_below, scale) = ((f64::from(p) * 4_294_967_296.0) as u64, (1.0 / (1.0 - f64::from(p))) as f32);
    pool.pieces_mut(y, TASK, &|i, part| {
        let from = i * TASK;
        dropout_slice(Isa::best(), &x[from..from + part.len()], drop_below, scale, stream, first + from as u64, part);
    });
}

simd_fn! {
    /// `drop_below` is the probability times 2^32.
    pub(crate) fn dropout_slice<S>(s, x: &[f32], drop_below: u64, scale: f32, stream: Stream, first: u64, y: &mut [f32]) {
        let _ = s;
        let keep = |word: u32, x: f32| if u64::from(word) < drop_below { 0.0 } else { x * scale };
        let mut done = 0;
        while done < y.len() {
            let index = first + done as u64;
            let (block, skip) = (index / 4, (index % 4) as usize);
            let words = stream.blocks16(block);
            let n = (64 - skip).min(y.len() - done);
            let mut flat = [0u32; 64];
            for j in 0..16 {
                for i in 0..4 {
                    flat[4 * j + i] = words[i][j];
                }
            }
            for ((y, x), word) in y[done..done + n].iter_mut().zip(&x[done..]).zip(&flat[skip..]) {
                *y = keep(*word, *x);
            }
            done += n;
        }
    }
}
