//! Working memory that outlives a call: each thread keeps its buffers, so a hot loop allocates nothing.
use std::cell::Cell;
use std::thread::LocalKey;

pub(crate) type Slot = LocalKey<Cell<Vec<u32>>>;

thread_local! {
    /// Panels packed once and read by every thread of a product.
    pub(crate) static SHARED: Cell<Vec<u32>> = const { Cell::new(Vec::new()) };
    /// Panels only the owning thread reads.
    pub(crate) static LOCAL: Cell<Vec<u32>> = const { Cell::new(Vec::new()) };
    /// Rows of x packed for the products of one token step.
    pub(crate) static STREAMED: Cell<Vec<u32>> = const { Cell::new(Vec::new()) };
    /// One row of x in the columns of wider tiles.
    pub(crate) static SPREAD: Cell<Vec<u32>> = const { Cell::new(Vec::new()) };
    /// Score and gradient tiles of attention.
    pub(crate) static TILES: Cell<Vec<u32>> = const { Cell::new(Vec::new()) };
}

/// Lends `len` 32-bit words on a 64-byte boundary, with whatever an earlier call left in them.
/// A nested call for the same slot gets a buffer of its own.
pub(crate) fn with<R>(slot: &'static Slot, len: usize, f: impl FnOnce(&mut [u32]) -> R) -> R {
    let mut buffer = slot.take();
    if buffer.len() < len + 16 {
        buffer = vec![0; len + 16];
    }
    let skip = buffer.as_ptr().align_offset(64).min(16);
    let result = f(&mut buffer[skip..skip + len]);
    slot.set(buffer);
    result
}

/// The same memory seen as f32.
pub(crate) fn with_f32<R>(slot: &'static Slot, len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    with(slot, len, |words| f(bytemuck::cast_slice_mut(words)))
}
