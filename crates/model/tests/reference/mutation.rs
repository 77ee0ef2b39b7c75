//! Plausible mistakes of a decoder, and the proof that the tolerance of `loar check` sees each of them.
use crate::common::{Docs, Tiny, logits_agree};
use crate::forward::Reference;
use crate::golden::Fixture;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    None,
    RopeLayoutSwapped,
    RopeScalingDropped,
    RopeFactorDropped,
    RopeOnTheFirstColumns,
    Llama3BlendDropped,
    YarnRampInverted,
    SoftmaxMscaleDropped,
    ScaleOfNopeAlone,
    BiasesDropped,
    QkNormDropped,
    QkNormAfterRope,
    KvHeadsInterleaved,
    NormWeightPlusOne,
    FinalNormDropped,
    LatentNormDropped,
    LatentNormEpsOfConfig,
    LatentAndRopeSwapped,
    KeysAndValuesSwapped,
    AcrossDocuments,
    NotCausal,
    GateAndUpSwapped,
    FirstDenseIgnored,
    SharedExpertsDropped,
    WeightBeforeExpert,
    ScoringSwapped,
    ChoiceBiasDropped,
    WeightsFromBiasedScores,
    GroupScoreOfOtherVersion,
    GroupLimitDropped,
    MaskedGroupsZero,
    NormTopkFlipped,
    RoutedScalingDropped,
    OneExpertFewer,
}

use Mutation::*;

/// Each mistake with the random models that must show it (always run), and the golden fixtures that must.
const TABLE: &[(Mutation, &[&str], &[&str])] = &[
    (
        RopeLayoutSwapped,
        &["llama", "qwen3", "deepseek_v2_lite", "deepseek_v3"],
        &["llama", "qwen2", "deepseek_v2", "deepseek_v3", "deepseek_v3_experts"],
    ),
    (
        RopeScalingDropped,
        &["llama3", "llama_linear", "qwen3", "deepseek_v2", "deepseek_v3"],
        &["llama", "llama_linear_rope", "deepseek_v2_lite", "deepseek_v2", "deepseek_v3"],
    ),
    (RopeFactorDropped, &["qwen3"], &[]),
    (RopeOnTheFirstColumns, &["deepseek_v2_lite", "deepseek_v3"], &["deepseek_v2", "deepseek_v3"]),
    // No frequency of the llama fixture lies where Llama 3 blends; the random one has one.
    (Llama3BlendDropped, &["llama3"], &[]),
    (YarnRampInverted, &["qwen3", "deepseek_v3"], &["deepseek_v2", "deepseek_v3"]),
    (
        SoftmaxMscaleDropped,
        &["deepseek_v2_lite", "deepseek_v2", "deepseek_v3"],
        &["deepseek_v2_lite", "deepseek_v2", "deepseek_v3"],
    ),
    (ScaleOfNopeAlone, &["deepseek_v2_lite", "deepseek_v3"], &["deepseek_v3", "deepseek_v3_all"]),
    (BiasesDropped, &["llama3", "qwen2"], &["qwen2"]),
    (QkNormDropped, &["qwen3"], &["qwen3"]),
    (QkNormAfterRope, &["qwen3"], &["qwen3"]),
    (KvHeadsInterleaved, &["llama", "qwen2", "qwen3"], &["llama", "qwen2", "qwen3"]),
    (NormWeightPlusOne, &["llama", "deepseek_v3"], &["llama", "deepseek_v3"]),
    (FinalNormDropped, &["llama", "deepseek_v3"], &["llama", "deepseek_v3"]),
    (LatentNormDropped, &["deepseek_v2_lite", "deepseek_v3"], &["deepseek_v2_lite", "deepseek_v3"]),
    // The fixtures' rms_norm_eps is the latent norms' own 1e-6; the random models' is 1e-3.
    (LatentNormEpsOfConfig, &["deepseek_v2_lite", "deepseek_v2", "deepseek_v3"], &[]),
    (LatentAndRopeSwapped, &["deepseek_v2", "deepseek_v3"], &["deepseek_v2", "deepseek_v3"]),
    (KeysAndValuesSwapped, &["deepseek_v2", "deepseek_v3"], &["deepseek_v2", "deepseek_v3"]),
    (AcrossDocuments, &["llama", "qwen3", "deepseek", "deepseek_v3"], &["llama", "deepseek_v3"]),
    (NotCausal, &["llama", "deepseek_v3"], &["llama", "deepseek_v3"]),
    (GateAndUpSwapped, &["llama", "deepseek"], &["llama", "deepseek_v3"]),
    (FirstDenseIgnored, &["deepseek", "deepseek_v2_lite", "deepseek_v3"], &["deepseek_v2_lite", "deepseek_v3"]),
    (
        SharedExpertsDropped,
        &["deepseek", "deepseek_v2", "deepseek_v3"],
        &["deepseek_v2_lite", "deepseek_v2", "deepseek_v3"],
    ),
    (WeightBeforeExpert, &["deepseek", "deepseek_v2", "deepseek_v3"], &["deepseek_v2", "deepseek_v3"]),
    (ScoringSwapped, &["deepseek", "deepseek_v3"], &["deepseek_v2_lite", "deepseek_v3"]),
    (ChoiceBiasDropped, &["deepseek_v3"], &["deepseek_v3"]),
    (WeightsFromBiasedScores, &["deepseek_v3"], &["deepseek_v3"]),
    (GroupScoreOfOtherVersion, &["deepseek_v2", "deepseek_v3"], &["deepseek_v2", "deepseek_v3"]),
    // The V2 fixture chooses two experts out of two groups ranked by their best: the limit never binds there.
    (GroupLimitDropped, &["deepseek_v2", "deepseek_v3"], &["deepseek_v3"]),
    (MaskedGroupsZero, &["deepseek_v3"], &["deepseek_v3"]),
    (NormTopkFlipped, &["deepseek", "deepseek_v2", "deepseek_v3"], &["deepseek_v2_lite", "deepseek_v2", "deepseek_v3"]),
    (RoutedScalingDropped, &["deepseek_v2", "deepseek_v3"], &["deepseek_v2", "deepseek_v3"]),
    (OneExpertFewer, &["deepseek", "deepseek_v2", "deepseek_v3"], &["deepseek_v2_lite", "deepseek_v3"]),
];

#[test]
fn every_mistake_is_caught_on_random_models() {
    let mut missed = Vec::new();
    println!("{:<26}{:<20}{:>10}", "mistake", "random model", "Δlogit");
    for (mutation, kinds, _) in TABLE {
        assert!(!kinds.is_empty(), "{mutation:?} has no model to show on");
        for kind in *kinds {
            let tiny = Tiny::new(kind, 5);
            let docs = Docs::new(&[19, 40], 5);
            let reference = Reference::open(tiny.path());
            let right = reference.logits(&docs.ids, None);
            let (agrees, gap) = logits_agree(&reference.logits(&docs.ids, *mutation), &right);
            println!("{:<26}{kind:<20}{gap:>10.1e}", format!("{mutation:?}"));
            if agrees {
                missed.push(format!("{mutation:?} on {kind}: Δlogit {gap:.1e}"));
            }
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:#?}");
}

#[test]
fn every_mistake_is_caught_on_the_golden_fixtures() {
    let mut missed = Vec::new();
    println!("{:<26}{:<20}{:>10}", "mistake", "fixture", "Δlogit");
    for (mutation, _, names) in TABLE {
        for name in *names {
            let Some(fixture) = Fixture::open(name) else { return };
            let (agrees, gap) = fixture.compare(*mutation);
            println!("{:<26}{name:<20}{gap:>10.1e}", format!("{mutation:?}"));
            if agrees {
                missed.push(format!("{mutation:?} on {name}: Δlogit {gap:.1e}"));
            }
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:#?}");
}

#[test]
fn the_table_holds_every_mistake_once() {
    for (i, (m, ..)) in TABLE.iter().enumerate() {
        assert!(TABLE[..i].iter().all(|(n, ..)| n != m), "{m:?} twice");
    }
    assert_eq!(TABLE.len(), OneExpertFewer as usize);
}
