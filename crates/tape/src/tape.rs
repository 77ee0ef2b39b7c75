//! The tape: values flow forward as shared tensors, each recorded operation leaves one closure that turns the gradient
//! of its output into gradients of its inputs and parameters. What no closure holds is freed at once.
use crate::{Context, Grads, ParamId, ParamStore, Tensor};
use std::sync::Arc;

/// A value on the tape. `node` is absent when nothing upstream is trainable: then no gradient is ever computed for it.
#[derive(Clone)]
pub struct Var {
    pub value: Arc<Tensor>,
    node: Option<usize>,
}

impl Var {
    pub fn constant(value: Tensor) -> Var {
        Var { value: Arc::new(value), node: None }
    }

    pub fn needs_grad(&self) -> bool {
        self.node.is_some()
    }

    /// The same node without holding the value, for closures that only route gradients.
    pub fn without_value(&self) -> Var {
        Var { value: Arc::new(Tensor::zeros(0, 0)), node: self.node }
    }

    pub fn rows(&self) -> usize {
        self.value.rows
    }

    pub fn cols(&self) -> usize {
        self.value.cols
    }
}

/// Keys the dropout masks of one optimiser step; the same key gives the same masks, so recomputation agrees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropoutKey {
    pub seed: u64,
    /// Distinguishes micro-batches of the whole run.
    pub micro_step: u64,
}

type BackwardFn<'a> = Box<dyn FnOnce(&mut Backward<'_, 'a>, Tensor) + 'a>;

pub struct Tape<'a> {
    pub context: &'a Context,
    pub params: &'a ParamStore,
    /// Present while training with dropout.
    pub dropout: Option<DropoutKey>,
    recording: bool,
    nodes: Vec<Option<BackwardFn<'a>>>,
}

impl<'a> Tape<'a> {
    /// A tape that records, for training.
    pub fn new(context: &'a Context, params: &'a ParamStore, dropout: Option<DropoutKey>) -> Tape<'a> {
        Tape { context, params, dropout, recording: true, nodes: Vec::new() }
    }

    /// A tape that records nothing, for inference: the same model code runs on it.
    pub fn eval(context: &'a Context, params: &'a ParamStore) -> Tape<'a> {
        Tape { context, params, dropout: None, recording: false, nodes: Vec::new() }
    }

    pub fn is_recording(&self) -> bool {
        self.recording
    }

    /// A leaf whose gradient is wanted (the input of a checkpointed block, tests).
    pub fn leaf(&mut self, value: Arc<Tensor>) -> Var {
        self.nodes.push(None);
        Var { value, node: Some(self.nodes.len() - 1) }
    }

    /// Adds an operation's result. `backward` runs at most once, and only if `wanted` (some input or parameter is
    /// trainable) and the tape records.
    pub fn push(
        &mut self,
        value: Tensor,
        wanted: bool,
        backward: impl FnOnce(&mut Backward<'_, 'a>, Tensor) + 'a,
    ) -> Var {
        let node = (wanted && self.recording).then(|| {
            self.nodes.push(Some(Box::new(backward) as BackwardFn<'a>));
            self.nodes.len() - 1
        });
        Var { value: Arc::new(value), node }
    }

    /// As `push` with a gradient wanted, for operations whose backward needs their output.
    pub fn push_with_output(
        &mut self,
        value: Tensor,
        backward: impl FnOnce(&mut Backward<'_, 'a>, Tensor, &Tensor) + 'a,
    ) -> Var {
        let value = Arc::new(value);
        let kept = value.clone();
        let node = self.recording.then(|| {
            self.nodes
                .push(Some(Box::new(move |b: &mut Backward<'_, 'a>, dy| backward(b, dy, &kept)) as BackwardFn<'a>));
            self.nodes.len() - 1
        });
        Var { value, node }
    }

    /// Runs `block` without keeping its inner values; backward runs it again on the kept input
    /// (Chen et al. 2016, sublinear memory). `trainable` says whether the block holds parameters.
    pub fn checkpoint(&mut self, x: &Var, trainable: bool, block: impl Fn(&mut Tape<'a>, Var) -> Var + 'a) -> Var {
        let wanted = x.needs_grad() || trainable;
        if !self.recording || !wanted {
            return block(self, x.clone());
        }
        let (context, params, dropout) = (self.context, self.params, self.dropout);
        let mut inner = Tape { context, params, dropout, recording: false, nodes: Vec::new() };
        let y = block(&mut inner, Var { value: x.value.clone(), node: None });
        let value = Arc::try_unwrap(y.value).unwrap_or_else(|shared| (*shared).clone());
        let x = x.clone();
        self.push(value, true, move |b, dy| {
            let mut again = Tape { context, params, dropout, recording: true, nodes: Vec::new() };
            let leaf =
                if x.needs_grad() { again.leaf(x.value.clone()) } else { Var { value: x.value.clone(), node: None } };
            let y = block(&mut again, leaf.clone());
            let mut dx = again.backward_into(b.param_grads, &y, dy, &[&leaf]);
            if let Some(dx) = dx.pop().flatten() {
                b.give(&x, dx);
            }
        })
    }

    /// Back-propagates `seed` (the gradient of the loss with respect to `output`) through the whole tape.
    pub fn backward(self, grads: &mut Grads, output: &Var, seed: Tensor) {
        self.backward_into(grads, output, seed, &[]);
    }

    /// As `backward`, and returns the gradients of the given leaves.
    pub fn backward_into(
        mut self,
        param_grads: &mut Grads,
        output: &Var,
        seed: Tensor,
        leaves: &[&Var],
    ) -> Vec<Option<Tensor>> {
        let mut node_grads: Vec<Option<Tensor>> = (0..self.nodes.len()).map(|_| None).collect();
        if let Some(n) = output.node {
            node_grads[n] = Some(seed);
        }
        for n in (0..self.nodes.len()).rev() {
            let Some(f) = self.nodes[n].take() else { continue };
            // A value nobody used downstream has no gradient; its closure is dropped with what it holds.
            let Some(dy) = node_grads[n].take() else { continue };
            let mut b =
                Backward { context: self.context, params: self.params, node_grads: &mut node_grads, param_grads };
            f(&mut b, dy);
        }
        leaves.iter().map(|v| v.node.and_then(|n| node_grads[n].take())).collect()
    }
}

/// What a backward closure may do: hand gradients to inputs and to parameters.
pub struct Backward<'b, 'a> {
    pub context: &'a Context,
    pub params: &'a ParamStore,
    node_grads: &'b mut Vec<Option<Tensor>>,
    param_grads: &'b mut Grads,
}

impl Backward<'_, '_> {
    /// Adds to the gradient of `v`; nothing happens if `v` needs none.
    pub fn give(&mut self, v: &Var, grad: Tensor) {
        let Some(n) = v.node else { return };
        match &mut self.node_grads[n] {
            Some(g) => g.add_assign(&grad),
            slot => *slot = Some(grad),
        }
    }

    pub fn give_param(&mut self, id: ParamId, grad: Tensor) {
        self.param_grads.add(id, grad);
    }
}
