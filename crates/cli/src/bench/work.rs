//! How much arithmetic and how many weight bytes a piece of work needs, counted from the model: what rates are made
//! of. Only what the mathematics asks for counts: no recomputation, no padding, no frozen weight's gradient.

use loar_model::Model;
use loar_tape::{Linear, Weight};

/// Share of tokens that pass a linear layer: experts see theirs only.
fn share(model: &Model, linear: &Linear) -> f64 {
    match &model.config.moe {
        Some(moe) if linear.name.contains(".mlp.experts.") => {
            moe.num_experts_per_tok as f64 / moe.n_routed_experts as f64
        }
        _ => 1.0,
    }
}

/// Multiply-adds of the body's linear layers per token, (frozen weights, adapters).
fn body(model: &Model) -> (f64, f64) {
    let linears = model.linears();
    let (_, body) = linears.split_last().expect("a model has a head");
    body.iter().fold((0.0, 0.0), |(frozen, adapters), l| {
        let size = (l.in_features * l.out_features) as f64;
        let adapter = l.lora.as_ref().map_or(0.0, |a| (a.rank * (l.in_features + l.out_features)) as f64);
        let share = share(model, l);
        (frozen + share * size, adapters + share * adapter)
    })
}

fn head(model: &Model) -> f64 {
    (model.config.vocab_size * model.config.hidden_size) as f64
}

/// Multiply-adds of causal attention over documents of these lengths, forward: half of the T×T products q·k and p·v.
fn attention(model: &Model, lengths: &[usize]) -> f64 {
    let c = &model.config;
    let v = c.mla.as_ref().map_or(c.head_dim, |m| m.v_head_dim);
    let width = (c.num_hidden_layers * c.num_attention_heads * (c.qk_head_dim() + v)) as f64;
    lengths.iter().map(|t| width * (*t as f64).powi(2) / 2.0).sum()
}

/// Floating-point operations of one training step: forward once, the gradient of every input once, and of the adapters'
/// own matrices; the head at labelled tokens alone.
pub fn train_flop(model: &Model, lengths: &[usize], labels: usize) -> f64 {
    let tokens = lengths.iter().sum::<usize>() as f64;
    let (frozen, adapters) = body(model);
    let linear = tokens * (2.0 * frozen + 3.0 * adapters) + 2.0 * head(model) * labels as f64;
    2.0 * (linear + 3.0 * attention(model, lengths))
}

/// Floating-point operations of a prompt: the body over all its tokens, the head over the last.
pub fn prefill_flop(model: &Model, tokens: usize) -> f64 {
    let (frozen, adapters) = body(model);
    2.0 * (tokens as f64 * (frozen + adapters) + attention(model, &[tokens]) + head(model))
}

/// Bytes of weights that one decoded token reads: every linear layer, of the experts those it visits, and the head.
/// Norms, biases and the cache are left out (below 1 % at some hundred tokens).
pub fn decode_bytes(model: &Model) -> f64 {
    let bytes = |l: &Linear| match &l.weight {
        Weight::Frozen(f) => f.bytes() as f64,
        Weight::Param(id) => 4.0 * model.params.get(*id).value.data.len() as f64,
    };
    model.linears().iter().map(|l| share(model, l) * bytes(l)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::shape::Shape;
    use loar_model::{LoadOptions, Model};

    #[test]
    fn counted_by_hand() {
        let config = Shape::Tiny.config(None).expect("a shape");
        let options = LoadOptions { threads: 1, ..LoadOptions::default() };
        let model = Model::random(config, 0, &options).expect("a model");
        let (h, kv, i, v, layers) = (64.0, 32.0, 96.0, 320.0, 2.0);
        let body = layers * (2.0 * h * h + 2.0 * h * kv + 3.0 * h * i);
        let attention = layers * 4.0 * 32.0 * 100.0 / 2.0;
        assert_eq!(prefill_flop(&model, 10), 2.0 * (10.0 * body + attention + h * v));
        assert_eq!(train_flop(&model, &[10], 4), 2.0 * (20.0 * body + 3.0 * attention + 8.0 * h * v));
        assert_eq!(decode_bytes(&model), 4.0 * (body + h * v));
    }

    #[test]
    fn a_token_visits_its_experts_only() {
        let config = Shape::TinyMoe.config(None).expect("a shape");
        let options = LoadOptions { threads: 1, ..LoadOptions::default() };
        let model = Model::random(config, 0, &options).expect("a model");
        let (h, heads) = (64.0, 2.0);
        let attention = heads * 24.0 * h + 24.0 * h + heads * 32.0 * 16.0 + heads * 16.0 * h;
        let layers = 2.0 * attention + 3.0 * h * 96.0 + 3.0 * 3.0 * h * 32.0;
        assert_eq!(decode_bytes(&model), 4.0 * (layers + 320.0 * h));
    }
}
