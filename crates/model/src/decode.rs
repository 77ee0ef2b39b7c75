//! The forward pass of token steps: few rows, straight over the kernels, no tape.
//!
//! Every weight is read once for all rows ([`loar_kernels::streamed`]), keys and values live in pages and are met by
//! single queries ([`loar_kernels::paged`]), latent attention is absorbed: the query goes into the latents' space, the
//! latents are attended to as they lie in the cache, and what comes out is taken to the heads' values. A row's numbers
//! depend on its own sequence alone. They differ from the tape's (long pieces of prompts, training) by rounding only:
//! the same operands are rounded to bf16, sums run in another order, and int8 and fp8 weights are not rounded again.
mod prepared;

use crate::KvCache;
use crate::layer::{Attention, Gqa, Layer, Mla, MlaQuery, Mlp, Moe, SwigluMlp};
use crate::model::Model;
use loar_formats::config::MlaConfig;
use loar_kernels::elementwise::{
    RopeLayout, add, rmsnorm_forward, rmsnorm_forward_bf16, rope, silu_mul_forward, widen_into,
};
use loar_kernels::paged::{self, Heads, Query};
use loar_kernels::streamed::{Rows, Stream, linear_groups, linear_many};
use loar_tape::op::RopeTable;
use loar_tape::{Linear, Pool, Precision, Tape, Tensor, Var};
pub(crate) use prepared::Prepared;
use prepared::{PreparedLayer, part};

/// Pieces of at most so many tokens are streamed: up to here reading the weights costs more than multiplying by them.
pub(crate) const FEW: usize = 32;

/// One row of the step.
struct Row {
    sequence: usize,
    position: usize,
}

struct Step<'a> {
    model: &'a Model,
    pool: &'a Pool,
    prepared: &'a Prepared,
    rows: &'a [Row],
    rope: &'a RopeTable,
    /// Row t of the rope table belongs to row t of the step.
    rope_rows: Vec<u32>,
}

/// Appends each sequence's tokens to its paged cache; what the final norm gives for its last one, `[sequences, d]`.
pub(crate) fn hidden(model: &Model, sequences: &mut [(&[u32], &mut KvCache)]) -> Tensor {
    let prepared = sequences[0].1.paged().prepared.clone();
    let prepared = prepared.get_or_init(|| Prepared::new(model));
    let (mut rows, mut last, mut x) = (Vec::new(), Vec::new(), Vec::new());
    for (i, (tokens, cache)) in sequences.iter_mut().enumerate() {
        let len = cache.len;
        cache.paged_mut().reserve(len, tokens.len());
        rows.extend((0..tokens.len()).map(|t| Row { sequence: i, position: len + t }));
        for id in tokens.iter() {
            embed(model, *id, &mut x);
        }
        last.push(rows.len() - 1);
    }
    let positions: Vec<u32> = rows.iter().map(|r| r.position as u32).collect();
    let table = model.rope.table(&positions);
    let rope_rows = (0..rows.len() as u32).collect();
    let step = Step { model, pool: &model.context.pool, prepared, rows: &rows, rope: &table, rope_rows };
    let mut caches: Vec<&mut KvCache> = sequences.iter_mut().map(|(_, c)| &mut **c).collect();
    for (layer, p) in model.layers.iter().zip(&prepared.layers) {
        step.layer(layer, p, &mut caches, &mut x);
    }
    for (tokens, cache) in sequences.iter_mut() {
        cache.len += tokens.len();
    }
    let d = model.config.hidden_size;
    let ends: Vec<f32> = last.iter().flat_map(|r| &x[r * d..(r + 1) * d]).copied().collect();
    let normed = step.norm(&ends, &prepared.norm, model.config.rms_norm_eps as f32);
    Tensor::new(last.len(), d, normed)
}

/// Logits of final hidden rows `[m, d]`.
pub(crate) fn logits(model: &Model, prepared: &Prepared, hidden: &Tensor) -> Tensor {
    let mut out = Tensor::unfilled(hidden.rows, model.lm_head.out_features);
    let stream = prepared.stream(&model.params, &model.lm_head, &mut out.data);
    linear_many(&model.context.pool, Precision::Bf16, hidden.rows, hidden.cols, &hidden.data, &mut [stream]);
    out
}

fn embed(model: &Model, id: u32, x: &mut Vec<f32>) {
    let (d, at) = (model.config.hidden_size, x.len());
    x.resize(at + d, 0.0);
    model.embed_tokens.row_into(&model.params, id as usize, &mut x[at..]);
    if let Some(l) = &model.embed_lora {
        let (a, b) = (&model.params.get(l.a).value, &model.params.get(l.b).value);
        for (o, x) in x[at..].iter_mut().enumerate() {
            let s: f32 = b.row(o).iter().enumerate().map(|(j, b)| b * a.row(j)[id as usize]).sum();
            *x += l.scaling * s;
        }
    }
}

impl<'a> Step<'a> {
    fn m(&self) -> usize {
        self.rows.len()
    }

    fn norm(&self, x: &[f32], w: &[f32], eps: f32) -> Vec<f32> {
        let (mut y, mut inv) = (vec![0f32; x.len()], vec![0f32; x.len() / w.len()]);
        rmsnorm_forward(self.pool, x, w, eps, &mut y, &mut inv);
        y
    }

    /// Several linear layers over the same rows.
    fn linears<const N: usize>(&self, x: &[f32], lins: [&'a Linear; N]) -> [Vec<f32>; N] {
        let mut outs = lins.map(|l| vec![0f32; self.m() * l.out_features]);
        let mut streams: Vec<Stream> =
            lins.iter().zip(&mut outs).map(|(l, o)| self.prepared.stream(&self.model.params, l, o)).collect();
        linear_many(self.pool, Precision::Bf16, self.m(), lins[0].in_features, x, &mut streams);
        outs
    }

    /// `y += lin(x)`
    fn add_linear(&self, x: &[f32], lin: &Linear, y: &mut [f32]) {
        let stream = Stream { add: true, ..self.prepared.stream(&self.model.params, lin, y) };
        linear_many(self.pool, Precision::Bf16, self.m(), lin.in_features, x, &mut [stream]);
    }

    fn rotate(&self, x: &mut [f32], head_dim: usize, offset: usize) {
        let width = x.len() / self.m();
        let layout = RopeLayout {
            row_stride: width,
            offset,
            head_stride: head_dim,
            num_heads: width / head_dim,
            half: self.rope.cos.cols,
            interleaved: self.rope.layout == loar_tape::op::RopeLayout::Interleaved,
        };
        rope(self.pool, x, &layout, &self.rope_rows, &self.rope.cos.data, &self.rope.sin.data, false);
    }

    fn layer(&self, layer: &'a Layer, p: &PreparedLayer, caches: &mut [&mut KvCache], x: &mut [f32]) {
        let eps = self.model.config.rms_norm_eps as f32;
        let normed = self.norm(x, &p.input_norm, eps);
        match &layer.attention {
            Attention::Gqa(a) => self.gqa(a, p, layer.index, &normed, caches, x),
            Attention::Mla(a) => self.mla(a, p, layer.index, &normed, caches, x),
        }
        match &layer.mlp {
            Mlp::Dense(m) => {
                let normed = self.norm(x, &p.post_norm, eps);
                self.mlp(m, &normed, x);
            }
            Mlp::Moe(m) => self.moe(m, &p.post_norm, eps, x),
        }
    }

    /// Every row's keys and values go into its cache, then every row attends to the positions up to its own.
    fn attend(
        &self,
        layer: usize,
        heads: &Heads,
        (q, k, v): (&[f32], &[f32], &[f32]),
        caches: &mut [&mut KvCache],
    ) -> Vec<f32> {
        let (kw, vw) = (k.len() / self.m(), v.len() / self.m());
        for (r, row) in self.rows.iter().enumerate() {
            let paged = caches[row.sequence].paged_mut();
            paged.store(layer, row.position, &k[r * kw..(r + 1) * kw], &v[r * vw..(r + 1) * vw]);
        }
        let shape = caches[0].paged().shape;
        let cells: Vec<_> = caches.iter().map(|c| c.paged().cells(layer)).collect();
        let queries: Vec<Query> =
            self.rows.iter().map(|r| Query { pages: &cells[r.sequence], len: r.position + 1 }).collect();
        let mut out = vec![0f32; self.m() * heads.num_heads * heads.dv];
        paged::attend(self.pool, &shape, heads, &queries, q, &mut out);
        out
    }

    /// x += Attn(normed).
    fn gqa(
        &self,
        a: &'a Gqa,
        p: &PreparedLayer,
        layer: usize,
        normed: &[f32],
        caches: &mut [&mut KvCache],
        x: &mut [f32],
    ) {
        let c = &self.model.config;
        let [mut q, mut k, v] = self.linears(normed, [&a.q_proj, &a.k_proj, &a.v_proj]);
        if let Some((qn, kn)) = &p.inner_norms {
            q = self.norm(&q, qn, c.rms_norm_eps as f32);
            k = self.norm(&k, kn, c.rms_norm_eps as f32);
        }
        self.rotate(&mut q, c.head_dim, 0);
        self.rotate(&mut k, c.head_dim, 0);
        let heads = Heads { num_heads: c.num_attention_heads, dv: c.head_dim, scale: c.softmax_scale() as f32 };
        let o = self.attend(layer, &heads, (&q, &k, &v), caches);
        self.add_linear(&o, &a.o_proj, x);
    }

    /// x += Attn(normed), absorbed (DeepSeek-V2 §2.1): scores are (W_UK·q_nope)·c + q_pe·k_pe, values W_UV·Σ p·c.
    fn mla(
        &self,
        a: &'a Mla,
        p: &PreparedLayer,
        layer: usize,
        normed: &[f32],
        caches: &mut [&mut KvCache],
        x: &mut [f32],
    ) {
        let (m, c) = (self.m(), self.model.config.mla.as_ref().expect("an MLA layer has an MLA config"));
        let (n, r, v, latent) = (c.qk_nope_head_dim, c.qk_rope_head_dim, c.v_head_dim, c.kv_lora_rank);
        let heads = self.model.config.num_attention_heads;
        // The latents' norms are built with the default epsilon, whatever rms_norm_eps says.
        let eps = MlaConfig::LATENT_NORM_EPS as f32;
        let (q_norm, kv_norm) = p.inner_norms.as_ref().expect("MLA layers are prepared with their norms");
        let (mut q, kv_a) = match &a.query {
            MlaQuery::Full(q) => {
                let [q, kv_a] = self.linears(normed, [q, &a.kv_a_proj_with_mqa]);
                (q, kv_a)
            }
            MlaQuery::LowRank { q_a_proj, q_b_proj, .. } => {
                let [q_a, kv_a] = self.linears(normed, [q_a_proj, &a.kv_a_proj_with_mqa]);
                let [q] = self.linears(&self.norm(&q_a, q_norm, eps), [q_b_proj]);
                (q, kv_a)
            }
        };
        self.rotate(&mut q, n + r, n);
        // Latent and rotary key, side by side as the cache holds them.
        let latents: Vec<f32> = kv_a.chunks_exact(latent + r).flat_map(|l| &l[..latent]).copied().collect();
        let latents = self.norm(&latents, kv_norm, eps);
        let mut keys = kv_a;
        self.rotate(&mut keys, latent + r, latent);
        for (key, c) in keys.chunks_exact_mut(latent + r).zip(latents.chunks_exact(latent)) {
            key[..latent].copy_from_slice(c);
        }
        let absorbed = p.absorbed.as_ref().expect("MLA layers are prepared absorbed");
        let nope = by_head(&q, m, heads, n + r, 0, n);
        let mut taken = vec![0f32; heads * m * latent];
        self.per_head(&nope, n, &absorbed.uk, latent, &mut taken);
        let mut queries = vec![0f32; m * heads * (latent + r)];
        for (i, line) in queries.chunks_exact_mut(latent + r).enumerate() {
            let (row, head) = (i / heads, i % heads);
            line[..latent].copy_from_slice(&taken[(head * m + row) * latent..][..latent]);
            line[latent..].copy_from_slice(&q[i * (n + r) + n..(i + 1) * (n + r)]);
        }
        let scale = self.model.config.softmax_scale() as f32;
        let heads_of = Heads { num_heads: heads, dv: latent, scale };
        let o = self.attend(layer, &heads_of, (&queries, &keys, &[]), caches);
        let o = by_head(&o, m, heads, latent, 0, latent);
        let mut values = vec![0f32; heads * m * v];
        self.per_head(&o, latent, &absorbed.uv, v, &mut values);
        let mut merged = vec![0f32; m * heads * v];
        for (i, line) in merged.chunks_exact_mut(v).enumerate() {
            line.copy_from_slice(&values[(i % heads * m + i / heads) * v..][..v]);
        }
        self.add_linear(&merged, &a.o_proj, x);
    }

    /// `out[h] = x[h] · w[h]ᵀ`: `x [heads, m, k]`, `w [heads, n, k]` → `[heads, m, n]`.
    fn per_head(&self, x: &[f32], k: usize, w: &[u16], n: usize, out: &mut [f32]) {
        let m = self.m();
        let mut streams: Vec<[Stream; 1]> =
            out.chunks_exact_mut(m * n).enumerate().map(|(h, out)| [Stream::new(part(w, h, n, k), n, out)]).collect();
        let mut groups: Vec<Rows> = streams
            .iter_mut()
            .zip(x.chunks_exact(m * k))
            .map(|(streams, x)| Rows { m, k, x, streams: &mut streams[..] })
            .collect();
        linear_groups(self.pool, Precision::Bf16, &mut groups);
    }

    /// x += down(silu(gate(normed)) ⊙ up(normed)).
    fn mlp(&self, mlp: &'a SwigluMlp, normed: &[f32], x: &mut [f32]) {
        let [gate, up] = self.linears(normed, [&mlp.gate_proj, &mlp.up_proj]);
        let mut act = vec![0f32; gate.len()];
        silu_mul_forward(self.pool, &gate, &up, &mut act);
        self.add_linear(&act, &mlp.down_proj, x);
    }

    /// x += Σ w·expert(normed) + shared(normed): rows sorted by expert, so that an expert chosen by several rows is
    /// read once, and all experts of the step in one loop.
    fn moe(&self, moe: &'a Moe, norm: &[f32], eps: f32, x: &mut [f32]) {
        let (m, d) = (self.m(), self.model.config.hidden_size);
        // The router sees what the tape's sees: the normed rows as they are stored.
        let (mut narrow, mut inv) = (Tensor::<u16>::unfilled(m, d), vec![0f32; m]);
        rmsnorm_forward_bf16(self.pool, x, norm, eps, &mut narrow.data, &mut inv);
        let mut normed = vec![0f32; m * d];
        widen_into(self.pool, &narrow.data, &mut normed);
        let mut tape = Tape::eval(&self.model.context, &self.model.params);
        let (assignment, weights) = tape.route(&Var::constant(narrow), &moe.gate, &moe.rule);
        let k = assignment.k;
        let sorted: Vec<f32> =
            assignment.order.iter().flat_map(|s| &normed[*s as usize / k * d..][..d]).copied().collect();
        let width = moe.experts[0].gate_proj.out_features;
        let used: Vec<usize> =
            (0..moe.experts.len()).filter(|e| assignment.offsets[*e] < assignment.offsets[e + 1]).collect();
        let mut work: Vec<Expert> = used
            .iter()
            .map(|e| {
                let (from, to) = (assignment.offsets[*e], assignment.offsets[e + 1]);
                Expert::new(&moe.experts[*e], &sorted[from * d..to * d], to - from, width, d)
            })
            .collect();
        if let Some(shared) = &moe.shared_experts {
            work.push(Expert::new(shared, &normed, m, shared.gate_proj.out_features, d));
        }
        self.experts(&mut work);
        let shared = moe.shared_experts.as_ref().map(|_| work.pop().expect("the shared experts were pushed").y);
        let mut routed = vec![0f32; sorted.len()];
        let mut at = 0;
        for e in &work {
            routed[at..at + e.y.len()].copy_from_slice(&e.y);
            at += e.y.len();
        }
        let weights = weights.value.widened(self.pool);
        let mut sum = vec![0f32; m * d];
        for (r, line) in sum.chunks_exact_mut(d).enumerate() {
            for (j, place) in assignment.place[r * k..(r + 1) * k].iter().enumerate() {
                let w = weights.row(r)[j];
                line.iter_mut().zip(&routed[*place as usize * d..]).for_each(|(o, v)| *o += w * v);
            }
        }
        add(self.pool, &sum, x);
        if let Some(y) = shared {
            add(self.pool, &y, x);
        }
    }

    /// Gate and up of all experts in one loop, then down of all.
    fn experts(&self, work: &mut [Expert<'a, '_>]) {
        let params = &self.model.params;
        {
            let mut streams: Vec<(usize, &[f32], [Stream; 2])> = work
                .iter_mut()
                .map(|e| {
                    let gate = self.prepared.stream(params, &e.mlp.gate_proj, &mut e.gate);
                    let up = self.prepared.stream(params, &e.mlp.up_proj, &mut e.up);
                    (e.rows, e.x, [gate, up])
                })
                .collect();
            let k = self.model.config.hidden_size;
            let mut groups: Vec<Rows> =
                streams.iter_mut().map(|(m, x, s)| Rows { m: *m, k, x, streams: &mut s[..] }).collect();
            linear_groups(self.pool, Precision::Bf16, &mut groups);
        }
        let mut acts: Vec<Vec<f32>> = Vec::with_capacity(work.len());
        for e in work.iter() {
            let mut act = vec![0f32; e.gate.len()];
            silu_mul_forward(self.pool, &e.gate, &e.up, &mut act);
            acts.push(act);
        }
        let mut streams: Vec<(usize, usize, &[f32], [Stream; 1])> = work
            .iter_mut()
            .zip(&acts)
            .map(|(e, act)| {
                let k = e.mlp.down_proj.in_features;
                (e.rows, k, &act[..], [self.prepared.stream(params, &e.mlp.down_proj, &mut e.y)])
            })
            .collect();
        let mut groups: Vec<Rows> =
            streams.iter_mut().map(|(m, k, x, s)| Rows { m: *m, k: *k, x, streams: &mut s[..] }).collect();
        linear_groups(self.pool, Precision::Bf16, &mut groups);
    }
}

/// The rows of one expert.
struct Expert<'m, 'x> {
    mlp: &'m SwigluMlp,
    rows: usize,
    x: &'x [f32],
    gate: Vec<f32>,
    up: Vec<f32>,
    y: Vec<f32>,
}

impl<'m, 'x> Expert<'m, 'x> {
    fn new(mlp: &'m SwigluMlp, x: &'x [f32], rows: usize, width: usize, d: usize) -> Self {
        Expert { mlp, rows, x, gate: vec![0.0; rows * width], up: vec![0.0; rows * width], y: vec![0.0; rows * d] }
    }
}

/// Columns `from..from + len` of each head of `x [m, heads, width]` as `[heads, m, len]`.
fn by_head(x: &[f32], m: usize, heads: usize, width: usize, from: usize, len: usize) -> Vec<f32> {
    let mut out = vec![0f32; heads * m * len];
    for (i, line) in out.chunks_exact_mut(len).enumerate() {
        let (head, row) = (i / m, i % m);
        line.copy_from_slice(&x[(row * heads + head) * width + from..][..len]);
    }
    out
}
