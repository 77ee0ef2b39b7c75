//! Paged attention against the dense reference over the same keys, in any page order, on any number of threads.
use super::*;
use crate::rng::Stream;

fn normal(n: usize, purpose: u32) -> Vec<f32> {
    let mut v = vec![0f32; n];
    Stream::new(31, purpose, 0).fill_normal(0, 1.0, &mut v);
    v
}

/// Pages of one sequence.
struct Pages {
    words: Vec<Vec<u16>>,
    codes: Vec<(Vec<i8>, Vec<f32>)>,
}

impl Pages {
    fn new(shape: &PageShape, int8: bool, len: usize, purpose: u32) -> Pages {
        let mut pages = Pages { words: vec![], codes: vec![] };
        let (kw, vw) = (shape.kv_heads * shape.k, shape.kv_heads * shape.v);
        let (k, v) = (normal(len * kw, purpose), normal(len * vw, purpose + 1));
        for i in 0..len {
            if i % PAGE == 0 {
                pages.words.push(vec![0; shape.elements()]);
                pages.codes.push((vec![0; shape.elements()], vec![0.0; shape.scales()]));
            }
            let (q, scales) = pages.codes.last_mut().expect("a page was pushed");
            let mut cells = if int8 {
                CellsMut::Int8 { q, scales }
            } else {
                CellsMut::Bf16(pages.words.last_mut().expect("a page was pushed"))
            };
            cells.store(shape, i % PAGE, &k[i * kw..(i + 1) * kw], &v[i * vw..(i + 1) * vw]);
        }
        pages
    }

    fn cells(&self, int8: bool) -> Vec<Cells<'_>> {
        if int8 {
            self.codes.iter().map(|(q, scales)| Cells::Int8 { q, scales }).collect()
        } else {
            self.words.iter().map(|w| Cells::Bf16(w)).collect()
        }
    }
}

/// Grouped heads, ragged widths, latent attention.
fn cases() -> [(PageShape, Heads); 4] {
    [
        (PageShape { kv_heads: 2, k: 128, v: 128 }, Heads { num_heads: 12, dv: 128, scale: 0.09 }),
        (PageShape { kv_heads: 3, k: 12, v: 20 }, Heads { num_heads: 3, dv: 20, scale: 0.3 }),
        (PageShape { kv_heads: 1, k: 22, v: 0 }, Heads { num_heads: 5, dv: 16, scale: 0.2 }),
        (PageShape { kv_heads: 1, k: 576, v: 0 }, Heads { num_heads: 6, dv: 512, scale: 0.04 }),
    ]
}

const LENGTHS: [usize; 6] = [1, 16, 63, 64, 130, 600];

#[test]
fn paged_attention_is_the_softmax_of_what_is_stored() {
    let pool = Pool::new(2);
    for isa in Isa::available() {
        for (shape, heads) in cases() {
            for int8 in [false, true] {
                let stored: Vec<Pages> = LENGTHS.iter().map(|l| Pages::new(&shape, int8, *l, *l as u32)).collect();
                let cells: Vec<Vec<Cells>> = stored.iter().map(|p| p.cells(int8)).collect();
                let queries: Vec<Query> = cells.iter().zip(LENGTHS).map(|(pages, len)| Query { pages, len }).collect();
                let q = normal(queries.len() * heads.num_heads * shape.k, 99);
                let mut out = vec![f32::NAN; queries.len() * heads.num_heads * heads.dv];
                attend_on(isa, &pool, &shape, &heads, &queries, &q, &mut out);
                let want = reference(&shape, &heads, &queries, &q);
                for (i, (got, want)) in out.iter().zip(&want).enumerate() {
                    assert!((f64::from(*got) - want).abs() < 3e-6, "{isa} {shape:?} int8 {int8} {i}: {got} for {want}");
                }
            }
        }
    }
}

#[test]
fn a_query_does_not_know_its_batch_or_the_threads() {
    for isa in Isa::available() {
        for (shape, heads) in cases() {
            let stored: Vec<Pages> = LENGTHS.iter().map(|l| Pages::new(&shape, false, *l, *l as u32)).collect();
            let cells: Vec<Vec<Cells>> = stored.iter().map(|p| p.cells(false)).collect();
            let queries: Vec<Query> = cells.iter().zip(LENGTHS).map(|(pages, len)| Query { pages, len }).collect();
            let (qw, ow) = (heads.num_heads * shape.k, heads.num_heads * heads.dv);
            let q = normal(queries.len() * qw, 99);
            let run = |from: usize, to: usize, threads: usize| {
                let mut out = vec![0f32; (to - from) * ow];
                let q = &q[from * qw..to * qw];
                attend_on(isa, &Pool::new(threads), &shape, &heads, &queries[from..to], q, &mut out);
                out
            };
            let all = run(0, queries.len(), 2);
            assert!(all == run(0, queries.len(), 1), "{isa} {shape:?}: threads");
            for i in 0..queries.len() {
                assert!(run(i, i + 1, 3) == all[i * ow..(i + 1) * ow], "{isa} {shape:?}: query {i}");
            }
        }
    }
}

#[test]
fn what_was_stored_is_loaded_and_a_nan_is_not_lost() {
    let shape = PageShape { kv_heads: 2, k: 5, v: 3 };
    let (k, v) = (normal(10, 1), normal(6, 2));
    let (mut words, mut codes, mut scales) =
        (vec![0; shape.elements()], vec![0; shape.elements()], vec![0f32; shape.scales()]);
    CellsMut::Bf16(&mut words).store(&shape, 7, &k, &v);
    CellsMut::Int8 { q: &mut codes, scales: &mut scales }.store(&shape, 7, &k, &v);
    let (mut key, mut value) = ([0; 5], [0; 3]);
    for head in 0..2 {
        Cells::Bf16(&words).load(&shape, 7, head, &mut key, &mut value);
        assert!(key.iter().zip(&k[head * 5..]).all(|(a, b)| *a == narrow(*b)));
        assert!(value.iter().zip(&v[head * 3..]).all(|(a, b)| *a == narrow(*b)));
        Cells::Int8 { q: &codes, scales: &scales }.load(&shape, 7, head, &mut key, &mut value);
        let largest = k[head * 5..head * 5 + 5].iter().fold(0f32, |m, x| m.max(x.abs()));
        // Half a step of the code and half a step of bf16.
        let bound = largest * (0.5 / 127.0 + 1.0 / 256.0);
        assert!(key.iter().zip(&k[head * 5..]).all(|(a, b)| (widen(*a) - b).abs() <= bound));
    }
    let broken = [f32::NAN; 10];
    CellsMut::Int8 { q: &mut codes, scales: &mut scales }.store(&shape, 7, &broken, &v);
    Cells::Int8 { q: &codes, scales: &scales }.load(&shape, 7, 1, &mut key, &mut value);
    assert!(key.iter().all(|x| widen(*x).is_nan()));
}
