//! Ctrl-C and SIGTERM: the first asks the work to stop where it can go on later, the second ends the program.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::console::Console;
use crate::diagnose::Failure;

/// A flag that the first signal raises, with `said` as a remark; a second one ends the program with `code`.
///
/// # Errors
/// When another handler is set already, or the system refuses.
pub fn stop_on_ctrl_c(console: &Console, said: &str, code: i32) -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let (flag, console, said) = (stop.clone(), console.clone(), said.to_owned());
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::SeqCst) {
            std::process::exit(code);
        }
        console.remark(&said);
    })
    .map_err(|error| Failure::environment(format!("Ctrl-C cannot be caught: {error}")))?;
    Ok(stop)
}
