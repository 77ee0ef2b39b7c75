//! Every operation, every instruction set it has a variant for, and how each is checked against its reference.
//! [`selftest`] runs all variants this machine has; it needs nothing but the machine.
mod checks;
mod checks_bf16;
mod checks_decode;

use crate::Isa;

/// An operation and its check.
pub struct Op {
    pub name: &'static str,
    /// What the error is a measure of.
    pub unit: &'static str,
    /// The largest error accepted.
    pub tolerance: f64,
    /// The largest error of the variant over shapes, types and transpositions; infinite for a NaN.
    check: fn(Isa) -> f64,
}

/// A variant of an operation, on this machine or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    pub op: &'static str,
    /// Instruction set, one of [`Isa::NAMES`].
    pub name: &'static str,
    pub available: bool,
    /// This is the one `Pool`-level calls use here.
    pub chosen: bool,
}

/// One line of a self-test.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub op: &'static str,
    pub variant: &'static str,
    pub max_error: f64,
    pub tolerance: f64,
    pub unit: &'static str,
    pub ok: bool,
}

const BOUND: &str = "of the bound for any f32 order of summation";
const MIXED: &str = "error / (1 + |value|)";
const ROUNDED: &str = "|row error| / (2^-8 |row| + 2^-9 |row of the terms' magnitudes|)";
const HALF: &str = "error / (2^-8 |value| + 2e-6)";
const RELATIVE: &str = "relative error";
const COUNT: &str = "elements that differ";

/// Every operation with variants.
pub const OPS: [Op; 32] = [
    Op { name: "gemm f32", unit: BOUND, tolerance: 1.0, check: checks::gemm_f32 },
    Op { name: "gemm bf16", unit: BOUND, tolerance: 1.0, check: checks::gemm_bf16 },
    Op { name: "gemm terms and quantised", unit: BOUND, tolerance: 1.0, check: checks::gemm_terms },
    Op { name: "gemm batch and threads", unit: COUNT, tolerance: 0.0, check: checks::gemm_invariance },
    Op { name: "attention forward", unit: MIXED, tolerance: 3e-6, check: checks::attention_forward },
    Op { name: "attention backward", unit: MIXED, tolerance: 2e-5, check: checks::attention_backward },
    Op { name: "attention forward bf16", unit: ROUNDED, tolerance: 1.0, check: checks_bf16::attention_forward_bf16 },
    Op { name: "attention backward bf16", unit: ROUNDED, tolerance: 1.0, check: checks_bf16::attention_backward_bf16 },
    Op { name: "attention bidirectional", unit: MIXED, tolerance: 3e-6, check: checks::attention_bidirectional },
    Op { name: "attention decode", unit: COUNT, tolerance: 0.0, check: checks::attention_decode },
    Op { name: "streamed linear", unit: BOUND, tolerance: 1.0, check: checks_decode::streamed },
    Op { name: "streamed batch and threads", unit: COUNT, tolerance: 0.0, check: checks_decode::streamed_invariance },
    Op { name: "paged attention", unit: MIXED, tolerance: 3e-6, check: checks_decode::paged },
    Op { name: "exp", unit: RELATIVE, tolerance: 2e-7, check: checks::exp },
    Op { name: "rmsnorm forward", unit: MIXED, tolerance: 1e-6, check: checks::rmsnorm_forward },
    Op { name: "rmsnorm backward", unit: MIXED, tolerance: 4e-6, check: checks::rmsnorm_backward },
    Op { name: "layernorm", unit: MIXED, tolerance: 1e-6, check: checks::layernorm },
    Op { name: "gelu", unit: MIXED, tolerance: 3e-7, check: checks::gelu },
    Op { name: "silu_mul forward", unit: MIXED, tolerance: 1e-6, check: checks::silu_mul_forward },
    Op { name: "silu_mul backward", unit: MIXED, tolerance: 2e-6, check: checks::silu_mul_backward },
    Op { name: "rope", unit: MIXED, tolerance: 5e-7, check: checks::rope },
    Op { name: "rmsnorm forward bf16", unit: HALF, tolerance: 1.0, check: checks_bf16::rmsnorm_forward_bf16 },
    Op { name: "rmsnorm backward added", unit: MIXED, tolerance: 4e-6, check: checks::rmsnorm_backward_add },
    Op { name: "silu_mul forward bf16", unit: HALF, tolerance: 1.0, check: checks_bf16::silu_mul_forward_bf16 },
    Op { name: "silu_mul backward bf16", unit: HALF, tolerance: 1.0, check: checks_bf16::silu_mul_backward_bf16 },
    Op { name: "rope bf16", unit: HALF, tolerance: 1.0, check: checks_bf16::rope_bf16 },
    Op { name: "softmax", unit: MIXED, tolerance: 1e-6, check: checks::softmax },
    Op { name: "cross_entropy", unit: MIXED, tolerance: 2e-6, check: checks::cross_entropy },
    Op { name: "adamw", unit: MIXED, tolerance: 1e-6, check: checks::adamw },
    Op { name: "f32 to bf16 and back", unit: COUNT, tolerance: 0.0, check: checks::convert },
    Op { name: "dropout", unit: COUNT, tolerance: 0.0, check: checks::dropout },
    Op { name: "dot", unit: BOUND, tolerance: 1.0, check: checks::dot },
];

/// All variants the code has, those of other machines included.
pub fn variants() -> Vec<Variant> {
    OPS.iter()
        .flat_map(|op| {
            Isa::NAMES.map(|name| Variant {
                op: op.name,
                name,
                available: Isa::by_name(name).is_some(),
                chosen: Isa::best().name() == name,
            })
        })
        .collect()
}

impl Op {
    /// Checks one variant.
    pub fn check(&self, isa: Isa) -> Outcome {
        let max_error = (self.check)(isa);
        Outcome {
            op: self.name,
            variant: isa.name(),
            max_error,
            tolerance: self.tolerance,
            unit: self.unit,
            ok: max_error <= self.tolerance,
        }
    }
}

/// Checks every variant this machine has; about a second in a release build.
pub fn selftest() -> Vec<Outcome> {
    OPS.iter().flat_map(|op| Isa::available().into_iter().map(|isa| op.check(isa))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_available_variant_passes() {
        let rows = selftest();
        assert_eq!(rows.len(), OPS.len() * Isa::available().len());
        let bad: Vec<_> = rows.iter().filter(|r| !r.ok).collect();
        assert!(bad.is_empty(), "{bad:#?}");
        // An error of exactly 0 in a measured operation would mean that nothing was compared.
        let idle: Vec<_> = rows.iter().filter(|r| r.tolerance > 0.0 && r.max_error == 0.0).collect();
        assert!(idle.is_empty(), "{idle:#?}");
    }

    #[test]
    fn the_table_lists_what_the_machine_has() {
        let all = variants();
        assert_eq!(all.len(), OPS.len() * Isa::NAMES.len());
        assert_eq!(all.iter().filter(|v| v.available).count(), OPS.len() * Isa::available().len());
        assert_eq!(all.iter().filter(|v| v.chosen).count(), OPS.len());
        assert!(all.iter().all(|v| v.available || !v.chosen));
    }
}
