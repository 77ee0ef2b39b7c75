//! What the tape promises whatever the operations: checkpoints change nothing, shared values sum their gradients, frozen
//! branches cost nothing, and what nobody saves is freed.
use loar_tape::{
    Activation, Context, DropoutKey, Frozen, Grads, Linear, Lora, ParamId, ParamRole, ParamStore, Precision, Tape,
    Tensor, Var, Weight,
};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

fn tensor(seed: u32, rows: usize, cols: usize) -> Tensor {
    let data = (0..rows * cols).map(|i| ((i as f32 + 1.3 * seed as f32) * 12.9898).sin()).collect();
    Tensor::new(rows, cols, data)
}

fn linear(name: &str, seed: u32, n: usize, first: Option<usize>, dropout: f32) -> Linear {
    let lora = first.map(|a| Lora {
        a: ParamId(a),
        b: ParamId(a + 1),
        rank: 2,
        scaling: 0.7,
        dropout,
        dora: None,
        stream: u64::from(seed),
    });
    Linear {
        name: name.into(),
        in_features: n,
        out_features: n,
        weight: Weight::Frozen(Frozen::from_f32(n, n, tensor(seed, n, n).data)),
        bias: None,
        lora,
    }
}

/// Two blocks of norm, gate, up, swiglu, residual with adapters, as a model would chain them.
struct Stack {
    params: ParamStore,
    norm: Weight,
    blocks: Vec<[Linear; 2]>,
}

const N: usize = 6;

fn stack(dropout: f32) -> Stack {
    let mut params = ParamStore::default();
    for i in 0..8u32 {
        let (rows, cols) = if i % 2 == 0 { (2, N) } else { (N, 2) };
        params.add(format!("p{i}"), ParamRole::LoraA, tensor(20 + i, rows, cols), None);
    }
    let blocks = (0..2)
        .map(|b| {
            [
                linear("gate", 1 + b, N, Some(4 * b as usize), dropout),
                linear("up", 5 + b, N, Some(4 * b as usize + 2), dropout),
            ]
        })
        .collect();
    Stack { params, norm: Weight::Frozen(Frozen::from_f32(N, 1, vec![1.1; N])), blocks }
}

impl Stack {
    fn block<'a>(&'a self, b: usize, tape: &mut Tape<'a>, x: &Var) -> Var {
        let n = tape.rms_norm(x, &self.norm, 1e-6);
        let (g, u) = (tape.linear(&n, &self.blocks[b][0]), tape.linear(&n, &self.blocks[b][1]));
        let y = tape.swiglu(&g, &u);
        tape.add(x, &y)
    }

    /// Value, gradient of the input, gradients of the parameters.
    fn run(
        &self,
        context: &Context,
        checkpoint: [bool; 2],
        key: Option<DropoutKey>,
        leaf: bool,
    ) -> (Vec<f32>, Option<Tensor>, Vec<Option<Tensor>>) {
        let mut tape = Tape::new(context, &self.params, key);
        let input = Arc::new(tensor(9, 3, N));
        let x = if leaf { tape.leaf(Arc::new((*input).clone().into())) } else { Var::constant((*input).clone()) };
        let mut h = x.clone();
        for (b, again) in checkpoint.into_iter().enumerate() {
            h = if again {
                tape.checkpoint(&h, true, move |tape, x| self.block(b, tape, &x))
            } else {
                self.block(b, &mut tape, &h)
            };
        }
        let value = h.value.f32().data.to_vec();
        let mut grads = Grads::new(&self.params);
        let dx = tape.backward_into(&mut grads, &h, tensor(3, 3, N), &[&x]).remove(0).map(|g| g.f32().clone());
        (value, dx, grads.tensors)
    }
}

#[test]
fn a_checkpoint_changes_no_bit_of_values_and_gradients() {
    let context = Context::new(2, Precision::F32);
    for (dropout, key) in [(0.0, None), (0.3, Some(DropoutKey { seed: 4, micro_step: 11 })), (0.3, None)] {
        let s = stack(dropout);
        for leaf in [true, false] {
            let straight = s.run(&context, [false, false], key, leaf);
            assert_eq!(straight.1.is_some(), leaf);
            assert!(
                straight.2.iter().all(|g| g.as_ref().is_some_and(|g| g.data.iter().any(|x| *x != 0.0))),
                "every adapter learns"
            );
            for checkpoint in [[true, false], [false, true], [true, true]] {
                assert_eq!(
                    s.run(&context, checkpoint, key, leaf),
                    straight,
                    "dropout {dropout}, checkpoints {checkpoint:?}"
                );
            }
        }
    }
    let s = stack(0.3);
    let other = Some(DropoutKey { seed: 4, micro_step: 12 });
    assert_ne!(
        s.run(&context, [true, true], other, true).0,
        s.run(&context, [true, true], None, true).0,
        "dropout is on"
    );
}

#[test]
fn nested_checkpoints_agree_too() {
    let context = Context::new(1, Precision::F32);
    let s = stack(0.2);
    let key = Some(DropoutKey { seed: 1, micro_step: 1 });
    let straight = s.run(&context, [false, false], key, true);
    let mut tape = Tape::new(&context, &s.params, key);
    let x = tape.leaf(Arc::new(tensor(9, 3, N).into()));
    let s = &s;
    let y = tape.checkpoint(&x, true, move |tape, x| {
        let h = tape.checkpoint(&x, true, move |tape, x| s.block(0, tape, &x));
        tape.checkpoint(&h, true, move |tape, x| s.block(1, tape, &x))
    });
    let value = y.value.f32().data.to_vec();
    let mut grads = Grads::new(&s.params);
    let dx = tape.backward_into(&mut grads, &y, tensor(3, 3, N), &[&x]).remove(0).map(|g| g.f32().clone());
    assert_eq!((value, dx, grads.tensors), straight);
}

#[test]
fn a_value_used_twice_gets_the_sum_of_its_gradients() {
    let context = Context::new(1, Precision::F32);
    let params = ParamStore::default();
    let x = tensor(1, 2, 3);
    let seed = tensor(2, 2, 3);
    let mut tape = Tape::new(&context, &params, None);
    let leaf = tape.leaf(Arc::new(x.clone().into()));
    let twice = tape.add(&leaf, &leaf);
    let thrice = tape.add(&twice, &leaf);
    let dx = tape
        .backward_into(&mut Grads::new(&params), &thrice, seed.clone(), &[&leaf])
        .remove(0)
        .expect("a gradient")
        .f32()
        .clone();
    for (d, s) in dx.data.iter().zip(&seed.data) {
        assert!((d - 3.0 * s).abs() < 1e-6);
    }
    // silu(x)·x by x: both factors.
    let mut tape = Tape::new(&context, &params, None);
    let leaf = tape.leaf(Arc::new(x.clone().into()));
    let y = tape.swiglu(&leaf, &leaf);
    let dx = tape
        .backward_into(&mut Grads::new(&params), &y, seed.clone(), &[&leaf])
        .remove(0)
        .expect("a gradient")
        .f32()
        .clone();
    for ((d, s), x) in dx.data.iter().zip(&seed.data).zip(&x.data) {
        let (x, s, h) = (f64::from(*x), f64::from(*s), 1e-6);
        let f = |x: f64| x * x / (1.0 + (-x).exp());
        assert!((f64::from(*d) - s * (f(x + h) - f(x - h)) / (2.0 * h)).abs() < 1e-5);
    }
}

/// An operation that counts how often its backward ran.
fn counted<'a>(tape: &mut Tape<'a>, x: &Var, wanted: bool, count: &'a AtomicUsize) -> Var {
    let x = x.clone();
    tape.push((*x.value).clone(), wanted, move |back, dy| {
        count.fetch_add(1, Ordering::Relaxed);
        back.give(&x, dy);
    })
}

#[test]
fn frozen_branches_and_unused_values_do_no_backward_work() {
    let (frozen, unused, used) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let context = Context::new(1, Precision::F32);
    let params = ParamStore::default();
    let l = linear("frozen", 1, 3, None, 0.0);
    let mut tape = Tape::new(&context, &params, None);
    // Below the first adapter everything is constant.
    let c = Var::constant(tensor(1, 2, 3));
    let below = tape.linear(&c, &l);
    assert!(!below.needs_grad());
    let below = counted(&mut tape, &below, below.needs_grad(), &frozen);
    assert!(!below.needs_grad());
    let leaf = tape.leaf(Arc::new(tensor(2, 2, 3).into()));
    let dead = counted(&mut tape, &leaf, true, &unused);
    assert!(dead.needs_grad());
    let h = tape.add(&below, &leaf);
    let y = counted(&mut tape, &h, h.needs_grad(), &used);
    let mut grads = Grads::new(&params);
    let g = tape.backward_into(&mut grads, &y, tensor(3, 2, 3), &[&leaf, &below]);
    assert_eq!((frozen.into_inner(), unused.into_inner(), used.into_inner()), (0, 0, 1));
    assert_eq!(g[0].as_ref().map(|g| g.f32()), Some(&tensor(3, 2, 3)));
    assert!(g[1].is_none(), "a constant has no gradient");
}

#[test]
fn inference_records_nothing() {
    let count = AtomicUsize::new(0);
    let s = stack(0.0);
    let context = Context::new(1, Precision::F32);
    let mut tape = Tape::eval(&context, &s.params);
    let x = Var::constant(tensor(9, 3, N));
    let y = s.block(0, &mut tape, &x);
    let y = tape.checkpoint(&y, true, |tape, x| s.block(1, tape, &x));
    let y = counted(&mut tape, &y, true, &count);
    assert!(!tape.is_recording() && !y.needs_grad());
    let mut grads = Grads::new(&s.params);
    tape.backward(&mut grads, &y, tensor(3, 3, N));
    assert!(grads.tensors.iter().all(Option::is_none));
    assert_eq!(count.into_inner(), 0);
}

#[test]
fn a_checkpoint_of_frozen_layers_over_a_constant_is_not_recomputed() {
    let runs = AtomicUsize::new(0);
    let context = Context::new(1, Precision::F32);
    let params = ParamStore::default();
    let l = linear("frozen", 1, 3, None, 0.0);
    let mut tape = Tape::new(&context, &params, None);
    let (l, runs) = (&l, &runs);
    let y = tape.checkpoint(&Var::constant(tensor(1, 2, 3)), false, move |tape, x| {
        runs.fetch_add(1, Ordering::Relaxed);
        tape.linear(&x, l)
    });
    assert!(!y.needs_grad());
    tape.backward(&mut Grads::new(&params), &y, tensor(2, 2, 3));
    assert_eq!(runs.load(Ordering::Relaxed), 1);
}

fn watch(v: &Var) -> Weak<Activation> {
    Arc::downgrade(&v.value)
}

#[test]
fn what_nobody_saves_is_freed_at_once() {
    let context = Context::new(1, Precision::F32);
    let mut params = ParamStore::default();
    params.add("a".into(), ParamRole::LoraA, tensor(1, 2, N), None);
    params.add("b".into(), ParamRole::LoraB, tensor(2, N, 2), None);
    let frozen = linear("frozen", 1, N, None, 0.0);
    let adapted = linear("adapted", 2, N, Some(0), 0.0);
    let mut tape = Tape::new(&context, &params, None);
    let x = tape.leaf(Arc::new(tensor(5, 3, N).into()));

    let a = tape.linear(&x, &frozen);
    let b = tape.add(&x, &a);
    let weak_a = watch(&a);
    drop(a);
    assert!(weak_a.upgrade().is_none(), "add keeps neither operand");

    let weak_b = watch(&b);
    let c = tape.linear(&b, &frozen);
    drop(b);
    assert!(weak_b.upgrade().is_none(), "a frozen linear does not keep its input");

    let weak_c = watch(&c);
    let d = tape.linear(&c, &adapted);
    drop(c);
    assert!(weak_c.upgrade().is_some(), "an adapted linear keeps its input for dA");

    let weak_d = watch(&d);
    let e = tape.columns(&d, 0, 3);
    drop(d);
    assert!(weak_d.upgrade().is_none(), "columns keep nothing");

    tape.backward(&mut Grads::new(&params), &e, tensor(6, 3, 3));
    assert!(weak_c.upgrade().is_none(), "backward gives back what it kept");
}

#[test]
fn backward_frees_later_values_before_it_reaches_earlier_ones() {
    let context = Context::new(1, Precision::F32);
    let params = ParamStore::default();
    let late: Arc<Mutex<Option<Weak<Activation>>>> = Arc::default();
    let seen = Arc::new(AtomicUsize::new(0));
    let mut tape = Tape::new(&context, &params, None);
    let x = tape.leaf(Arc::new(tensor(1, 2, 3).into()));
    let (watched, count, input) = (late.clone(), seen.clone(), x.clone());
    let early = tape.push((*x.value).clone(), true, move |back, dy| {
        let alive = watched.lock().expect("not poisoned").as_ref().is_some_and(|w| w.upgrade().is_some());
        count.store(1 + usize::from(alive), Ordering::Relaxed);
        back.give(&input, dy);
    });
    let kept = tape.push_with_output(tensor(2, 2, 3), {
        let early = early.clone();
        move |back, dy, _| back.give(&early, dy)
    });
    *late.lock().expect("not poisoned") = Some(watch(&kept));
    let y = tape.add(&kept, &x);
    drop((kept, early));
    tape.backward(&mut Grads::new(&params), &y, tensor(3, 2, 3));
    assert_eq!(
        seen.load(Ordering::Relaxed),
        1,
        "1: ran and the later value was gone; 2: it was still alive; 0: did not run"
    );
}

#[test]
fn inner_values_of_a_checkpoint_are_gone_after_the_forward_pass() {
    let context = Context::new(1, Precision::F32);
    let s = stack(0.0);
    let inner: Mutex<Vec<Weak<Activation>>> = Mutex::default();
    let mut tape = Tape::new(&context, &s.params, None);
    let x = tape.leaf(Arc::new(tensor(9, 3, N).into()));
    let (stack, inner) = (&s, &inner);
    let y = tape.checkpoint(&x, true, move |tape, x| {
        let n = tape.rms_norm(&x, &stack.norm, 1e-6);
        inner.lock().expect("not poisoned").push(watch(&n));
        let g = tape.linear(&n, &stack.blocks[0][0]);
        inner.lock().expect("not poisoned").push(watch(&g));
        tape.add(&x, &g)
    });
    assert!(inner.lock().expect("not poisoned").iter().all(|w| w.upgrade().is_none()));
    assert_eq!(Arc::strong_count(&x.value), 2, "the checkpoint keeps its input, nothing else does");
    let mut grads = Grads::new(&s.params);
    tape.backward(&mut grads, &y, tensor(3, 3, N));
    assert_eq!(inner.lock().expect("not poisoned").len(), 4, "recomputed once");
    assert_eq!(Arc::strong_count(&x.value), 1);
}
