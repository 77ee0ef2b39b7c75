//! Vectors of rows by a sentence encoder: computed once a row, as a column that later stages read,
//! and kept in the work folder beside the row's keys, so that a pass over vectors reads no text and
//! a run that goes on computes none again.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, FixedSizeListArray, Float32Array};
use arrow_schema::{DataType, Field as ArrowField};
use loar_artifact::write_atomic;
use loar_encoder::{Encoder, Precision};
use serde::{Deserialize, Serialize};

use crate::batch::{Batch, Row};
use crate::dedup::keys::Compared;
use crate::models::Embedder;
use crate::operator::{Operator, Outcome};
use crate::options::OptionFault;
use crate::shard::ShardError;
use crate::terms::normalise;

/// Name of the column: a vector of length 1 a row.
pub const COLUMN: &str = "embedding";

/// How operands of the encoder's products are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// As the reference computes.
    #[default]
    F32,
    /// Rounded; several times faster where the processor has matrix tiles.
    Bf16,
}

/// `[encoder]`: the model whose vectors the stages use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// A folder as sentence-transformers writes it.
    pub model: PathBuf,
    /// Which texts of a row: `request` (the default), `response` or `pair`.
    #[serde(default = "request")]
    pub text: Compared,
    /// A prompt of the folder by name, or the words put before every text; the folder's default
    /// when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Tokens read of a text; what the folder says when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<usize>,
    /// `f32` (the default) or `bf16`.
    #[serde(default)]
    pub dtype: Dtype,
}

fn request() -> Compared {
    Compared::Request
}

impl Options {
    /// Opens the encoder, on one thread: the pipeline runs shards in parallel.
    ///
    /// # Errors
    /// Everything that is wrong with the folder, as one fault.
    pub fn open(&self) -> Result<Arc<dyn Embedder>, OptionFault> {
        let precision = if self.dtype == Dtype::Bf16 { Precision::Bf16 } else { Precision::F32 };
        let options =
            loar_encoder::Options { prompt: self.prompt.clone(), max_tokens: self.max_tokens, precision, threads: 1 };
        let mend = "name a folder with config.json, model.safetensors and tokenizer.json of a sentence encoder";
        match Encoder::open(&self.model, &options) {
            Ok(encoder) => Ok(Arc::new(encoder)),
            Err(error) => Err(OptionFault::new("model", error.to_string(), mend)),
        }
    }
}

/// The texts of a row that its vector is made of. A text without requests stands for itself.
pub fn text(row: &Row<'_>, compared: Compared) -> String {
    let mut parts: Vec<&str> = match compared {
        Compared::Request => row.requests().collect(),
        Compared::Response => row.responses().collect(),
        Compared::Pair => {
            let spoken = row.turns().filter(|turn| turn.is_request() || turn.is_response());
            spoken.map(|turn| turn.content).collect()
        }
    };
    if parts.is_empty() {
        parts = row.turns().map(|turn| turn.content).collect();
    }
    parts.join("\n")
}

/// The stage that adds the column.
pub struct Op {
    embedder: Arc<dyn Embedder>,
    compared: Compared,
    dimensions: usize,
}

impl Op {
    /// With a model.
    pub fn new(embedder: Arc<dyn Embedder>, compared: Compared) -> Self {
        let dimensions = embedder.embed(&[""]).first().map_or(0, Vec::len);
        Op { embedder, compared, dimensions }
    }
}

impl Operator for Op {
    fn name(&self) -> &'static str {
        "encoder"
    }

    fn version(&self) -> u32 {
        1
    }

    fn apply(&self, batch: &Batch) -> Outcome {
        let texts: Vec<String> = batch.rows().map(|row| text(&row, self.compared)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let mut values = Vec::with_capacity(texts.len() * self.dimensions);
        for mut vector in self.embedder.embed(&texts) {
            normalise(&mut vector);
            values.extend(vector);
        }
        Outcome { columns: vec![field(values, self.dimensions)], ..Outcome::default() }
    }
}

/// Vectors one after another as the column.
pub fn field(values: Vec<f32>, dimensions: usize) -> (arrow_schema::FieldRef, ArrayRef) {
    let item = Arc::new(ArrowField::new("item", DataType::Float32, false));
    let kind = DataType::FixedSizeList(Arc::clone(&item), dimensions as i32);
    let values: ArrayRef = Arc::new(Float32Array::from(values));
    let column = FixedSizeListArray::new(item, dimensions as i32, values, None);
    (Arc::new(ArrowField::new(COLUMN, kind, false)), Arc::new(column))
}

/// The vectors of a batch, one after another, and their length; `None` without the column.
pub fn column(batch: &Batch) -> Option<(&[f32], usize)> {
    let list = batch.added(COLUMN)?.as_any().downcast_ref::<FixedSizeListArray>()?;
    let width = usize::try_from(list.value_length()).ok().filter(|width| *width > 0)?;
    let values = list.values().as_any().downcast_ref::<Float32Array>()?;
    Some((&values.values()[list.offset() * width..][..list.len() * width], width))
}

/// Writes the vectors of a shard.
///
/// # Errors
/// [`ShardError::Write`].
pub fn write(path: &Path, values: &[f32]) -> Result<(), ShardError> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Ok(write_atomic(path, &bytes)?)
}

/// Vectors of all kept rows, in the work folder.
pub struct Stored<'a> {
    /// A file a shard.
    pub paths: &'a [PathBuf],
    /// First kept row of each shard and, last, of all.
    pub starts: &'a [u32],
    /// Numbers of a vector.
    pub dimensions: usize,
}

impl<'a> Stored<'a> {
    /// Of files that [`write`] wrote; without a row there are no dimensions.
    ///
    /// # Errors
    /// [`ShardError::Read`].
    pub fn open(paths: &'a [PathBuf], starts: &'a [u32]) -> Result<Self, ShardError> {
        for (path, rows) in paths.iter().zip(starts.windows(2).map(|pair| u64::from(pair[1] - pair[0]))) {
            if rows == 0 {
                continue;
            }
            let size = std::fs::metadata(path).map_err(|source| ShardError::Read { path: path.clone(), source })?;
            return Ok(Stored { paths, starts, dimensions: (size.len() / 4 / rows) as usize });
        }
        Ok(Stored { paths, starts, dimensions: 0 })
    }

    /// Vectors of rows, one after another. Rows rise; neighbours are read at once.
    ///
    /// # Errors
    /// [`ShardError::Read`].
    pub fn read(&self, rows: &[u32]) -> Result<Vec<f32>, ShardError> {
        let width = self.dimensions * 4;
        let mut bytes = vec![0; rows.len() * width];
        let (mut at, mut open): (usize, Option<(usize, File)>) = (0, None);
        while at < rows.len() {
            let shard = self.starts.partition_point(|start| *start <= rows[at]) - 1;
            let end = self.starts[shard + 1];
            let steps = rows[at..].windows(2).take_while(|pair| pair[1] == pair[0] + 1 && pair[1] < end);
            let count = 1 + steps.count();
            let path = &self.paths[shard];
            let part = &mut bytes[at * width..(at + count) * width];
            let mut read = || -> io::Result<()> {
                if open.as_ref().is_none_or(|(of, _)| *of != shard) {
                    open = Some((shard, File::open(path)?));
                }
                let (_, file) = open.as_mut().expect("just opened");
                file.seek(SeekFrom::Start(u64::from(rows[at] - self.starts[shard]) * width as u64))?;
                file.read_exact(part)
            };
            read().map_err(|source| ShardError::Read { path: path.clone(), source })?;
            at += count;
        }
        Ok(bytes.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{rows, talk, text as plain};

    struct Lengths;

    impl Embedder for Lengths {
        fn embed(&self, texts: &[&str]) -> Vec<Vec<f32>> {
            texts.iter().map(|text| vec![text.len() as f32, 3.0]).collect()
        }
    }

    #[test]
    fn the_column_goes_along_with_its_rows() {
        let bodies = [talk(&[("user", "abcd"), ("assistant", "x")]), talk(&[("user", ""), ("assistant", "y")])];
        let batch = rows(&bodies);
        let stage = Op::new(Arc::new(Lengths), Compared::Request);
        let batch = batch.clone().with_columns(stage.apply(&batch).columns);
        assert_eq!(column(&batch), Some((&[0.8, 0.6, 0.0, 1.0][..], 2)));
        let second = batch.filter(&vec![Some(false), Some(true)].into());
        assert_eq!(column(&second), Some((&[0.0, 1.0][..], 2)));
        assert!(column(&batch.without(COLUMN)).is_none());
    }

    #[test]
    fn texts_by_what_is_compared() {
        let batch = rows(&[talk(&[("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c")])]);
        let of = |compared| text(&batch.row(0), compared);
        assert_eq!([of(Compared::Request), of(Compared::Response), of(Compared::Pair)], ["a\nc", "b", "a\nb\nc"]);
        assert_eq!(text(&plain("whole").row(0), Compared::Request), "whole");
    }

    #[test]
    fn vectors_are_read_back_by_row_across_shards() {
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = (0..3).map(|at| dir.path().join(format!("{at}.vectors"))).collect();
        let starts = [0, 2, 2, 5];
        for (path, part) in paths.iter().zip(starts.windows(2)) {
            let values: Vec<f32> = (part[0]..part[1]).flat_map(|row| [row as f32, -(row as f32)]).collect();
            write(path, &values).unwrap();
        }
        let stored = Stored::open(&paths, &starts).unwrap();
        assert_eq!(stored.dimensions, 2);
        assert_eq!(stored.read(&[0, 1, 2, 4]).unwrap(), [0.0, 0.0, 1.0, -1.0, 2.0, -2.0, 4.0, -4.0]);
    }
}
