//! The run folder: `run.toml`, `resolved.toml`, `ledger.json`, `coverage.json`, `plan.json`,
//! `metrics.jsonl`, `timing.jsonl`, `tb/`, `checkpoints/`, `adapter/`, `summary.json`,
//! `report.html`, `manifest.json`.
//!
//! Everything but the append-only files is written whole or not at all. The folder can be copied:
//! nothing in it depends on where it lies.

use std::path::{Path, PathBuf};

use loar_artifact::{Manifest, write_atomic};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::TrainError;
use crate::config::ResolvedRun;

/// A run folder.
#[derive(Clone, Debug)]
pub struct Folder {
    /// Its path.
    pub dir: PathBuf,
}

impl Folder {
    /// The folder at `dir`.
    pub fn new(dir: &Path) -> Folder {
        Folder { dir: dir.to_owned() }
    }

    /// Begins a run; `resolved.toml` is written last and marks the folder as taken.
    ///
    /// # Errors
    /// [`TrainError::RunExists`], or what the system said.
    pub fn begin(&self, run: &ResolvedRun) -> Result<(), TrainError> {
        if self.dir.join("resolved.toml").exists() {
            return Err(TrainError::RunExists { dir: self.dir.clone() });
        }
        write_atomic(&self.dir.join("run.toml"), run.written.as_bytes())?;
        write_atomic(&self.dir.join("resolved.toml"), run.toml().as_bytes())?;
        Ok(())
    }

    /// The run that was begun here, with overrides of the command line.
    ///
    /// # Errors
    /// [`TrainError::NoRun`], [`TrainError::Config`], or what the system said.
    pub fn run(&self, overrides: &[String]) -> Result<ResolvedRun, TrainError> {
        let path = self.dir.join("resolved.toml");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(TrainError::NoRun { dir: self.dir.clone() });
            }
            Err(e) => return Err(TrainError::io(path)(e)),
        };
        let mut run = ResolvedRun::parse(&path.to_string_lossy(), &text, overrides)?;
        if let Ok(written) = std::fs::read_to_string(self.dir.join("run.toml")) {
            run.written = written;
        }
        run.output.dir = self.dir.clone(); // the folder may have been moved
        Ok(run)
    }

    /// Writes a JSON file.
    ///
    /// # Errors
    /// [`TrainError::Artifact`].
    pub fn write_json<T: Serialize>(&self, name: &str, value: &T) -> Result<(), TrainError> {
        let path = self.dir.join(name);
        let mut text = serde_json::to_string_pretty(value)
            .map_err(|e| TrainError::Io { path: path.clone(), source: std::io::Error::other(e) })?;
        text.push('\n');
        Ok(write_atomic(&path, text.as_bytes())?)
    }

    /// Reads a JSON file; `None` when it is not there.
    ///
    /// # Errors
    /// [`TrainError::Io`] when it is there and not readable.
    pub fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, TrainError> {
        let path = self.dir.join(name);
        match std::fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(value) => Ok(Some(value)),
                Err(e) => Err(TrainError::Io { path, source: std::io::Error::new(std::io::ErrorKind::InvalidData, e) }),
            },
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(TrainError::io(path)(e)),
        }
    }

    /// Replaces a sub-folder by what `build` makes, whole or not at all: it is built beside under a
    /// temporary name and renamed.
    ///
    /// # Errors
    /// What `build` or the system said; the old sub-folder stays as it was.
    pub fn replace_dir(
        &self,
        name: &str,
        build: impl FnOnce(&Path) -> Result<(), TrainError>,
    ) -> Result<PathBuf, TrainError> {
        let path = self.dir.join(name);
        let temporary = self.dir.join(format!(".{name}.tmp"));
        if temporary.exists() {
            std::fs::remove_dir_all(&temporary).map_err(TrainError::io(&temporary))?;
        }
        std::fs::create_dir_all(&temporary).map_err(TrainError::io(&temporary))?;
        if let Err(error) = build(&temporary) {
            let _ = std::fs::remove_dir_all(&temporary);
            return Err(error);
        }
        if path.exists() {
            std::fs::remove_dir_all(&path).map_err(TrainError::io(&path))?;
        }
        std::fs::rename(&temporary, &path).map_err(TrainError::io(&path))?;
        Ok(path)
    }

    /// Describes the run folder in its own manifest, checkpoints and clock files left out of what
    /// decides its id by being listed only in the adapter's parents.
    ///
    /// # Errors
    /// [`TrainError::Artifact`].
    pub fn write_manifest(
        &self,
        parents: Vec<loar_artifact::Parent>,
        facts: serde_json::Value,
    ) -> Result<(), TrainError> {
        Ok(Manifest::describe(&self.dir, "run", parents, facts)?.write(&self.dir)?)
    }
}
