//! Weights: frozen ones wherever they lie (a mapped file, a vector), trainable ones in the parameter store, and the
//! linear layer that joins a weight with its bias and its adapter.
use crate::{ParamId, ParamStore, Tensor};
use loar_kernels::arena::Buf;
use loar_kernels::{Matrix, Values};
use std::sync::Arc;

/// Bytes in a mapped file or in memory.
pub type Bytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Where frozen numbers lie. Mapped storage keeps its file open and is never copied.
#[derive(Clone)]
pub enum Storage {
    F32(Arc<Vec<f32>>),
    Bf16(Arc<Vec<u16>>),
    MappedF32(Bytes),
    MappedBf16(Bytes),
    /// One f32 scale a row; the layouts are those of `loar_kernels::quant`. Scales are aligned for their type.
    Int8 {
        q: Bytes,
        scales: Arc<Vec<f32>>,
    },
    /// One bf16 scale a group.
    Int4 {
        q: Bytes,
        scales: Arc<Vec<u16>>,
    },
    /// E4M3 with one f32 scale a 128 x 128 block.
    Fp8 {
        q: Bytes,
        scales: Arc<Vec<f32>>,
    },
}

impl Storage {
    pub fn values(&self) -> Values<'_> {
        match self {
            Storage::F32(v) => Values::F32(v),
            Storage::Bf16(v) => Values::Bf16(v),
            Storage::MappedF32(b) => Values::F32(bytemuck::cast_slice((**b).as_ref())),
            Storage::MappedBf16(b) => Values::Bf16(bytemuck::cast_slice((**b).as_ref())),
            Storage::Int8 { q, scales } => Values::Int8 { q: bytemuck::cast_slice((**q).as_ref()), scales },
            Storage::Int4 { q, scales } => Values::Int4 { q: (**q).as_ref(), scales },
            Storage::Fp8 { q, scales } => Values::Fp8 { q: (**q).as_ref(), scales },
        }
    }

    /// Mapped bytes as they are when aligned for their type, else copied once into memory.
    pub fn mapped_f32(bytes: Bytes) -> Storage {
        match bytemuck::try_cast_slice::<u8, f32>((*bytes).as_ref()) {
            Ok(_) => Storage::MappedF32(bytes),
            Err(_) => Storage::F32(Arc::new(
                (*bytes).as_ref().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            )),
        }
    }

    pub fn mapped_bf16(bytes: Bytes) -> Storage {
        match bytemuck::try_cast_slice::<u8, u16>((*bytes).as_ref()) {
            Ok(_) => Storage::MappedBf16(bytes),
            Err(_) => Storage::Bf16(Arc::new(
                (*bytes).as_ref().chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect(),
            )),
        }
    }
}

/// A frozen matrix `[rows, cols]` (a vector is `[n, 1]`).
#[derive(Clone)]
pub struct Frozen {
    pub rows: usize,
    pub cols: usize,
    pub storage: Storage,
}

impl Frozen {
    pub fn from_f32(rows: usize, cols: usize, data: impl Into<Buf<f32>>) -> Frozen {
        let data = data.into().into_vec();
        assert_eq!(data.len(), rows * cols);
        Frozen { rows, cols, storage: Storage::F32(Arc::new(data)) }
    }

    pub fn bytes(&self) -> usize {
        match self.storage.values() {
            Values::F32(v) => v.len() * 4,
            Values::Bf16(v) => v.len() * 2,
            Values::Int8 { q, scales } => q.len() + scales.len() * 4,
            Values::Int4 { q, scales } => q.len() + scales.len() * 2,
            Values::Fp8 { q, scales } => q.len() + scales.len() * 4,
        }
    }
}

/// A matrix that is either frozen or a parameter.
#[derive(Clone)]
pub enum Weight {
    Frozen(Frozen),
    Param(ParamId),
}

impl Weight {
    pub fn shape(&self, params: &ParamStore) -> (usize, usize) {
        match self {
            Weight::Frozen(f) => (f.rows, f.cols),
            Weight::Param(id) => {
                let t = &params.get(*id).value;
                (t.rows, t.cols)
            }
        }
    }

    pub fn values<'a>(&'a self, params: &'a ParamStore) -> Values<'a> {
        match self {
            Weight::Frozen(f) => f.storage.values(),
            Weight::Param(id) => Values::F32(&params.get(*id).value.data),
        }
    }

    pub fn matrix<'a>(&'a self, params: &'a ParamStore) -> Matrix<'a> {
        Matrix { values: self.values(params), stride: self.shape(params).1, transposed: false }
    }

    pub fn param(&self) -> Option<ParamId> {
        match self {
            Weight::Param(id) => Some(*id),
            Weight::Frozen(_) => None,
        }
    }

    /// All numbers widened to f32.
    pub fn to_f32(&self, params: &ParamStore) -> Vec<f32> {
        match self.values(params) {
            Values::F32(v) => v.to_vec(),
            Values::Bf16(v) => v.iter().map(|b| half::bf16::from_bits(*b).to_f32()).collect(),
            quantized => {
                let (rows, cols) = self.shape(params);
                let mut out = vec![0f32; rows * cols];
                for (r, line) in out.chunks_exact_mut(cols.max(1)).enumerate() {
                    quantized.row_into(cols, r, line);
                }
                out
            }
        }
    }

    /// Row `r` widened to f32 into `out`.
    pub fn row_into(&self, params: &ParamStore, r: usize, out: &mut [f32]) {
        let cols = self.shape(params).1;
        self.values(params).row_into(cols, r, &mut out[..cols]);
    }
}

/// DoRA (Liu et al. 2024, eq. 5): the magnitude `m [out, 1]` over the row norms of `W + s·B·A`, which carry no gradient.
#[derive(Clone)]
pub struct Dora {
    pub magnitude: ParamId,
    /// ‖W_i‖² of each frozen row.
    pub base_norm2: Arc<Vec<f32>>,
}

/// ΔW = scaling · B · A, `a [rank, in]`, `b [out, rank]` (Hu et al. 2021, §4.1).
#[derive(Clone)]
pub struct Lora {
    pub a: ParamId,
    pub b: ParamId,
    pub rank: usize,
    pub scaling: f32,
    /// Probability with which an input entry of the adapter path is zeroed while training.
    pub dropout: f32,
    pub dora: Option<Dora>,
    /// Distinguishes the dropout masks of different modules.
    pub stream: u64,
}

/// y = x·Wᵀ + bias + adapter(x), `weight [out, in]`.
#[derive(Clone)]
pub struct Linear {
    /// Module path in the checkpoint, `model.layers.0.self_attn.q_proj`.
    pub name: String,
    pub in_features: usize,
    pub out_features: usize,
    pub weight: Weight,
    pub bias: Option<Weight>,
    pub lora: Option<Lora>,
}

impl Linear {
    pub fn is_trainable(&self) -> bool {
        self.lora.is_some() || self.weight.param().is_some() || self.bias.as_ref().is_some_and(|b| b.param().is_some())
    }

    /// The weight with the adapter folded in, in f32: `W + s·B·A`, and `(m/n)·(W + s·B·A)` for DoRA.
    pub fn merged(&self, params: &ParamStore) -> Tensor {
        let mut w = Tensor::new(self.out_features, self.in_features, self.weight.to_f32(params));
        let Some(l) = &self.lora else { return w };
        let (a, b) = (&params.get(l.a).value, &params.get(l.b).value);
        // Sums in f64: merging is rare and its error is certified against the adapter path.
        let mut delta = vec![0f64; self.in_features];
        for o in 0..self.out_features {
            delta.fill(0.0);
            for (j, bj) in b.row(o).iter().enumerate().filter(|(_, x)| **x != 0.0) {
                for (d, x) in delta.iter_mut().zip(a.row(j)) {
                    *d += f64::from(*bj) * f64::from(*x);
                }
            }
            let row = w.row_mut(o);
            for (x, d) in row.iter_mut().zip(&delta) {
                *x = (f64::from(*x) + f64::from(l.scaling) * d) as f32;
            }
            if let Some(dora) = &l.dora {
                let norm = row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
                let m = f64::from(params.get(dora.magnitude).value.data[o]);
                for x in row.iter_mut() {
                    *x = (f64::from(*x) * m / norm) as f32;
                }
            }
        }
        w
    }
}
