//! Paths as the caller gives them → data files: folders are walked in sorted order and give the
//! files whose names say data; everything passed over is listed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::fault::{FaultKind, RowFault};
use crate::input::{by_extension, io_fault, lower_extension};

/// Folder nesting beyond which links must be circular.
const DEPTH: usize = 16;

/// Files to read and files passed over.
#[derive(Debug, Default)]
pub(crate) struct Expanded {
    pub files: Vec<PathBuf>,
    /// Path and reason.
    pub passed: Vec<(PathBuf, String)>,
    pub faults: Vec<(PathBuf, RowFault)>,
}

pub(crate) fn expand(paths: &[PathBuf]) -> Expanded {
    let mut out = Expanded::default();
    let mut seen = BTreeSet::new();
    for path in paths {
        match fs::metadata(path) {
            Err(error) => out.faults.push((path.clone(), io_fault(&error))),
            Ok(meta) if meta.is_dir() => {
                let before = out.files.len();
                walk(path, 0, &mut out, &mut seen);
                if out.files.len() == before {
                    let fault = RowFault::new("", FaultKind::EmptyFile, "a folder without data files");
                    out.faults.push((path.clone(), fault));
                }
            }
            Ok(meta) if meta.is_file() => {
                if !add(path, &mut out, &mut seen) {
                    let fault = RowFault::new("", FaultKind::Unreadable, "a file that is already in the list");
                    out.faults.push((path.clone(), fault.mend("name it once")));
                }
            }
            Ok(_) => {
                let fault = RowFault::new("", FaultKind::Unreadable, "a pipe or device");
                out.faults.push((path.clone(), fault.mend("write it to a file first")));
            }
        }
    }
    out
}

fn add(path: &Path, out: &mut Expanded, seen: &mut BTreeSet<PathBuf>) -> bool {
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let new = seen.insert(real);
    if new {
        out.files.push(path.to_path_buf());
    }
    new
}

fn is_data(path: &Path) -> bool {
    let extension = lower_extension(path);
    match extension.as_str() {
        "gz" | "gzip" | "zst" | "zstd" => is_data(&path.with_extension("")),
        // Folders of data sets carry their card as README.md.
        "md" => false,
        other => by_extension(other).is_some(),
    }
}

fn walk(folder: &Path, depth: usize, out: &mut Expanded, seen: &mut BTreeSet<PathBuf>) {
    let entries = match fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>) {
        Ok(entries) => entries,
        Err(error) => return out.faults.push((folder.to_path_buf(), io_fault(&error))),
    };
    let mut paths: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        if hidden {
            out.passed.push((path, "a hidden name".into()));
            continue;
        }
        match fs::metadata(&path) {
            Ok(meta) if meta.is_dir() && depth < DEPTH => walk(&path, depth + 1, out, seen),
            Ok(meta) if meta.is_dir() => {
                out.passed.push((path, format!("nested more than {DEPTH} folders deep")));
            }
            Ok(meta) if meta.is_file() && is_data(&path) => {
                if !add(&path, out, seen) {
                    out.passed.push((path, "a second way to a file already in the list".into()));
                }
            }
            Ok(_) => out.passed.push((path, "the name does not say data".into())),
            Err(error) => out.faults.push((path, io_fault(&error))),
        }
    }
}
