//! `report.html` (skeleton).
use std::path::{Path, PathBuf};
use crate::TrainError;
pub fn write(dir: &Path) -> Result<PathBuf, TrainError> { Ok(dir.join("report.html")) }
