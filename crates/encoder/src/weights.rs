//! Tensors of `model.safetensors` → the network's weights, under the names that `BertModel` and `RobertaModel` are
//! stored with (with or without the prefix of a head). Missing tensors and wrong shapes are all told at once; nothing is
//! loaded in part. Matrices stored as f32 or bf16 stay as they are, others are widened.

use std::path::Path;

use half::bf16;
use loar_formats::Faults;
use loar_formats::safetensors::{Checkpoint, DType};
use loar_kernels::{Matrix, Precision};

use crate::EncoderError;
use crate::config::Config;

/// A matrix as it lies in memory, `[rows, columns]`.
pub(crate) enum Stored {
    F32(Vec<f32>),
    Bf16(Vec<u16>),
}

impl Stored {
    pub fn matrix(&self, columns: usize) -> Matrix<'_> {
        match self {
            Stored::F32(values) => Matrix::f32(values, columns),
            Stored::Bf16(bits) => Matrix::bf16(bits, columns),
        }
    }

    /// Adds row `row` of `out.len()` columns to `out`.
    pub fn add_row(&self, row: usize, out: &mut [f32]) {
        let at = row * out.len();
        match self {
            Stored::F32(values) => out.iter_mut().zip(&values[at..]).for_each(|(o, v)| *o += v),
            Stored::Bf16(bits) => out.iter_mut().zip(&bits[at..]).for_each(|(o, b)| *o += bf16::from_bits(*b).to_f32()),
        }
    }
}

/// `y = x·wᵀ + b`, w `[outputs, inputs]`.
pub(crate) struct Linear {
    pub weight: Stored,
    pub bias: Vec<f32>,
    pub inputs: usize,
}

pub(crate) struct Norm {
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
}

pub(crate) struct Layer {
    pub query: Linear,
    pub key: Linear,
    pub value: Linear,
    pub output: Linear,
    pub output_norm: Norm,
    pub up: Linear,
    pub down: Linear,
    pub down_norm: Norm,
}

pub(crate) struct Weights {
    pub words: Stored,
    /// Positions from the first on, the vector of token type 0 added.
    pub positions: Vec<f32>,
    pub norm: Norm,
    pub layers: Vec<Layer>,
}

struct Reader<'a> {
    file: &'a Checkpoint,
    prefix: &'a str,
    faults: Vec<String>,
    /// Matrices are kept as bf16 whatever the file holds: products would round them anyway.
    narrow: bool,
}

impl Reader<'_> {
    /// The full name of a tensor of this shape, or a fault.
    fn check(&mut self, name: &str, shape: &[usize]) -> Option<String> {
        let name = format!("{}{name}", self.prefix);
        match self.file.info(&name) {
            None => self.faults.push(format!("tensor `{name}` is missing, expected {shape:?}")),
            Some(info) if info.shape != shape => {
                self.faults.push(format!("tensor `{name}` is {:?}, expected {shape:?}", info.shape));
            }
            Some(info) if !info.dtype.is_float() => {
                self.faults.push(format!("tensor `{name}` is {}, expected a float type", info.dtype));
            }
            Some(_) => return Some(name),
        }
        None
    }

    fn values(&mut self, name: &str, shape: &[usize]) -> Vec<f32> {
        let Some(name) = self.check(name, shape) else { return Vec::new() };
        self.file.to_f32(&name).unwrap_or_else(|error| {
            self.faults.push(error.to_string());
            Vec::new()
        })
    }

    fn stored(&mut self, name: &str, rows: usize, columns: usize) -> Stored {
        let Some(full) = self.check(name, &[rows, columns]) else { return Stored::F32(Vec::new()) };
        let bf16 = self.narrow || self.file.info(&full).is_some_and(|info| info.dtype == DType::BF16);
        if !bf16 {
            return Stored::F32(self.values(name, &[rows, columns]));
        }
        Stored::Bf16(self.file.to_bf16(&full).unwrap_or_else(|error| {
            self.faults.push(error.to_string());
            Vec::new()
        }))
    }

    fn linear(&mut self, name: &str, outputs: usize, inputs: usize) -> Linear {
        Linear {
            weight: self.stored(&format!("{name}.weight"), outputs, inputs),
            bias: self.values(&format!("{name}.bias"), &[outputs]),
            inputs,
        }
    }

    fn norm(&mut self, name: &str, width: usize) -> Norm {
        Norm {
            weight: self.values(&format!("{name}.weight"), &[width]),
            bias: self.values(&format!("{name}.bias"), &[width]),
        }
    }
}

impl Weights {
    pub fn read(dir: &Path, config: &Config, precision: Precision) -> Result<Weights, EncoderError> {
        let (file, _) = Checkpoint::open_dir(dir)?;
        let words = "embeddings.word_embeddings.weight";
        let prefix = ["", "bert.", "roberta."].into_iter().find(|p| file.info(&format!("{p}{words}")).is_some());
        let narrow = precision == Precision::Bf16;
        let mut read = Reader { file: &file, prefix: prefix.unwrap_or_default(), faults: Vec::new(), narrow };
        let (h, wide) = (config.hidden, config.intermediate);
        // word vectors are added, never multiplied: they keep the file's precision
        read.narrow = false;
        let words = read.stored(words, config.vocabulary, h);
        read.narrow = narrow;
        let mut positions = read.values("embeddings.position_embeddings.weight", &[config.positions, h]);
        let types = read.values("embeddings.token_type_embeddings.weight", &[config.types, h]);
        positions.drain(..(config.first_position * h).min(positions.len()));
        positions.chunks_exact_mut(h).for_each(|row| row.iter_mut().zip(&types).for_each(|(p, t)| *p += t));
        let norm = read.norm("embeddings.LayerNorm", h);
        let layers = (0..config.layers)
            .map(|layer| {
                let at = |name: &str| format!("encoder.layer.{layer}.{name}");
                Layer {
                    query: read.linear(&at("attention.self.query"), h, h),
                    key: read.linear(&at("attention.self.key"), h, h),
                    value: read.linear(&at("attention.self.value"), h, h),
                    output: read.linear(&at("attention.output.dense"), h, h),
                    output_norm: read.norm(&at("attention.output.LayerNorm"), h),
                    up: read.linear(&at("intermediate.dense"), wide, h),
                    down: read.linear(&at("output.dense"), h, wide),
                    down_norm: read.norm(&at("output.LayerNorm"), h),
                }
            })
            .collect();
        let beyond = format!("encoder.layer.{}.", config.layers);
        if let Some(name) = file.names().find(|name| name.contains(&beyond)) {
            read.faults.push(format!("tensor `{name}` belongs to no layer: config.json has {} of them", config.layers));
        }
        if !read.faults.is_empty() {
            return Err(EncoderError::Folder { path: file.path().into(), faults: Faults(read.faults) });
        }
        Ok(Weights { words, positions, norm, layers })
    }
}
