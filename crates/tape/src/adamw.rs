//! AdamW with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2), in the operation order of
//! `torch.optim.AdamW`: decay, moments, bias corrections, step. State is f32, one pair of moments a parameter.
use crate::{Grads, ParamId, ParamStore, Tensor};

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWConfig {
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
}

/// Moments by parameter and the number of steps taken; all that a checkpoint needs to go on.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamWState {
    pub step: u64,
    pub first: Vec<Tensor>,
    pub second: Vec<Tensor>,
}

pub struct AdamW {
    pub config: AdamWConfig,
    pub state: AdamWState,
}

impl AdamW {
    pub fn new(config: AdamWConfig, params: &ParamStore) -> AdamW {
        let zeros = || params.iter().map(|(_, p)| Tensor::zeros(p.value.rows, p.value.cols)).collect();
        AdamW { config, state: AdamWState { step: 0, first: zeros(), second: zeros() } }
    }

    /// One update. `learning_rate(id)` lets groups differ (LoRA+), `decay(id)` says whether weight decay applies.
    /// A parameter without a gradient (an expert that no token chose) counts as gradient zero, as it would inside
    /// PEFT's fused expert tensors: its moments decay and weight decay applies.
    pub fn step(&mut self, params: &mut ParamStore, grads: &Grads, learning_rate: &dyn Fn(ParamId) -> f64, decay: &dyn Fn(ParamId) -> bool) {
        let c = self.config;
        self.state.step += 1;
        let t = self.state.step as i32;
        let correction1 = 1.0 - c.beta1.powi(t);
        let correction2_sqrt = (1.0 - c.beta2.powi(t)).sqrt();
        for i in 0..params.len() {
            let id = ParamId(i);
            let lr = learning_rate(id);
            let shrink = if decay(id) { (1.0 - lr * c.weight_decay) as f32 } else { 1.0 };
            let step_size = (lr / correction1) as f32;
            let b2 = c.beta2 as f32;
            let (m1, m2) = ((1.0 - c.beta1) as f32, (1.0 - c.beta2) as f32);
            let (root, eps) = (correction2_sqrt as f32, c.eps as f32);
            let p = &mut params.get_mut(id).value.data;
            let g = grads.get(id).map_or(&[][..], |g| &g.data[..]);
            let (m, v) = (&mut self.state.first[i].data, &mut self.state.second[i].data);
            let g = g.iter().copied().chain(std::iter::repeat(0.0));
            for ((p, g), (m, v)) in p.iter_mut().zip(g).zip(m.iter_mut().zip(v.iter_mut())) {
                *p *= shrink;
                *m += (g - *m) * m1;
                *v = *v * b2 + g * g * m2;
                *p -= step_size * (*m / (v.sqrt() / root + eps));
            }
        }
    }
}
