//! AdamW with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2), in the operation order of
//! `torch.optim.AdamW`: decay, moments, bias corrections, step. State is f32, one pair of moments a parameter.
use crate::{Grads, ParamId, ParamStore, Pool, Tensor};
use loar_kernels::elementwise;

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
    pub fn step(
        &mut self,
        pool: &Pool,
        params: &mut ParamStore,
        grads: &Grads,
        learning_rate: &dyn Fn(ParamId) -> f64,
        decay: &dyn Fn(ParamId) -> bool,
    ) {
        self.state.step += 1;
        for i in 0..params.len() {
            let id = ParamId(i);
            let options = elementwise::AdamW {
                lr: learning_rate(id),
                beta1: self.config.beta1,
                beta2: self.config.beta2,
                eps: self.config.eps,
                weight_decay: if decay(id) { self.config.weight_decay } else { 0.0 },
                step: self.state.step,
            };
            let value = &mut params.get_mut(id).value.data;
            let zeros;
            let grad = match grads.get(id) {
                Some(g) => &g.data[..],
                None => {
                    zeros = vec![0f32; value.len()];
                    &zeros[..]
                }
            };
            elementwise::adamw(
                pool,
                &options,
                value,
                grad,
                &mut self.state.first[i].data,
                &mut self.state.second[i].data,
            );
        }
    }
}
