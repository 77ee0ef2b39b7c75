//! Pieces of quantised rows as f32, for packers that multiply in f32 or in pairs of bf16. Plain loops that the compiler
//! turns into each set's vectors; the numbers are those of [`crate::quant`].
use super::Values;
use crate::quant::{FP8_BLOCK, INT4_GROUP, int4_row_bytes};
use crate::simd::simd_fn;

simd_fn! {
    /// Elements `from..from + out.len()` of row `r` of a quantised matrix of `columns` columns.
    pub(super) fn piece<S>(s, values: Values<'_>, columns: usize, r: usize, from: usize, out: &mut [f32]) {
        let _ = s;
        let end = from + out.len();
        match values {
            Values::Int8 { q, scales } => {
                let scale = scales[r];
                for (o, q) in out.iter_mut().zip(&q[r * columns + from..r * columns + end]) {
                    *o = f32::from(*q) * scale;
                }
            }
            Values::Int4 { q, scales } => {
                let row = &q[r * int4_row_bytes(columns)..];
                let scales = &scales[r * columns.div_ceil(INT4_GROUP)..];
                // Runs that stay in the low or in the high nibbles of one group.
                for (at, part) in runs(from, out, INT4_GROUP / 2) {
                    let (group, inside) = (at / INT4_GROUP, at % INT4_GROUP);
                    let scale = f32::from_bits(u32::from(scales[group]) << 16);
                    let shift = if inside < INT4_GROUP / 2 { 0 } else { 4 };
                    let q = &row[group * INT4_GROUP / 2 + inside % (INT4_GROUP / 2)..];
                    for (o, q) in part.iter_mut().zip(q) {
                        *o = (f32::from(q >> shift & 15) - 8.0) * scale;
                    }
                }
            }
            Values::Fp8 { q, scales } => {
                let scales = &scales[r / FP8_BLOCK * columns.div_ceil(FP8_BLOCK)..];
                let q = &q[r * columns..];
                for (at, part) in runs(from, out, FP8_BLOCK) {
                    let scale = scales[at / FP8_BLOCK];
                    for (o, q) in part.iter_mut().zip(&q[at..]) {
                        *o = e4m3(*q) * scale;
                    }
                }
            }
            Values::F32(_) | Values::Bf16(_) => unreachable!("only quantised rows come here"),
        }
    }
}

/// `out`, whose first element is number `from` of a row, in runs that do not cross a multiple of `edge`.
#[inline(always)]
fn runs(from: usize, out: &mut [f32], edge: usize) -> impl Iterator<Item = (usize, &mut [f32])> {
    let first = (edge - from % edge).min(out.len());
    let (head, tail) = out.split_at_mut(first);
    let after = from + first;
    std::iter::once((from, head)).chain(tail.chunks_mut(edge).enumerate().map(move |(i, c)| (after + i * edge, c)))
}

/// [`crate::quant::E4M3`] by arithmetic, which vectorises where a table does not.
#[inline(always)]
fn e4m3(byte: u8) -> f32 {
    let magnitude = u32::from(byte & 0x7f);
    let normal = f32::from_bits((magnitude << 20) + (120 << 23));
    let small = magnitude as f32 * (1.0 / 512.0);
    let x = if magnitude < 8 { small } else { normal };
    let x = if magnitude == 0x7f { f32::NAN } else { x };
    f32::from_bits(x.to_bits() | u32::from(byte & 0x80) << 24)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Isa, Pool, quant};

    #[test]
    fn every_byte_is_its_e4m3_value() {
        for byte in 0..=255u8 {
            let (got, want) = (e4m3(byte), quant::E4M3[usize::from(byte)]);
            assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{byte:#x}: {got} for {want}");
        }
    }

    #[test]
    fn pieces_are_parts_of_whole_rows() {
        let (rows, columns) = (3, 300);
        let pool = Pool::new(1);
        let row = |r: usize, out: &mut [f32]| {
            out.iter_mut().enumerate().for_each(|(c, x)| *x = ((r * 31 + c * 7) % 23) as f32 - 11.0);
        };
        let eight = quant::quantize_int8(&pool, rows, columns, &row);
        let four = quant::quantize_int4(&pool, rows, columns, &row);
        let bytes: Vec<u8> = (0..rows * columns).map(|i| (i % 251) as u8 & 0xfe).collect();
        let kinds = [
            Values::Int8 { q: &eight.q, scales: &eight.scales },
            Values::Int4 { q: &four.q, scales: &four.scales },
            Values::Fp8 { q: &bytes, scales: &[0.5, 0.25, 3.0] },
        ];
        let mut whole = vec![0f32; columns];
        for values in kinds {
            for r in 0..rows {
                values.row_into(columns, r, &mut whole);
                for (from, len) in [(0, 300), (31, 66), (64, 64), (100, 1), (127, 140), (299, 1)] {
                    for isa in Isa::available() {
                        let mut out = vec![0f32; len];
                        piece(isa, values, columns, r, from, &mut out);
                        let want = &whole[from..from + len];
                        assert!(
                            out.iter().zip(want).all(|(a, b)| a.to_bits() == b.to_bits()),
                            "{isa} {r} {from} {len}"
                        );
                    }
                }
            }
        }
    }
}
