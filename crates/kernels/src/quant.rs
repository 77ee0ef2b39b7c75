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

/// A matrix in fp8: `q [rows, columns]`, `scales [⌈rows/128⌉, ⌈columns/128⌉]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Fp8 {
    pub q: Vec<u8>,
    pub scales: Vec<f32>,
}

/// Writes row `r` of the matrix to be quantised as f32.
pub type RowSource<'a> = dyn Fn(usize, &mut [f32]) + Sync + 'a;

/// Rows a task takes at a time: one buffer for several rows, and still many tasks a matrix.
const ROWS: usize = 8;
/// 1.5 · 2²³: adding it to |x| < 2²² leaves the nearest integer (ties to even, as the addition rounds) in the low bits of
/// the sum's mantissa, in two's complement. Unlike `round` and `as`, that is one addition in every instruction set.
const TO_INTEGER: f32 = 12_582_912.0;
/// Bits of +∞: the magnitude bits of a value that is not finite are not below it.
const INFINITE: u32 = 0x7f80_0000;

/// The largest magnitude of `x`; NaN when a value is not finite. Magnitudes order like their bits.
#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    let bits = x.iter().fold(0i32, |m, v| m.max((v.to_bits() & 0x7fff_ffff) as i32)) as u32;
    if bits < INFINITE { f32::from_bits(bits) } else { f32::NAN }
}

/// `numerator / x`, or 0 where that is no number to multiply by: for x = 0 (nothing to scale), for x below 2^-120 or so
/// (the whole group is smaller than any product can show; it becomes 0), and for NaN (reported through the scale).
#[inline(always)]
fn inverse(numerator: f32, x: f32) -> f32 {
    let i = numerator / x;
    if i.is_finite() { i } else { 0.0 }
}

/// Runs plain loops compiled for AVX2 where the machine has it. Nothing in them is a fused multiply-add or a sum, so the
/// width of the vectors cannot change a bit.
#[inline(always)]
fn wide<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn avx2<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the machine has AVX2.
            return unsafe { avx2(f) };
        }
    }
    f()
}

#[inline(always)]
fn int8_row(x: &[f32], q: &mut [i8]) -> f32 {
    let largest = largest(x);
    let inverse = inverse(127.0, largest);
    for (q, v) in q.iter_mut().zip(x) {
        *q = (v * inverse + TO_INTEGER).to_bits() as i8;
    }
    if inverse == 0.0 && largest.is_finite() { 0.0 } else { largest / 127.0 }
}

/// Half a group of int4: its bytes.
const HALF: usize = INT4_GROUP / 2;

#[inline(always)]
fn int4_group(x: &[f32], q: &mut [u8]) -> u16 {
    let largest = largest(x);
    let extreme = if x.iter().fold(false, |found, v| found | (*v == largest)) { largest } else { -largest };
    let scale = half::bf16::from_f32(extreme / -8.0);
    let inverse = inverse(1.0, scale.to_f32());
    // −8..=7 as 0..=15: 8 is added with the rounding constant, and only the upper end can be passed.
    let nibble = |v: f32| ((v * inverse).min(7.0) + (TO_INTEGER + 8.0)).to_bits() as u8 & 15;
    let (low, high) = x.split_at(HALF);
    for ((q, low), high) in q.iter_mut().zip(low).zip(high) {
        *q = nibble(*low) | nibble(*high) << 4;
    }
    if inverse == 0.0 && largest.is_finite() { 0 } else { scale.to_bits() }
}

/// Quantises to int8. A row of zeros has scale 0; a row with a value that is not finite has scale NaN, which is for the
/// caller to refuse.
pub fn quantize_int8(pool: &Pool, rows: usize, columns: usize, row: &RowSource<'_>) -> Int8 {
    let mut all = Int8 { q: vec![0; rows * columns], scales: vec![0.0; rows] };
    let scales = Shareable(all.scales.as_mut_ptr());
    pool.pieces_mut(&mut all.q, ROWS * columns.max(1), &|task, q| {
        let mut x = vec![0f32; columns];
        for (i, q) in q.chunks_exact_mut(columns.max(1)).enumerate() {
            let r = task * ROWS + i;
            row(r, &mut x);
            let scale = wide(|| int8_row(&x, q));
            // SAFETY: one scale a row, and row r belongs to this task alone.
            unsafe { *scales.get().add(r) = scale };
        }
    });
    all
}

/// Quantises to int4. The scale is the signed extreme / −8 (the positive one of two equal), so that the largest
/// magnitude of a group is exact but for the scale's own rounding to bf16, which comes before the elements'. A value
/// that is not finite makes its group's scale NaN.
pub fn quantize_int4(pool: &Pool, rows: usize, columns: usize, row: &RowSource<'_>) -> Int4 {
    let (bytes, groups) = (int4_row_bytes(columns), columns.div_ceil(INT4_GROUP));
    let mut all = Int4 { q: vec![0; rows * bytes], scales: vec![0; rows * groups] };
    let scales = Shareable(all.scales.as_mut_ptr());
    pool.pieces_mut(&mut all.q, ROWS * bytes.max(1), &|task, q| {
        let mut x = vec![0f32; groups * INT4_GROUP];
        for (i, q) in q.chunks_exact_mut(bytes.max(1)).enumerate() {
            let r = task * ROWS + i;
            row(r, &mut x[..columns]);
            wide(|| {
                for (g, (q, x)) in q.chunks_exact_mut(HALF).zip(x.chunks_exact(INT4_GROUP)).enumerate() {
                    let scale = int4_group(x, q);
                    // SAFETY: `groups` scales a row, and row r belongs to this task alone.
                    unsafe { *scales.get().add(r * groups + g) = scale };
                }
            });
        }
    });
    all
}

/// The E4M3 byte nearest to `y` (ties to even), magnitudes beyond 448 taken as 448. `y` is not NaN.
///
/// Above 2^-6 the byte is the f32's exponent and upper three mantissa bits, rounded by adding just under half of what is
/// cut (a carry into the exponent is the right neighbour) and rebased from 127 to 7. Below, steps are 2^-9: adding
/// 1.5 · 2^(23−9) rounds to them, and eight of them are the first byte above.
#[inline]
pub fn to_e4m3(y: f32) -> u8 {
    const TO_STEPS: f32 = 1.5 * (1u32 << 14) as f32;
    let sign = (y.to_bits() >> 24 & 0x80) as u8;
    let magnitude = y.abs().min(448.0);
    let bits = magnitude.to_bits();
    let normal = ((bits + 0x7_ffff + (bits >> 20 & 1)) >> 20).wrapping_sub((127 - 7) << 3);
    let steps = (magnitude + TO_STEPS).to_bits() & 15;
    sign | (if magnitude < 1.0 / 64.0 { steps } else { normal }) as u8
}

/// Quantises to fp8 blocks: scale = largest magnitude of the block / 448, element = the E4M3 nearest to value / scale. A
/// block of zeros has scale 1, so that readers may divide by it; a value that is not finite makes its block's scale NaN.
pub fn quantize_fp8(pool: &Pool, rows: usize, columns: usize, row: &RowSource<'_>) -> Fp8 {
    let blocks = columns.div_ceil(FP8_BLOCK);
    let mut all = Fp8 { q: vec![0; rows * columns], scales: vec![0.0; rows.div_ceil(FP8_BLOCK) * blocks] };
    let scales = Shareable(all.scales.as_mut_ptr());
    pool.pieces_mut(&mut all.q, FP8_BLOCK * columns.max(1), &|band, q| {
        let (mut x, mut most) = (vec![0f32; columns], vec![0f32; blocks]);
        let first = band * FP8_BLOCK;
        for i in 0..q.len() / columns.max(1) {
            row(first + i, &mut x);
            for (most, x) in most.iter_mut().zip(x.chunks(FP8_BLOCK)) {
                let here = wide(|| largest(x));
                // `max` would forget a NaN
                *most = if here.is_nan() || most.is_nan() { f32::NAN } else { most.max(here) };
            }
        }
        for m in &mut most {
            *m = if inverse(1.0, *m / 448.0) == 0.0 && m.is_finite() { 1.0 } else { *m / 448.0 };
        }
        for (i, q) in q.chunks_exact_mut(columns.max(1)).enumerate() {
            row(first + i, &mut x);
            for ((q, x), scale) in q.chunks_mut(FP8_BLOCK).zip(x.chunks(FP8_BLOCK)).zip(&most) {
                wide(|| q.iter_mut().zip(x).for_each(|(q, x)| *q = to_e4m3(x / scale)));
            }
        }
        for (b, m) in most.iter().enumerate() {
            // SAFETY: the scales of band `band` are `blocks` numbers that belong to this task alone.
            unsafe { *scales.get().add(band * blocks + b) = *m };
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

    #[test]
    fn e4m3_is_the_nearest_byte_with_ties_to_even() {
        // Every byte is its own nearest; midpoints go to the even one; beyond the range is the largest.
        for byte in (0..=255u8).filter(|b| b & 0x7f != 0x7f) {
            assert_eq!(to_e4m3(E4M3[usize::from(byte)]), byte, "{byte:#x}");
        }
        for byte in 0..0x7eu8 {
            let (a, b) = (E4M3[usize::from(byte)], E4M3[usize::from(byte) + 1]);
            let middle = (a + b) / 2.0;
            let even = if byte & 1 == 0 { byte } else { byte + 1 };
            assert_eq!(to_e4m3(middle), even, "between {a} and {b}");
            assert_eq!(to_e4m3(-middle), even | 0x80, "between −{a} and −{b}");
            assert_eq!(to_e4m3(f32::from_bits(middle.to_bits() - 1)), byte, "below the middle of {a} and {b}");
            assert_eq!(to_e4m3(f32::from_bits(middle.to_bits() + 1)), byte + 1, "above the middle of {a} and {b}");
        }
        assert_eq!((to_e4m3(1e9), to_e4m3(-1e9), to_e4m3(465.0), to_e4m3(-0.0)), (0x7e, 0xfe, 0x7e, 0x80));
    }

    /// The definitions, one element at a time, in f64 where it costs nothing.
    mod twin {
        use super::*;

        pub fn int8(x: &[f32]) -> (Vec<i8>, f32) {
            let most = x.iter().fold(0f32, |m, v| m.max(v.abs()));
            let inverse = if most > 0.0 { 127.0 / most } else { 0.0 };
            (x.iter().map(|v| (v * inverse).round_ties_even() as i8).collect(), most / 127.0)
        }

        pub fn int4(x: &[f32]) -> (Vec<u8>, Vec<u16>) {
            let (mut q, mut scales) = (vec![], vec![]);
            for group in x.chunks(INT4_GROUP) {
                let mut group = group.to_vec();
                group.resize(INT4_GROUP, 0.0);
                let most = group.iter().fold(0f32, |m, v| m.max(v.abs()));
                let extreme = if group.contains(&most) { most } else { -most };
                let scale = half::bf16::from_f32(extreme / -8.0);
                let inverse = if scale.to_f32() != 0.0 { 1.0 / scale.to_f32() } else { 0.0 };
                let n = |v: f32| ((v * inverse).round_ties_even() + 8.0).clamp(0.0, 15.0) as u8;
                q.extend((0..INT4_GROUP / 2).map(|j| n(group[j]) | n(group[j + INT4_GROUP / 2]) << 4));
                scales.push(scale.to_bits());
            }
            (q, scales)
        }

        pub fn fp8(x: &[f32], scale: f32) -> Vec<u8> {
            let nearest = |v: f32| {
                let y = f64::from(v / scale);
                (0..=255u8)
                    .filter(|b| b & 0x7f != 0x7f && (b & 0x80 != 0) == v.is_sign_negative())
                    .min_by(|a, b| {
                        let gap = |c: u8| (f64::from(E4M3[usize::from(c)]) - y).abs();
                        gap(*a).total_cmp(&gap(*b)).then((a & 1).cmp(&(b & 1)))
                    })
                    .expect("there are bytes")
            };
            x.iter().map(|v| nearest(*v)).collect()
        }
    }

    #[test]
    fn fast_quantisation_is_the_definition_on_any_number_of_threads() {
        for (rows, columns) in [(1, 1), (3, 64), (9, 65), (17, 190), (131, 257)] {
            let x = matrix(rows, columns);
            let row = |r: usize, out: &mut [f32]| out.copy_from_slice(&x[r * columns..(r + 1) * columns]);
            let (one, three) = (Pool::new(1), Pool::new(3));
            let eight = quantize_int8(&one, rows, columns, &row);
            let four = quantize_int4(&one, rows, columns, &row);
            let float = quantize_fp8(&one, rows, columns, &row);
            assert_eq!(eight, quantize_int8(&three, rows, columns, &row));
            assert_eq!(four, quantize_int4(&three, rows, columns, &row));
            assert_eq!(float, quantize_fp8(&three, rows, columns, &row));
            let (bytes, groups, blocks) =
                (int4_row_bytes(columns), columns.div_ceil(INT4_GROUP), columns.div_ceil(FP8_BLOCK));
            for (r, x) in x.chunks_exact(columns).enumerate() {
                let want = twin::int8(x);
                assert_eq!((&eight.q[r * columns..(r + 1) * columns], eight.scales[r]), (&want.0[..], want.1));
                let want = twin::int4(x);
                assert_eq!(&four.q[r * bytes..(r + 1) * bytes], &want.0[..], "{rows} x {columns}, row {r}");
                assert_eq!(&four.scales[r * groups..(r + 1) * groups], &want.1[..]);
                for (b, x) in x.chunks(FP8_BLOCK).enumerate() {
                    let scale = float.scales[r / FP8_BLOCK * blocks + b];
                    let at = r * columns + b * FP8_BLOCK;
                    assert_eq!(&float.q[at..at + x.len()], &twin::fp8(x, scale)[..], "row {r} block {b}");
                }
            }
            let most = x[..].iter().fold(0f32, |m, v| m.max(v.abs()));
            assert!(float.scales.contains(&(most / 448.0)), "a block's scale is its largest magnitude / 448");
        }
    }

    #[test]
    fn zeros_dwarfs_and_values_that_are_not_finite() {
        let pool = Pool::new(1);
        let all = |x: f32| {
            let row = move |_: usize, out: &mut [f32]| {
                out.fill(0.0);
                out[3] = x;
            };
            (quantize_int8(&pool, 1, 64, &row), quantize_int4(&pool, 1, 64, &row), quantize_fp8(&pool, 1, 64, &row))
        };
        for nothing in [0.0, -0.0, 1e-44, -1e-40] {
            let (eight, four, float) = all(nothing);
            let mut out = [1f32; 64];
            dequantize_int8(&eight.q, &eight.scales, 0, &mut out);
            assert!(out.iter().all(|v| *v == 0.0), "{nothing}");
            dequantize_int4(&four.q, &four.scales, 0, &mut out);
            assert!(out.iter().all(|v| v.abs() <= 1e-39), "{nothing}");
            dequantize_fp8(&float.q, &float.scales, 0, &mut out);
            assert!(out.iter().all(|v| v.abs() <= 1e-39), "{nothing}");
        }
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let (eight, four, float) = all(bad);
            assert!(eight.scales[0].is_nan() && float.scales[0].is_nan(), "{bad}");
            assert!(half::bf16::from_bits(four.scales[0]).is_nan(), "{bad}");
        }
    }
}
