//! Bounded reading of JSON files with the place of the first syntax fault.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use crate::FormatError;

/// Reads a file of at most `limit` bytes; `kind` names it in the error.
pub(crate) fn read_file(path: &Path, kind: &'static str, limit: u64) -> Result<Vec<u8>, FormatError> {
    let io = |source| FormatError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    let bytes = file.metadata().map_err(io)?.len();
    let too_large = |bytes| FormatError::TooLarge { path: path.to_owned(), kind, bytes, limit };
    if bytes > limit {
        return Err(too_large(bytes));
    }
    let mut content = Vec::new();
    // the size above is a promise a pipe or a growing file need not keep
    file.take(limit + 1).read_to_end(&mut content).map_err(io)?;
    if content.len() as u64 > limit {
        return Err(too_large(content.len() as u64));
    }
    Ok(content)
}

/// Parses JSON, skipping a byte-order mark as Python's `utf-8-sig` readers do.
pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<Value, FormatError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    serde_json::from_slice(bytes).map_err(|e| fault(&e, path))
}

pub(crate) fn fault(error: &serde_json::Error, path: &Path) -> FormatError {
    let text = error.to_string();
    // serde_json repeats the position at the end of its message
    let message = text.split(" at line ").next().unwrap_or(&text).to_owned();
    FormatError::Json { path: path.to_owned(), line: error.line(), column: error.column(), message }
}
