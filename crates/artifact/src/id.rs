//! Content ids: the SHA-256 of bytes, of a file, or of a folder.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::ArtifactError;

/// SHA-256 of some content. Shown and stored as `sha256:<64 hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentId([u8; 32]);

/// A SHA-256 that is fed piece by piece, also as a writer.
#[derive(Default)]
pub struct IdHasher(Sha256);

impl IdHasher {
    /// An empty hash.
    pub fn new() -> Self {
        Self::default()
    }
    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
    /// The id of everything added.
    pub fn finish(self) -> ContentId {
        ContentId(self.0.finalize().into())
    }
}

impl Write for IdHasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ContentId {
    /// Id of bytes.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        let mut hasher = IdHasher::new();
        hasher.update(bytes);
        hasher.finish()
    }

    /// Id of the bytes of a file; equal to [`ContentId::of_bytes`] of its content.
    ///
    /// # Errors
    /// [`ArtifactError::Read`].
    pub fn of_file(path: &Path) -> Result<Self, ArtifactError> {
        Ok(hash_file(path)?.0)
    }

    /// Id of a folder: the hash of its regular files' relative names (with `/`, sorted by bytes)
    /// and ids. Times, modes and empty folders do not count. Links to files are followed, as
    /// download caches store checkpoints as links; links to folders are refused.
    ///
    /// # Errors
    /// [`ArtifactError::Read`], or [`ArtifactError::Entry`] for what has no content to hash.
    pub fn of_dir(dir: &Path) -> Result<Self, ArtifactError> {
        let mut hasher = IdHasher::new();
        for (name, path) in list_files(dir)? {
            let id = Self::of_file(&path)?;
            // the length before the name keeps two different listings from reading alike
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name.as_bytes());
            hasher.update(&id.0);
        }
        Ok(hasher.finish())
    }

    /// The 64 hex digits.
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        self.0.iter().fold(String::with_capacity(64), |mut text, byte| {
            let _ = write!(text, "{byte:02x}"); // writing to a String cannot fail
            text
        })
    }

    /// Reads `sha256:<64 hex digits>`, lower or upper case.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("sha256:")?.as_bytes();
        if hex.len() != 64 {
            return None;
        }
        let mut bytes = [0u8; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            let mut value = 0;
            for digit in pair {
                value = value * 16 + char::from(*digit).to_digit(16)?;
            }
            *byte = u8::try_from(value).ok()?;
        }
        Some(Self(bytes))
    }
}

/// Id and size in bytes of a file.
pub(crate) fn hash_file(path: &Path) -> Result<(ContentId, u64), ArtifactError> {
    let fail = |source| ArtifactError::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(fail)?;
    let mut hasher = IdHasher::new();
    let mut buffer = vec![0u8; 1 << 18];
    let mut total = 0u64;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((hasher.finish(), total)),
            Ok(n) => {
                hasher.update(buffer.get(..n).unwrap_or_default());
                total += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(fail(e)),
        }
    }
}

/// All regular files below `dir`, as (relative name with `/`, path), sorted by name.
pub(crate) fn list_files(dir: &Path) -> Result<Vec<(String, PathBuf)>, ArtifactError> {
    let mut found = Vec::new();
    let mut todo = vec![(String::new(), dir.to_owned())];
    while let Some((prefix, folder)) = todo.pop() {
        let fail = |source| ArtifactError::Read { path: folder.clone(), source };
        for entry in std::fs::read_dir(&folder).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let path = entry.path();
            let refuse = |message: &str| ArtifactError::Entry { path: path.clone(), message: message.to_owned() };
            let file_name = entry.file_name();
            let Some(name) = file_name.to_str() else {
                return Err(refuse("its name is not UTF-8"));
            };
            let name = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
            let kind = entry.file_type().map_err(fail)?;
            if kind.is_dir() {
                todo.push((name, path));
            } else if kind.is_file() {
                found.push((name, path));
            } else if kind.is_symlink() {
                let target =
                    std::fs::metadata(&path).map_err(|source| ArtifactError::Read { path: path.clone(), source })?;
                if !target.is_file() {
                    return Err(refuse("it is a link to something that is not a file"));
                }
                found.push((name, path));
            } else {
                return Err(refuse("it is neither a file nor a folder"));
            }
        }
    }
    found.sort();
    Ok(found)
}

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ContentId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ContentId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            serde::de::Error::custom(format!("`{text}` is not a content id; expected sha256: and 64 hex digits"))
        })
    }
}
