//! Owns the waiting of tests for what other processes do.

use std::thread;
use std::time::{Duration, Instant};

/// Polls until `find` finds something; fails with `what` after `patience`.
pub(crate) fn until_within<T>(patience: Duration, what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {patience:?}");
        // Polling a condition, with a deadline.
        thread::park_timeout(Duration::from_millis(5));
    }
}
