//! Quantised weight formats: what their bytes mean, how a matrix gets into them, and how a row comes out again.
//!
//! * int8: one f32 scale a row, value = q · scale, q in −127..=127, scale = largest magnitude / 127.
//! * int4: groups of [`INT4_GROUP`] along a row (the last of a row may be short and is stored whole), one bf16 scale a
//!   group, value = (n − 8) · scale with n in 0..16. Byte j of a group holds element j in its low nibble and element
//!   j + 32 in its high one, so that 32 consecutive elements unpack with one mask or one shift.
//! * fp8: E4M3 bytes with one f32 scale for every block of 128 x 128 (DeepSeek-V3 §3.3.1); the last blocks are ragged.
//!
//! A product over a quantised matrix is the product over [`dequantize_row`]'s numbers: f32 as they come, or rounded to
//! bf16 when the precision says so.
use crate::Pool;
use crate::pool::Shareable;

/// Elements that share an int4 scale.
pub const INT4_GROUP: usize = 64;
/// Edge of the square that shares an fp8 scale.
pub const FP8_BLOCK: usize = 128;

/// Value of each E4M3 byte: bias 7, no infinities, NaN at 0x7f and 0xff.
pub static E4M3: [f32; 256] = {
    const fn power_of_two(exponent: i32) -> f32 {
        f32::from_bits(((exponent + 127) as u32) << 23)
    }
    let mut values = [0.0f32; 256];
    let mut byte = 0;
    while byte < 256 {
        let exponent = ((byte >> 3) & 15) as i32;
        let mantissa = (byte & 7) as f32;
        let magnitude = if byte & 0x7f == 0x7f {
            f32::NAN
        } else if exponent == 0 {
            mantissa * power_of_two(-9)
        } else {
            (8.0 + mantissa) * power_of_two(exponent - 10)
        };
        values[byte] = if byte & 0x80 != 0 { -magnitude } else { magnitude };
        byte += 1;
    }
    values
};

/// Bytes of one int4 row of `columns` elements.
pub const fn int4_row_bytes(columns: usize) -> usize {
    columns.div_ceil(INT4_GROUP) * (INT4_GROUP / 2)
}

/// A matrix in int8: `q [rows, columns]`, `scales [rows]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Int8 {
    pub q: Vec<i8>,
    pub scales: Vec<f32>,
}

/// A matrix in int4: `q [rows, int4_row_bytes(columns)]`, `scales [rows, groups]` (bf16 bits).
#[derive(Clone, Debug, PartialEq)]
pub struct Int4 {
    pub q: Vec<u8>,
    pub scales: Vec<u16>,
}

/// Quantises rows that `row(r, out)` writes as f32. A row of zeros has scale 0.
pub fn quantize_int8(pool: &Pool, rows: usize, columns: usize, row: &(dyn Fn(usize, &mut [f32]) + Sync)) -> Int8 {
    let mut all = Int8 { q: vec![0; rows * columns], scales: vec![0.0; rows] };
    let scales = Shareable(all.scales.as_mut_ptr());
    pool.pieces_mut(&mut all.q, columns.max(1), &|r, q| {
        let mut x = vec![0f32; columns];
        row(r, &mut x);
        let largest = x.iter().fold(0f32, |m, v| m.max(v.abs()));
        let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        for (q, v) in q.iter_mut().zip(&x) {
            *q = (v * inverse).round_ties_even() as i8;
        }
        // SAFETY: one scale a row, and row r belongs to this task alone.
        unsafe { *scales.get().add(r) = largest / 127.0 };
    });
    all
}

/// Quantises rows that `row(r, out)` writes as f32. The scale is the signed extreme / −8, so that the largest
/// magnitude of a group is exact; it is rounded to bf16 before the elements are.
pub fn quantize_int4(pool: &Pool, rows: usize, columns: usize, row: &(dyn Fn(usize, &mut [f32]) + Sync)) -> Int4 {
    let (bytes, groups) = (int4_row_bytes(columns), columns.div_ceil(INT4_GROUP));
    let mut all = Int4 { q: vec![0; rows * bytes], scales: vec![0; rows * groups] };
    let scales = Shareable(all.scales.as_mut_ptr());
    pool.pieces_mut(&mut all.q, bytes.max(1), &|r, q| {
        let mut x = vec![0f32; groups * INT4_GROUP];
        row(r, &mut x[..columns]);
        for (g, (q, x)) in q.chunks_exact_mut(INT4_GROUP / 2).zip(x.chunks_exact(INT4_GROUP)).enumerate() {
            let extreme = x.iter().fold(0f32, |m, v| if v.abs() > m.abs() { *v } else { m });
            let scale = half::bf16::from_f32(extreme / -8.0);
            let inverse = if scale.to_f32() != 0.0 { 1.0 / scale.to_f32() } else { 0.0 };
            let nibble = |v: f32| ((v * inverse).round_ties_even() + 8.0).clamp(0.0, 15.0) as u8;
            for (j, q) in q.iter_mut().enumerate() {
                *q = nibble(x[j]) | nibble(x[j + INT4_GROUP / 2]) << 4;
            }
            // SAFETY: `groups` scales a row, and row r belongs to this task alone.
            unsafe { *scales.get().add(r * groups + g) = scale.to_bits() };
        }
    });
    all
}

/// Row `r` of an int8 matrix.
pub fn dequantize_int8(q: &[i8], scales: &[f32], r: usize, out: &mut [f32]) {
    let columns = out.len();
    for (o, q) in out.iter_mut().zip(&q[r * columns..(r + 1) * columns]) {
        *o = f32::from(*q) * scales[r];
    }
}

/// Row `r` of an int4 matrix.
pub fn dequantize_int4(q: &[u8], scales: &[u16], r: usize, out: &mut [f32]) {
    let (bytes, groups) = (int4_row_bytes(out.len()), out.len().div_ceil(INT4_GROUP));
    for (g, part) in out.chunks_mut(INT4_GROUP).enumerate() {
        let scale = half::bf16::from_bits(scales[r * groups + g]).to_f32();
        let q = &q[r * bytes + g * INT4_GROUP / 2..];
        for (j, o) in part.iter_mut().enumerate() {
            let n = if j < INT4_GROUP / 2 { q[j] & 15 } else { q[j - INT4_GROUP / 2] >> 4 };
            *o = (f32::from(n) - 8.0) * scale;
        }
    }
}

/// Row `r` of an fp8 matrix with `out.len()` columns.
pub fn dequantize_fp8(q: &[u8], scales: &[f32], r: usize, out: &mut [f32]) {
    let columns = out.len();
    let scales = &scales[r / FP8_BLOCK * columns.div_ceil(FP8_BLOCK)..];
    for ((part, q), scale) in
        out.chunks_mut(FP8_BLOCK).zip(q[r * columns..(r + 1) * columns].chunks(FP8_BLOCK)).zip(scales)
    {
        for (o, q) in part.iter_mut().zip(q) {
            *o = E4M3[usize::from(*q)] * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: usize, columns: usize) -> Vec<f32> {
        let mut state = 7u32;
        (0..rows * columns)
            .map(|_| {
                state = state.wrapping_mul(1664525).wrapping_add(1013904223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }

    #[test]
    fn int8_is_within_half_a_step_and_int4_within_one() {
        let (rows, columns) = (5, 150);
        let mut x = matrix(rows, columns);
        x[columns..2 * columns].fill(0.0);
        let pool = Pool::new(2);
        let row = |r: usize, out: &mut [f32]| out.copy_from_slice(&x[r * columns..(r + 1) * columns]);
        let (eight, four) = (quantize_int8(&pool, rows, columns, &row), quantize_int4(&pool, rows, columns, &row));
        let mut out = vec![0f32; columns];
        for r in 0..rows {
            let line = &x[r * columns..(r + 1) * columns];
            dequantize_int8(&eight.q, &eight.scales, r, &mut out);
            let step = eight.scales[r];
            assert!(line.iter().zip(&out).all(|(a, b)| (a - b).abs() <= 0.5001 * step), "row {r}");
            dequantize_int4(&four.q, &four.scales, r, &mut out);
            for (g, (a, b)) in line.chunks(INT4_GROUP).zip(out.chunks(INT4_GROUP)).enumerate() {
                let step = half::bf16::from_bits(four.scales[r * 3 + g]).to_f32().abs();
                // One whole step at the end of the range that has 7 codes instead of 8.
                assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1.05 * step), "row {r} group {g}");
            }
        }
    }

    #[test]
    fn fp8_bytes_and_their_blocks() {
        assert_eq!((E4M3[0x38], E4M3[0xb8], E4M3[0x7e], E4M3[0x01]), (1.0, -1.0, 448.0, 2f32.powi(-9)));
        assert!(E4M3[0x7f].is_nan());
        let (rows, columns) = (130, 129);
        let q = vec![0x38u8; rows * columns];
        let mut out = vec![0f32; columns];
        dequantize_fp8(&q, &[1.0, 2.0, 3.0, 4.0], 129, &mut out);
        assert_eq!((out[0], out[127], out[128]), (3.0, 3.0, 4.0));
    }
}
