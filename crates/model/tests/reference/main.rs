//! An independent forward pass in f64, and what it proves: this decoder computes what transformers computes, and every
//! plausible mistake is seen by the tolerance that `loar check` applies.
#[path = "../common/mod.rs"]
mod common;
mod forward;
mod golden;
mod mutation;

use common::{Docs, KINDS, Tiny, logits_agree};
use forward::Reference;
use mutation::Mutation;

#[test]
fn the_decoder_equals_the_reference_on_every_architecture() {
    for kind in KINDS {
        for seed in 1..4 {
            let tiny = Tiny::new(kind, seed);
            let docs = Docs::new(&[23, 1, 40], seed);
            let want = Reference::open(tiny.path()).logits(&docs.ids, Mutation::None);
            let got = tiny.load().logits(&docs.batch());
            let (ok, gap) = logits_agree(&got.data, &want);
            println!("{kind:<18} seed {seed}: largest difference {gap:.1e}");
            assert!(ok, "{kind}, seed {seed}: logits differ by {gap:e}");
        }
    }
}
