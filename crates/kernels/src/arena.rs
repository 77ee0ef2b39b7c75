//! Memory of activations and gradients: large buffers come from a few mapped regions and go back to them, so a training
//! step touches the same pages again and again instead of asking the system for fresh ones (a page fault costs more
//! than filling the page), and its high-water mark is known to the byte.
//!
//! Blocks are placed first-fit from the lowest address, neighbours are joined when freed, and regions ask for huge
//! pages. Memory comes back with whatever it held last: [`Buf::unfilled`] costs nothing, [`Buf::zeros`] one pass.
//! In debug builds unfilled memory is NaN in every number type, so that reading it before writing shows.
use memmap2::{MmapMut, MmapOptions};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Number types a buffer may hold: every bit pattern is a value.
pub trait Element: bytemuck::Pod + Send + Sync + fmt::Debug + PartialEq {}
impl Element for f32 {}
impl Element for u16 {}
impl Element for u32 {}

/// Buffers below this many bytes are ordinary vectors.
const SMALL: usize = 32 << 10;
/// Address space a region takes at least; only touched pages count.
const REGION: usize = 1 << 30;
const HUGE_PAGE: usize = 2 << 20;
const LINE: usize = 64;

struct Region {
    map: MmapMut,
    /// Offset → length of the free blocks, none touching another.
    free: BTreeMap<usize, usize>,
}

struct Arena {
    regions: Vec<Region>,
    live: usize,
    peak: usize,
    /// Blocks handed out, to stagger their addresses.
    count: usize,
}

static ARENA: Mutex<Arena> = Mutex::new(Arena { regions: Vec::new(), live: 0, peak: 0, count: 0 });

fn arena() -> MutexGuard<'static, Arena> {
    ARENA.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone, Copy)]
struct Block {
    region: usize,
    offset: usize,
    len: usize,
}

impl Arena {
    fn take(&mut self, bytes: usize) -> (Block, NonNull<u8>) {
        // A few spare lines keep buffers of one size from lying at one offset of their pages, where a store and a
        // later load of another buffer look alike to the processor.
        self.count = self.count.wrapping_add(1);
        let len = bytes.next_multiple_of(LINE) + LINE * (1 + self.count % 13);
        let fit = |r: &Region| r.free.iter().find(|(_, l)| **l >= len).map(|(o, _)| *o);
        let found = self.regions.iter().enumerate().find_map(|(i, r)| fit(r).map(|o| (i, o)));
        let (region, offset) = found.unwrap_or_else(|| {
            let size = len.next_multiple_of(HUGE_PAGE).max(REGION);
            let map = MmapOptions::new().len(size).map_anon();
            let map = map.unwrap_or_else(|e| panic!("the system refuses {size} bytes of memory: {e}"));
            // Advice only: without huge pages everything works, slower.
            #[cfg(target_os = "linux")]
            let _ = map.advise(memmap2::Advice::HugePage);
            self.regions.push(Region { map, free: BTreeMap::from([(0, size)]) });
            (self.regions.len() - 1, 0)
        });
        let r = &mut self.regions[region];
        let held = r.free.remove(&offset).expect("found above");
        if held > len {
            r.free.insert(offset + len, held - len);
        }
        self.live += len;
        self.peak = self.peak.max(self.live);
        // SAFETY: offset + len lies inside the map, whose address is not null.
        let at = unsafe { NonNull::new_unchecked(r.map.as_mut_ptr().add(offset)) };
        (Block { region, offset, len }, at)
    }

    fn give(&mut self, block: Block) {
        self.live -= block.len;
        let free = &mut self.regions[block.region].free;
        let (mut offset, mut len) = (block.offset, block.len);
        if let Some((o, l)) = free.range(..offset).next_back().map(|(o, l)| (*o, *l))
            && o + l == offset
        {
            free.remove(&o);
            (offset, len) = (o, l + len);
        }
        if let Some(l) = free.remove(&(offset + len)) {
            len += l;
        }
        free.insert(offset, len);
    }
}

/// Bytes of large buffers alive now and at most since [`reset_peak`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub live: usize,
    pub peak: usize,
}

pub fn usage() -> Usage {
    let a = arena();
    Usage { live: a.live, peak: a.peak }
}

pub fn reset_peak() {
    let mut a = arena();
    a.peak = a.live;
}

enum Owner<T> {
    Vector(Vec<T>),
    Arena(Block),
}

/// A buffer of numbers, from the arena when large.
pub struct Buf<T: Element> {
    at: NonNull<T>,
    len: usize,
    owner: Owner<T>,
}

// SAFETY: a Buf owns its numbers alone, like a Vec.
unsafe impl<T: Element> Send for Buf<T> {}
// SAFETY: as above; shared access only reads.
unsafe impl<T: Element> Sync for Buf<T> {}

impl<T: Element> Buf<T> {
    /// `len` numbers with unspecified values, to be written before they are read.
    pub fn unfilled(len: usize) -> Buf<T> {
        let bytes = len * size_of::<T>();
        if bytes < SMALL {
            let mut v = vec![T::zeroed(); len];
            if cfg!(debug_assertions) {
                bytemuck::cast_slice_mut::<T, u8>(&mut v).fill(0xff);
            }
            return v.into();
        }
        let (block, at) = arena().take(bytes);
        let mut buf = Buf { at: at.cast(), len, owner: Owner::Arena(block) };
        if cfg!(debug_assertions) {
            bytemuck::cast_slice_mut::<T, u8>(&mut buf).fill(0xff);
        }
        buf
    }

    pub fn zeros(len: usize) -> Buf<T> {
        if len * size_of::<T>() < SMALL {
            return vec![T::zeroed(); len].into();
        }
        let mut buf = Buf::unfilled(len);
        buf.fill(T::zeroed());
        buf
    }

    pub fn into_vec(mut self) -> Vec<T> {
        match &mut self.owner {
            Owner::Vector(v) => std::mem::take(v),
            Owner::Arena(_) => self.to_vec(),
        }
    }
}

impl<T: Element> From<Vec<T>> for Buf<T> {
    fn from(mut v: Vec<T>) -> Buf<T> {
        // SAFETY: a vector's pointer is never null, and it moves with the vector.
        let at = unsafe { NonNull::new_unchecked(v.as_mut_ptr()) };
        Buf { at, len: v.len(), owner: Owner::Vector(v) }
    }
}

impl<T: Element> Drop for Buf<T> {
    fn drop(&mut self) {
        if let Owner::Arena(block) = self.owner {
            arena().give(block);
        }
    }
}

impl<T: Element> Deref for Buf<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `at` points to `len` numbers owned by this buffer: the vector's, or a block whose memory was mapped
        // as zeros and has only held numbers since; any bits are a T.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.len) }
    }
}

impl<T: Element> DerefMut for Buf<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.len) }
    }
}

impl<'b, T: Element> IntoIterator for &'b Buf<T> {
    type Item = &'b T;
    type IntoIter = std::slice::Iter<'b, T>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'b, T: Element> IntoIterator for &'b mut Buf<T> {
    type Item = &'b mut T;
    type IntoIter = std::slice::IterMut<'b, T>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

impl<T: Element> Clone for Buf<T> {
    fn clone(&self) -> Buf<T> {
        let mut copy = Buf::unfilled(self.len);
        copy.copy_from_slice(self);
        copy
    }
}

impl<T: Element> fmt::Debug for Buf<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: Element> PartialEq for Buf<T> {
    fn eq(&self, other: &Buf<T>) -> bool {
        **self == **other
    }
}

impl<T: Element> Default for Buf<T> {
    fn default() -> Buf<T> {
        Vec::new().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_never_overlap_and_come_back() {
        let mut state = 1u64;
        let mut next = |n: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % n
        };
        let mut held: Vec<(u32, Buf<u32>)> = Vec::new();
        for round in 0..2000u32 {
            if held.len() > 40 || (next(3) == 0 && !held.is_empty()) {
                let (mark, buf) = held.swap_remove(next(held.len()));
                assert!(buf.iter().all(|x| *x == mark), "round {round}: another buffer wrote here");
            } else {
                let mut buf = Buf::unfilled(1 + next(100_000));
                buf.fill(round);
                held.push((round, buf));
            }
        }
        for (mark, buf) in &held {
            assert!(buf.iter().all(|x| x == mark) && buf.as_ptr().align_offset(4) == 0);
        }
    }

    #[test]
    fn free_neighbours_join() {
        let mut a = Arena { regions: Vec::new(), live: 0, peak: 0, count: 0 };
        let blocks: Vec<Block> = (0..5).map(|_| a.take(1 << 20).0).collect();
        assert!(a.live >= 5 << 20 && a.peak == a.live);
        for i in [1, 3, 2, 0, 4] {
            a.give(blocks[i]);
        }
        assert_eq!((a.live, a.regions.len(), a.regions[0].free.len()), (0, 1, 1));
        let again = a.take(3 << 20).0;
        assert_eq!(again.offset, 0);
    }

    #[test]
    fn vectors_go_in_and_out() {
        let b: Buf<f32> = vec![1.0, 2.0].into();
        assert_eq!((b.clone().into_vec(), &b[..]), (vec![1.0, 2.0], &[1.0, 2.0][..]));
        let big = Buf::<u16>::zeros(100_000);
        assert!(big.iter().all(|x| *x == 0) && big.clone() == big && big.into_vec().len() == 100_000);
        assert!(Buf::<f32>::default().is_empty());
    }
}
