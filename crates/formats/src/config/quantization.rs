//! How stored weights are quantised: DeepSeek's FP8 blocks, or this project's int8 and int4 files.
//!
//! Reads and writes `quantization_config`, and says which tensors of which type and shape a
//! quantised matrix has in a file. What the bytes mean stands in `docs/formats.md`.

use serde_json::{Map, Value, json};

use super::Keys;
use crate::safetensors::DType;

/// Version of the int8 and int4 files.
const VERSION: u64 = 1;
/// Elements of a row that share an int4 scale.
pub const INT4_GROUP: usize = 64;

/// Quantisation of the stored weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Quantization {
    /// E4M3 with one scale a block (`quantization_config` of V3, R1, V3.1).
    Fp8 {
        /// Rows and columns that share one entry of `weight_scale_inv`.
        weight_block_size: [usize; 2],
        /// `ue8m0`: scales are powers of two (stored as f32 all the same).
        scale_fmt: Option<String>,
    },
    /// One f32 scale a row.
    Int8,
    /// Groups of 64 along a row with one bf16 scale each.
    Int4,
}

/// The two tensors of a quantised matrix in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredForm {
    /// Type of the codes.
    pub dtype: DType,
    /// Shape of the codes.
    pub shape: Vec<usize>,
    /// What follows the matrix's name in that of its scales.
    pub scale_suffix: &'static str,
    /// Type of the scales; files may hold another float type.
    pub scale_dtype: DType,
    /// Shape of the scales.
    pub scale_shape: Vec<usize>,
}

impl Quantization {
    /// Short name: `fp8-block`, `int8`, `int4`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Fp8 { .. } => "fp8-block",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }

    /// DeepSeek's blocks of 128 x 128.
    pub fn fp8_blocks() -> Self {
        Self::Fp8 { weight_block_size: [128, 128], scale_fmt: None }
    }

    /// What a matrix `[rows, columns]` looks like in a file.
    pub fn stored(&self, rows: usize, columns: usize) -> StoredForm {
        match self {
            Self::Fp8 { weight_block_size: [r, c], .. } => StoredForm {
                dtype: DType::F8E4M3,
                shape: vec![rows, columns],
                scale_suffix: "_scale_inv",
                scale_dtype: DType::F32,
                scale_shape: vec![rows.div_ceil(*r), columns.div_ceil(*c)],
            },
            Self::Int8 => StoredForm {
                dtype: DType::I8,
                shape: vec![rows, columns],
                scale_suffix: "_scale",
                scale_dtype: DType::F32,
                scale_shape: vec![rows],
            },
            Self::Int4 => {
                let groups = columns.div_ceil(INT4_GROUP);
                StoredForm {
                    dtype: DType::U8,
                    shape: vec![rows, groups * (INT4_GROUP / 2)],
                    scale_suffix: "_scale",
                    scale_dtype: DType::BF16,
                    scale_shape: vec![rows, groups],
                }
            }
        }
    }

    /// The table of a new file.
    fn table(&self) -> Value {
        match self {
            Self::Fp8 { .. } => json!({"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"}),
            Self::Int8 => json!({"quant_method": "loar", "version": VERSION, "bits": 8, "scales": "row"}),
            Self::Int4 => json!({
                "quant_method": "loar", "version": VERSION, "bits": 4, "scales": "group",
                "group_size": INT4_GROUP, "layout": "halves",
            }),
        }
    }
}

pub(super) fn read(keys: &mut Keys<'_>) -> Option<Quantization> {
    let table = keys.opt_object("quantization_config")?;
    let mut inner = Keys::nested(table, "quantization_config");
    let method = inner.opt_str("quant_method");
    let found = match method.as_deref() {
        Some("loar") => read_own(&mut inner),
        other => {
            if other != Some("fp8") {
                inner.fault(format!(
                    "`quantization_config.quant_method` is `{}`; fp8 blocks and files of `loar quantize` are read: \
                     take the unquantised checkpoint",
                    other.unwrap_or("missing")
                ));
            }
            read_fp8(&mut inner)
        }
    };
    keys.take_faults(inner);
    Some(found)
}

fn read_fp8(inner: &mut Keys<'_>) -> Quantization {
    if let Some(fmt) = inner.opt_str("fmt").filter(|fmt| fmt != "e4m3") {
        inner.fault(format!("`quantization_config.fmt` is `{fmt}`; only e4m3 is read"));
    }
    let block = match inner.get("weight_block_size").map(|v| v.as_array().map(Vec::as_slice)) {
        None => [128, 128],
        Some(Some([rows, columns])) => {
            let size =
                |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=1 << 20).contains(n));
            match (size(rows), size(columns)) {
                (Some(r), Some(c)) => [r, c],
                _ => {
                    inner.fault(
                        "`quantization_config.weight_block_size` must hold two numbers from 1 to 1048576".into(),
                    );
                    [128, 128]
                }
            }
        }
        Some(_) => {
            inner.fault("`quantization_config.weight_block_size` must be a list of two numbers".into());
            [128, 128]
        }
    };
    Quantization::Fp8 { weight_block_size: block, scale_fmt: inner.opt_str("scale_fmt") }
}

/// Everything that decides what the bytes mean must say what this version does with them.
fn read_own(inner: &mut Keys<'_>) -> Quantization {
    let found = match inner.opt_count("bits") {
        Some(4) => Quantization::Int4,
        Some(8) => Quantization::Int8,
        other => {
            let shown = other.map_or("missing".to_owned(), |n| n.to_string());
            inner.fault(format!("`quantization_config.bits` is {shown}; files of `loar quantize` have 4 or 8"));
            return Quantization::Int8;
        }
    };
    let wanted = found.table();
    for (key, value) in wanted.as_object().into_iter().flatten() {
        match inner.get(key) {
            None => inner.fault(format!("`quantization_config.{key}` is missing; it must be {value}")),
            Some(given) if given != value => {
                let given: String = given.to_string().chars().take(60).collect();
                inner.fault(format!("`quantization_config.{key}` is {given}; this version reads {value}"));
            }
            Some(_) => {}
        }
    }
    found
}

/// Puts the table into a `config.json`, keeping what an FP8 release says besides.
pub(super) fn write(quantization: Option<&Quantization>, map: &mut Map<String, Value>) {
    let Some(quantization) = quantization else {
        map.shift_remove("quantization_config");
        return;
    };
    let own = quantization.table();
    let same = map
        .get("quantization_config")
        .is_some_and(|old| old.get("quant_method") == own.get("quant_method") && matches!(old, Value::Object(_)));
    let fp8 = matches!(quantization, Quantization::Fp8 { .. });
    if !(same && fp8) {
        map.insert("quantization_config".into(), own);
    }
    if let (Quantization::Fp8 { weight_block_size, scale_fmt }, Some(Value::Object(table))) =
        (quantization, map.get_mut("quantization_config"))
    {
        table.insert("weight_block_size".into(), json!(weight_block_size));
        if let Some(fmt) = scale_fmt {
            table.insert("scale_fmt".into(), fmt.clone().into());
        }
    }
}
