//! The mixture-of-experts keys of `deepseek`, `deepseek_v2` and `deepseek_v3`.

use super::keys::Keys;
use super::{Architecture, MoeConfig, Scoring, TopkMethod};
use crate::Issue;

/// Bound on layers × experts: 61 × 256 in the largest release. Keeps name tables small.
const MAX_EXPERTS: usize = 1 << 17;

pub(super) fn read(
    keys: &mut Keys<'_>,
    architecture: Architecture,
    layers: usize,
    issues: &mut Vec<Issue>,
) -> Option<MoeConfig> {
    use Architecture::{Deepseek, DeepseekV2, DeepseekV3};
    if !matches!(architecture, Deepseek | DeepseekV2 | DeepseekV3) {
        return None;
    }
    let v3 = architecture == DeepseekV3;
    if !keys.has("n_routed_experts") && !v3 {
        return None; // the remote code of MoE-16B and V2 builds dense layers then
    }
    let n_routed_experts = keys.size("n_routed_experts");
    let (scoring, topk_method) = gate(keys, architecture);
    let grouped = topk_method != TopkMethod::Greedy;
    let (n_group, topk_group) = if grouped {
        (keys.size_or("n_group", 1), keys.size_or("topk_group", 1))
    } else {
        (1, 1) // greedy ignores both keys
    };
    let moe = MoeConfig {
        n_routed_experts,
        n_shared_experts: keys.count_or("n_shared_experts", 0),
        num_experts_per_tok: keys.size("num_experts_per_tok"),
        moe_intermediate_size: keys.size("moe_intermediate_size"),
        first_k_dense_replace: keys.count_or("first_k_dense_replace", if v3 { 3 } else { 0 }),
        moe_layer_freq: keys.size_or("moe_layer_freq", 1),
        scoring,
        topk_method,
        n_group,
        topk_group,
        norm_topk_prob: keys.bool_or("norm_topk_prob", v3),
        routed_scaling_factor: keys.positive_or("routed_scaling_factor", if v3 { 2.5 } else { 1.0 }),
    };
    check(keys, &moe, layers);
    if architecture == DeepseekV2 && moe.norm_topk_prob {
        issues.push(Issue::warning(
            "`norm_topk_prob` is true: weights are normalised here; transformers ignores the key for \
             deepseek_v2",
        ));
    }
    Some(moe)
}

fn gate(keys: &mut Keys<'_>, architecture: Architecture) -> (Scoring, TopkMethod) {
    let v3 = architecture == Architecture::DeepseekV3;
    let scoring_name = keys.opt_str("scoring_func");
    let wanted = if v3 { "sigmoid" } else { "softmax" };
    if let Some(other) = scoring_name.filter(|name| name != wanted) {
        keys.fault(format!("`scoring_func` is `{other}`; {} scores with {wanted}", architecture.model_type()));
    }
    let scoring = if v3 { Scoring::Sigmoid } else { Scoring::Softmax };
    let method = keys.opt_str("topk_method");
    let method = match (architecture, method.as_deref()) {
        (Architecture::DeepseekV3, None | Some("noaux_tc")) => TopkMethod::NoauxTc,
        (Architecture::Deepseek | Architecture::DeepseekV2, None | Some("greedy" | "gready")) => {
            TopkMethod::Greedy // `gready` is how the DeepSeek-V2 remote configuration spells its default
        }
        (Architecture::DeepseekV2, Some("group_limited_greedy")) => TopkMethod::GroupLimitedGreedy,
        (_, other) => {
            keys.fault(format!(
                "`topk_method` is `{}`, which {} does not have",
                other.unwrap_or_default(),
                architecture.model_type()
            ));
            TopkMethod::Greedy
        }
    };
    (scoring, method)
}

fn check(keys: &mut Keys<'_>, moe: &MoeConfig, layers: usize) {
    let MoeConfig { n_routed_experts: e, num_experts_per_tok: k, n_group, topk_group, .. } = *moe;
    if k > e {
        keys.fault(format!("`num_experts_per_tok` {k} is more than `n_routed_experts` {e}"));
    }
    if !e.is_multiple_of(n_group) {
        keys.fault(format!("`n_group` {n_group} does not divide `n_routed_experts` {e}"));
    } else {
        if topk_group > n_group {
            keys.fault(format!("`topk_group` {topk_group} is more than `n_group` {n_group}"));
        }
        let reachable = topk_group.min(n_group).saturating_mul(e / n_group);
        if k > reachable && k <= e {
            keys.fault(format!(
                "`num_experts_per_tok` {k} is more than the {reachable} experts of `topk_group` {topk_group} groups"
            ));
        }
        if moe.topk_method == TopkMethod::NoauxTc && e / n_group < 2 {
            keys.fault(format!(
                "`n_group` {n_group} leaves {} expert a group; the group score sums the best two",
                e / n_group
            ));
        }
    }
    if layers.saturating_mul(e) > MAX_EXPERTS {
        keys.fault(format!("{layers} layers of {e} experts are more than {MAX_EXPERTS} experts in all"));
    }
}
