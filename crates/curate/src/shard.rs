//! Rows between passes, on disk: shards of Arrow IPC that can be read a block at a time in any
//! order, and keys in plain columns of `u64` beside them, so that a pass over keys never reads
//! text. Files are written under temporary names and renamed.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use arrow_array::RecordBatch;
use arrow_ipc::reader::FileReader;
use arrow_ipc::writer::FileWriter;
use arrow_schema::ArrowError;
use loar_artifact::{ArtifactError, write_atomic, write_atomic_with};

use crate::batch::{Batch, ColumnError};

/// Rows in a block: what one random access reads, and Arrow checks to be UTF-8, for the sake of one
/// row. Fewer rows cost room: a block's description takes about a kilobyte.
pub const BLOCK: usize = 16;

/// Blocks that a [`Rows`] keeps decoded.
const CACHED: usize = 256;

/// A shard that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// Writing failed; the old file, if any, is whole.
    #[error(transparent)]
    Write(#[from] ArtifactError),
    /// Reading failed.
    #[error("{path}: {source}; remove the work folder and start again")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not what this program writes.
    #[error("{path}: {source}; remove the work folder and start again")]
    Arrow {
        /// The file.
        path: PathBuf,
        /// What Arrow said.
        source: ArrowError,
    },
    /// Other columns than ours.
    #[error("{path}: {source}; remove the work folder and start again")]
    Column {
        /// The file.
        path: PathBuf,
        /// Which.
        source: ColumnError,
    },
}

/// Writes the rows of a shard.
///
/// # Errors
/// [`ShardError::Write`], with the full disk named as such.
pub fn write_rows(path: &Path, batch: &Batch) -> Result<(), ShardError> {
    let record = batch.record();
    let written = write_atomic_with(path, |file| {
        let mut writer = FileWriter::try_new(file, &record.schema()).map_err(io_error)?;
        for start in (0..record.num_rows()).step_by(BLOCK) {
            let rows = BLOCK.min(record.num_rows() - start);
            writer.write(&record.slice(start, rows)).map_err(io_error)?;
        }
        writer.finish().map_err(io_error)
    });
    Ok(written?)
}

/// Arrow wraps what the disk said; a full disk must stay one.
fn io_error(error: ArrowError) -> io::Error {
    match error {
        ArrowError::IoError(_, error) => error,
        other => io::Error::other(other),
    }
}

/// All rows of a shard.
///
/// # Errors
/// Any [`ShardError`] of reading.
pub fn read_rows(path: &Path) -> Result<Vec<Batch>, ShardError> {
    let reader = open(path)?;
    reader.map(|record| to_batch(path, record)).collect()
}

fn open(path: &Path) -> Result<FileReader<BufReader<File>>, ShardError> {
    let read = |source| ShardError::Read { path: path.into(), source };
    let file = BufReader::new(File::open(path).map_err(read)?);
    FileReader::try_new(file, None).map_err(|source| ShardError::Arrow { path: path.into(), source })
}

fn to_batch(path: &Path, record: Result<RecordBatch, ArrowError>) -> Result<Batch, ShardError> {
    let record = record.map_err(|source| ShardError::Arrow { path: path.into(), source })?;
    Batch::new(record).map_err(|source| ShardError::Column { path: path.into(), source })
}

/// Writes columns of equal length one after another.
///
/// # Errors
/// [`ShardError::Write`].
pub fn write_keys(path: &Path, columns: &[Vec<u64>]) -> Result<(), ShardError> {
    let mut bytes = Vec::with_capacity(columns.iter().map(|column| column.len() * 8).sum());
    columns.iter().flatten().for_each(|key| bytes.extend_from_slice(&key.to_le_bytes()));
    Ok(write_atomic(path, &bytes)?)
}

/// One column of a key file of `rows` rows.
///
/// # Errors
/// [`ShardError::Read`].
pub fn read_keys(path: &Path, rows: usize, column: usize) -> Result<Vec<u64>, ShardError> {
    let read = || -> io::Result<Vec<u64>> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start((column * rows * 8) as u64))?;
        let mut bytes = vec![0; rows * 8];
        file.read_exact(&mut bytes)?;
        Ok(bytes.as_chunks::<8>().0.iter().map(|key| u64::from_le_bytes(*key)).collect())
    };
    read().map_err(|source| ShardError::Read { path: path.into(), source })
}

/// Rows of all shards by number, blocks kept while they are in use.
pub struct Rows<'a> {
    paths: &'a [PathBuf],
    /// First row of each shard, and the end.
    starts: &'a [u32],
    files: HashMap<usize, FileReader<BufReader<File>>>,
    /// Block of a shard → rows, with the time of its last use.
    blocks: HashMap<(usize, usize), (Rc<Batch>, u64)>,
    clock: u64,
}

impl<'a> Rows<'a> {
    /// `starts` holds the number of each shard's first row and, last, the number of all rows.
    pub fn new(paths: &'a [PathBuf], starts: &'a [u32]) -> Self {
        Rows { paths, starts, files: HashMap::new(), blocks: HashMap::new(), clock: 0 }
    }

    /// The shard of a row and its index there.
    pub fn place(&self, row: u32) -> (usize, usize) {
        let shard = self.starts.partition_point(|start| *start <= row) - 1;
        (shard, (row - self.starts[shard]) as usize)
    }

    /// The block that holds the row, and its index there.
    ///
    /// # Errors
    /// Any [`ShardError`] of reading.
    pub fn get(&mut self, row: u32) -> Result<(Rc<Batch>, usize), ShardError> {
        let (shard, index) = self.place(row);
        let (block, within) = (index / BLOCK, index % BLOCK);
        self.clock += 1;
        if let Some((batch, used)) = self.blocks.get_mut(&(shard, block)) {
            *used = self.clock;
            return Ok((Rc::clone(batch), within));
        }
        let path = &self.paths[shard];
        if !self.files.contains_key(&shard) {
            // Each open file holds its footer; a few suffice, as rows are asked for in order.
            if self.files.len() >= CACHED {
                self.files.clear();
            }
            self.files.insert(shard, open(path)?);
        }
        let reader = self.files.get_mut(&shard).expect("just inserted");
        reader.set_index(block).map_err(|source| ShardError::Arrow { path: path.clone(), source })?;
        let missing = || Err(ArrowError::IpcError(format!("block {block} is missing")));
        let batch = Rc::new(to_batch(path, reader.next().unwrap_or_else(missing))?);
        if self.blocks.len() >= CACHED
            && let Some(oldest) = self.blocks.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key)
        {
            self.blocks.remove(&oldest);
        }
        self.blocks.insert((shard, block), (Rc::clone(&batch), self.clock));
        Ok((batch, within))
    }
}
