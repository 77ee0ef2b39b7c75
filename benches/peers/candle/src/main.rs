//! candle on the products and the decoder that `loar bench` measures: `candle-peer gemm|prefill|decode`.
//!
//! A Qwen2-shaped decoder of random weights is written out with candle's own operations (its quantised products, its
//! softmax, rotation and norm); nothing is read from disk. Prints one JSON object.

use std::time::Instant;

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{DType, Device, IndexOp, Module, Result, Tensor};
use serde_json::json;

/// Layers, hidden, intermediate, heads, key-value heads, rope theta.
const SHAPES: [(&str, [usize; 5], f32); 2] =
    [("qwen2-0.5b", [24, 896, 4864, 14, 2], 1e6), ("r1-distill-qwen-1.5b", [28, 1536, 8960, 12, 2], 1e4)];
const VOCAB: usize = 151_936;

/// `--name value` of the command line, or what stands for it.
fn option(name: &str, default: &str) -> String {
    let args: Vec<String> = std::env::args().collect();
    let at = args.iter().position(|a| a == name);
    at.and_then(|at| args.get(at + 1)).cloned().unwrap_or_else(|| default.to_owned())
}

fn number(name: &str, default: usize) -> usize {
    option(name, &default.to_string()).parse().unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn random(rows: usize, columns: usize) -> Result<Tensor> {
    Tensor::randn(0f32, 0.02, (rows, columns), &Device::Cpu)
}

/// A frozen matrix in one of the forms that candle multiplies.
enum Linear {
    Dense(Tensor),
    Quantised(QMatMul),
}

impl Linear {
    fn new(out: usize, inner: usize, kind: &str) -> Result<Self> {
        let w = random(out, inner)?;
        let quantised = |kind| Ok(Self::Quantised(QMatMul::from_qtensor(QTensor::quantize(&w, kind)?)?));
        match kind {
            "f32" => Ok(Self::Dense(w.t()?)),
            "bf16" => Ok(Self::Dense(w.to_dtype(DType::BF16)?.t()?)),
            "q8_0" => quantised(GgmlDType::Q8_0),
            "q4_0" => quantised(GgmlDType::Q4_0),
            other => panic!("--type {other}: one of f32, bf16, q8_0, q4_0"),
        }
    }

    /// f32 in and out.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(w) => x.to_dtype(w.dtype())?.matmul(w)?.to_dtype(DType::F32),
            Self::Quantised(w) => w.forward(x),
        }
    }
}

struct Layer {
    qkv: [Linear; 3],
    out: Linear,
    gate: Linear,
    up: Linear,
    down: Linear,
    cache: Option<(Tensor, Tensor)>,
}

struct Model {
    heads: usize,
    kv_heads: usize,
    width: usize,
    ones: Tensor,
    embedding: Tensor,
    layers: Vec<Layer>,
    head: Linear,
    angles: Tensor,
}

impl Model {
    fn new(shape: &str, kind: &str, longest: usize) -> Result<Self> {
        let (_, [layers, hidden, inner, heads, kv_heads], theta) =
            *SHAPES.iter().find(|s| s.0 == shape).unwrap_or_else(|| panic!("--shape {shape} is none of {SHAPES:?}"));
        let width = hidden / heads;
        let layer = |_| {
            Ok(Layer {
                qkv: [
                    Linear::new(hidden, hidden, kind)?,
                    Linear::new(kv_heads * width, hidden, kind)?,
                    Linear::new(kv_heads * width, hidden, kind)?,
                ],
                out: Linear::new(hidden, hidden, kind)?,
                gate: Linear::new(inner, hidden, kind)?,
                up: Linear::new(inner, hidden, kind)?,
                down: Linear::new(hidden, inner, kind)?,
                cache: None,
            })
        };
        let frequencies: Vec<f32> = (0..width / 2).map(|i| theta.powf(-2.0 * i as f32 / width as f32)).collect();
        let frequencies = Tensor::from_vec(frequencies, (1, width / 2), &Device::Cpu)?;
        let positions = Tensor::arange(0f32, longest as f32, &Device::Cpu)?.reshape((longest, 1))?;
        Ok(Self {
            heads,
            kv_heads,
            width,
            ones: Tensor::ones(hidden, DType::F32, &Device::Cpu)?,
            embedding: random(VOCAB, hidden)?,
            layers: (0..layers).map(layer).collect::<Result<_>>()?,
            head: Linear::new(VOCAB, hidden, kind)?,
            angles: positions.matmul(&frequencies)?,
        })
    }

    fn forget(&mut self) {
        self.layers.iter_mut().for_each(|l| l.cache = None);
    }

    /// Logits after the last of `ids`, which stand behind `past` tokens.
    fn step(&mut self, ids: &[u32], past: usize) -> Result<Tensor> {
        let tokens = ids.len();
        let mut x = self.embedding.embedding(&Tensor::new(ids, &Device::Cpu)?)?;
        let angles = self.angles.narrow(0, past, tokens)?;
        let (cos, sin) = (angles.cos()?, angles.sin()?);
        let scale = 1.0 / (self.width as f64).sqrt();
        let mask = match tokens {
            1 => None,
            n => {
                let causal = (0..n).flat_map(|i| (0..n).map(move |j| if j > i { f32::NEG_INFINITY } else { 0.0 }));
                Some(Tensor::from_vec(causal.collect::<Vec<f32>>(), (n, n), &Device::Cpu)?)
            }
        };
        for layer in &mut self.layers {
            let h = candle_nn::ops::rms_norm(&x, &self.ones, 1e-6)?;
            let split = |y: Tensor, heads| y.reshape((1, tokens, heads, self.width))?.transpose(1, 2)?.contiguous();
            let q = split(layer.qkv[0].forward(&h)?, self.heads)?;
            let k = split(layer.qkv[1].forward(&h)?, self.kv_heads)?;
            let v = split(layer.qkv[2].forward(&h)?, self.kv_heads)?;
            let (q, k) = (candle_nn::rotary_emb::rope(&q, &cos, &sin)?, candle_nn::rotary_emb::rope(&k, &cos, &sin)?);
            let (k, v) = match &layer.cache {
                Some((a, b)) => (Tensor::cat(&[a, &k], 2)?, Tensor::cat(&[b, &v], 2)?),
                None => (k, v),
            };
            layer.cache = Some((k.clone(), v.clone()));
            let group = self.heads / self.kv_heads;
            let seen = k.dim(2)?;
            let spread = |y: &Tensor| {
                let wide = (1, self.kv_heads, group, seen, self.width);
                y.unsqueeze(2)?.expand(wide)?.reshape((1, self.heads, seen, self.width))
            };
            let scores = (q.matmul(&spread(&k)?.t()?)? * scale)?;
            let scores = match &mask {
                Some(mask) => scores.broadcast_add(mask)?,
                None => scores,
            };
            let mixed = candle_nn::ops::softmax_last_dim(&scores)?.matmul(&spread(&v)?)?;
            let mixed = mixed.transpose(1, 2)?.reshape((tokens, self.heads * self.width))?;
            x = (x + layer.out.forward(&mixed)?)?;
            let h = candle_nn::ops::rms_norm(&x, &self.ones, 1e-6)?;
            let inner = (layer.gate.forward(&h)?.silu()? * layer.up.forward(&h)?)?;
            x = (x + layer.down.forward(&inner)?)?;
        }
        let last = candle_nn::ops::rms_norm(&x.i(tokens - 1..)?, &self.ones, 1e-6)?;
        self.head.forward(&last)
    }
}

/// Products of `loar bench gemm`.
fn gemm(kind: &str, shape: &str) -> Result<serde_json::Value> {
    let dtype = if kind == "f32" { DType::F32 } else { DType::BF16 };
    let [_, hidden, inner, ..] = SHAPES.iter().find(|s| s.0 == shape).expect("a known shape").1;
    let m = number("--tokens", 2048);
    let (mut cases, mut flop, mut total) = (Vec::new(), 0.0, 0.0);
    for (k, n) in [(hidden, hidden), (hidden, inner), (inner, hidden)] {
        let (x, w, dy) =
            (random(m, k)?.to_dtype(dtype)?, random(n, k)?.to_dtype(dtype)?, random(m, n)?.to_dtype(dtype)?);
        for (product, a, b, inner, outer) in [("forward", &x, w.t()?, k, n), ("backward", &dy, w.clone(), n, k)] {
            a.matmul(&b)?;
            let mut seconds = Vec::new();
            for _ in 0..5 {
                let start = Instant::now();
                a.matmul(&b)?;
                seconds.push(start.elapsed().as_secs_f64());
            }
            let (taken, work) = (median(seconds), 2.0 * (m * k * n) as f64);
            (flop, total) = (flop + work, total + taken);
            cases.push(json!({"m": m, "k": inner, "n": outer, "product": product, "gflops": work / taken / 1e9}));
        }
    }
    Ok(json!({"peer": "candle", "bench": "gemm", "gflops": flop / total / 1e9, "cases": cases,
        "options": {"shape": shape, "dtype": kind, "tokens": m}}))
}

/// A prompt, and for `decode` tokens after it.
fn generate(bench: &str, kind: &str, shape: &str) -> Result<serde_json::Value> {
    let (prompt, new, steps) = (number("--prompt", 512), number("--new", 64), number("--steps", 3));
    let mut model = Model::new(shape, kind, prompt + new)?;
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    for i in 0..=steps {
        model.forget();
        let ids: Vec<u32> = (0..prompt).map(|t| ((t * 7919 + i * 104_729) % VOCAB) as u32).collect();
        let start = Instant::now();
        model.step(&ids, 0)?.to_vec2::<f32>()?;
        let first = start.elapsed().as_secs_f64();
        let start = Instant::now();
        if bench == "decode" {
            for t in 0..new - 1 {
                model.step(&[((t * 15_485_863) % VOCAB) as u32], prompt + t)?.to_vec2::<f32>()?;
            }
        }
        if i > 0 {
            prefill.push(prompt as f64 / first);
            decode.push((new - 1) as f64 / start.elapsed().as_secs_f64());
        }
    }
    let pace = median(if bench == "decode" { decode } else { prefill });
    Ok(json!({"peer": "candle", "bench": bench, "tokens_per_s": pace,
        "options": {"shape": shape, "type": kind, "prompt": prompt, "new": new, "steps": steps}}))
}

fn main() -> Result<()> {
    let bench = std::env::args().nth(1).unwrap_or_default();
    let (kind, shape) = (option("--type", "bf16"), option("--shape", "r1-distill-qwen-1.5b"));
    let found = match bench.as_str() {
        "gemm" => gemm(&kind, &shape)?,
        "prefill" | "decode" => generate(&bench, &kind, &shape)?,
        _ => panic!("candle-peer gemm|prefill|decode [--type f32|bf16|q8_0|q4_0] [--shape S]"),
    };
    println!("{found}");
    Ok(())
}

