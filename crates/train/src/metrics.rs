//! The append-only files of a run: `metrics.jsonl` (what the run computed: byte-identical however
//! often it was killed), `timing.jsonl` (what the clock said) and `tb/` (both, for TensorBoard).
//!
//! A checkpoint holds the length of each; resuming cuts them back to it.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::TrainError;
use crate::tensorboard::{scalar_event, version_event, write_record};

/// Lengths of the files, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offsets {
    /// `metrics.jsonl`.
    pub metrics: u64,
    /// `timing.jsonl`.
    pub timing: u64,
    /// The event file.
    pub tensorboard: u64,
}

struct Appender {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Appender {
    /// Opens `path` and cuts it to `length`; a shorter file is an error, since a checkpoint is
    /// only written after the lines before it are on disk.
    fn open(path: PathBuf, length: u64, strict: bool) -> Result<Appender, TrainError> {
        let fail = |path: &Path| TrainError::io(path.to_owned());
        let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(fail(&path))?;
        let present = file.metadata().map_err(fail(&path))?.len();
        if present < length && strict {
            let message = format!("has {present} bytes, the checkpoint was made at {length}");
            return Err(TrainError::Io {
                path,
                source: std::io::Error::new(std::io::ErrorKind::UnexpectedEof, message),
            });
        }
        let length = length.min(present);
        file.set_len(length).map_err(fail(&path))?;
        file.seek(SeekFrom::Start(length)).map_err(fail(&path))?;
        Ok(Appender { path, file, length })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), TrainError> {
        self.file.write_all(bytes).map_err(TrainError::io(&self.path))?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn sync(&self) -> Result<(), TrainError> {
        self.file.sync_data().map_err(TrainError::io(&self.path))
    }
}

/// The open files.
pub struct Metrics {
    metrics: Appender,
    timing: Appender,
    tensorboard: Option<Appender>,
}

fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// Name of the event file: TensorBoard looks for `tfevents`.
const EVENT_FILE: &str = "events.out.tfevents.0.loar";

impl Metrics {
    /// Opens the files of the run folder and cuts them back to `offsets`.
    ///
    /// # Errors
    /// [`TrainError::Io`]; also when `metrics.jsonl` is shorter than a checkpoint says.
    pub fn open(dir: &Path, offsets: Offsets, tensorboard: bool) -> Result<Metrics, TrainError> {
        let metrics = Appender::open(dir.join("metrics.jsonl"), offsets.metrics, true)?;
        let timing = Appender::open(dir.join("timing.jsonl"), offsets.timing, false)?;
        let tensorboard = if tensorboard {
            let tb = dir.join("tb");
            std::fs::create_dir_all(&tb).map_err(TrainError::io(&tb))?;
            let mut file = Appender::open(tb.join(EVENT_FILE), offsets.tensorboard, false)?;
            if file.length == 0 {
                let mut record = Vec::new();
                // writing to a Vec cannot fail
                let _ = write_record(&mut record, &version_event(wall_time()));
                file.append(&record)?;
            }
            Some(file)
        } else {
            None
        };
        Ok(Metrics { metrics, timing, tensorboard })
    }

    /// One line each; scalar values go to TensorBoard as `train/…` and `eval/…`, timings as
    /// `time/…`.
    ///
    /// # Errors
    /// [`TrainError::Io`], when the disk is full for instance.
    pub fn append(
        &mut self,
        step: u64,
        values: &Map<String, Value>,
        timing: &Map<String, Value>,
    ) -> Result<(), TrainError> {
        let line = |map: &Map<String, Value>| format!("{}\n", Value::Object(map.clone()));
        if !timing.is_empty() {
            self.timing.append(line(timing).as_bytes())?;
        }
        if let Some(file) = &mut self.tensorboard {
            let mut scalars = Vec::new();
            for (map, group) in [(values, "train"), (timing, "time")] {
                for (key, value) in map {
                    if let (Some(value), false) = (value.as_f64(), key == "step") {
                        let tag = match key.strip_prefix("eval_") {
                            Some(rest) => format!("eval/{rest}"),
                            None => format!("{group}/{key}"),
                        };
                        scalars.push((tag, value));
                    }
                }
            }
            let scalars: Vec<(&str, f64)> = scalars.iter().map(|(t, v)| (t.as_str(), *v)).collect();
            let mut record = Vec::new();
            let _ = write_record(&mut record, &scalar_event(wall_time(), step, &scalars));
            file.append(&record)?;
        }
        self.metrics.append(line(values).as_bytes())
    }

    /// Makes everything written so far durable and gives the lengths for a checkpoint.
    ///
    /// # Errors
    /// [`TrainError::Io`].
    pub fn sync(&mut self) -> Result<Offsets, TrainError> {
        self.metrics.sync()?;
        self.timing.sync()?;
        if let Some(file) = &self.tensorboard {
            file.sync()?;
        }
        Ok(Offsets {
            metrics: self.metrics.length,
            timing: self.timing.length,
            tensorboard: self.tensorboard.as_ref().map_or(0, |t| t.length),
        })
    }
}

/// Lines of a `.jsonl` file of the run folder; a torn last line is left out.
///
/// # Errors
/// [`TrainError::Io`] when the file is there but cannot be read.
pub fn read_lines(path: &Path) -> Result<Vec<Map<String, Value>>, TrainError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(TrainError::io(path)(e)),
    };
    Ok(text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn reopening_cuts_back_to_the_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let line = |s: u64| object(json!({"step": s, "loss": 1.0 / s as f64, "eval_loss": 2.0}));
        let time = |s: u64| object(json!({"step": s, "seconds": 0.5}));
        let mut m = Metrics::open(dir.path(), Offsets::default(), true).unwrap();
        m.append(1, &line(1), &time(1)).unwrap();
        let at_one = m.sync().unwrap();
        m.append(2, &line(2), &time(2)).unwrap();
        m.append(3, &line(3), &time(3)).unwrap();
        let straight = m.sync().unwrap();
        let whole = std::fs::read(dir.path().join("metrics.jsonl")).unwrap();
        drop(m);

        let mut m = Metrics::open(dir.path(), at_one, true).unwrap();
        assert_eq!(std::fs::metadata(dir.path().join("metrics.jsonl")).unwrap().len(), at_one.metrics);
        m.append(2, &line(2), &time(2)).unwrap();
        m.append(3, &line(3), &time(3)).unwrap();
        assert_eq!(m.sync().unwrap(), straight);
        assert_eq!(std::fs::read(dir.path().join("metrics.jsonl")).unwrap(), whole);
        let tb = std::fs::read(dir.path().join("tb").join(EVENT_FILE)).unwrap();
        let scalars = crate::tensorboard::tests::read_scalars(&tb);
        assert_eq!(
            scalars.iter().filter(|s| s.1 == "train/loss").map(|s| (s.0, s.2)).collect::<Vec<_>>(),
            [(1, 1.0), (2, 0.5), (3, 1.0 / 3.0)]
        );
        assert_eq!(scalars.iter().filter(|s| s.1 == "eval/loss").count(), 3);
        assert_eq!(scalars.iter().filter(|s| s.1 == "time/seconds").count(), 3);
    }

    #[test]
    fn a_short_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("metrics.jsonl"), "{}\n").unwrap();
        let offsets = Offsets { metrics: 10, ..Offsets::default() };
        let error = Metrics::open(dir.path(), offsets, false).err().unwrap().to_string();
        assert!(error.contains("has 3 bytes, the checkpoint was made at 10"), "{error}");
    }
}
