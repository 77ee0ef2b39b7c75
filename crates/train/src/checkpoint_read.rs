//! Reading a checkpoint file that nobody vouches for: bounded, hashed, never trusted before its end.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use loar_artifact::IdHasher;

use super::{CheckpointFault, Head, MAGIC, MAX_HEAD, State, TRAILER, TensorHead};

pub(super) fn read_head(input: &mut impl Read) -> Result<Head, CheckpointFault> {
    let mut start = [0u8; 16];
    input.read_exact(&mut start).map_err(short)?;
    let (magic, length) = start.split_at(8);
    if magic != MAGIC {
        return Err(CheckpointFault::Magic);
    }
    let length = u64::from_le_bytes(length.try_into().map_err(|_| CheckpointFault::Magic)?);
    if length > MAX_HEAD {
        return Err(CheckpointFault::Head(format!("{length} bytes are beyond the bound of {MAX_HEAD}")));
    }
    let mut head = Vec::new();
    input.take(length).read_to_end(&mut head)?; // grows with what is there, not with what is claimed
    if head.len() as u64 != length {
        return Err(CheckpointFault::Length { expected: 16 + length, actual: 16 + head.len() as u64 });
    }
    serde_json::from_slice(&head).map_err(|e| CheckpointFault::Head(e.to_string()))
}

fn short(error: io::Error) -> CheckpointFault {
    if error.kind() == io::ErrorKind::UnexpectedEof { CheckpointFault::Magic } else { CheckpointFault::Io(error) }
}

struct Tee<'a, R: Read> {
    input: &'a mut R,
    hasher: IdHasher,
    bytes: u64,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        self.bytes += n as u64;
        Ok(n)
    }
}

pub(super) type Visit<'a> = &'a mut dyn FnMut(usize, &TensorHead, usize, Vec<f32>) -> Result<(), CheckpointFault>;

/// Reads a checkpoint of `length` bytes; `visit` gets each tensor's value (part 0) and moments
/// (parts 1 and 2). The hash is known only at the end.
pub(super) fn scan(input: &mut impl Read, length: u64, visit: Visit<'_>) -> Result<State, CheckpointFault> {
    let mut tee = Tee { input, hasher: IdHasher::new(), bytes: 0 };
    let head = read_head(&mut tee)?;
    let mut expected = tee.bytes + TRAILER;
    for t in &head.tensors {
        let bytes = t.rows.checked_mul(t.cols).and_then(|n| n.checked_mul(12)).and_then(|n| n.checked_add(expected));
        expected = bytes.ok_or_else(|| CheckpointFault::Head(format!("tensor `{}` is too large", t.name)))?;
    }
    if expected != length {
        return Err(CheckpointFault::Length { expected, actual: length });
    }
    for (index, t) in head.tensors.iter().enumerate() {
        for part in 0..3 {
            // bounded by the file's own length, checked above
            let mut bytes = vec![0u8; (t.rows * t.cols * 4) as usize];
            tee.read_exact(&mut bytes)?;
            let numbers = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            visit(index, t, part, numbers)?;
        }
    }
    let Tee { input, hasher, .. } = tee;
    let mut trailer = Vec::new();
    input.take(TRAILER + 1).read_to_end(&mut trailer)?;
    if trailer != hasher.finish().to_string().as_bytes() {
        return Err(CheckpointFault::Hash);
    }
    Ok(head.state)
}

pub(super) fn verify(path: &Path) -> Result<State, CheckpointFault> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    scan(&mut io::BufReader::with_capacity(1 << 20, file), length, &mut |_, _, _, _| Ok(()))
}

/// Reads the bytes of a checkpoint that nobody vouches for (fuzz target).
///
/// # Errors
/// [`CheckpointFault`].
pub fn decode(bytes: &[u8]) -> Result<State, CheckpointFault> {
    scan(&mut &bytes[..], bytes.len() as u64, &mut |_, _, _, _| Ok(()))
}
