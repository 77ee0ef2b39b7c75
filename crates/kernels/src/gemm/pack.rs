//! Packing: copies a strip of an operand into a panel `[words][width]`, transposing, widening or rounding as needed.
//! Lines past the operand and the odd end of k become zeros, so every tile can run at full size. Quantised operands go
//! through a piece of f32 that stays in L1.
use super::dequant;
use super::tile::Format;
use super::{Matrix, Values};
use crate::elementwise::{narrow, widen};
use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::isa::Level;

/// One side of the product: `lines` rows of A or columns of B, each `k` long.
#[derive(Clone, Copy)]
pub(super) struct Operand<'a> {
    pub values: Values<'a>,
    pub stride: usize,
    /// Element (line, k) is at `line * stride + k` when true, at `k * stride + line` when false.
    pub lines_are_rows: bool,
    pub lines: usize,
    pub k: usize,
}

impl<'a> Operand<'a> {
    pub fn left(a: &Matrix<'a>, m: usize, k: usize) -> Self {
        Operand { values: a.values, stride: a.stride, lines_are_rows: !a.transposed, lines: m, k }
    }
    pub fn right(b: &Matrix<'a>, n: usize, k: usize) -> Self {
        Operand { values: b.values, stride: b.stride, lines_are_rows: b.transposed, lines: n, k }
    }
}

/// A panel's place in the operand: lines `line..line + width`, words `word..word + words` of k.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strip {
    pub line: usize,
    pub width: usize,
    pub word: usize,
    pub words: usize,
}

pub(super) fn pack(isa: Isa, format: Format, source: &Operand, strip: Strip, out: &mut [u32]) {
    assert!(out.len() == strip.words * strip.width && strip.line < source.lines.max(1));
    if source.values.is_quantized() {
        quantised(isa, format, source, strip, out);
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if isa.level() >= Level::Avx512 {
        super::pack_avx512::pack(isa, format, source, strip, out);
        return;
    }
    let live = strip.width.min(source.lines - strip.line);
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut))]
    let mut done = (0, 0);
    #[cfg(target_arch = "x86_64")]
    if isa.level() == Level::Avx2 && source.lines_are_rows {
        // SAFETY: the level was detected, the assertion above covers `out`, and the product's checks say that every
        // line and word lies inside the operand.
        done = unsafe { super::pack_avx2::pack_blocks(format, source, strip, live, out) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = isa;
    match (source.values, format) {
        (Values::F32(v), Format::F32) => portable(source, strip, live, done, out, |i| v[i].to_bits()),
        (Values::F32(v), Format::Rounded) => {
            portable(source, strip, live, done, out, |i| u32::from(narrow(v[i])) << 16)
        }
        (Values::Bf16(v), Format::F32 | Format::Rounded) => {
            portable(source, strip, live, done, out, |i| widen(v[i]).to_bits())
        }
        (_, Format::Pairs) => unreachable!("pairs of bf16 need AVX-512"),
        _ => unreachable!("quantised operands are widened piece by piece"),
    }
}

/// Elements of k widened at a time: 64 of up to 32 lines are 8 KiB of f32.
const PIECE: usize = 64;
/// The widest panel.
const MOST_LINES: usize = 32;

fn quantised(isa: Isa, format: Format, source: &Operand, strip: Strip, out: &mut [u32]) {
    let per_word = if format == Format::Pairs { 2 } else { 1 };
    let live = strip.width.min(source.lines - strip.line);
    let mut values = [0f32; PIECE * MOST_LINES];
    for (i, out) in out.chunks_mut(PIECE / per_word * strip.width).enumerate() {
        let first = strip.word * per_word + i * PIECE;
        let n = (out.len() / strip.width * per_word).min(source.k.saturating_sub(first));
        let stride = if source.lines_are_rows {
            for (line, row) in values.chunks_exact_mut(PIECE).take(live).enumerate() {
                dequant::piece(isa, source.values, source.stride, strip.line + line, first, &mut row[..n]);
            }
            PIECE
        } else {
            for (k, row) in values.chunks_exact_mut(MOST_LINES).take(n).enumerate() {
                dequant::piece(isa, source.values, source.stride, first + k, strip.line, &mut row[..live]);
            }
            MOST_LINES
        };
        let piece = Operand { values: Values::F32(&values), stride, lines: live, k: n, ..*source };
        let words = out.len() / strip.width;
        if n == 0 {
            out.fill(0);
        } else {
            pack(isa, format, &piece, Strip { line: 0, width: strip.width, word: 0, words }, out);
        }
    }
}

/// `done` lines and words of a strip whose lines are rows are already in place.
#[inline(always)]
fn portable(
    source: &Operand,
    strip: Strip,
    live: usize,
    done: (usize, usize),
    out: &mut [u32],
    word: impl Fn(usize) -> u32,
) {
    let (width, stride) = (strip.width, source.stride);
    if source.lines_are_rows {
        // 16 words of every line at a time: the panel's part stays in L1 while it is filled crosswise.
        for first in (0..strip.words).step_by(16) {
            let last = (first + 16).min(strip.words);
            for i in 0..live {
                let from = (strip.line + i) * stride + strip.word;
                let skip = if i < done.0 { done.1 } else { 0 };
                for w in first.max(skip)..last {
                    out[w * width + i] = word(from + w);
                }
            }
        }
    } else {
        for (w, step) in out.chunks_exact_mut(width).enumerate() {
            let from = (strip.word + w) * stride + strip.line;
            for (i, x) in step[..live].iter_mut().enumerate() {
                *x = word(from + i);
            }
        }
    }
    if live < width {
        for step in out.chunks_exact_mut(width) {
            step[live..].fill(0);
        }
    }
}
