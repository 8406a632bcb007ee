//! Owns a clock whose time since boot a test moves.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crank_agent::clock::{Clock, Now, SystemClock};

/// Time since boot, in seconds, stands still while the test does not move it, however slow the machine is. Wall time is
/// the system's.
#[derive(Debug, Default)]
pub(crate) struct ByHand(AtomicU64);

impl Clock for ByHand {
    fn now(&self) -> Now {
        Now { boot: Duration::from_secs(1_000 + self.0.load(Ordering::Relaxed)), ..SystemClock.now() }
    }
}

impl ByHand {
    pub(crate) fn advance(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::Relaxed);
    }
}
