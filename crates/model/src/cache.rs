//! Keys and values of past tokens, one growing buffer a layer and sequence. Absorbed and paged forms come later; this
//! one holds what attention reads, so a cached step computes exactly what a full pass computes.
use crate::model::Model;
use loar_tape::{AttentionShape, Pool, Segment, Tensor};
use std::sync::Mutex;

/// The cache of one sequence.
#[derive(Clone, Debug, Default)]
pub struct KvCache {
    pub(crate) len: usize,
    layers: Vec<LayerCache>,
}

#[derive(Clone, Debug, Default)]
struct LayerCache {
    /// `[len, kv heads * head_dim_qk]`
    keys: Vec<f32>,
    /// `[len, kv heads * head_dim_v]`
    values: Vec<f32>,
}

impl KvCache {
    pub(crate) fn new(layers: usize) -> KvCache {
        KvCache { len: 0, layers: vec![LayerCache::default(); layers] }
    }

    /// Tokens held.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn bytes(&self) -> usize {
        self.layers.iter().map(|l| 4 * (l.keys.len() + l.values.len())).sum()
    }
}

/// The caches of one step's sequences and the rows that belong to each.
pub(crate) struct CachedKeys {
    /// (first row, rows, cache) of each sequence; the caches are taken for the step and given back after it.
    pub sequences: Vec<(usize, usize, Mutex<KvCache>)>,
}

impl CachedKeys {
    /// Appends the new keys and values of `layer`, then attends each sequence to its own cache.
    pub fn attend(
        &self,
        pool: &Pool,
        shape: &AttentionShape,
        layer: usize,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> Tensor {
        let results: Vec<Mutex<Option<Tensor>>> = self.sequences.iter().map(|_| Mutex::new(None)).collect();
        pool.run(self.sequences.len(), &|i| {
            let (first, rows, cache) = &self.sequences[i];
            let mut cache = cache.lock().expect("no step panicked");
            let past = cache.len;
            let c = &mut cache.layers[layer];
            c.keys.extend_from_slice(&k.data[first * k.cols..(first + rows) * k.cols]);
            c.values.extend_from_slice(&v.data[first * v.cols..(first + rows) * v.cols]);
            let q = Tensor::new(*rows, q.cols, q.data[first * q.cols..(first + rows) * q.cols].to_vec());
            let segment = Segment { q_start: 0, q_len: *rows, k_start: 0, k_len: past + rows };
            *results[i].lock().expect("no step panicked") =
                Some(loar_tape::op::attend(pool, shape, &[segment], &q, &c.keys, &c.values));
        });
        let mut out = Tensor::zeros(q.rows, shape.num_heads * shape.head_dim_v);
        let width = out.cols;
        for ((first, rows, _), r) in self.sequences.iter().zip(results) {
            let r = r.into_inner().expect("no step panicked").expect("every sequence attended");
            out.data[first * width..(first + rows) * width].copy_from_slice(&r.data);
        }
        out
    }
}

impl Model {
    pub fn new_cache(&self) -> KvCache {
        KvCache::new(self.layers.len())
    }
}
