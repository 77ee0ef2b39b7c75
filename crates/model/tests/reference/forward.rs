//! The forward pass of all architectures as plain f64 loops, one document after the other, no batching, no fusing. Takes
//! a checkpoint folder through `loar_formats`; shares no code with the decoder. Latent attention is computed absorbed
//! (scores and sums in the latent space), the decoder expands keys and values: two ways to one result.
use crate::mutation::Mutation;
use loar_formats::config::{ModelConfig, RopeScaling, Scoring, TopkMethod};
use loar_formats::safetensors::Checkpoint;
use std::collections::BTreeMap;
use std::f64::consts::PI;
use std::path::Path;

pub struct Reference {
    pub config: ModelConfig,
    pub weights: BTreeMap<String, Vec<f64>>,
}

type Rows = Vec<Vec<f64>>;

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn softmax(z: &[f64]) -> Vec<f64> {
    let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = z.iter().map(|x| (x - max).exp()).sum();
    z.iter().map(|x| (x - max).exp() / total).collect()
}

/// Indices of the `k` largest, by repeated search.
fn best(c: &[f64], k: usize) -> Vec<usize> {
    let mut taken: Vec<usize> = Vec::new();
    for _ in 0..k {
        let left = (0..c.len()).filter(|i| !taken.contains(i));
        taken.extend(left.reduce(|a, b| if c[b] > c[a] { b } else { a }));
    }
    taken
}

/// One forward pass: the reference with one mistake, or none.
struct Run<'r> {
    c: &'r ModelConfig,
    w: &'r BTreeMap<String, Vec<f64>>,
    m: Mutation,
    /// Document and position of every row.
    rows: Vec<(usize, usize)>,
}

impl Reference {
    pub fn open(dir: &Path) -> Reference {
        let (config, _) = ModelConfig::read(dir).expect("a readable config");
        let (file, _) = Checkpoint::open_dir(dir).expect("a readable checkpoint");
        let names: Vec<String> = file.names().map(str::to_owned).collect();
        let weights = names
            .into_iter()
            .map(|n| (n.clone(), file.to_f32(&n).expect("a float tensor").into_iter().map(f64::from).collect()))
            .collect();
        Reference { config, weights }
    }

    /// Logits of every token of every document, rounded once.
    pub fn logits(&self, docs: &[Vec<u32>], mutation: Mutation) -> Vec<f32> {
        let rows = docs.iter().enumerate().flat_map(|(d, ids)| (0..ids.len()).map(move |p| (d, p))).collect();
        let ids: Vec<u32> = docs.concat();
        let run = Run { c: &self.config, w: &self.weights, m: mutation, rows };
        run.forward(&ids).concat().into_iter().map(|x| x as f32).collect()
    }
}

impl Run<'_> {
    fn get(&self, name: &str) -> &[f64] {
        self.w.get(name).unwrap_or_else(|| panic!("the checkpoint has no `{name}`"))
    }

    fn linear(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let w = self.get(&format!("{name}.weight"));
        let mut y: Vec<f64> = w.chunks_exact(x.len()).map(|row| dot(row, x)).collect();
        if let Some(b) = self.w.get(&format!("{name}.bias")).filter(|_| self.m != Mutation::BiasesDropped) {
            y.iter_mut().zip(b).for_each(|(y, b)| *y += b);
        }
        y
    }

    fn norm(&self, name: &str, x: &[f64], eps: f64) -> Vec<f64> {
        let mean = dot(x, x) / x.len() as f64;
        let shift = if self.m == Mutation::NormWeightPlusOne { 1.0 } else { 0.0 };
        x.iter().zip(self.get(&format!("{name}.weight"))).map(|(x, w)| x / (mean + eps).sqrt() * (w + shift)).collect()
    }

    fn forward(&self, ids: &[u32]) -> Rows {
        let (d, eps) = (self.c.hidden_size, self.c.rms_norm_eps);
        let table = self.get("model.embed_tokens.weight");
        let mut x: Rows = ids.iter().map(|i| table[*i as usize * d..(*i as usize + 1) * d].to_vec()).collect();
        for layer in 0..self.c.num_hidden_layers {
            let p = format!("model.layers.{layer}");
            let normed: Rows = x.iter().map(|x| self.norm(&format!("{p}.input_layernorm"), x, eps)).collect();
            let attended = if self.c.mla.is_some() {
                self.latent_attention(&format!("{p}.self_attn"), &normed)
            } else {
                self.grouped_attention(&format!("{p}.self_attn"), &normed)
            };
            for (x, a) in x.iter_mut().zip(&attended) {
                x.iter_mut().zip(a).for_each(|(x, a)| *x += a);
                let n = self.norm(&format!("{p}.post_attention_layernorm"), x, eps);
                let y = self.mlp_of_layer(layer, &n);
                x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
            }
        }
        let head = if self.c.tie_word_embeddings { "model.embed_tokens" } else { "lm_head" };
        x.iter()
            .map(|x| if self.m == Mutation::FinalNormDropped { x.clone() } else { self.norm("model.norm", x, eps) })
            .map(|x| self.get(&format!("{head}.weight")).chunks_exact(d).map(|row| dot(row, &x)).collect())
            .collect()
    }

    /// Rows that row `t` sees.
    fn visible(&self, t: usize) -> Vec<usize> {
        let (doc, pos) = self.rows[t];
        (0..self.rows.len())
            .filter(|u| {
                let same = self.rows[*u].0 == doc;
                match self.m {
                    Mutation::AcrossDocuments => *u <= t,
                    Mutation::NotCausal => same,
                    _ => same && self.rows[*u].1 <= pos,
                }
            })
            .collect()
    }

    fn inv_freq(&self) -> Vec<f64> {
        let rope = &self.c.rope;
        let dim = self.c.mla.as_ref().map_or(self.c.head_dim, |m| m.qk_rope_head_dim);
        (0..dim / 2)
            .map(|i| {
                let f = 1.0 / rope.theta.powf(2.0 * i as f64 / dim as f64);
                if self.m == Mutation::RopeScalingDropped {
                    return f;
                }
                match rope.scaling {
                    RopeScaling::Default => f,
                    RopeScaling::Linear { factor } => f / factor,
                    RopeScaling::Llama3 {
                        factor,
                        low_freq_factor: low,
                        high_freq_factor: high,
                        original_max_position_embeddings,
                    } => {
                        let turns = original_max_position_embeddings as f64 * f / (2.0 * PI);
                        let blend = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                        let blend = if self.m == Mutation::Llama3BlendDropped { blend.floor() } else { blend };
                        f * blend + f / factor * (1.0 - blend)
                    }
                    RopeScaling::Yarn {
                        factor,
                        original_max_position_embeddings,
                        beta_fast,
                        beta_slow,
                        truncate,
                        ..
                    } => {
                        assert!(truncate, "no fixture leaves the bounds unrounded");
                        let bound = |turns: f64| {
                            dim as f64 * (original_max_position_embeddings as f64 / (turns * 2.0 * PI)).ln()
                                / (2.0 * rope.theta.ln())
                        };
                        let low = bound(beta_fast).floor().max(0.0);
                        let high = bound(beta_slow).ceil().min(dim as f64 - 1.0);
                        let high = if high == low { high + 0.001 } else { high };
                        let stretched = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                        let stretched = if self.m == Mutation::YarnRampInverted { 1.0 - stretched } else { stretched };
                        f / factor * stretched + f * (1.0 - stretched)
                    }
                }
            })
            .map(|f| f64::from(f as f32)) // HF holds frequencies in f32
            .collect()
    }

    fn yarn_factor(s: f64, a: f64) -> f64 {
        if s > 1.0 { 0.1 * a * s.ln() + 1.0 } else { 1.0 }
    }

    /// Factor on cos and sin.
    fn rope_factor(&self) -> f64 {
        let RopeScaling::Yarn { factor, mscale, mscale_all_dim, attention_factor, attn_factor, .. } =
            self.c.rope.scaling
        else {
            return 1.0;
        };
        if self.m == Mutation::RopeFactorDropped {
            return 1.0;
        }
        attention_factor.unwrap_or_else(|| match (mscale, mscale_all_dim) {
            (Some(a), Some(b)) if a != 0.0 && b != 0.0 => Self::yarn_factor(factor, a) / Self::yarn_factor(factor, b),
            _ => attn_factor.unwrap_or(1.0) * Self::yarn_factor(factor, 1.0),
        })
    }

    fn rotate(&self, x: &mut [f64], position: usize) {
        let (half, factor) = (x.len() / 2, self.rope_factor());
        let swapped = self.m == Mutation::RopeLayoutSwapped;
        for (i, f) in self.inv_freq().into_iter().enumerate() {
            let (a, b) = if self.c.rope.interleaved != swapped { (2 * i, 2 * i + 1) } else { (i, i + half) };
            let angle = f64::from(position as f32 * f as f32);
            let (c, s) = (angle.cos() * factor, angle.sin() * factor);
            (x[a], x[b]) = (x[a] * c - x[b] * s, x[b] * c + x[a] * s);
        }
    }

    fn grouped_attention(&self, p: &str, x: &Rows) -> Rows {
        let c = self.c;
        let (heads, kv, hd) = (c.num_attention_heads, c.num_key_value_heads, c.head_dim);
        let prepare = |name: &str, norm: &str, t: usize| {
            let mut y = self.linear(&format!("{p}.{name}"), &x[t]);
            for head in y.chunks_exact_mut(hd) {
                let wanted = c.qk_norm && self.m != Mutation::QkNormDropped;
                if wanted && self.m != Mutation::QkNormAfterRope {
                    head.copy_from_slice(&self.norm(&format!("{p}.{norm}"), head, c.rms_norm_eps));
                }
                self.rotate(head, self.rows[t].1);
                if wanted && self.m == Mutation::QkNormAfterRope {
                    head.copy_from_slice(&self.norm(&format!("{p}.{norm}"), head, c.rms_norm_eps));
                }
            }
            y
        };
        let q: Rows = (0..x.len()).map(|t| prepare("q_proj", "q_norm", t)).collect();
        let k: Rows = (0..x.len()).map(|t| prepare("k_proj", "k_norm", t)).collect();
        let v: Rows = x.iter().map(|x| self.linear(&format!("{p}.v_proj"), x)).collect();
        let scale = 1.0 / (hd as f64).sqrt();
        (0..x.len())
            .map(|t| {
                let seen = self.visible(t);
                let mut out = Vec::new();
                for h in 0..heads {
                    let g = if self.m == Mutation::KvHeadsInterleaved { h % kv } else { h / (heads / kv) };
                    let scores: Vec<f64> = seen
                        .iter()
                        .map(|u| dot(&q[t][h * hd..(h + 1) * hd], &k[*u][g * hd..(g + 1) * hd]) * scale)
                        .collect();
                    let weights = softmax(&scores);
                    out.extend(
                        (0..hd).map(|i| seen.iter().zip(&weights).map(|(u, w)| w * v[*u][g * hd + i]).sum::<f64>()),
                    );
                }
                self.linear(&format!("{p}.o_proj"), &out)
            })
            .collect()
    }

    fn latent_attention(&self, p: &str, x: &Rows) -> Rows {
        let c = self.c;
        let m = c.mla.as_ref().expect("called for MLA");
        let (heads, n, r, v, latent) =
            (c.num_attention_heads, m.qk_nope_head_dim, m.qk_rope_head_dim, m.v_head_dim, m.kv_lora_rank);
        // The reference classes build both latent norms with their default, 1e-6.
        let eps = if self.m == Mutation::LatentNormEpsOfConfig { c.rms_norm_eps } else { 1e-6 };
        let mut scale = 1.0 / ((n + r) as f64).sqrt();
        if self.m == Mutation::ScaleOfNopeAlone {
            scale = 1.0 / (n as f64).sqrt();
        }
        if let RopeScaling::Yarn { factor, mscale_all_dim: Some(a), .. } = c.rope.scaling
            && self.m != Mutation::SoftmaxMscaleDropped
        {
            scale *= Self::yarn_factor(factor, a).powi(2);
        }
        let kv_b = self.get(&format!("{p}.kv_b_proj.weight"));
        // Per head: n rows of keys, then v rows of values, each of the latent's width.
        let (key_at, value_at) = if self.m == Mutation::KeysAndValuesSwapped { (v, 0) } else { (0, n) };
        let row = |h: usize, i: usize| &kv_b[(h * (n + v) + i) * latent..(h * (n + v) + i + 1) * latent];
        let (mut cs, mut k_pes, mut qs): (Rows, Rows, Rows) = Default::default();
        for (t, x) in x.iter().enumerate() {
            let kv = self.linear(&format!("{p}.kv_a_proj_with_mqa"), x);
            let norm = |c: &[f64]| {
                if self.m == Mutation::LatentNormDropped {
                    c.to_vec()
                } else {
                    self.norm(&format!("{p}.kv_a_layernorm"), c, eps)
                }
            };
            let (c_raw, mut pe) = if self.m == Mutation::LatentAndRopeSwapped {
                (kv[r..].to_vec(), kv[..r].to_vec())
            } else {
                (kv[..latent].to_vec(), kv[latent..].to_vec())
            };
            cs.push(norm(&c_raw));
            self.rotate(&mut pe, self.rows[t].1);
            k_pes.push(pe);
            let mut q = if m.q_lora_rank.is_some() {
                let qa = self.linear(&format!("{p}.q_a_proj"), x);
                let qa = if self.m == Mutation::LatentNormDropped {
                    qa
                } else {
                    self.norm(&format!("{p}.q_a_layernorm"), &qa, eps)
                };
                self.linear(&format!("{p}.q_b_proj"), &qa)
            } else {
                self.linear(&format!("{p}.q_proj"), x)
            };
            for head in q.chunks_exact_mut(n + r) {
                if self.m == Mutation::RopeOnTheFirstColumns {
                    head.rotate_left(r);
                    self.rotate(&mut head[n..], self.rows[t].1);
                } else {
                    self.rotate(&mut head[n..], self.rows[t].1);
                }
            }
            qs.push(q);
        }
        (0..x.len())
            .map(|t| {
                let seen = self.visible(t);
                let mut out = Vec::new();
                for h in 0..heads {
                    let q = &qs[t][h * (n + r)..(h + 1) * (n + r)];
                    let mut absorbed = vec![0.0; latent];
                    for (i, qi) in q[..n].iter().enumerate() {
                        absorbed.iter_mut().zip(row(h, key_at + i)).for_each(|(a, w)| *a += qi * w);
                    }
                    let scores: Vec<f64> =
                        seen.iter().map(|u| (dot(&absorbed, &cs[*u]) + dot(&q[n..], &k_pes[*u])) * scale).collect();
                    let weights = softmax(&scores);
                    let mut context = vec![0.0; latent];
                    for (u, w) in seen.iter().zip(&weights) {
                        context.iter_mut().zip(&cs[*u]).for_each(|(a, c)| *a += w * c);
                    }
                    out.extend((0..v).map(|i| dot(row(h, value_at + i), &context)));
                }
                self.linear(&format!("{p}.o_proj"), &out)
            })
            .collect()
    }

    fn mlp(&self, p: &str, x: &[f64]) -> Vec<f64> {
        let (mut g, mut u) = (self.linear(&format!("{p}.gate_proj"), x), self.linear(&format!("{p}.up_proj"), x));
        if self.m == Mutation::GateAndUpSwapped {
            std::mem::swap(&mut g, &mut u);
        }
        let h: Vec<f64> = g.iter().zip(&u).map(|(g, u)| silu(*g) * u).collect();
        self.linear(&format!("{p}.down_proj"), &h)
    }

    fn mlp_of_layer(&self, layer: usize, x: &[f64]) -> Vec<f64> {
        let Some(moe) = &self.c.moe else { return self.mlp(&format!("model.layers.{layer}.mlp"), x) };
        // A dense layer has no experts to run by mistake: the mistake takes those of the first mixture.
        let layer = if layer < moe.first_k_dense_replace && self.m == Mutation::FirstDenseIgnored {
            moe.first_k_dense_replace
        } else {
            layer
        };
        let p = format!("model.layers.{layer}.mlp");
        if layer < moe.first_k_dense_replace {
            return self.mlp(&p, x);
        }
        let mut y = vec![0.0; x.len()];
        for (expert, weight) in self.gate(&p, x) {
            let out = if self.m == Mutation::WeightBeforeExpert {
                let scaled: Vec<f64> = x.iter().map(|x| weight * x).collect();
                self.mlp(&format!("{p}.experts.{expert}"), &scaled)
            } else {
                self.mlp(&format!("{p}.experts.{expert}"), x).into_iter().map(|y| weight * y).collect()
            };
            y.iter_mut().zip(out).for_each(|(y, o)| *y += o);
        }
        if moe.n_shared_experts > 0 && self.m != Mutation::SharedExpertsDropped {
            let out = self.mlp(&format!("{p}.shared_experts"), x);
            y.iter_mut().zip(out).for_each(|(y, o)| *y += o);
        }
        y
    }

    /// Chosen experts and their weights.
    fn gate(&self, p: &str, x: &[f64]) -> Vec<(usize, f64)> {
        let moe = self.c.moe.as_ref().expect("called for mixtures");
        let z: Vec<f64> = self.get(&format!("{p}.gate.weight")).chunks_exact(x.len()).map(|row| dot(row, x)).collect();
        let sigmoid = (moe.scoring == Scoring::Sigmoid) != (self.m == Mutation::ScoringSwapped);
        let s: Vec<f64> = if sigmoid { z.iter().map(|z| 1.0 / (1.0 + (-z).exp())).collect() } else { softmax(&z) };
        let v3 = moe.topk_method == TopkMethod::NoauxTc;
        let bias = if v3 && self.m != Mutation::ChoiceBiasDropped {
            self.get(&format!("{p}.gate.e_score_correction_bias")).to_vec()
        } else {
            vec![0.0; s.len()]
        };
        let biased: Vec<f64> = s.iter().zip(&bias).map(|(s, b)| s + b).collect();
        let mut c = biased.clone();
        if moe.topk_method != TopkMethod::Greedy && self.m != Mutation::GroupLimitDropped {
            let size = c.len() / moe.n_group;
            let two = v3 != (self.m == Mutation::GroupScoreOfOtherVersion);
            let scores: Vec<f64> = c
                .chunks_exact(size)
                .map(|g| best(g, if two { 2 } else { 1 }).into_iter().map(|i| g[i]).sum())
                .collect();
            let kept = best(&scores, moe.topk_group);
            let out = if v3 && self.m != Mutation::MaskedGroupsZero { f64::NEG_INFINITY } else { 0.0 };
            c.iter_mut().enumerate().filter(|(i, _)| !kept.contains(&(i / size))).for_each(|(_, c)| *c = out);
        }
        let k = moe.num_experts_per_tok - usize::from(self.m == Mutation::OneExpertFewer);
        let chosen = best(&c, k);
        let from = if self.m == Mutation::WeightsFromBiasedScores { &biased } else { &s };
        let mut w: Vec<f64> = chosen.iter().map(|i| from[*i]).collect();
        if moe.norm_topk_prob != (self.m == Mutation::NormTopkFlipped) {
            let total: f64 = w.iter().sum::<f64>() + 1e-20;
            w.iter_mut().for_each(|w| *w /= total);
        }
        if self.m != Mutation::RoutedScalingDropped {
            w.iter_mut().for_each(|w| *w *= moe.routed_scaling_factor);
        }
        chosen.into_iter().zip(w).collect()
    }
}
