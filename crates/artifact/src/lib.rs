//! Content ids, manifests and atomic files: what every result on disk stands on.
//!
//! Takes bytes and folders. Gives files that are whole or absent, SHA-256 ids and a manifest that
//! finds torn, changed, missing and added files. Never leaves a temporary file behind.
#![forbid(unsafe_code)]

mod atomic;
mod error;
mod id;
mod manifest;
pub mod page;
mod time;

pub use atomic::{write_atomic, write_atomic_with};
pub use error::ArtifactError;
pub use id::{ContentId, IdHasher};
pub use manifest::{Fault, FileEntry, MANIFEST_NAME, Manifest, Parent};
pub use time::{now_rfc3339, rfc3339};
