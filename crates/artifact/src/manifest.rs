//! `manifest.json` of a result folder: what it is, what it was made from, and the hash of each file.
//!
//! [`Manifest::verify`] names every file that is missing, torn, changed or was added since.

use std::collections::HashSet;
use std::fmt;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::id::{hash_file, list_files};
use crate::{ArtifactError, ContentId, IdHasher, now_rfc3339, write_atomic};

/// File name of a manifest inside its folder.
pub const MANIFEST_NAME: &str = "manifest.json";
/// Bound on a manifest; one of a thousand shards has some 150 kB.
const MAX_MANIFEST_BYTES: u64 = 64 << 20;

/// Something a result was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// What it was used for: `base`, `data`, `run`, `adapter`, ...
    pub role: String,
    /// Where it lay.
    pub path: String,
    /// Its content then.
    pub id: ContentId,
}

/// One file of the folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Relative name with `/`.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// Content.
    pub sha256: ContentId,
}

/// What a result folder is and what it was made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// `adapter`, `checkpoint`, `model`, `run`, ...
    pub kind: String,
    /// Hash of kind, parents' roles and ids, files and facts; not of the time, the tool or where
    /// parents lay, so that the same work gives the same id.
    pub id: ContentId,
    /// Program and version that wrote it.
    pub tool: String,
    /// RFC 3339, UTC.
    pub created: String,
    /// What it was made from.
    pub parents: Vec<Parent>,
    /// All files but the manifest, sorted by name.
    pub files: Vec<FileEntry>,
    /// What else the writer wants to say.
    pub facts: Value,
}

/// A file that is not as the manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Named but not there.
    Missing {
        /// Relative name.
        path: String,
    },
    /// There, but it cannot be read.
    Unreadable {
        /// Relative name.
        path: String,
        /// What the system said.
        message: String,
    },
    /// Another length: torn or overwritten.
    Size {
        /// Relative name.
        path: String,
        /// Bytes according to the manifest.
        expected: u64,
        /// Bytes there.
        actual: u64,
    },
    /// Same length, other bytes.
    Changed {
        /// Relative name.
        path: String,
        /// Id according to the manifest.
        expected: ContentId,
        /// Id of what is there.
        actual: ContentId,
    },
    /// There but not named.
    Added {
        /// Relative name.
        path: String,
    },
    /// The manifest itself was edited: its id does not follow from its content.
    Id {
        /// Id in the file.
        expected: ContentId,
        /// Id of its content.
        actual: ContentId,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { path } => write!(f, "`{path}` is missing"),
            Self::Unreadable { path, message } => write!(f, "`{path}` cannot be read: {message}"),
            Self::Size { path, expected, actual } => {
                write!(f, "`{path}` has {actual} bytes; the manifest says {expected}")
            }
            Self::Changed { path, expected, actual } => {
                write!(f, "`{path}` has changed: expected {expected}, found {actual}")
            }
            Self::Added { path } => write!(f, "`{path}` is not in the manifest"),
            Self::Id { expected, actual } => {
                write!(f, "the manifest was changed: it says id {expected}, its content gives {actual}")
            }
        }
    }
}

/// Whether a name of a manifest stays inside its folder.
fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && !path.contains(['\\', '\0'])
        && Path::new(path).components().all(|c| matches!(c, Component::Normal(_)))
}

impl Manifest {
    /// Hashes every file of `dir` (but a manifest) and describes the folder. Writes nothing.
    ///
    /// # Errors
    /// [`ArtifactError::Read`] or [`ArtifactError::Entry`].
    pub fn describe(dir: &Path, kind: &str, parents: Vec<Parent>, facts: Value) -> Result<Self, ArtifactError> {
        let mut files = Vec::new();
        for (name, path) in list_files(dir)? {
            if name != MANIFEST_NAME {
                let (sha256, bytes) = hash_file(&path)?;
                files.push(FileEntry { path: name, bytes, sha256 });
            }
        }
        let mut manifest = Self {
            kind: kind.to_owned(),
            id: ContentId::of_bytes(&[]),
            tool: concat!("loar ", env!("CARGO_PKG_VERSION")).to_owned(),
            created: now_rfc3339(),
            parents,
            files,
            facts,
        };
        manifest.id = manifest.content_id();
        Ok(manifest)
    }

    fn content_id(&self) -> ContentId {
        let mut hasher = IdHasher::new();
        let mut add = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        add(self.kind.as_bytes());
        add(&(self.parents.len() as u64).to_le_bytes());
        for parent in &self.parents {
            add(parent.role.as_bytes());
            add(parent.id.to_string().as_bytes());
        }
        add(&(self.files.len() as u64).to_le_bytes());
        for file in &self.files {
            add(file.path.as_bytes());
            add(file.sha256.to_string().as_bytes());
        }
        add(self.facts.to_string().as_bytes());
        hasher.finish()
    }

    /// Writes `dir/manifest.json`, whole or not at all.
    ///
    /// # Errors
    /// As [`write_atomic`].
    pub fn write(&self, dir: &Path) -> Result<(), ArtifactError> {
        let path = dir.join(MANIFEST_NAME);
        let mut text = serde_json::to_string_pretty(self)
            .map_err(|e| ArtifactError::Manifest { path: path.clone(), message: e.to_string() })?;
        text.push('\n');
        write_atomic(&path, text.as_bytes())
    }

    /// Reads `dir/manifest.json`.
    ///
    /// # Errors
    /// [`ArtifactError::Read`], or [`ArtifactError::Manifest`] when it is not a manifest or names
    /// files outside its folder.
    pub fn read(dir: &Path) -> Result<Self, ArtifactError> {
        let path = dir.join(MANIFEST_NAME);
        let fail = |source| ArtifactError::Read { path: path.clone(), source };
        let bytes = std::fs::metadata(&path).map_err(fail)?.len();
        if bytes > MAX_MANIFEST_BYTES {
            return Err(ArtifactError::Manifest {
                path,
                message: format!("{bytes} bytes; a manifest has at most {MAX_MANIFEST_BYTES}"),
            });
        }
        let content = std::fs::read(&path).map_err(fail)?;
        Self::from_bytes(&content, &path)
    }

    /// Reads the text of a manifest; `path` only names it in errors.
    ///
    /// # Errors
    /// [`ArtifactError::Manifest`].
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self, ArtifactError> {
        let refuse = |message| ArtifactError::Manifest { path: path.to_owned(), message };
        let manifest: Self = serde_json::from_slice(bytes).map_err(|e| refuse(format!("not a manifest: {e}")))?;
        let mut names = HashSet::new();
        for file in &manifest.files {
            if !is_inside(&file.path) {
                return Err(refuse(format!("names `{}`, which is not inside the folder", file.path)));
            }
            if !names.insert(file.path.as_str()) {
                return Err(refuse(format!("names `{}` twice", file.path)));
            }
        }
        Ok(manifest)
    }

    /// Compares the folder with the manifest; an empty list means every byte is as it was.
    /// Reads every file.
    pub fn verify(&self, dir: &Path) -> Vec<Fault> {
        let mut faults = Vec::new();
        let actual = self.content_id();
        if actual != self.id {
            faults.push(Fault::Id { expected: self.id, actual });
        }
        for file in &self.files {
            faults.extend(verify_file(file, dir));
        }
        match list_files(dir) {
            Ok(present) => {
                let named: HashSet<&str> = self.files.iter().map(|f| f.path.as_str()).collect();
                faults.extend(
                    present
                        .into_iter()
                        .filter(|(name, _)| name != MANIFEST_NAME && !named.contains(name.as_str()))
                        .map(|(path, _)| Fault::Added { path }),
                );
            }
            Err(e) => faults.push(Fault::Unreadable { path: ".".into(), message: e.to_string() }),
        }
        faults
    }
}

fn verify_file(file: &FileEntry, dir: &Path) -> Option<Fault> {
    let name = || file.path.clone();
    if !is_inside(&file.path) {
        return Some(Fault::Unreadable { path: name(), message: "outside the folder".into() });
    }
    let path = dir.join(&file.path);
    // the length first: a torn file is found without reading the rest
    match std::fs::metadata(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Some(Fault::Missing { path: name() });
        }
        Err(e) => {
            return Some(Fault::Unreadable { path: name(), message: e.to_string() });
        }
        Ok(meta) if meta.len() != file.bytes => {
            return Some(Fault::Size { path: name(), expected: file.bytes, actual: meta.len() });
        }
        Ok(_) => {}
    }
    match hash_file(&path) {
        Err(e) => Some(Fault::Unreadable { path: name(), message: e.to_string() }),
        Ok((actual, _)) if actual != file.sha256 => {
            Some(Fault::Changed { path: name(), expected: file.sha256, actual })
        }
        Ok(_) => None,
    }
}
