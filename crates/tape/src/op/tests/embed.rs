//! Embedding: frozen tables in both types, a trainable table with repeated ids, an adapter as PEFT stores it.
use super::*;
use crate::{Frozen, Lora, ParamId, Storage, Weight};

const IDS: [u32; 5] = [3, 0, 3, 6, 1];

fn rows(table: &[f64], d: usize) -> Vec<f64> {
    IDS.iter().flat_map(|i| table[*i as usize * d..(*i as usize + 1) * d].to_vec()).collect()
}

#[test]
fn frozen_rows_are_copied_exactly() {
    let table = normal(1, 7, 4);
    let bits: Vec<u16> = table.data.iter().map(|x| half::bf16::from_f32(*x).to_bits()).collect();
    let rounded: Vec<f64> = table.data.iter().map(|x| half::bf16::from_f32(*x).to_f64()).collect();
    let (context, params) = (Context::new(1, Precision::F32), ParamStore::default());
    for (storage, want) in
        [(Storage::F32(Arc::new(table.data.to_vec())), wide(&table)), (Storage::Bf16(Arc::new(bits)), rounded)]
    {
        let weight = Weight::Frozen(Frozen { rows: 7, cols: 4, storage });
        let mut tape = Tape::new(&context, &params, None);
        let y = tape.embed(&Arc::new(IDS.to_vec()), &weight, None);
        assert_eq!(wide(y.value.f32()), rows(&want, 4));
        assert!(!y.needs_grad());
    }
}

#[test]
fn a_trainable_table_sums_the_gradient_of_repeated_ids() {
    let weight = leak(Weight::Param(ParamId(0)));
    let ids = Arc::new(IDS.to_vec());
    Case::new("embed", vec![], &[normal(1, 7, 4)])
        .check(|tape, _| tape.embed(&ids, weight, None), |_, p| rows(&p[0], 4));
}

#[test]
fn an_adapter_adds_its_product() {
    let (vocab, d, r, scaling) = (7, 4, 2, 1.5f32);
    let table = normal(1, vocab, d);
    let weight = leak(Weight::Frozen(Frozen::from_f32(vocab, d, table.data.clone())));
    let lora = leak(Lora { a: ParamId(0), b: ParamId(1), rank: r, scaling, dropout: 0.0, dora: None, stream: 0 });
    let ids = Arc::new(IDS.to_vec());
    Case::new("embed with adapter", vec![], &[normal(2, r, vocab), normal(3, d, r)]).check(
        |tape, _| tape.embed(&ids, weight, Some(lora)),
        |_, p| {
            let mut y = rows(&wide(&table), d);
            for (t, id) in IDS.iter().enumerate() {
                for o in 0..d {
                    y[t * d + o] += f64::from(scaling)
                        * (0..r).map(|j| p[1][o * r + j] * p[0][j * vocab + *id as usize]).sum::<f64>();
                }
            }
            y
        },
    );
}

#[test]
fn a_tied_table_gets_the_gradients_of_both_uses() {
    let (vocab, d) = (7, 4);
    let weight = leak(Weight::Param(ParamId(0)));
    let head = leak(crate::Linear {
        name: "lm_head".into(),
        in_features: d,
        out_features: vocab,
        weight: Weight::Param(ParamId(0)),
        bias: None,
        lora: None,
    });
    let ids = Arc::new(IDS.to_vec());
    Case::new("tied", vec![], &[normal(1, vocab, d)]).check(
        |tape, _| {
            let x = tape.embed(&ids, weight, None);
            tape.linear(&x, head)
        },
        |_, p| times_transposed(&rows(&p[0], d), &p[0], IDS.len(), d, vocab),
    );
}
