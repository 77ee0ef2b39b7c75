//! How the base's matrices lie in memory: as the file has them, in bf16, or quantised while they are read.
//!
//! One matrix at a time goes from its mapped bytes to its codes, in parallel over rows; no other copy of it is made.
//! Quantised are the linear layers: attention, MLPs, experts and the head. Embedding, router, norms and biases keep
//! their numbers. A head tied to the embedding becomes a quantised copy beside it, because lookups need the embedding in
//! full. FP8 blocks leave the head alone, as DeepSeek's releases do, so that their files are read elsewhere.
use crate::ModelError;
use crate::model::Model;
use loar_kernels::{Pool, Values, quant};
use loar_tape::{Bytes, Frozen, Storage, Weight};
use std::fmt;
use std::sync::Arc;

/// What the linear layers of a base are held in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BaseDtype {
    /// As the file has it, mapped.
    #[default]
    AsStored,
    /// Matrices and embedding in bf16.
    Bf16,
    /// One f32 scale a row.
    Int8,
    /// Groups of 64 along a row, one bf16 scale each.
    Int4,
    /// E4M3, one f32 scale a block of 128 x 128.
    Fp8Block,
}

impl BaseDtype {
    pub const ALL: [BaseDtype; 5] =
        [BaseDtype::AsStored, BaseDtype::Bf16, BaseDtype::Int8, BaseDtype::Int4, BaseDtype::Fp8Block];

    pub fn word(self) -> &'static str {
        match self {
            BaseDtype::AsStored => "as-stored",
            BaseDtype::Bf16 => "bf16",
            BaseDtype::Int8 => "int8",
            BaseDtype::Int4 => "int4",
            BaseDtype::Fp8Block => "fp8-block",
        }
    }

    pub fn from_word(word: &str) -> Option<BaseDtype> {
        BaseDtype::ALL.into_iter().find(|d| d.word() == word)
    }

    pub fn is_quantized(self) -> bool {
        matches!(self, BaseDtype::Int8 | BaseDtype::Int4 | BaseDtype::Fp8Block)
    }

    /// Whether the head becomes codes too.
    pub(crate) fn takes_head(self) -> bool {
        matches!(self, BaseDtype::Int8 | BaseDtype::Int4)
    }
}

impl fmt::Display for BaseDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// Codes made here.
struct Owned(Vec<i8>);

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

fn owned(codes: Vec<u8>) -> Bytes {
    Arc::new(codes)
}

fn word_of(values: &Values<'_>) -> &'static str {
    match values {
        Values::F32(_) => "f32",
        Values::Bf16(_) => "bf16",
        Values::Int8 { .. } => "int8",
        Values::Int4 { .. } => "int4",
        Values::Fp8 { .. } => "fp8-block",
    }
}

/// `weight` in the form that `base` asks for, itself when it has that form already.
///
/// # Errors
/// A value that is not finite, or a wider quantisation of a narrower one.
pub(crate) fn convert(pool: &Pool, weight: Frozen, base: BaseDtype) -> Result<Frozen, String> {
    let stored = word_of(&weight.storage.values());
    if base == BaseDtype::AsStored || stored == base.word() {
        return Ok(weight);
    }
    if stored == "int4" && base.is_quantized() {
        return Err(format!("it is stored as int4, which {base} would only make larger; take `as-stored`"));
    }
    let Frozen { rows, cols, .. } = weight;
    let values = weight.storage.values();
    let row = |r: usize, out: &mut [f32]| values.row_into(cols, r, out);
    let storage = match base {
        BaseDtype::AsStored => unreachable!("returned above"),
        BaseDtype::Bf16 => {
            let mut bits = vec![0u16; rows * cols];
            pool.pieces_mut(&mut bits, cols.max(1), &|r, bits| {
                let mut x = vec![0f32; cols];
                row(r, &mut x);
                bits.iter_mut().zip(&x).for_each(|(b, x)| *b = half::bf16::from_f32(*x).to_bits());
            });
            Storage::Bf16(Arc::new(bits))
        }
        BaseDtype::Int8 => {
            let quant::Int8 { q, scales } = quant::quantize_int8(pool, rows, cols, &row);
            finite(scales.iter().copied())?;
            Storage::Int8 { q: Arc::new(Owned(q)), scales: Arc::new(scales) }
        }
        BaseDtype::Int4 => {
            let quant::Int4 { q, scales } = quant::quantize_int4(pool, rows, cols, &row);
            finite(scales.iter().map(|s| half::bf16::from_bits(*s).to_f32()))?;
            Storage::Int4 { q: owned(q), scales: Arc::new(scales) }
        }
        BaseDtype::Fp8Block => {
            let quant::Fp8 { q, scales } = quant::quantize_fp8(pool, rows, cols, &row);
            finite(scales.iter().copied())?;
            Storage::Fp8 { q: owned(q), scales: Arc::new(scales) }
        }
    };
    Ok(Frozen { rows, cols, storage })
}

/// The bytes of a quantised matrix as files have them, little endian: codes, scales.
pub(crate) fn codes_and_scales(weight: &Frozen) -> (Vec<u8>, Vec<u8>) {
    let wide = |scales: &[f32]| scales.iter().flat_map(|s| s.to_le_bytes()).collect();
    match weight.storage.values() {
        Values::Int8 { q, scales } => (bytemuck::cast_slice(q).to_vec(), wide(scales)),
        Values::Fp8 { q, scales } => (q.to_vec(), wide(scales)),
        Values::Int4 { q, scales } => (q.to_vec(), scales.iter().flat_map(|s| s.to_le_bytes()).collect()),
        Values::F32(_) | Values::Bf16(_) => (Vec::new(), Vec::new()),
    }
}

/// ‖a − b‖ / ‖a‖ in the Frobenius norm, 0 for two matrices of zeros; the same for any number of threads.
pub(crate) fn relative_error(pool: &Pool, a: &Frozen, b: &Frozen) -> f64 {
    let (x, y, cols) = (a.storage.values(), b.storage.values(), a.cols);
    let mut rows = vec![(0f64, 0f64); a.rows];
    pool.pieces_mut(&mut rows, 8, &|task, sums| {
        let (mut u, mut v) = (vec![0f32; cols], vec![0f32; cols]);
        for (i, sum) in sums.iter_mut().enumerate() {
            x.row_into(cols, task * 8 + i, &mut u);
            y.row_into(cols, task * 8 + i, &mut v);
            // Short sums in f32 vectorise; a chunk's error is far below what is printed.
            for (u, v) in u.chunks(256).zip(v.chunks(256)) {
                let (mut gap, mut size) = ([0f32; 8], [0f32; 8]);
                for (j, (u, v)) in u.iter().zip(v).enumerate() {
                    gap[j % 8] += (u - v) * (u - v);
                    size[j % 8] += u * u;
                }
                sum.0 += f64::from(gap.iter().sum::<f32>());
                sum.1 += f64::from(size.iter().sum::<f32>());
            }
        }
    });
    let (gap, size) = rows.iter().fold((0.0, 0.0), |s, r| (s.0 + r.0, s.1 + r.1));
    if size > 0.0 { (gap / size).sqrt() } else { 0.0 }
}

/// Quantisation marks a row, group or block with a value that is not finite by its scale.
fn finite(mut scales: impl Iterator<Item = f32>) -> Result<(), String> {
    match scales.position(|s| !s.is_finite()) {
        None => Ok(()),
        Some(at) => Err(format!("a value below scale {at} is not finite; such a checkpoint cannot be quantised")),
    }
}

/// Matrices of the base that lie in one form.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BaseForm {
    /// `f32`, `bf16`, `int8`, `int4` or `fp8-block`.
    pub dtype: String,
    pub matrices: usize,
    pub parameters: u64,
    /// Scales included.
    pub bytes: u64,
}

impl Model {
    /// The frozen linear layers by the form they lie in, largest part first.
    pub fn base_forms(&self) -> Vec<BaseForm> {
        let mut forms: Vec<BaseForm> = Vec::new();
        for l in self.linears() {
            let Weight::Frozen(w) = &l.weight else { continue };
            let word = word_of(&w.storage.values());
            let at = forms.iter().position(|f| f.dtype == word).unwrap_or_else(|| {
                forms.push(BaseForm { dtype: word.to_owned(), matrices: 0, parameters: 0, bytes: 0 });
                forms.len() - 1
            });
            forms[at].matrices += 1;
            forms[at].parameters += (w.rows * w.cols) as u64;
            forms[at].bytes += w.bytes() as u64;
        }
        forms.sort_by_key(|f| std::cmp::Reverse(f.parameters));
        forms
    }

    /// In one word what the body lies in: `f32`, `bf16`, `int8`, `int4` or `fp8-block`; `trained` when all of it trains.
    pub fn base_dtype(&self) -> String {
        self.base_forms().into_iter().next().map_or_else(|| "trained".to_owned(), |f| f.dtype)
    }

    /// Bytes of everything frozen: matrices with their scales, embedding, router, norms, biases. A head that is the
    /// embedding counts once; a quantised copy of it counts beside it.
    pub fn base_bytes(&self) -> u64 {
        let mut total = 0;
        let mut add = |w: &Weight| {
            if let Weight::Frozen(w) = w {
                total += w.bytes() as u64;
            }
        };
        for l in self.linears() {
            add(&l.weight);
            l.bias.iter().for_each(&mut add);
        }
        self.other_weights().into_iter().for_each(|(_, w)| add(w));
        if !self.head_is_embedding() {
            add(&self.embed_tokens);
        }
        total
    }

    /// Whether head and embedding are one matrix in memory.
    pub fn head_is_embedding(&self) -> bool {
        match (&self.lm_head.weight, &self.embed_tokens) {
            (Weight::Param(a), Weight::Param(b)) => a == b,
            (Weight::Frozen(a), Weight::Frozen(b)) => address(&a.storage.values()) == address(&b.storage.values()),
            _ => false,
        }
    }
}

fn address(values: &Values<'_>) -> usize {
    match values {
        Values::F32(v) => v.as_ptr() as usize,
        Values::Bf16(v) => v.as_ptr() as usize,
        Values::Int8 { q, .. } => q.as_ptr() as usize,
        Values::Int4 { q, .. } | Values::Fp8 { q, .. } => q.as_ptr() as usize,
    }
}

/// A fault of one tensor as the error of its checkpoint.
pub(crate) fn fault(path: &std::path::Path, name: &str, text: String) -> ModelError {
    ModelError::checkpoint(path, vec![format!("tensor `{name}`: {text}")])
}
