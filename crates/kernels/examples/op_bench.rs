//! Speed of attention and of the row operations: GFLOP/s or GB/s, medians; `op_bench [threads] [seconds per case]`.
use loar_kernels::attention::{self, AttentionShape, Segment};
use loar_kernels::rng::Stream;
use loar_kernels::{Isa, Pool, elementwise};
use std::time::Instant;

fn random(n: usize, purpose: u32) -> Vec<f32> {
    let mut v = vec![0f32; n];
    Stream::new(1, purpose, 0).fill_uniform(0, -1.0, 1.0, &mut v);
    v
}

fn bf16(v: &[f32]) -> Vec<u16> {
    v.iter().map(|x| half::bf16::from_f32(*x).to_bits()).collect()
}

fn median(seconds: f64, mut f: impl FnMut()) -> f64 {
    f();
    let start = Instant::now();
    let mut all = vec![];
    while all.len() < 3 || start.elapsed().as_secs_f64() < seconds {
        let t = Instant::now();
        f();
        all.push(t.elapsed().as_secs_f64());
    }
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn main() {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<f64>().expect("a number"));
    let pool = Pool::new(args.next().unwrap_or(0.0) as usize);
    let seconds = args.next().unwrap_or(0.5);
    println!("{} threads, {}", pool.threads(), Isa::best());
    println!("attention, GFLOP/s of the pairs that are not masked (forward 4, backward 10 flop a pair and column)");
    for (heads, kv, dqk, dv, lens) in [
        (14, 2, 64, 64, vec![512; 4]),
        (12, 2, 128, 128, vec![2048]),
        (16, 16, 192, 128, vec![1024]),
        (4, 2, 16, 16, vec![40; 24]),
    ] {
        let s =
            AttentionShape { num_heads: heads, num_key_value_heads: kv, head_dim_qk: dqk, head_dim_v: dv, scale: 0.1 };
        let mut at = 0;
        let segments: Vec<Segment> = lens
            .iter()
            .map(|len| {
                at += len;
                Segment { q_start: at - len, q_len: *len, k_start: at - len, k_len: *len }
            })
            .collect();
        let (q, k, v) = (random(at * heads * dqk, 0), random(at * kv * dqk, 1), random(at * kv * dv, 2));
        let dout = random(at * heads * dv, 3);
        let (mut out, mut lse) = (vec![0f32; at * heads * dv], vec![0f32; at * heads]);
        let forward = median(seconds, || {
            attention::forward(&pool, &s, &segments, &q, &k, &v, &mut out, &mut lse);
        });
        let [q16, k16, v16, dout16] = [&q, &k, &v, &dout].map(|x| bf16(x));
        let mut out16 = vec![0u16; out.len()];
        let forward16 = median(seconds, || {
            attention::forward_bf16(&pool, &s, &segments, &q16, &k16, &v16, &mut out16, &mut lse);
        });
        let (mut dq, mut dk, mut dvs) = (vec![0f32; q.len()], vec![0f32; k.len()], vec![0f32; v.len()]);
        let backward = median(seconds, || {
            attention::backward(&pool, &s, &segments, &q, &k, &v, &out, &lse, &dout, &mut dq, &mut dk, &mut dvs);
        });
        let pairs: f64 = lens.iter().map(|l| (l * (l + 1) / 2) as f64).sum::<f64>() * heads as f64;
        let (f, b) = (pairs * 2.0 * (dqk + dv) as f64, pairs * 2.0 * (3 * dqk + 2 * dv) as f64);
        let [mut dq16, mut dk16, mut dv16] = [q.len(), k.len(), v.len()].map(|n| vec![0u16; n]);
        let backward16 = median(seconds, || {
            let (dq, dk, dv) = (&mut dq16, &mut dk16, &mut dv16);
            attention::backward_bf16(&pool, &s, &segments, &q16, &k16, &v16, &out16, &lse, &dout16, dq, dk, dv);
        });
        println!(
            "  bf16: forward {:.1} ({:.2} ms), backward {:.1} ({:.2} ms)",
            f / forward16 / 1e9,
            forward16 * 1e3,
            b / backward16 / 1e9,
            backward16 * 1e3
        );
        println!(
            "  {heads}/{kv} heads of {dqk}/{dv}, {} x {}: forward {:.1} ({:.2} ms), backward {:.1} ({:.2} ms)",
            lens.len(),
            lens[0],
            f / forward / 1e9,
            forward * 1e3,
            b / backward / 1e9,
            backward * 1e3
        );
        let one = [Segment { q_start: 0, q_len: 1, k_start: 0, k_len: lens[0] }];
        let row = heads * dqk;
        let decode = median(seconds / 4.0, || {
            let (o, l) = (&mut out[..heads * dv], &mut lse[..heads]);
            attention::forward(&pool, &s, &one, &q[..row], &k, &v, o, l);
        });
        println!("    decode at {}: {:.1} us", lens[0], decode * 1e6);
    }
    println!("rows of 2048 x 4864, GB/s read and written");
    let (t, width) = (2048, 4864);
    let n = t * width;
    let (x, u, w) = (random(n, 0), random(n, 1), random(width, 2));
    let (mut y, mut z, mut inv) = (vec![0f32; n], vec![0f32; n], vec![0f32; t]);
    let show = |name: &str, arrays: usize, time: f64| {
        println!("  {name:20} {:6.1} ({:.2} ms)", (arrays * n * 4) as f64 / time / 1e9, time * 1e3);
    };
    show("rmsnorm forward", 2, median(seconds, || elementwise::rmsnorm_forward(&pool, &x, &w, 1e-6, &mut y, &mut inv)));
    show(
        "rmsnorm backward",
        3,
        median(seconds, || elementwise::rmsnorm_backward(&pool, &x, &w, &inv, &u, &mut y, None)),
    );
    show("silu_mul forward", 3, median(seconds, || elementwise::silu_mul_forward(&pool, &x, &u, &mut y)));
    show("silu_mul backward", 5, median(seconds, || elementwise::silu_mul_backward(&pool, &x, &u, &x, &mut y, &mut z)));
    let targets = vec![3u32; t];
    let mut losses = vec![0f32; t];
    let scales = vec![1.0f32; t];
    show(
        "cross_entropy + grad",
        2,
        median(seconds, || {
            elementwise::cross_entropy_gradient(&pool, &mut y, width, &targets, &scales, &mut losses);
        }),
    );
    show("add", 3, median(seconds, || elementwise::add(&pool, &x, &mut y)));
    let options = elementwise::AdamW { lr: 1e-9, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, step: 10 };
    let (mut m, mut v) = (vec![0f32; n], vec![0f32; n]);
    show("adamw", 7, median(seconds, || elementwise::adamw(&pool, &options, &mut y, &x, &mut m, &mut v)));
    let stream = Stream::new(1, 1, 1);
    show("dropout", 2, median(seconds, || elementwise::dropout(&pool, &x, 0.1, stream, 0, &mut y)));
    let mut half = vec![0u16; n];
    show("f32 to bf16 (x 1.5)", 1, median(seconds, || elementwise::narrow_into(&pool, &x, &mut half)));
    let layout = elementwise::RopeLayout {
        row_stride: width,
        offset: 0,
        head_stride: 128,
        num_heads: 38,
        half: 64,
        interleaved: false,
    };
    let positions: Vec<u32> = (0..t as u32).collect();
    let (cos, sin) = (random(t * 64, 4), random(t * 64, 5));
    for interleaved in [false, true] {
        let layout = elementwise::RopeLayout { interleaved, ..layout };
        show(
            if interleaved { "rope interleaved" } else { "rope halves" },
            2,
            median(seconds, || elementwise::rope(&pool, &mut y, &layout, &positions, &cos, &sin, false)),
        );
    }
}
