use loar_kernels::Pool;
use loar_kernels::attention::{self, AttentionShape, Segment};
use loar_kernels::rng::Stream;
fn cpu() -> f64 {
    let one = |dir: std::path::PathBuf| -> Option<f64> {
        std::fs::read_to_string(dir.join("schedstat")).ok()?.split(' ').next()?.parse().ok()
    };
    std::fs::read_dir("/proc/self/task").unwrap().flatten().filter_map(|t| one(t.path())).sum::<f64>() * 1e-9
}
fn main() {
    let a: Vec<usize> = std::env::args().skip(1).map(|a| a.parse().unwrap()).collect();
    let [heads, kv, dqk, dv, docs, len, n, which, threads] = a[..] else { panic!() };
    let pool = Pool::new(threads);
    let s = AttentionShape { num_heads: heads, num_key_value_heads: kv, head_dim_qk: dqk, head_dim_v: dv, scale: 0.1 };
    let segments: Vec<Segment> =
        (0..docs).map(|i| Segment { q_start: i * len, q_len: len, k_start: i * len, k_len: len }).collect();
    let t = docs * len;
    let r = |n: usize, p: u32| {
        let mut v = vec![0f32; n];
        Stream::new(1, p, 0).fill_uniform(0, -1.0, 1.0, &mut v);
        v.iter().map(|x| half::bf16::from_f32(*x).to_bits()).collect::<Vec<u16>>()
    };
    let (q, k, v, dout) = (r(t * heads * dqk, 0), r(t * kv * dqk, 1), r(t * kv * dv, 2), r(t * heads * dv, 3));
    let (mut out, mut lse) = (vec![0u16; t * heads * dv], vec![0f32; t * heads]);
    let [mut dq, mut dk, mut dvs] = [q.len(), k.len(), v.len()].map(|n| vec![0u16; n]);
    attention::forward_bf16(&pool, &s, &segments, &q, &k, &v, &mut out, &mut lse);
    let mut best = [f64::INFINITY; 2];
    for _ in 0..n {
        let (c, w) = (cpu(), std::time::Instant::now());
        if which == 0 {
            attention::forward_bf16(&pool, &s, &segments, &q, &k, &v, &mut out, &mut lse)
        } else {
            attention::backward_bf16(&pool, &s, &segments, &q, &k, &v, &out, &lse, &dout, &mut dq, &mut dk, &mut dvs)
        }
        best = [best[0].min(cpu() - c), best[1].min(w.elapsed().as_secs_f64())];
    }
    let pairs = (docs * len * (len + 1) / 2 * heads) as f64;
    let flop = pairs * 2.0 * if which == 0 { dqk + dv } else { 3 * dqk + 2 * dv } as f64;
    println!(
        "{heads}/{kv} {dqk}/{dv} {docs}x{len} {}: best {:.3} ms wall {:.0} GF/s; per core-second {:.0} GF/s, {:.3} ns a pair a core",
        ["fwd", "bwd"][which],
        best[1] * 1e3,
        flop / best[1] / 1e9,
        flop / best[0] / 1e9,
        best[0] / pairs * 1e9
    );
}
