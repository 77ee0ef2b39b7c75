//! Files that are whole or absent: temporary file in the same folder, fsync, rename, fsync folder.
//!
//! Takes bytes or a closure that streams them. On any failure, and on a panic of the closure, the
//! old file stays as it was and the temporary file is gone.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::ArtifactError;

/// Bytes gathered before a write reaches the system.
const BUFFER: usize = 1 << 20;

/// Replaces `path` by `bytes`, whole or not at all. Creates missing parent folders.
///
/// # Errors
/// [`ArtifactError::NoSpace`] when the disk is full, [`ArtifactError::Write`] otherwise; the old
/// file is untouched in both cases.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), ArtifactError> {
    write_atomic_with(path, |out| out.write_all(bytes))
}

/// Replaces `path` by what `f` writes, whole or not at all. The writer is buffered.
///
/// # Errors
/// As [`write_atomic`]; also when `f` returns an error.
pub fn write_atomic_with(path: &Path, f: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), ArtifactError> {
    replace(path, f).map_err(|source| failure(path, source))?;
    // from here on the new content is in place; only a power cut could still take it back
    sync_dir(&parent(path)).map_err(|source| ArtifactError::Write {
        path: path.to_owned(),
        source,
        preserved: "the new file is in place, but its folder could not be synced to disk".into(),
    })
}

fn replace(path: &Path, f: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?;
    let dir = parent(path);
    std::fs::create_dir_all(&dir)?;
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(name);
    // NamedTempFile removes itself when dropped before `persist`, also while unwinding
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(".tmp");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // the umask still applies: the file gets the mode any new file of this user gets
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut temporary = builder.tempfile_in(&dir)?;
    {
        let mut out = BufWriter::with_capacity(BUFFER, temporary.as_file_mut());
        f(&mut out)?;
        out.flush()?;
    }
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|e| e.error)?;
    Ok(())
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Makes the rename itself durable.
fn sync_dir(dir: &Path) -> io::Result<()> {
    if cfg!(unix) {
        match File::open(dir)?.sync_all() {
            // some network and overlay file systems refuse to sync a folder; the file is in place
            Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
            other => other,
        }
    } else {
        Ok(())
    }
}

fn failure(path: &Path, source: io::Error) -> ArtifactError {
    let preserved = if path.exists() {
        "the previous file is preserved unchanged and no partial file is left".to_owned()
    } else {
        "no partial file is left".to_owned()
    };
    let path = path.to_owned();
    if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
    {
        ArtifactError::NoSpace { path, preserved, source }
    } else {
        ArtifactError::Write { path, source, preserved }
    }
}
