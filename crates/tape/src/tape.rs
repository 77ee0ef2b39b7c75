//! The tape: values flow forward as shared tensors, each recorded operation leaves one closure that turns the gradient
//! of its output into gradients of its inputs and parameters. What no closure holds is freed at once.
use crate::{Activation, Context, Grads, ParamId, ParamStore, Tensor};
use loar_kernels::elementwise;
use std::sync::Arc;

/// A value on the tape. `node` is absent when nothing upstream is trainable: then no gradient is ever computed for it.
#[derive(Clone)]
pub struct Var {
    pub value: Arc<Activation>,
    node: Option<usize>,
}

impl Var {
    pub fn constant(value: impl Into<Activation>) -> Var {
        Var { value: Arc::new(value.into()), node: None }
    }

    pub fn needs_grad(&self) -> bool {
        self.node.is_some()
    }

    /// The same node without holding the value, for closures that only route gradients.
    pub fn without_value(&self) -> Var {
        Var { value: Arc::new(Tensor::zeros(0, 0).into()), node: self.node }
    }

    pub fn rows(&self) -> usize {
        self.value.rows()
    }

    pub fn cols(&self) -> usize {
        self.value.cols()
    }
}

/// Keys the dropout masks of one optimiser step; the same key gives the same masks, so recomputation agrees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropoutKey {
    pub seed: u64,
    /// Distinguishes micro-batches of the whole run.
    pub micro_step: u64,
}

/// The way back from the gradient of one result.
type BackwardFn<'a> = Box<dyn FnOnce(&mut Backward<'_, 'a>, Activation) + 'a>;
/// The same from the gradients of several; one that nobody used is absent.
type BackwardManyFn<'a> = Box<dyn FnOnce(&mut Backward<'_, 'a>, Vec<Option<Activation>>) + 'a>;

/// What backward does when it comes past a value.
enum Node<'a> {
    /// Nothing: the gradient stays for whoever asked for it.
    Leaf,
    One(BackwardFn<'a>),
    /// The operation behind the next so many nodes, which are leaves.
    Many(usize, BackwardManyFn<'a>),
}

pub struct Tape<'a> {
    pub context: &'a Context,
    pub params: &'a ParamStore,
    /// Present while training with dropout.
    pub dropout: Option<DropoutKey>,
    recording: bool,
    nodes: Vec<Node<'a>>,
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
    pub fn leaf(&mut self, value: Arc<Activation>) -> Var {
        self.nodes.push(Node::Leaf);
        Var { value, node: Some(self.nodes.len() - 1) }
    }

    /// Adds an operation's result. `backward` runs at most once, and only if `wanted` (some input or parameter is
    /// trainable) and the tape records.
    pub fn push(
        &mut self,
        value: impl Into<Activation>,
        wanted: bool,
        backward: impl FnOnce(&mut Backward<'_, 'a>, Activation) + 'a,
    ) -> Var {
        let node = (wanted && self.recording).then(|| {
            self.nodes.push(Node::One(Box::new(backward)));
            self.nodes.len() - 1
        });
        Var { value: Arc::new(value.into()), node }
    }

    /// As `push` with a gradient wanted, for operations whose backward needs their output.
    pub fn push_with_output(
        &mut self,
        value: impl Into<Activation>,
        backward: impl FnOnce(&mut Backward<'_, 'a>, Activation, &Activation) + 'a,
    ) -> Var {
        let value = Arc::new(value.into());
        let kept = value.clone();
        let node = self.recording.then(|| {
            self.nodes.push(Node::One(Box::new(move |b, dy| backward(b, dy, &kept))));
            self.nodes.len() - 1
        });
        Var { value, node }
    }

    /// As `push` for an operation with several results. `backward` gets the gradient of each, in order; one that
    /// nobody used has none.
    pub fn push_many(
        &mut self,
        values: Vec<Activation>,
        wanted: bool,
        backward: impl FnOnce(&mut Backward<'_, 'a>, Vec<Option<Activation>>) + 'a,
    ) -> Vec<Var> {
        let (first, n) = (self.nodes.len() + 1, values.len());
        let wanted = wanted && self.recording;
        if wanted {
            // The operation's node comes first and so runs last: by then its results have their gradients.
            self.nodes.push(Node::Many(n, Box::new(backward)));
            self.nodes.extend((0..n).map(|_| Node::Leaf));
        }
        let var = |(i, v): (usize, Activation)| Var { value: Arc::new(v), node: wanted.then_some(first + i) };
        values.into_iter().enumerate().map(var).collect()
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
        let value = Arc::unwrap_or_clone(y.value);
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
        seed: impl Into<Activation>,
        leaves: &[&Var],
    ) -> Vec<Option<Activation>> {
        let mut node_grads: Vec<Option<Activation>> = (0..self.nodes.len()).map(|_| None).collect();
        if let Some(n) = output.node {
            node_grads[n] = Some(seed.into());
        }
        while let Some(node) = self.nodes.pop() {
            let n = self.nodes.len();
            let (context, params) = (self.context, self.params);
            // A value nobody used downstream has no gradient; its closure is dropped with what it holds.
            match node {
                Node::Leaf => {}
                Node::One(f) => {
                    if let Some(dy) = node_grads[n].take() {
                        f(&mut Backward { context, params, node_grads: &mut node_grads, param_grads }, dy);
                    }
                }
                Node::Many(count, f) => {
                    let grads: Vec<_> = node_grads[n + 1..=n + count].iter_mut().map(Option::take).collect();
                    if grads.iter().any(Option::is_some) {
                        f(&mut Backward { context, params, node_grads: &mut node_grads, param_grads }, grads);
                    }
                }
            }
        }
        leaves.iter().map(|v| v.node.and_then(|n| node_grads[n].take())).collect()
    }
}

/// What a backward closure may do: hand gradients to inputs and to parameters.
pub struct Backward<'b, 'a> {
    pub context: &'a Context,
    pub params: &'a ParamStore,
    node_grads: &'b mut Vec<Option<Activation>>,
    param_grads: &'b mut Grads,
}

impl Backward<'_, '_> {
    /// Adds to the gradient of `v`; nothing happens if `v` needs none. Sums are f32.
    pub fn give(&mut self, v: &Var, grad: impl Into<Activation>) {
        let Some(n) = v.node else { return };
        let grad = grad.into();
        let pool = &self.context.pool;
        self.node_grads[n] = Some(match self.node_grads[n].take() {
            None => grad,
            Some(first) => {
                let (mut sum, other) = match (first, grad) {
                    (Activation::F32(a), b) => (a, b),
                    (a, Activation::F32(b)) => (b, a),
                    (a, b) => (a.into_f32(pool), b),
                };
                elementwise::add(pool, &other.widened(pool).data, &mut sum.data);
                sum.into()
            }
        });
    }

    /// The gradient collected for `v` so far, to be added to in place and given back.
    pub(crate) fn take(&mut self, v: &Var) -> Option<Activation> {
        self.node_grads[v.node?].take()
    }

    pub fn give_param(&mut self, id: ParamId, grad: Tensor) {
        self.param_grads.add(id, grad);
    }
}
