//! Trainable parameters in f32, their names, and the gradients of one optimiser step.
use crate::{Pool, Tensor};
use loar_kernels::elementwise;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(pub usize);

/// What a parameter is, so that optimiser groups (LoRA+) and reports can tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamRole {
    LoraA,
    LoraB,
    /// DoRA's magnitude vector, stored `[out, 1]`.
    Magnitude,
    EmbeddingA,
    EmbeddingB,
    /// A weight of the base itself (full training, `modules_to_save`).
    Full,
    /// A norm weight or a bias of the base itself: no weight decay by custom.
    FullVector,
}

/// Keeps a matrix block-diagonal: split into `blocks` row bands and `blocks` column bands, only band i × band i may
/// differ from zero. Bands are as equal as can be, the first ones one longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockMask {
    pub blocks: usize,
}

impl BlockMask {
    /// Start and end of band `i` of `n` entries.
    pub fn band(&self, n: usize, i: usize) -> (usize, usize) {
        let (size, extra) = (n / self.blocks, n % self.blocks);
        let start = i * size + i.min(extra);
        (start, start + size + usize::from(i < extra))
    }

    pub fn apply(&self, t: &mut Tensor) {
        for i in 0..self.blocks {
            let (r0, r1) = self.band(t.rows, i);
            let (c0, c1) = self.band(t.cols, i);
            for r in r0..r1 {
                let row = t.row_mut(r);
                row[..c0].fill(0.0);
                row[c1..].fill(0.0);
            }
        }
    }

    /// Entries that may differ from zero in an `[rows, cols]` matrix.
    pub fn count(&self, rows: usize, cols: usize) -> usize {
        (0..self.blocks)
            .map(|i| {
                let ((r0, r1), (c0, c1)) = (self.band(rows, i), self.band(cols, i));
                (r1 - r0) * (c1 - c0)
            })
            .sum()
    }
}

#[derive(Clone, Debug)]
pub struct Param {
    /// Module path and part, `model.layers.0.self_attn.q_proj.lora_A`.
    pub name: String,
    pub role: ParamRole,
    pub value: Tensor,
    pub mask: Option<BlockMask>,
}

impl Param {
    /// Numbers that training may change.
    pub fn count(&self) -> usize {
        self.mask.map_or(self.value.data.len(), |m| m.count(self.value.rows, self.value.cols))
    }
}

/// All trainable parameters, in a fixed order (the order of attachment).
#[derive(Clone, Debug, Default)]
pub struct ParamStore {
    params: Vec<Param>,
}

impl ParamStore {
    pub fn add(&mut self, name: String, role: ParamRole, value: Tensor, mask: Option<BlockMask>) -> ParamId {
        let mut value = value;
        if let Some(m) = mask {
            m.apply(&mut value);
        }
        self.params.push(Param { name, role, value, mask });
        ParamId(self.params.len() - 1)
    }

    pub fn get(&self, id: ParamId) -> &Param {
        &self.params[id.0]
    }

    pub fn get_mut(&mut self, id: ParamId) -> &mut Param {
        &mut self.params[id.0]
    }

    pub fn len(&self) -> usize {
        self.params.len()
    }

    pub fn is_empty(&self) -> bool {
        self.params.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (ParamId, &Param)> {
        self.params.iter().enumerate().map(|(i, p)| (ParamId(i), p))
    }

    pub fn find(&self, name: &str) -> Option<ParamId> {
        self.params.iter().position(|p| p.name == name).map(ParamId)
    }

    pub fn count(&self) -> usize {
        self.params.iter().map(Param::count).sum()
    }
}

/// Gradients by parameter; a parameter that took no part has none, which counts as zero.
#[derive(Clone, Debug)]
pub struct Grads {
    pub tensors: Vec<Option<Tensor>>,
}

impl Grads {
    pub fn new(store: &ParamStore) -> Grads {
        Grads { tensors: (0..store.len()).map(|_| None).collect() }
    }

    pub fn add(&mut self, id: ParamId, grad: Tensor) {
        match &mut self.tensors[id.0] {
            Some(g) => g.add_assign(&grad),
            slot => *slot = Some(grad),
        }
    }

    pub fn get(&self, id: ParamId) -> Option<&Tensor> {
        self.tensors[id.0].as_ref()
    }

    /// Zeroes what the block masks forbid to move.
    pub fn apply_masks(&mut self, store: &ParamStore) {
        for (id, p) in store.iter() {
            if let (Some(m), Some(g)) = (p.mask, &mut self.tensors[id.0]) {
                m.apply(g);
            }
        }
    }

    /// Euclidean norm over all gradients, as `torch.nn.utils.clip_grad_norm_` computes it: norm of the norms.
    pub fn norm(&self) -> f64 {
        let squares = |t: &Tensor| t.data.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>();
        self.tensors.iter().flatten().map(squares).sum::<f64>().sqrt()
    }

    /// [`Grads::norm`] on all threads; its sums run in another, also fixed, order.
    pub fn norm_on(&self, pool: &Pool) -> f64 {
        let norm = self.tensors.iter().flatten().map(|t| elementwise::sum_squares(pool, &t.data)).sum::<f64>().sqrt();
        // Squares beyond f32 overflow in its pieces.
        if norm.is_finite() { norm } else { self.norm() }
    }

    pub fn scale(&mut self, factor: f32) {
        for t in self.tensors.iter_mut().flatten() {
            t.scale(factor);
        }
    }

    /// First parameter whose gradient is not finite.
    pub fn non_finite(&self, pool: &Pool) -> Option<ParamId> {
        // A finite sum of squares proves every number finite, at memory speed; only a suspicious tensor is read one by one.
        let bad =
            |t: &Tensor| !elementwise::sum_squares(pool, &t.data).is_finite() && t.data.iter().any(|x| !x.is_finite());
        self.tensors.iter().position(|t| t.as_ref().is_some_and(bad)).map(ParamId)
    }
}
