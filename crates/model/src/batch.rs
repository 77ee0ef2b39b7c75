//! Documents packed one behind the other: each has its own positions from 0 and sees only itself.
use loar_tape::Segment;
use std::sync::Arc;

#[derive(Clone, Debug)]
pub struct PackedBatch {
    pub ids: Arc<Vec<u32>>,
    pub positions: Vec<u32>,
    pub segments: Arc<Vec<Segment>>,
    /// (row whose output predicts it, token), in row order.
    pub targets: Vec<(usize, u32)>,
    /// Document of each target.
    pub target_document: Vec<usize>,
}

impl PackedBatch {
    /// `docs`: token ids, and for each token whether it is a target. A document's first token has nothing before it
    /// and is never a target.
    pub fn pack(docs: &[(&[u32], &[bool])]) -> PackedBatch {
        let total = docs.iter().map(|d| d.0.len()).sum();
        let (mut ids, mut positions) = (Vec::with_capacity(total), Vec::with_capacity(total));
        let (mut segments, mut targets, mut target_document) = (Vec::with_capacity(docs.len()), Vec::new(), Vec::new());
        for (d, (tokens, train)) in docs.iter().enumerate() {
            assert_eq!(tokens.len(), train.len(), "a document has one train flag a token");
            let start = ids.len();
            if !tokens.is_empty() {
                segments.push(Segment { q_start: start, q_len: tokens.len(), k_start: start, k_len: tokens.len() });
            }
            for (i, (token, flag)) in tokens.iter().zip(*train).enumerate() {
                if *flag && i > 0 {
                    targets.push((start + i - 1, *token));
                    target_document.push(d);
                }
                ids.push(*token);
                positions.push(i as u32);
            }
        }
        PackedBatch { ids: Arc::new(ids), positions, segments: Arc::new(segments), targets, target_document }
    }

    pub fn tokens(&self) -> usize {
        self.ids.len()
    }
}
