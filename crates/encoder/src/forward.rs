//! The network: embeddings, then per layer self-attention and an MLP, each with its residual and a LayerNorm after it
//! (Devlin et al. 2019). Texts stand one after another without padding; attention sees one text at a time, everything
//! else a matrix `[tokens, hidden]`, so a long and a short text cost what they hold.

use loar_kernels::attention::{AttentionShape, Segment, forward_bidirectional};
use loar_kernels::elementwise::{gelu, layernorm};
use loar_kernels::{Left, Matrix, Output, Packed, Pool, Precision, Product, Term};

use crate::config::Config;
use crate::weights::{Linear, Norm, Weights};

/// Memory of one batch, kept for the next.
#[derive(Default)]
pub(crate) struct Scratch {
    x: Vec<f32>,
    y: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    wide: Vec<f32>,
}

pub(crate) struct Network<'a> {
    pub config: &'a Config,
    pub weights: &'a Weights,
    pub precision: Precision,
    pub pool: &'a Pool,
}

fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

impl Network<'_> {
    /// Token ids of texts → states of their tokens `[tokens, hidden]`, text after text.
    pub fn states<'s>(&self, texts: &[Vec<u32>], scratch: &'s mut Scratch) -> &'s [f32] {
        let (h, heads) = (self.config.hidden, self.config.heads);
        let mut segments = Vec::with_capacity(texts.len());
        let mut tokens = 0;
        for text in texts {
            segments.push(Segment { q_start: tokens, q_len: text.len(), k_start: tokens, k_len: text.len() });
            tokens += text.len();
        }
        let shape = AttentionShape {
            num_heads: heads,
            num_key_value_heads: heads,
            head_dim_qk: h / heads,
            head_dim_v: h / heads,
            scale: 1.0 / ((h / heads) as f32).sqrt(),
        };
        let Scratch { x, y, q, k, v, wide } = scratch;
        let (x, y) = (sized(x, tokens * h), sized(y, tokens * h));
        let (q, k, v) = (sized(q, tokens * h), sized(k, tokens * h), sized(v, tokens * h));
        let wide = sized(wide, tokens * self.config.intermediate);

        self.embed(texts, x);
        self.norm(&self.weights.norm, x);
        for layer in &self.weights.layers {
            let packed = Packed::left(self.pool, self.precision, tokens, h, Matrix::f32(x, h));
            self.product(&layer.query, Left::Packed(&packed), None, tokens, q);
            self.product(&layer.key, Left::Packed(&packed), None, tokens, k);
            self.product(&layer.value, Left::Packed(&packed), None, tokens, v);
            drop(packed);
            forward_bidirectional(self.pool, &shape, &segments, q, k, v, y);
            // the queries are used up: their place takes the sum with the residual
            self.product(&layer.output, Left::Matrix(Matrix::f32(y, h)), Some(x), tokens, q);
            self.norm(&layer.output_norm, q);
            self.product(&layer.up, Left::Matrix(Matrix::f32(q, h)), None, tokens, wide);
            gelu(self.pool, wide);
            let inner = Matrix::f32(wide, self.config.intermediate);
            self.product(&layer.down, Left::Matrix(inner), Some(q), tokens, x);
            self.norm(&layer.down_norm, x);
        }
        x
    }

    fn embed(&self, texts: &[Vec<u32>], x: &mut [f32]) {
        let h = self.config.hidden;
        let ids = texts.iter().flat_map(|text| text.iter().enumerate());
        for (row, (position, id)) in x.chunks_exact_mut(h).zip(ids) {
            row.copy_from_slice(&self.weights.positions[position * h..(position + 1) * h]);
            self.weights.words.add_row(*id as usize, row);
        }
    }

    fn norm(&self, norm: &Norm, x: &mut [f32]) {
        layernorm(self.pool, x, &norm.weight, &norm.bias, self.config.eps);
    }

    fn product(&self, linear: &Linear, a: Left<'_>, residual: Option<&[f32]>, tokens: usize, out: &mut [f32]) {
        let (n, k) = (linear.bias.len(), linear.inputs);
        let terms = [Term { k, a, b: linear.weight.matrix(k).t() }];
        let product = Product {
            m: tokens,
            n,
            terms: &terms,
            alpha: 1.0,
            bias: Some(&linear.bias),
            residual,
            accumulate: false,
            precision: self.precision,
        };
        product.run(self.pool, Output::F32(out), n);
    }
}
