//! A flag that another thread raises, and that waits can be cut short by.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Shared by whoever waits and whoever may want it to stop. Clones are the same flag.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<(Mutex<bool>, Condvar)>);

impl Cancel {
    /// A flag that is down.
    pub fn new() -> Self {
        Self::default()
    }

    /// Raises it for good.
    pub fn raise(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }

    /// Whether it is up.
    pub fn raised(&self) -> bool {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits this long, less when the flag goes up; whether it is up.
    pub fn wait(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        let mut up = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        while !*up {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            up = self.0.1.wait_timeout(up, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *up
    }
}
