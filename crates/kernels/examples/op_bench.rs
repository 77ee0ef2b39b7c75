//! Speed of attention and of the row operations: GFLOP/s or GB/s, medians and best of several runs.
//! `op_bench [threads] [seconds per case] [attention|linear|rows]`; `benches/peers/attention.py` runs PyTorch on the
//! same attention shapes.
use loar_kernels::attention::{self, AttentionShape, Segment};
use loar_kernels::rng::Stream;
use loar_kernels::{Isa, Pool, elementwise as ew};
use std::time::Instant;

fn random(n: usize, purpose: u32) -> Vec<f32> {
    let mut v = vec![0f32; n];
    Stream::new(1, purpose, 0).fill_uniform(0, -1.0, 1.0, &mut v);
    v
}

fn bf16(v: &[f32]) -> Vec<u16> {
    v.iter().map(|x| half::bf16::from_f32(*x).to_bits()).collect()
}

/// Seconds of a call: median, best, and core-seconds all threads together (on a busy machine those say more).
#[derive(Clone, Copy)]
struct Time {
    median: f64,
    best: f64,
    cores: f64,
}

/// Seconds on a core, all threads of this process together; NaN where the system does not say.
fn core_seconds() -> f64 {
    let one = |dir: std::path::PathBuf| -> Option<f64> {
        std::fs::read_to_string(dir.join("schedstat")).ok()?.split(' ').next()?.parse().ok()
    };
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return f64::NAN };
    tasks.flatten().filter_map(|t| one(t.path())).sum::<f64>() * 1e-9
}

fn time(seconds: f64, mut f: impl FnMut()) -> Time {
    f();
    let (start, cores) = (Instant::now(), core_seconds());
    let mut all = vec![];
    while all.len() < 3 || start.elapsed().as_secs_f64() < seconds {
        let t = Instant::now();
        f();
        all.push(t.elapsed().as_secs_f64());
    }
    let cores = (core_seconds() - cores) / all.len() as f64;
    all.sort_by(f64::total_cmp);
    Time { median: all[all.len() / 2], best: all[0], cores }
}

/// Documents of `len` tokens, `count` of them.
fn documents(len: usize, count: usize) -> Vec<Segment> {
    (0..count).map(|i| Segment { q_start: i * len, q_len: len, k_start: i * len, k_len: len }).collect()
}

struct Arrays {
    s: AttentionShape,
    segments: Vec<Segment>,
    tokens: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    dout: Vec<f32>,
}

impl Arrays {
    fn new((heads, kv, dqk, dv): (usize, usize, usize, usize), len: usize, count: usize) -> Arrays {
        let t = len * count;
        Arrays {
            s: AttentionShape {
                num_heads: heads,
                num_key_value_heads: kv,
                head_dim_qk: dqk,
                head_dim_v: dv,
                scale: 1.0 / (dqk as f32).sqrt(),
            },
            segments: documents(len, count),
            tokens: t,
            q: random(t * heads * dqk, 0),
            k: random(t * kv * dqk, 1),
            v: random(t * kv * dv, 2),
            dout: random(t * heads * dv, 3),
        }
    }

    /// Floating-point operations of the pairs that are not masked: 4 a pair and column forward, 10 backward.
    fn flop(&self) -> (f64, f64) {
        let pairs: usize = self.segments.iter().map(|g| g.q_len * (g.q_len + 1) / 2).sum();
        let (pairs, s) = ((pairs * self.s.num_heads) as f64, &self.s);
        let (dqk, dv) = (s.head_dim_qk as f64, s.head_dim_v as f64);
        (pairs * 2.0 * (dqk + dv), pairs * 2.0 * (3.0 * dqk + 2.0 * dv))
    }

    /// Forward and backward over bf16.
    fn half(&self, pool: &Pool, seconds: f64) -> (Time, Time) {
        let Arrays { s, segments, .. } = self;
        let [q, k, v, dout] = [&self.q, &self.k, &self.v, &self.dout].map(|x| bf16(x));
        let mut lse = vec![0f32; self.tokens * s.num_heads];
        let mut out = vec![0u16; dout.len()];
        let forward = time(seconds, || attention::forward_bf16(pool, s, segments, &q, &k, &v, &mut out, &mut lse));
        let [mut dq, mut dk, mut dv] = [&q, &k, &v].map(|x| vec![0u16; x.len()]);
        let backward = time(seconds, || {
            attention::backward_bf16(pool, s, segments, &q, &k, &v, &out, &lse, &dout, &mut dq, &mut dk, &mut dv);
        });
        (forward, backward)
    }

    /// Forward and backward over f32.
    fn single(&self, pool: &Pool, seconds: f64) -> (Time, Time) {
        let Arrays { s, segments, q, k, v, dout, .. } = self;
        let mut lse = vec![0f32; self.tokens * s.num_heads];
        let mut out = vec![0f32; dout.len()];
        let forward = time(seconds, || attention::forward(pool, s, segments, q, k, v, &mut out, &mut lse));
        let [mut dq, mut dk, mut dv] = [q, k, v].map(|x| vec![0f32; x.len()]);
        let backward = time(seconds, || {
            attention::backward(pool, s, segments, q, k, v, &out, &lse, dout, &mut dq, &mut dk, &mut dv);
        });
        (forward, backward)
    }
}

fn attention_shapes(pool: &Pool, seconds: f64) {
    println!("attention: GFLOP/s of the pairs that are not masked, median (best) and milliseconds");
    let shapes = [(14, 2, 64, 64), (12, 2, 128, 128), (16, 16, 192, 128)];
    for shape in shapes {
        for (len, count) in [(512, 4), (2048, 1)] {
            let a = Arrays::new(shape, len, count);
            let (f, b) = a.flop();
            let show = |name: &str, (forward, backward): (Time, Time)| {
                let part = |flop: f64, t: Time| {
                    let rate = flop / 1e9;
                    format!("{:6.0} ({:6.0}) {:8.2} ms", rate / t.median, rate / t.best, t.median * 1e3)
                };
                let (heads, kv, dqk, dv) = shape;
                let what = format!("{heads}/{kv} heads of {dqk}/{dv}, {count} x {len}, {name}");
                println!("  {what:40} forward {} | backward {}", part(f, forward), part(b, backward));
            };
            show("bf16", a.half(pool, seconds));
            show("f32", a.single(pool, seconds));
        }
    }
}

fn linear(pool: &Pool, seconds: f64) {
    println!(
        "bf16 attention, 14/2 heads of 64, documents of 512: nanoseconds a token, median (best), core-nanoseconds"
    );
    for tokens in [512, 1024, 2048, 4096, 8192, 16384, 32768] {
        let a = Arrays::new((14, 2, 64, 64), 512, tokens / 512);
        let (forward, backward) = a.half(pool, seconds);
        let each = |s: f64| s / tokens as f64 * 1e9;
        let part = |t: Time| format!("{:6.0} ({:6.0}) {:6.0}", each(t.median), each(t.best), each(t.cores));
        println!("  {tokens:6} tokens: forward {}, backward {}", part(forward), part(backward));
    }
}

fn rows(pool: &Pool, seconds: f64) {
    println!("rows of 2048 x 4864: GB/s read and written, median (best)");
    let (t, width) = (2048, 4864);
    let n = t * width;
    let (x, u, w) = (random(n, 0), random(n, 1), random(width, 2));
    let (mut y, mut z, mut inv) = (vec![0f32; n], vec![0f32; n], vec![0f32; t]);
    // Bytes an element.
    let show = |name: &str, bytes: usize, time: Time| {
        let rate = |s: f64| (bytes * n) as f64 / s / 1e9;
        println!("  {name:24} {:6.1} ({:5.1}) {:7.2} ms", rate(time.median), rate(time.best), time.median * 1e3);
    };
    show(
        "copy f32",
        8,
        time(seconds, || pool.pieces_mut(&mut y, 16384, &|i, p| p.copy_from_slice(&x[i * 16384..][..p.len()]))),
    );
    show("rmsnorm", 8, time(seconds, || ew::rmsnorm_forward(pool, &x, &w, 1e-6, &mut y, &mut inv)));
    show("rmsnorm backward", 12, time(seconds, || ew::rmsnorm_backward(pool, &x, &w, &inv, &u, &mut y, None)));
    show(
        "rmsnorm backward added",
        16,
        time(seconds, || ew::rmsnorm_backward_add(pool, &x, &w, &inv, &u, &mut y, None)),
    );
    show("silu_mul", 12, time(seconds, || ew::silu_mul_forward(pool, &x, &u, &mut y)));
    show("silu_mul backward", 20, time(seconds, || ew::silu_mul_backward(pool, &x, &u, &x, &mut y, &mut z)));
    let targets = vec![3u32; t];
    let (mut losses, scales) = (vec![0f32; t], vec![1.0f32; t]);
    show(
        "cross_entropy + gradient",
        8,
        time(seconds, || ew::cross_entropy_gradient(pool, &mut y, width, &targets, &scales, &mut losses)),
    );
    show("add", 12, time(seconds, || ew::add(pool, &x, &mut y)));
    show("add_rows", 8, time(seconds, || ew::add_rows(pool, &w, &mut y)));
    let mut sums = vec![0f32; width];
    show("sum_rows", 4, time(seconds, || ew::sum_rows(pool, &x, &mut sums)));
    let options = ew::AdamW { lr: 1e-9, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, step: 10 };
    let (mut m, mut v) = (vec![0f32; n], vec![0f32; n]);
    show("adamw", 28, time(seconds, || ew::adamw(pool, &options, &mut y, &x, &mut m, &mut v)));
    drop((m, v));
    let stream = Stream::new(1, 1, 1);
    show("dropout", 8, time(seconds, || ew::dropout(pool, &x, 0.1, stream, 0, &mut y)));
    let layout =
        ew::RopeLayout { row_stride: width, offset: 0, head_stride: 128, num_heads: 38, half: 64, interleaved: false };
    let positions: Vec<u32> = (0..t as u32).collect();
    let (cos, sin) = (random(t * 64, 4), random(t * 64, 5));
    let [mut a, mut b, x16, u16s] = [bf16(&x), bf16(&u), bf16(&x), bf16(&u)];
    for interleaved in [false, true] {
        let layout = ew::RopeLayout { interleaved, ..layout };
        let name = |form: &str| format!("rope {form}{}", if interleaved { " interleaved" } else { "" });
        let f = time(seconds, || ew::rope(pool, &mut y, &layout, &positions, &cos, &sin, false));
        show(&name("f32"), 8, f);
        let f = time(seconds, || ew::rope_bf16(pool, &mut a, &layout, &positions, &cos, &sin, false));
        show(&name("bf16"), 4, f);
        let f = time(seconds, || ew::rope_narrow(pool, &x, &layout, &positions, &cos, &sin, false, &mut a));
        show(&name("to bf16"), 6, f);
    }
    show("narrow_into", 6, time(seconds, || ew::narrow_into(pool, &x, &mut a)));
    show("widen_into", 6, time(seconds, || ew::widen_into(pool, &x16, &mut y)));
    show("add_bf16", 10, time(seconds, || ew::add_bf16(pool, &x16, &mut y)));
    show("rmsnorm bf16", 6, time(seconds, || ew::rmsnorm_forward_bf16(pool, &x, &w, 1e-6, &mut a, &mut inv)));
    show("silu_mul bf16", 6, time(seconds, || ew::silu_mul_forward_bf16(pool, &x16, &u16s, &mut a)));
    show(
        "silu_mul backward bf16",
        10,
        time(seconds, || ew::silu_mul_backward_bf16(pool, &x16, &u16s, &x16, &mut a, &mut b)),
    );
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize| args.get(i).map(|a| a.parse::<f64>().expect("a number"));
    let pool = Pool::new(number(0).unwrap_or(0.0) as usize);
    let seconds = number(1).unwrap_or(0.5);
    let wanted = |name: &str| args.get(2).is_none_or(|w| w == name);
    println!("{} threads, {}", pool.threads(), Isa::best());
    if wanted("attention") {
        attention_shapes(&pool, seconds);
    }
    if wanted("linear") {
        linear(&pool, seconds);
    }
    if wanted("rows") {
        rows(&pool, seconds);
    }
}
