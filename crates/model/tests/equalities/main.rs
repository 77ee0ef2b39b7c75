//! The equalities a trainer and a server rest on: however work is cut, cached, packed, folded or stored, the result is
//! the same, bit for bit wherever the order of sums is the same.
mod adapters;
mod batches;
mod blocks;
#[path = "../common/mod.rs"]
mod common;
mod decode;
mod gradients;
mod quantized;
mod spec;
mod stored;

use loar_formats::safetensors::Checkpoint;
use loar_kernels::rng::Stream;
use loar_model::{AdapterSpec, Model, Preset, Targets};
use loar_tape::{Grads, ParamId, ParamRole};

/// A LoRA on every linear of the body that has moved away from its start.
fn adapted(model: &mut Model) {
    adapted_by(model, &AdapterSpec::new(3, 6.0, Targets::Preset(Preset::AllLinear)));
}

fn adapted_by(model: &mut Model, spec: &AdapterSpec) {
    model.attach(spec, 7).expect("the spec fits");
    stir(model);
}

/// Moves every parameter away from its start, inside its mask.
fn stir(model: &mut Model) {
    for i in 0..model.params.len() {
        let p = model.params.get_mut(ParamId(i));
        let noise = Stream::new(99, i as u32, 0x571);
        let size = if p.role == ParamRole::Magnitude { 0.05 } else { 0.15 };
        for (j, x) in p.value.data.iter_mut().enumerate() {
            *x += size * noise.normal(j as u64);
        }
        if let Some(mask) = p.mask {
            mask.apply(&mut p.value);
        }
    }
}

/// Largest difference of two gradients over their largest entry, and that every entry is compared.
fn grads_gap(a: &Grads, b: &Grads) -> f64 {
    let mut worst = 0f64;
    for (x, y) in a.tensors.iter().zip(&b.tensors) {
        let (Some(x), Some(y)) = (x, y) else {
            // Absent counts as zero.
            let present = x.as_ref().or(y.as_ref());
            assert!(present.is_none_or(|t| t.data.iter().all(|v| *v == 0.0)));
            continue;
        };
        let largest = y.data.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
        for (u, v) in x.data.iter().zip(&y.data) {
            worst = worst.max(f64::from((u - v).abs() / largest));
        }
    }
    worst
}

fn open(dir: &std::path::Path) -> Checkpoint {
    Checkpoint::open_dir(dir).expect("a readable checkpoint").0
}
