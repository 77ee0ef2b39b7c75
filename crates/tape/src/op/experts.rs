//! Tokens sorted by expert, one linear layer an expert, and the weighted sum back: y_t = Σ_k w_tk · E_k(x_t)
//! (DeepSeekMoE, eq. 9). The sums run in the order of the token's own choices, so a token's result does not depend on
//! its batch.
use super::linear;
use crate::{Linear, Tape, Tensor, Var};
use std::sync::{Arc, Mutex};

/// Which expert each of the `t * k` slots goes to, and the slots sorted by expert (stable).
#[derive(Debug)]
pub struct Assignment {
    /// `[t * k]`, the choices of token t at `t*k ..`, best first.
    pub experts: Vec<u32>,
    pub k: usize,
    /// Sorted position → slot.
    pub order: Vec<u32>,
    /// Slot → sorted position.
    pub place: Vec<u32>,
    /// Expert e owns sorted positions `offsets[e] .. offsets[e + 1]`.
    pub offsets: Vec<usize>,
}

impl Assignment {
    pub fn new(experts: Vec<u32>, k: usize, num_experts: usize) -> Assignment {
        let mut offsets = vec![0usize; num_experts + 1];
        for e in &experts {
            offsets[*e as usize + 1] += 1;
        }
        for e in 0..num_experts {
            offsets[e + 1] += offsets[e];
        }
        let mut next = offsets.clone();
        let (mut order, mut place) = (vec![0u32; experts.len()], vec![0u32; experts.len()]);
        for (slot, e) in experts.iter().enumerate() {
            let p = next[*e as usize];
            next[*e as usize] += 1;
            order[p] = slot as u32;
            place[slot] = p as u32;
        }
        Assignment { experts, k, order, place, offsets }
    }

    /// Tokens routed to each expert.
    pub fn load(&self) -> Vec<usize> {
        self.offsets.windows(2).map(|w| w[1] - w[0]).collect()
    }
}

impl<'a> Tape<'a> {
    /// `x [t, d]` → `[t*k, d]`, one row a slot, sorted by expert.
    pub fn dispatch(&mut self, x: &Var, assignment: &Arc<Assignment>) -> Var {
        let (d, k) = (x.cols(), assignment.k);
        let mut y = Tensor::zeros(assignment.order.len(), d);
        for (p, slot) in assignment.order.iter().enumerate() {
            y.row_mut(p).copy_from_slice(x.value.row(*slot as usize / k));
        }
        let (wanted, t, assignment, x) = (x.needs_grad(), x.rows(), assignment.clone(), x.without_value());
        self.push(y, wanted, move |back, dy| {
            let mut dx = Tensor::zeros(t, d);
            for r in 0..t {
                for p in &assignment.place[r * k..(r + 1) * k] {
                    for (a, b) in dx.row_mut(r).iter_mut().zip(dy.row(*p as usize)) {
                        *a += b;
                    }
                }
            }
            back.give(&x, dx);
        })
    }

    /// Applies expert e's layer to its rows of the sorted `x`.
    pub fn grouped_linear(&mut self, x: &Var, layers: Vec<&'a Linear>, assignment: &Arc<Assignment>) -> Var {
        let (inp, out) = (layers[0].in_features, layers[0].out_features);
        assert_eq!(x.cols(), inp, "`{}`: input width", layers[0].name);
        let trainable = layers.iter().any(|l| l.is_trainable());
        let wanted = (x.needs_grad() || trainable) && self.is_recording();
        let mut y = Tensor::zeros(x.rows(), out);
        let saved: Vec<Mutex<Option<linear::Saved>>> = layers.iter().map(|_| Mutex::new(None)).collect();
        let parts: Vec<Mutex<&mut [f32]>> = split(&mut y.data, &assignment.offsets, out);
        let (context, params, dropout) = (self.context, self.params, self.dropout);
        context.pool.run(layers.len(), &|e| {
            let (from, to) = (assignment.offsets[e], assignment.offsets[e + 1]);
            if from < to {
                let mut y = parts[e].lock().expect("no task panicked");
                let s = linear::forward(
                    context,
                    params,
                    layers[e],
                    &x.value.data[from * inp..to * inp],
                    to - from,
                    &mut y,
                    dropout,
                    wanted,
                );
                *saved[e].lock().expect("no task panicked") = Some(s);
            }
        });
        drop(parts);
        let (rows, assignment) = (x.rows(), assignment.clone());
        let x = if trainable { x.clone() } else { x.without_value() };
        self.push(y, wanted, move |back, dy| {
            let want_dx = x.needs_grad();
            let mut dx = Tensor::zeros(if want_dx { rows } else { 0 }, inp);
            let results: Vec<Mutex<Vec<_>>> = layers.iter().map(|_| Mutex::new(Vec::new())).collect();
            let dx_parts: Vec<Mutex<&mut [f32]>> =
                if want_dx { split(&mut dx.data, &assignment.offsets, inp) } else { Vec::new() };
            let (context, params) = (back.context, back.params);
            let xs: &[f32] = &x.value.data;
            context.pool.run(layers.len(), &|e| {
                let (from, to) = (assignment.offsets[e], assignment.offsets[e + 1]);
                let saved = saved[e].lock().expect("no task panicked").take();
                let Some(saved) = saved else { return };
                let x_rows = if xs.is_empty() { xs } else { &xs[from * inp..to * inp] };
                let (dx, grads) = linear::backward(
                    context,
                    params,
                    layers[e],
                    x_rows,
                    to - from,
                    &saved,
                    &dy.data[from * out..to * out],
                    want_dx,
                );
                if let Some(dx) = dx {
                    dx_parts[e].lock().expect("no task panicked").copy_from_slice(&dx.data);
                }
                *results[e].lock().expect("no task panicked") = grads;
            });
            drop(dx_parts);
            if want_dx {
                back.give(&x, dx);
            }
            for r in results {
                for (id, g) in r.into_inner().expect("no task panicked") {
                    back.give_param(id, g);
                }
            }
        })
    }

    /// `y [t*k, d]` sorted by expert, `weights [t, k]` → `[t, d]`.
    pub fn combine(&mut self, y: &Var, weights: &Var, assignment: &Arc<Assignment>) -> Var {
        let (t, k, d) = (weights.rows(), assignment.k, y.cols());
        let mut out = Tensor::zeros(t, d);
        for r in 0..t {
            for (j, p) in assignment.place[r * k..(r + 1) * k].iter().enumerate() {
                let w = weights.value.row(r)[j];
                for (o, v) in out.row_mut(r).iter_mut().zip(y.value.row(*p as usize)) {
                    *o += w * v;
                }
            }
        }
        let wanted = y.needs_grad() || weights.needs_grad();
        let (y, weights, assignment) = (y.clone(), weights.clone(), assignment.clone());
        self.push(out, wanted, move |back, dout| {
            let (mut dy, mut dw) = (Tensor::zeros(y.rows(), d), Tensor::zeros(t, k));
            for r in 0..t {
                for (j, p) in assignment.place[r * k..(r + 1) * k].iter().enumerate() {
                    let w = weights.value.row(r)[j];
                    let mut dot = 0f32;
                    for ((g, dy), v) in dout.row(r).iter().zip(dy.row_mut(*p as usize)).zip(y.value.row(*p as usize)) {
                        *dy = w * g;
                        dot += g * v;
                    }
                    dw.row_mut(r)[j] = dot;
                }
            }
            back.give(&y, dy);
            back.give(&weights, dw);
        })
    }
}

/// One mutable slice an expert.
fn split<'s>(mut data: &'s mut [f32], offsets: &[usize], width: usize) -> Vec<Mutex<&'s mut [f32]>> {
    let mut parts = Vec::with_capacity(offsets.len() - 1);
    for w in offsets.windows(2) {
        let (head, tail) = data.split_at_mut((w[1] - w[0]) * width);
        parts.push(Mutex::new(head));
        data = tail;
    }
    parts
}
