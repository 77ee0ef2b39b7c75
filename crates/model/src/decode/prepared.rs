//! What decoding makes of a model once, so that a token costs the weights' bytes and little else: norms and biases in
//! f32, adapters in bf16, DoRA's factors, and the two halves of latent attention's `kv_b_proj` with its adapter folded
//! in (absorbed attention multiplies by each half on its own, one of them transposed).
use crate::layer::{Attention, Layer, Mla, MlaQuery};
use crate::model::Model;
use half::bf16;
use loar_kernels::streamed::{LowRank, Stream};
use loar_kernels::{Matrix, Pool, Values};
use loar_tape::{Linear, ParamStore, Weight};
use std::collections::HashMap;

#[derive(Debug)]
pub(crate) struct Prepared {
    linears: HashMap<String, Extras>,
    pub layers: Vec<PreparedLayer>,
    pub norm: Vec<f32>,
}

#[derive(Debug)]
pub(crate) struct PreparedLayer {
    pub input_norm: Vec<f32>,
    pub post_norm: Vec<f32>,
    /// q_norm and k_norm, or q_a_layernorm (empty without) and kv_a_layernorm.
    pub inner_norms: Option<(Vec<f32>, Vec<f32>)>,
    pub absorbed: Option<Absorbed>,
}

/// bf16 bits of `kv_b_proj` by head.
#[derive(Debug)]
pub(crate) struct Absorbed {
    /// `[heads, latent, n]`: what takes a query's n into the latents' space.
    pub uk: Vec<u16>,
    /// `[heads, v, latent]`
    pub uv: Vec<u16>,
}

/// What a linear layer has besides its weight.
#[derive(Debug, Default)]
struct Extras {
    bias: Option<Vec<f32>>,
    row_scale: Option<Vec<f32>>,
    /// A `[rank, in]` and B `[out, rank]` as bf16 bits.
    low_rank: Option<(Vec<u16>, Vec<u16>)>,
}

fn bits(x: &[f32]) -> Vec<u16> {
    x.iter().map(|v| bf16::from_f32(*v).to_bits()).collect()
}

impl Prepared {
    pub fn new(model: &Model) -> Prepared {
        let params = &model.params;
        let mut linears = HashMap::new();
        for lin in model.linears() {
            let extras = Extras {
                bias: lin.bias.as_ref().map(|b| b.to_f32(params)),
                row_scale: lin.dora_scale(&model.context, params),
                low_rank: lin
                    .lora
                    .as_ref()
                    .map(|l| (bits(&params.get(l.a).value.data), bits(&params.get(l.b).value.data))),
            };
            if extras.bias.is_some() || extras.low_rank.is_some() {
                linears.insert(lin.name.clone(), extras);
            }
        }
        let layers = model.layers.iter().map(|l| layer(model, l)).collect();
        Prepared { linears, layers, norm: model.norm.to_f32(params) }
    }

    /// The streamed product of a linear layer, written to `out`.
    pub fn stream<'s>(&'s self, params: &'s ParamStore, lin: &'s Linear, out: &'s mut [f32]) -> Stream<'s> {
        let mut stream = Stream::new(lin.weight.matrix(params), lin.out_features, out);
        if let Some(e) = self.linears.get(&lin.name) {
            stream.bias = e.bias.as_deref();
            stream.row_scale = e.row_scale.as_deref();
            if let (Some((a, b)), Some(l)) = (&e.low_rank, &lin.lora) {
                stream.low_rank = Some(LowRank {
                    a: Matrix::bf16(a, lin.in_features),
                    b: Matrix::bf16(b, l.rank),
                    rank: l.rank,
                    scaling: l.scaling,
                });
            }
        }
        stream
    }
}

fn layer(model: &Model, layer: &Layer) -> PreparedLayer {
    let wide = |w: &Weight| w.to_f32(&model.params);
    let (inner_norms, absorbed) = match &layer.attention {
        Attention::Gqa(a) => (a.q_norm.as_ref().zip(a.k_norm.as_ref()).map(|(q, k)| (wide(q), wide(k))), None),
        Attention::Mla(a) => {
            let q = match &a.query {
                MlaQuery::Full(_) => Vec::new(),
                MlaQuery::LowRank { q_a_layernorm, .. } => wide(q_a_layernorm),
            };
            (Some((q, wide(&a.kv_a_layernorm))), Some(absorb(model, a)))
        }
    };
    PreparedLayer {
        input_norm: wide(&layer.input_layernorm),
        post_norm: wide(&layer.post_attention_layernorm),
        inner_norms,
        absorbed,
    }
}

/// Splits `kv_b_proj` (per head n rows of keys, then v rows of values).
fn absorb(model: &Model, a: &Mla) -> Absorbed {
    let m = model.config.mla.as_ref().expect("an MLA layer has an MLA config");
    let (heads, latent) = (model.config.num_attention_heads, m.kv_lora_rank);
    let (n, v) = (m.qk_nope_head_dim, m.v_head_dim);
    let merged = a.kv_b_proj.merged(&model.params);
    let (mut uk, mut uv) = (vec![0u16; heads * latent * n], vec![0u16; heads * v * latent]);
    let pool: &Pool = &model.context.pool;
    pool.pieces_mut(&mut uk, latent * n, &|h, part| {
        for i in 0..n {
            for (c, x) in merged.row(h * (n + v) + i).iter().enumerate() {
                part[c * n + i] = bf16::from_f32(*x).to_bits();
            }
        }
    });
    pool.pieces_mut(&mut uv, v * latent, &|h, part| {
        for (i, line) in part.chunks_exact_mut(latent).enumerate() {
            line.iter_mut().zip(merged.row(h * (n + v) + n + i)).for_each(|(o, x)| *o = bf16::from_f32(*x).to_bits());
        }
    });
    Absorbed { uk, uv }
}

/// A bf16 matrix `[rows, columns]`, the `index`th of several.
pub(crate) fn part(all: &[u16], index: usize, rows: usize, columns: usize) -> Matrix<'_> {
    let size = rows * columns;
    Matrix { values: Values::Bf16(&all[index * size..(index + 1) * size]), stride: columns, transposed: false }
}
