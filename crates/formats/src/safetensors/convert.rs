//! Stored elements to f32: exact for every float type, FP8 blocks with their scales.

use half::{bf16, f16};
use loar_kernels::quant::E4M3;

use super::DType;

/// Value of a `ue8m0` scale byte: `2^(byte - 127)`, NaN at 255.
pub fn e8m0_to_f32(byte: u8) -> f32 {
    match byte {
        255 => f32::NAN,
        0 => f32::from_bits(0x0040_0000), // 2^-127 is subnormal in f32
        _ => f32::from_bits(u32::from(byte) << 23),
    }
}

/// `e5m2` is IEEE half cut to its upper byte.
fn e5m2_to_f32(byte: u8) -> f32 {
    f16::from_bits(u16::from(byte) << 8).to_f32()
}

fn each<const N: usize>(bytes: &[u8], out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
    let (chunks, _) = bytes.as_chunks::<N>();
    for (slot, chunk) in out.iter_mut().zip(chunks) {
        *slot = value(*chunk);
    }
}

/// Converts `bytes` into `out`, element by element, without scales. False when the type is not a
/// float type or the lengths disagree.
pub(super) fn to_f32(dtype: DType, bytes: &[u8], out: &mut [f32]) -> bool {
    if out.len().checked_mul(dtype.size()) != Some(bytes.len()) {
        return false;
    }
    match dtype {
        DType::F32 => each(bytes, out, f32::from_le_bytes),
        DType::F64 => each(bytes, out, |b| f64::from_le_bytes(b) as f32),
        DType::BF16 => each(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
        DType::F16 => each(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
        DType::F8E4M3 => each(bytes, out, |[b]| E4M3[usize::from(b)]), // a u8 always indexes 256 entries
        DType::F8E5M2 => each(bytes, out, |[b]| e5m2_to_f32(b)),
        DType::F8E8M0 => each(bytes, out, |[b]| e8m0_to_f32(b)),
        _ => return false,
    }
    true
}

/// Multiplies `values [rows, columns]` by `scales [⌈rows/block0⌉, ⌈columns/block1⌉]`, the last
/// blocks ragged. The caller has checked the sizes.
pub(super) fn apply_blocks(values: &mut [f32], columns: usize, scales: &[f32], block: [usize; 2]) {
    let [block_rows, block_columns] = block.map(|b| b.max(1));
    let columns = columns.max(1);
    let scale_columns = columns.div_ceil(block_columns);
    for (row, line) in values.chunks_exact_mut(columns).enumerate() {
        let from = row / block_rows * scale_columns;
        let row_scales = scales.get(from..from + scale_columns).unwrap_or_default();
        for (part, scale) in line.chunks_mut(block_columns).zip(row_scales) {
            for value in part {
                *value *= scale;
            }
        }
    }
}
