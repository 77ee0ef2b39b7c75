//! The memory map of one file and byte ranges that keep it alive.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

/// Maps a file read-only.
///
/// The map shows what the file holds: when another process cuts the file meanwhile, access to the
/// lost pages ends this process with a bus error. Writers of this project replace files by rename
/// and never cut one in place.
#[allow(unsafe_code)]
pub(super) fn map(path: &Path) -> io::Result<Arc<Mmap>> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    // SAFETY: the map is private and read-only, and its bytes are only ever read as `&[u8]`, for
    // which every bit pattern is valid. A concurrent in-place change of the file is outside what
    // this process can prevent (see above); no length or offset is read from the map twice.
    let map = unsafe { Mmap::map(&file)? };
    Ok(Arc::new(map))
}

/// Bytes of one tensor. Cheap to clone; keeps its file mapped. Not aligned for any type.
#[derive(Clone)]
pub struct TensorBytes {
    map: Arc<Mmap>,
    range: Range<usize>,
}

impl TensorBytes {
    pub(super) fn new(map: Arc<Mmap>, range: Range<usize>) -> Self {
        Self { map, range }
    }

    /// Tells the system that these bytes will not be read again soon, so that they stop counting as
    /// memory of this process. Reading them again is allowed and reads the file again.
    #[allow(unsafe_code)]
    pub fn release(&self) {
        #[cfg(target_os = "linux")]
        {
            const PAGE: usize = 4096; // whole pages of this tensor alone; larger pages refuse, which loses nothing
            let (from, to) = (self.range.start.next_multiple_of(PAGE), self.range.end / PAGE * PAGE);
            if from < to {
                // SAFETY: the map is a read-only view of a file: after MADV_DONTNEED the same bytes come
                // from the file again, so that no byte that Rust may read changes.
                // A refusal leaves the pages where they are.
                let _ = unsafe { self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, from, to - from) };
            }
        }
    }
}

impl AsRef<[u8]> for TensorBytes {
    fn as_ref(&self) -> &[u8] {
        // ranges come from a header checked against the length of this map
        self.map.get(self.range.clone()).unwrap_or_default()
    }
}

impl Deref for TensorBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.as_ref()
    }
}

impl std::fmt::Debug for TensorBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TensorBytes({} bytes)", self.range.len())
    }
}
