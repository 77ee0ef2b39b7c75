//! Checkpoints: everything a run needs to go on as if it had never stopped.
//!
//! One folder a step, `checkpoints/000200/state.loar`: eight bytes `LOARCKP1`, the length of a JSON
//! head, the head ([`State`] and the list of tensors), for each tensor its value and AdamW's two
//! moments (f32, little endian), and last the SHA-256 of all that as text. A folder is built under
//! a temporary name, synced and renamed, so that it is whole or absent; whatever happens to the
//! newest, the ones before stay as they were. Reading bytes from outside never panics and never
//! allocates more than the file holds.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use loar_artifact::{ContentId, IdHasher};
use loar_tape::{AdamWState, ParamStore, Tensor};
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::metrics::Offsets;

#[path = "checkpoint_read.rs"]
mod read;

pub use read::decode;
use read::{read_head, scan, verify};

const MAGIC: &[u8; 8] = b"LOARCKP1";
const FILE: &str = "state.loar";
/// `sha256:` and 64 hex digits.
const TRAILER: u64 = 71;
/// Bound on the head; LoRA on every expert of a 671B model needs some 20 MB.
const MAX_HEAD: u64 = 256 << 20;
/// Numbers converted at a time.
const CHUNK: usize = 1 << 14;

/// Place and value of the best evaluation so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Step.
    pub step: u64,
    /// Value of the metric.
    pub value: f64,
}

/// Where a run stands, apart from its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Optimizer steps done.
    pub step: u64,
    /// Passes done; keys the dropout masks.
    pub micro_step: u64,
    /// Place in the stream of rows.
    pub cursor: u64,
    /// Steps AdamW counts for its bias corrections.
    pub adamw_step: u64,
    /// Best evaluation so far.
    pub best: Option<Best>,
    /// Evaluations since then.
    pub evals_since_best: u64,
    /// The run is over: all steps done, or stopped early.
    pub finished: bool,
    /// Tokens trained on.
    pub tokens: u64,
    /// Labelled tokens trained on.
    pub labels: u64,
    /// Tokens routed to each expert, by layer.
    pub expert_load: Vec<Vec<u64>>,
    /// Tensors that got a gradient in the first step, by component.
    pub gradients: Option<Vec<(String, u64)>>,
    /// Lengths of the append-only files.
    pub offsets: Offsets,
    /// Seconds of training so far, over all starts.
    pub seconds: f64,
    /// Values of the run that decide the result.
    pub training_id: ContentId,
    /// Content of the base.
    pub base_id: ContentId,
    /// Token rows of training and evaluation.
    pub rows_id: ContentId,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    state: State,
    tensors: Vec<TensorHead>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TensorHead {
    name: String,
    rows: u64,
    cols: u64,
}

/// What is wrong with a checkpoint file.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointFault {
    /// Reading failed.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It does not begin as one.
    #[error("is not a checkpoint, or one of another version")]
    Magic,
    /// It has another length than its head says.
    #[error("has {actual} bytes; its head says {expected}: it is torn")]
    Length {
        /// Bytes by the head.
        expected: u64,
        /// Bytes there.
        actual: u64,
    },
    /// The head is not readable.
    #[error("has a damaged head: {0}")]
    Head(String),
    /// The bytes are not those that were written.
    #[error("has changed since it was written: its hash does not agree")]
    Hash,
    /// Its tensors are not those of the model.
    #[error("does not fit the model: {0}")]
    Fit(String),
}

/// Moments in the process of writing, for tests that break it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Folder,
    Head,
    Tensors,
    Sync,
    Rename,
    Renamed,
    Prune,
}

impl Phase {
    #[cfg(test)]
    pub const ALL: [Phase; 7] =
        [Phase::Folder, Phase::Head, Phase::Tensors, Phase::Sync, Phase::Rename, Phase::Renamed, Phase::Prune];
}

type Hook<'a> = &'a mut dyn FnMut(Phase) -> io::Result<()>;

/// The checkpoints of a run.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    dir: PathBuf,
    keep: usize,
}

struct Hashing<W: Write> {
    out: W,
    hasher: IdHasher,
    bytes: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.bytes += n as u64;
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn write_numbers(out: &mut impl Write, numbers: &[f32]) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(4 * CHUNK);
    for chunk in numbers.chunks(CHUNK) {
        buffer.clear();
        buffer.extend(chunk.iter().flat_map(|x| x.to_le_bytes()));
        out.write_all(&buffer)?;
    }
    Ok(())
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    match File::open(dir)?.sync_all() {
        // some network and overlay file systems refuse to sync a folder
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        other => other,
    }
}

impl Checkpoints {
    /// The checkpoints below `run_dir`, of which the `keep` newest and the best are kept.
    pub fn new(run_dir: &Path, keep: usize) -> Checkpoints {
        Checkpoints { dir: run_dir.join("checkpoints"), keep }
    }

    /// Folder of the checkpoint of a step.
    pub fn path(&self, step: u64) -> PathBuf {
        self.dir.join(format!("{step:06}"))
    }

    /// Steps that have a folder, rising.
    pub fn steps(&self) -> Vec<u64> {
        let Ok(entries) = fs::read_dir(&self.dir) else { return Vec::new() };
        let mut steps: Vec<u64> = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
        steps.sort_unstable();
        steps
    }

    /// Writes a checkpoint and removes those no longer kept. Gives its folder and size.
    ///
    /// # Errors
    /// What the system said; earlier checkpoints are untouched and no partial one is left.
    pub fn save(&self, state: &State, params: &ParamStore, adamw: &AdamWState) -> Result<(PathBuf, u64), TrainError> {
        self.save_with(state, params, adamw, &mut |_| Ok(()))
    }

    pub(crate) fn save_with(
        &self,
        state: &State,
        params: &ParamStore,
        adamw: &AdamWState,
        hook: Hook<'_>,
    ) -> Result<(PathBuf, u64), TrainError> {
        let path = self.path(state.step);
        let temporary = self.dir.join(format!(".{:06}.tmp", state.step));
        let bytes = self.write(state, params, adamw, &temporary, &path, hook).map_err(|source| {
            let _ = fs::remove_dir_all(&temporary); // if this fails too, the next start removes it
            TrainError::Checkpoint { path: path.clone(), source }
        })?;
        hook(Phase::Prune)
            .and_then(|()| self.prune())
            .map_err(|source| TrainError::Checkpoint { path: path.clone(), source })?;
        Ok((path, bytes))
    }

    fn write(
        &self,
        state: &State,
        params: &ParamStore,
        adamw: &AdamWState,
        temporary: &Path,
        path: &Path,
        hook: Hook<'_>,
    ) -> io::Result<u64> {
        fs::create_dir_all(&self.dir)?;
        if temporary.exists() {
            fs::remove_dir_all(temporary)?;
        }
        fs::create_dir(temporary)?;
        hook(Phase::Folder)?;
        let file = File::create(temporary.join(FILE))?;
        let mut out = Hashing { out: BufWriter::with_capacity(1 << 20, file), hasher: IdHasher::new(), bytes: 0 };
        let tensors = params
            .iter()
            .map(|(_, p)| TensorHead { name: p.name.clone(), rows: p.value.rows as u64, cols: p.value.cols as u64 })
            .collect();
        let head = serde_json::to_vec(&Head { state: state.clone(), tensors }).map_err(io::Error::other)?;
        out.write_all(MAGIC)?;
        out.write_all(&(head.len() as u64).to_le_bytes())?;
        out.write_all(&head)?;
        hook(Phase::Head)?;
        for (id, param) in params.iter() {
            write_numbers(&mut out, &param.value.data)?;
            write_numbers(&mut out, &adamw.first[id.0].data)?;
            write_numbers(&mut out, &adamw.second[id.0].data)?;
            if id.0 == 0 {
                hook(Phase::Tensors)?;
            }
        }
        let Hashing { mut out, hasher, bytes } = out;
        out.write_all(hasher.finish().to_string().as_bytes())?;
        out.flush()?;
        hook(Phase::Sync)?;
        out.get_ref().sync_all()?;
        sync_dir(temporary)?;
        hook(Phase::Rename)?;
        if path.exists() {
            // a damaged one of the same step that a resumed run has reached again
            fs::remove_dir_all(path)?;
        }
        fs::rename(temporary, path)?;
        hook(Phase::Renamed)?;
        sync_dir(&self.dir)?;
        Ok(bytes + TRAILER)
    }

    /// Keeps the newest `keep`, and the best that each of these names: if the newest turns out
    /// damaged, the one before still finds its own best.
    fn prune(&self) -> io::Result<()> {
        let steps = self.steps();
        let newest = &steps[steps.len().saturating_sub(self.keep)..];
        let mut kept = newest.to_vec();
        for step in newest {
            match File::open(self.path(*step).join(FILE))
                .map_err(CheckpointFault::from)
                .and_then(|mut f| read_head(&mut f))
            {
                Ok(head) => kept.extend(head.state.best.map(|b| b.step)),
                Err(_) => return Ok(()), // a damaged one may name anything: delete nothing
            }
        }
        for step in steps.iter().filter(|s| !kept.contains(s)) {
            fs::remove_dir_all(self.path(*step))?;
        }
        Ok(())
    }

    /// Removes what a killed process left half-written.
    pub fn clean(&self) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        for entry in entries.flatten() {
            if entry.file_name().to_str().is_some_and(|n| n.starts_with('.') && n.ends_with(".tmp")) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    /// The newest whole checkpoint, and what is wrong with newer ones. Reads every byte of it.
    pub fn newest(&self) -> (Option<State>, Vec<String>) {
        let mut faults = Vec::new();
        for step in self.steps().into_iter().rev() {
            let path = self.path(step).join(FILE);
            match verify(&path) {
                Ok(state) if state.step == step => return (Some(state), faults),
                Ok(state) => faults.push(format!("`{}` holds step {}", path.display(), state.step)),
                Err(fault) => faults.push(format!("`{}` {fault}", path.display())),
            }
        }
        (None, faults)
    }

    /// Loads the tensors of a step into the parameters and, if given, the optimiser.
    ///
    /// # Errors
    /// [`CheckpointFault`]; parameters may be half-loaded then.
    pub fn load(
        &self,
        step: u64,
        params: &mut ParamStore,
        mut adamw: Option<&mut AdamWState>,
    ) -> Result<State, CheckpointFault> {
        let file = File::open(self.path(step).join(FILE))?;
        let length = file.metadata()?.len();
        let ids: Vec<_> = params.iter().map(|(id, _)| id).collect();
        let expected = ids.len();
        let mut seen = 0;
        let state =
            scan(&mut io::BufReader::with_capacity(1 << 20, file), length, &mut |index, head, part, numbers| {
                let id = *ids
                    .get(index)
                    .ok_or_else(|| CheckpointFault::Fit(format!("it has more than the model's {expected} tensors")))?;
                let param = params.get_mut(id);
                let (rows, cols) = (param.value.rows, param.value.cols);
                if (param.name.as_str(), rows as u64, cols as u64) != (head.name.as_str(), head.rows, head.cols) {
                    return Err(CheckpointFault::Fit(format!(
                        "tensor {index} is `{}` [{}, {}], the model has `{}` [{rows}, {cols}]",
                        head.name, head.rows, head.cols, param.name
                    )));
                }
                seen = index + 1;
                match (part, &mut adamw) {
                    (0, _) => param.value.data = numbers.into(),
                    (1, Some(adamw)) => adamw.first[id.0] = Tensor::new(rows, cols, numbers),
                    (2, Some(adamw)) => adamw.second[id.0] = Tensor::new(rows, cols, numbers),
                    _ => {}
                }
                Ok(())
            })?;
        if seen != expected {
            return Err(CheckpointFault::Fit(format!("it has {seen} tensors, the model {expected}")));
        }
        if let Some(adamw) = adamw {
            adamw.step = state.adamw_step;
        }
        Ok(state)
    }
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
