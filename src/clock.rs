//! Owns every reading of time: wall time and time since boot come from a [`Clock`], nowhere else.

use std::fmt::Debug;
use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};
use time::OffsetDateTime;

/// A source of time. The system's is [`SystemClock`]; tests bring their own.
pub trait Clock: Debug + Send + Sync + 'static {
    /// The time now, on both scales, read together.
    fn now(&self) -> Now;
}

/// One reading of the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Wall time (UTC). May step in either direction.
    pub wall: OffsetDateTime,
    /// Time since boot, suspend included (`CLOCK_BOOTTIME`). Never steps; has no meaning after a reboot.
    pub boot: Duration,
}

impl Now {
    /// How far wall time has moved against time since boot between `earlier` and `self`, in seconds: 0 when
    /// nobody set the clock, positive after a step forward.
    #[must_use]
    pub fn wall_step_since(&self, earlier: &Self) -> f64 {
        let wall = (self.wall - earlier.wall).as_seconds_f64();
        let boot = self.boot.as_secs_f64() - earlier.boot.as_secs_f64();
        wall - boot
    }
}

/// The operating system's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let boot = clock_gettime(ClockId::Boottime);
        Now {
            wall: SystemTime::now().into(),
            boot: Duration::new(u64::try_from(boot.tv_sec).unwrap_or(0), u32::try_from(boot.tv_nsec).unwrap_or(0)),
        }
    }
}

/// A clock for tests: runs with tokio's (possibly paused) time, and can be stepped and suspended.
#[cfg(test)]
pub(crate) mod testing {
    use std::sync::{Mutex, PoisonError};

    use super::{Clock, Duration, Now, OffsetDateTime};

    #[derive(Debug)]
    pub(crate) struct TestClock {
        origin: tokio::time::Instant,
        shift: Mutex<Shift>,
    }

    #[derive(Debug, Clone, Copy)]
    struct Shift {
        wall: OffsetDateTime,
        boot: Duration,
    }

    impl TestClock {
        /// Starts at `wall`. Needs a tokio runtime.
        pub(crate) fn at(wall: OffsetDateTime) -> Self {
            Self {
                origin: tokio::time::Instant::now(),
                shift: Mutex::new(Shift { wall, boot: Duration::from_secs(1_000) }),
            }
        }

        /// Sets the wall clock forward (or back) without time passing.
        pub(crate) fn step(&self, by: time::Duration) {
            let mut shift = self.shift.lock().unwrap_or_else(PoisonError::into_inner);
            shift.wall = shift.wall.saturating_add(by);
        }

        /// The machine sleeps: both clocks move, timers do not.
        pub(crate) fn suspend(&self, length: Duration) {
            let mut shift = self.shift.lock().unwrap_or_else(PoisonError::into_inner);
            shift.wall += length;
            shift.boot += length;
        }
    }

    impl Clock for TestClock {
        fn now(&self) -> Now {
            let shift = *self.shift.lock().unwrap_or_else(PoisonError::into_inner);
            let elapsed = self.origin.elapsed();
            Now { wall: shift.wall + elapsed, boot: shift.boot + elapsed }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_clock_reads_both_scales() {
        let first = SystemClock.now();
        let second = SystemClock.now();
        assert!(second.boot >= first.boot);
        assert!(second.wall.year() >= 2024);
    }

    #[test]
    fn a_step_of_the_wall_clock_is_seen_and_plain_passing_is_not() {
        let first = Now { wall: OffsetDateTime::UNIX_EPOCH, boot: Duration::from_secs(50) };
        let passed = Now { wall: first.wall + Duration::from_secs(10), boot: Duration::from_secs(60) };
        let stepped = Now { wall: first.wall + Duration::from_secs(3610), boot: Duration::from_secs(60) };
        assert!(passed.wall_step_since(&first).abs() < 1e-6);
        assert!((stepped.wall_step_since(&first) - 3600.0).abs() < 1e-6);
    }
}
