//! What the libFuzzer binaries share: a limit on memory and a report of panics.
//!
//! Takes the name of a target and bytes, runs the target, and aborts with the panic's message and
//! backtrace when it panics or asks for more memory than its bound. Panics that the library under
//! test catches itself (the `tokenizers` crate asserts on some files) are not faults.

pub mod targets;

use std::alloc::System;
use std::backtrace::Backtrace;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use cap::Cap;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs one input of a target.
pub fn run(name: &str, bytes: &[u8]) {
    static HOOK: Once = Once::new();
    // libfuzzer-sys aborts in the hook, which would also end panics that are caught
    HOOK.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let text = format!("{info}\n{}", Backtrace::force_capture());
            LAST_PANIC.with(|last| *last.borrow_mut() = text);
        }));
    });
    let target = targets::find(name).unwrap_or_else(|| panic!("no target `{name}`"));
    let limit = ALLOCATOR.allocated().saturating_add(target.memory);
    ALLOCATOR.set_limit(limit).expect("the limit is above what is allocated");
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(bytes)));
    ALLOCATOR.set_limit(usize::MAX).expect("no limit is above what is allocated");
    if outcome.is_err() {
        LAST_PANIC.with(|last| eprintln!("{name}: {}", last.borrow()));
        std::process::abort();
    }
}
