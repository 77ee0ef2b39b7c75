//! Keys and values of past tokens.
//!
//! With f32 products a cache holds what attention reads, in f32, so that a cached step computes exactly what a full
//! pass computes. With bf16 products it holds pages of 64 positions (all layers), bf16 or int8 with a scale a row and
//! head. Cloning a cache shares its pages, whose reference counts are `Arc`'s; the first append after that copies the
//! last page if it is not full, so n answers to one prompt hold the prompt once. Latent attention caches the latent and
//! the rotary key only: 576 numbers a token and layer in DeepSeek-V2 instead of 128 heads of 320.
use crate::decode::Prepared;
use crate::model::Model;
use loar_formats::config::ModelConfig;
use loar_kernels::paged::{Cells, CellsMut, PAGE, PageShape};
use loar_tape::{Activation, Pool, Precision, Segment, Tensor, Var};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock};

/// How a cache holds its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheDtype {
    Bf16,
    /// Half of it, with one scale a row and head.
    Int8,
}

/// The cache of one sequence. It belongs to the model that made it, with the parameters it had at the first step.
#[derive(Clone, Debug, Default)]
pub struct KvCache {
    pub(crate) len: usize,
    store: Store,
}

#[derive(Clone, Debug)]
enum Store {
    Exact(Vec<ExactLayer>),
    Paged(Paged),
}

impl Default for Store {
    fn default() -> Store {
        Store::Exact(Vec::new())
    }
}

#[derive(Clone, Debug, Default)]
struct ExactLayer {
    /// `[len, kv heads * head_dim_qk]`
    keys: Vec<f32>,
    /// `[len, kv heads * head_dim_v]`
    values: Vec<f32>,
}

/// Pages of one sequence.
#[derive(Clone, Debug)]
pub(crate) struct Paged {
    pub shape: PageShape,
    layers: usize,
    dtype: CacheDtype,
    pages: Vec<Arc<Page>>,
    /// Shared by all clones: what decoding makes of the adapters once.
    pub prepared: Arc<OnceLock<Prepared>>,
}

/// 64 positions of all layers.
#[derive(Clone, Debug)]
struct Page {
    words: Vec<u16>,
    codes: Vec<i8>,
    scales: Vec<f32>,
}

impl Page {
    fn bytes(&self) -> usize {
        2 * self.words.len() + self.codes.len() + 4 * self.scales.len()
    }
}

impl Paged {
    fn page(&self) -> Page {
        let (n, s) = (self.layers * self.shape.elements(), self.layers * self.shape.scales());
        match self.dtype {
            CacheDtype::Bf16 => Page { words: vec![0; n], codes: vec![], scales: vec![] },
            CacheDtype::Int8 => Page { words: vec![], codes: vec![0; n], scales: vec![0.0; s] },
        }
    }

    /// Makes positions `len..len + rows` writable: new pages, and a copy of the last one if others hold it too.
    pub fn reserve(&mut self, len: usize, rows: usize) {
        while self.pages.len() * PAGE < len + rows {
            self.pages.push(Arc::new(self.page()));
        }
        if !len.is_multiple_of(PAGE) {
            Arc::make_mut(&mut self.pages[len / PAGE]);
        }
    }

    /// Writes a reserved position: `k [kv heads, k]`, `v [kv heads, v]`.
    pub fn store(&mut self, layer: usize, position: usize, k: &[f32], v: &[f32]) {
        let (n, s) = (self.shape.elements(), self.shape.scales());
        let page = Arc::get_mut(&mut self.pages[position / PAGE]).expect("the position was reserved");
        let mut cells = match self.dtype {
            CacheDtype::Bf16 => CellsMut::Bf16(&mut page.words[layer * n..(layer + 1) * n]),
            CacheDtype::Int8 => CellsMut::Int8 {
                q: &mut page.codes[layer * n..(layer + 1) * n],
                scales: &mut page.scales[layer * s..(layer + 1) * s],
            },
        };
        cells.store(&self.shape, position % PAGE, k, v);
    }

    /// One layer of every page.
    pub fn cells(&self, layer: usize) -> Vec<Cells<'_>> {
        let (n, s) = (self.shape.elements(), self.shape.scales());
        self.pages
            .iter()
            .map(|page| match self.dtype {
                CacheDtype::Bf16 => Cells::Bf16(&page.words[layer * n..(layer + 1) * n]),
                CacheDtype::Int8 => Cells::Int8 {
                    q: &page.codes[layer * n..(layer + 1) * n],
                    scales: &page.scales[layer * s..(layer + 1) * s],
                },
            })
            .collect()
    }

    /// The first `len` positions as bf16 rows: keys `[len, kv heads * k]`, values `[len, kv heads * v]`.
    fn load(&self, layer: usize, len: usize, keys: &mut [u16], values: &mut [u16]) {
        let (cells, PageShape { kv_heads, k, v }) = (self.cells(layer), self.shape);
        for i in 0..len {
            for head in 0..kv_heads {
                let (at_k, at_v) = ((i * kv_heads + head) * k, (i * kv_heads + head) * v);
                cells[i / PAGE].load(
                    &self.shape,
                    i % PAGE,
                    head,
                    &mut keys[at_k..at_k + k],
                    &mut values[at_v..at_v + v],
                );
            }
        }
    }
}

/// What a page holds of a layer of this model.
fn page_shape(config: &ModelConfig) -> PageShape {
    match &config.mla {
        Some(m) => PageShape { kv_heads: 1, k: m.kv_lora_rank + m.qk_rope_head_dim, v: 0 },
        None => PageShape { kv_heads: config.num_key_value_heads, k: config.head_dim, v: config.head_dim },
    }
}

impl KvCache {
    /// Tokens held.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Memory this cache holds, pages shared with others counted whole.
    pub fn bytes(&self) -> usize {
        match &self.store {
            Store::Exact(layers) => layers.iter().map(|l| 4 * (l.keys.len() + l.values.len())).sum(),
            Store::Paged(p) => p.pages.iter().map(|p| p.bytes()).sum(),
        }
    }

    /// Memory several caches hold together, shared pages counted once.
    pub fn bytes_together<'c>(caches: impl IntoIterator<Item = &'c KvCache>) -> usize {
        let mut seen = HashSet::new();
        caches
            .into_iter()
            .map(|c| match &c.store {
                Store::Exact(_) => c.bytes(),
                Store::Paged(p) => p.pages.iter().filter(|p| seen.insert(Arc::as_ptr(p))).map(|p| p.bytes()).sum(),
            })
            .sum()
    }

    pub(crate) fn paged_mut(&mut self) -> &mut Paged {
        match &mut self.store {
            Store::Paged(p) => p,
            Store::Exact(_) => unreachable!("a model with bf16 products makes paged caches"),
        }
    }

    pub(crate) fn paged(&self) -> &Paged {
        match &self.store {
            Store::Paged(p) => p,
            Store::Exact(_) => unreachable!("a model with bf16 products makes paged caches"),
        }
    }
}

/// The caches of one step of the tape and the rows that belong to each.
pub(crate) struct CachedKeys {
    /// (first row, rows, cache) of each sequence; the caches are taken for the step and given back after it.
    pub sequences: Vec<(usize, usize, Mutex<KvCache>)>,
}

/// Keys and values of all sequences behind one another, and which queries see which.
pub(crate) struct Seen {
    pub keys: Var,
    pub values: Var,
    pub segments: Arc<Vec<Segment>>,
}

impl CachedKeys {
    pub fn is_paged(&self) -> bool {
        self.sequences.iter().all(|(.., c)| matches!(c.lock().expect("no step panicked").store, Store::Paged(_)))
    }

    /// Appends the new rows of `layer` and gives past and new ones together. With latent attention keys are the latents
    /// and values the rotary keys.
    pub fn append(&self, pool: &Pool, layer: usize, k: &Var, v: &Var) -> Seen {
        let mut segments = Vec::with_capacity(self.sequences.len());
        let mut total = 0;
        for (first, rows, cache) in &self.sequences {
            let k_len = cache.lock().expect("no step panicked").len + rows;
            segments.push(Segment { q_start: *first, q_len: *rows, k_start: total, k_len });
            total += k_len;
        }
        let fresh = total == k.rows();
        let (keys, values) = if self.is_paged() {
            self.store(pool, layer, k, v);
            if fresh { (k.clone(), v.clone()) } else { self.gather(pool, layer, total, k, v) }
        } else {
            let (wide_k, wide_v) = (k.value.widened(pool), v.value.widened(pool));
            let (mut keys, mut values) = (Vec::new(), Vec::new());
            for (first, rows, cache) in &self.sequences {
                let mut cache = cache.lock().expect("no step panicked");
                let Store::Exact(layers) = &mut cache.store else { unreachable!("caches of one model are alike") };
                let l = &mut layers[layer];
                l.keys.extend_from_slice(&wide_k.data[first * k.cols()..(first + rows) * k.cols()]);
                l.values.extend_from_slice(&wide_v.data[first * v.cols()..(first + rows) * v.cols()]);
                keys.extend_from_slice(&l.keys);
                values.extend_from_slice(&l.values);
            }
            let var = |data: Vec<f32>, cols: usize| Var::constant(Tensor::new(total, cols, data));
            (var(keys, k.cols()), var(values, v.cols()))
        };
        Seen { keys, values, segments: Arc::new(segments) }
    }

    fn store(&self, pool: &Pool, layer: usize, k: &Var, v: &Var) {
        let (k, v) = (k.value.widened(pool), v.value.widened(pool));
        pool.run(self.sequences.len(), &|i| {
            let (first, rows, cache) = &self.sequences[i];
            let mut cache = cache.lock().expect("no step panicked");
            let len = cache.len;
            let paged = cache.paged_mut();
            if layer == 0 {
                paged.reserve(len, *rows);
            }
            let mut line = vec![0f32; if paged.shape.v == 0 { paged.shape.k } else { 0 }];
            for r in 0..*rows {
                let (k, v) = (k.row(first + r), v.row(first + r));
                if paged.shape.v == 0 {
                    // A latent and its rotary key are one row.
                    line[..k.len()].copy_from_slice(k);
                    line[k.len()..].copy_from_slice(v);
                    paged.store(layer, len + r, &line, &[]);
                } else {
                    paged.store(layer, len + r, k, v);
                }
            }
        });
    }

    /// Past rows out of the pages, new ones as they came.
    fn gather(&self, pool: &Pool, layer: usize, total: usize, k: &Var, v: &Var) -> (Var, Var) {
        let bf16 = |x: &Var| Activation::clone(&x.value).into_bf16(pool);
        let (new_k, new_v) = (bf16(k), bf16(v));
        let mut keys = Tensor::<u16>::unfilled(total, k.cols());
        let mut values = Tensor::<u16>::unfilled(total, v.cols());
        let mut at = 0;
        for (first, rows, cache) in &self.sequences {
            let cache = cache.lock().expect("no step panicked");
            let (past, paged) = (cache.len, cache.paged());
            if paged.shape.v == 0 {
                let width = paged.shape.k;
                let mut lines = vec![0u16; past * width];
                paged.load(layer, past, &mut lines, &mut []);
                for (r, line) in lines.chunks_exact(width).enumerate() {
                    keys.row_mut(at + r).copy_from_slice(&line[..k.cols()]);
                    values.row_mut(at + r).copy_from_slice(&line[k.cols()..]);
                }
            } else {
                let (from_k, from_v) = (at * k.cols(), at * v.cols());
                paged.load(
                    layer,
                    past,
                    &mut keys.data[from_k..from_k + past * k.cols()],
                    &mut values.data[from_v..from_v + past * v.cols()],
                );
            }
            for r in 0..*rows {
                keys.row_mut(at + past + r).copy_from_slice(new_k.row(first + r));
                values.row_mut(at + past + r).copy_from_slice(new_v.row(first + r));
            }
            at += past + rows;
        }
        (Var::constant(keys), Var::constant(values))
    }
}

impl Model {
    /// An empty cache, as exact as the model's products: f32, or pages of bf16.
    pub fn new_cache(&self) -> KvCache {
        match self.context.precision {
            Precision::F32 => KvCache { len: 0, store: Store::Exact(vec![ExactLayer::default(); self.layers.len()]) },
            Precision::Bf16 => self.new_paged_cache(CacheDtype::Bf16),
        }
    }

    /// An empty paged cache.
    ///
    /// # Panics
    /// When the model's products are f32: those caches are exact.
    pub fn new_paged_cache(&self, dtype: CacheDtype) -> KvCache {
        assert!(self.context.precision == Precision::Bf16, "paged caches go with bf16 products");
        let shape = page_shape(&self.config);
        let paged =
            Paged { shape, layers: self.layers.len(), dtype, pages: Vec::new(), prepared: Arc::new(OnceLock::new()) };
        KvCache { len: 0, store: Store::Paged(paged) }
    }
}
