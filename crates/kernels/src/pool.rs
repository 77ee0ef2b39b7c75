//! A pool of threads for parallel loops: takes a count and a task, calls the task once per index, returns when all
//! calls are done. Never decides anything by the thread an index lands on, so callers get the same numbers from any
//! thread count.
//!
//! The caller works too and never waits for a thread that has not started: a helper that wakes late finds the loop
//! closed and goes back to sleep. Helpers spin for some microseconds after a loop, then sleep.
use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, TryLockError};
use std::thread::JoinHandle;

/// Rounds of `spin_loop` before sleeping: 40–150 µs on current machines. That is more than the gap between two loops of a
/// layer and than the last task of a loop takes (half a megabyte of weights), and far below a scheduler tick; being woken
/// costs as much again.
const SPINS: usize = 4000;
/// `Shared::gate`: the lowest bit says a loop may be entered, the rest counts the helpers inside (2 each).
const OPEN: usize = 1;
const INSIDE: usize = 2;

thread_local! {
    /// Set while this thread runs a task: loops started from a task run inline.
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
}

/// Runs parallel loops over `threads` threads (the caller is one of them).
pub struct Pool {
    threads: usize,
    shared: Arc<Shared>,
    /// Held for the length of a loop; a second caller finds it taken and runs its loop inline.
    turn: Mutex<()>,
    helpers: Vec<JoinHandle<()>>,
}

struct Shared {
    /// Counts the loops published; helpers wait for it to change.
    epoch: AtomicUsize,
    gate: AtomicUsize,
    job: UnsafeCell<*const Job<'static>>,
    stop: AtomicBool,
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
    caller_sleeps: AtomicBool,
    finish: Mutex<()>,
    finished: Condvar,
}

// SAFETY: `job` is written only by the thread holding `Pool::turn` while `gate` is 0 (no helper inside, none may
// enter), and read only by helpers counted in `gate`; every other field is Sync by itself.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is only followed under the rule above, from any thread.
unsafe impl Send for Shared {}

struct Job<'a> {
    task: &'a (dyn Fn(usize) + Sync),
    count: usize,
    chunk: usize,
    next: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Job<'_> {
    /// Takes indices until none is left. A panic stops the loop and is kept for the caller.
    fn work(&self) {
        let outer = IN_TASK.replace(true);
        loop {
            let first = self.next.fetch_add(self.chunk, Ordering::Relaxed);
            if first >= self.count {
                break;
            }
            let last = (first + self.chunk).min(self.count);
            let run = || (first..last).for_each(|i| (self.task)(i));
            if let Err(payload) = catch_unwind(AssertUnwindSafe(run)) {
                self.next.store(self.count, Ordering::Relaxed);
                lock(&self.panic).get_or_insert(payload);
            }
        }
        IN_TASK.set(outer);
    }
}

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// A pool that uses `threads` threads in all; 0 means one per available core.
    pub fn new(threads: usize) -> Pool {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
            n => n,
        };
        let shared = Arc::new(Shared {
            epoch: AtomicUsize::new(0),
            gate: AtomicUsize::new(0),
            job: UnsafeCell::new(std::ptr::null()),
            stop: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
            caller_sleeps: AtomicBool::new(false),
            finish: Mutex::new(()),
            finished: Condvar::new(),
        });
        // A machine that refuses another thread still computes, with those it gave.
        let helpers: Vec<_> = (1..threads)
            .map_while(|i| {
                let shared = shared.clone();
                std::thread::Builder::new().name(format!("kernel-{i}")).spawn(move || shared.help()).ok()
            })
            .collect();
        Pool { threads: helpers.len() + 1, shared, turn: Mutex::new(()), helpers }
    }

    /// Threads in use, the caller included.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Calls `task(i)` once for every `i < count`, on any thread, and returns when all are done.
    /// Runs inline when there is one thread, one index, or the call comes from within a task.
    ///
    /// # Panics
    /// With the first panic of a task, after every running task has ended; indices not yet started are skipped.
    pub fn run(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        if count <= 1 || self.threads == 1 || IN_TASK.get() {
            (0..count).for_each(task);
            return;
        }
        let _turn = match self.turn.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
            Err(TryLockError::WouldBlock) => {
                (0..count).for_each(task);
                return;
            }
        };
        let job = Job {
            task,
            count,
            // Long loops hand out runs of indices: 16 runs a thread keep the balance.
            chunk: (count / (self.threads * 16)).max(1),
            next: AtomicUsize::new(0),
            panic: Mutex::new(None),
        };
        self.shared.publish(&job, count - 1);
        job.work();
        self.shared.close();
        if let Some(payload) = job.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(payload);
        }
    }

    /// Splits `data` into pieces of `piece` elements (the last may be shorter) and calls `task(i, piece_i)` for each.
    pub fn pieces_mut<T: Send>(&self, data: &mut [T], piece: usize, task: &(dyn Fn(usize, &mut [T]) + Sync)) {
        let (len, base) = (data.len(), Shareable(data.as_mut_ptr()));
        let piece = piece.max(1);
        self.run(len.div_ceil(piece), &|i| {
            let start = i * piece;
            // SAFETY: pieces of different indices do not overlap, each index is run once, `data` is borrowed
            // mutably until `run` returns, and `T: Send` lets the piece move to another thread.
            let part = unsafe { std::slice::from_raw_parts_mut(base.get().add(start), piece.min(len - start)) };
            task(i, part);
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        drop(lock(&self.shared.sleep));
        self.shared.wake.notify_all();
        for helper in self.helpers.drain(..) {
            // A helper cannot panic (tasks are caught), so there is nothing to report here.
            let _ = helper.join();
        }
    }
}

impl Shared {
    fn publish(&self, job: &Job<'_>, helpers_wanted: usize) {
        // SAFETY: the caller holds `Pool::turn` and `close` left the gate at 0, so nobody reads `job` now; the
        // lifetime is dropped because `close` returns only after every helper has left the job.
        unsafe { *self.job.get() = std::ptr::from_ref(job).cast() };
        self.gate.store(OPEN, Ordering::SeqCst);
        self.epoch.fetch_add(1, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(lock(&self.sleep));
            if helpers_wanted == 1 {
                self.wake.notify_one();
            } else {
                self.wake.notify_all();
            }
        }
    }

    /// Lets no further helper in and waits for those inside.
    fn close(&self) {
        let inside = self.gate.fetch_and(!OPEN, Ordering::SeqCst) & !OPEN;
        if inside == 0 {
            return;
        }
        for _ in 0..SPINS {
            if self.gate.load(Ordering::Acquire) == 0 {
                return;
            }
            std::hint::spin_loop();
        }
        self.caller_sleeps.store(true, Ordering::SeqCst);
        let mut guard = lock(&self.finish);
        while self.gate.load(Ordering::SeqCst) != 0 {
            guard = self.finished.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        drop(guard);
        self.caller_sleeps.store(false, Ordering::SeqCst);
    }

    fn enter(&self) -> bool {
        let mut gate = self.gate.load(Ordering::Acquire);
        while gate & OPEN != 0 {
            match self.gate.compare_exchange_weak(gate, gate + INSIDE, Ordering::SeqCst, Ordering::Acquire) {
                Ok(_) => return true,
                Err(now) => gate = now,
            }
        }
        false
    }

    fn leave(&self) {
        let last = self.gate.fetch_sub(INSIDE, Ordering::SeqCst) == INSIDE;
        if last && self.caller_sleeps.load(Ordering::SeqCst) {
            drop(lock(&self.finish));
            self.finished.notify_all();
        }
    }

    fn help(&self) {
        let mut seen = 0;
        loop {
            seen = self.wait_for_change(seen);
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            if self.enter() {
                // SAFETY: this helper is counted in `gate`, so the job the pointer names is alive until `leave`.
                unsafe { (**self.job.get()).work() };
                self.leave();
            }
        }
    }

    fn wait_for_change(&self, seen: usize) -> usize {
        for _ in 0..SPINS {
            let now = self.epoch.load(Ordering::Acquire);
            if now != seen {
                return now;
            }
            std::hint::spin_loop();
        }
        let mut guard = lock(&self.sleep);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let mut now = self.epoch.load(Ordering::SeqCst);
        while now == seen {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
            now = self.epoch.load(Ordering::SeqCst);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        now
    }
}

/// A pointer that tasks on several threads may hold; each use says why its accesses do not collide.
pub(crate) struct Shareable<T>(pub(crate) *mut T);

impl<T> Shareable<T> {
    /// Through a method, so that closures capture the whole wrapper and not the bare pointer.
    #[inline(always)]
    pub(crate) fn get(&self) -> *mut T {
        self.0
    }
}

impl<T> Clone for Shareable<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shareable<T> {}

// SAFETY: holding the address is harmless; every dereference carries its own argument.
unsafe impl<T> Send for Shareable<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shareable<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_runs_once_for_any_thread_count() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads);
            assert_eq!(pool.threads(), threads);
            for count in [0, 1, 2, 7, 1000] {
                for _ in 0..50 {
                    let hits: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                    pool.run(count, &|i| {
                        hits[i].fetch_add(1, Ordering::Relaxed);
                    });
                    assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 1));
                }
            }
        }
    }

    #[test]
    fn nested_and_concurrent_loops_complete() {
        let pool = Pool::new(3);
        let total = AtomicUsize::new(0);
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for _ in 0..100 {
                        pool.run(5, &|_| {
                            pool.run(3, &|_| {
                                total.fetch_add(1, Ordering::Relaxed);
                            })
                        });
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 4 * 100 * 5 * 3);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2);
        for bad in 0..8 {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.run(8, &|i| assert!(i != bad, "index {i}"));
            }));
            let text = *caught.expect_err("the task panicked").downcast::<String>().expect("a message");
            assert!(text.contains(&format!("index {bad}")), "{text}");
            let n = AtomicUsize::new(0);
            pool.run(100, &|_| {
                n.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(n.into_inner(), 100);
        }
    }

    #[test]
    fn pieces_cover_the_slice() {
        let pool = Pool::new(2);
        let mut data = vec![0usize; 103];
        pool.pieces_mut(&mut data, 10, &|i, part| part.fill(i + 1));
        assert!(data.iter().enumerate().all(|(j, v)| *v == j / 10 + 1));
    }
}
