//! Permits that keep tests with servers from crowding each other out.

use std::sync::{Condvar, Mutex, PoisonError};

/// Permits there are. A test with a cluster holds one, a test that measures time holds all.
pub const PERMITS: usize = 2;

static FREE: Mutex<usize> = Mutex::new(PERMITS);
static RETURNED: Condvar = Condvar::new();

/// Held as long as servers run; given back on drop.
#[derive(Debug)]
pub struct Permit(usize);

impl Permit {
    /// Waits for `count` permits at once.
    pub fn take(count: usize) -> Self {
        assert!(count <= PERMITS, "nobody could ever hold {count} permits");
        let free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = RETURNED
            .wait_while(free, |free| *free < count)
            .unwrap_or_else(PoisonError::into_inner);
        *free -= count;
        Self(count)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *FREE.lock().unwrap_or_else(PoisonError::into_inner) += self.0;
        RETURNED.notify_all();
    }
}
