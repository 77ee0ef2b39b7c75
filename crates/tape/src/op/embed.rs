//! Token embedding, y_t = W[id_t] (+ s · B·A[:, id_t] for an embedding adapter as PEFT stores it).
//! The gradient of a trainable table is summed row by row in token order.
use crate::{Lora, Tape, Tensor, Var, Weight};
use std::sync::Arc;

impl<'a> Tape<'a> {
    /// `weight [vocab, d]`; an adapter has `a [rank, vocab]`, `b [d, rank]`. Ids are checked by the caller.
    pub fn embed(&mut self, ids: &Arc<Vec<u32>>, weight: &'a Weight, lora: Option<&'a Lora>) -> Var {
        let (vocab, d) = weight.shape(self.params);
        let mut y = Tensor::unfilled(ids.len(), d);
        let params = self.params;
        y.fill_rows(&self.context.pool, |t, row| weight.row_into(params, ids[t] as usize, row));
        if let Some(l) = lora {
            let (a, b) = (&self.params.get(l.a).value, &self.params.get(l.b).value);
            for (t, id) in ids.iter().enumerate() {
                for (o, x) in y.row_mut(t).iter_mut().enumerate() {
                    let s: f32 = (0..l.rank).map(|j| b.data[o * l.rank + j] * a.data[j * vocab + *id as usize]).sum();
                    *x += l.scaling * s;
                }
            }
        }
        let ids = ids.clone();
        self.push(y, weight.param().is_some() || lora.is_some(), move |back, dy| {
            let dy = dy.into_f32(&back.context.pool);
            if let Some(id) = weight.param() {
                let mut dw = Tensor::zeros(vocab, d);
                for (t, token) in ids.iter().enumerate() {
                    for (w, g) in dw.row_mut(*token as usize).iter_mut().zip(dy.row(t)) {
                        *w += g;
                    }
                }
                back.give_param(id, dw);
            }
            if let Some(l) = lora {
                let (a, b) = (&back.params.get(l.a).value, &back.params.get(l.b).value);
                let (mut da, mut db) = (Tensor::zeros(l.rank, vocab), Tensor::zeros(d, l.rank));
                for (t, token) in ids.iter().enumerate() {
                    let token = *token as usize;
                    for (o, g) in dy.row(t).iter().enumerate() {
                        for j in 0..l.rank {
                            da.data[j * vocab + token] += l.scaling * g * b.data[o * l.rank + j];
                            db.data[o * l.rank + j] += l.scaling * g * a.data[j * vocab + token];
                        }
                    }
                }
                back.give_param(l.a, da);
                back.give_param(l.b, db);
            }
        })
    }
}
