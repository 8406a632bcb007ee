//! Owns every reading of time: wall time and time since boot come from a [`Clock`], nowhere else.

mod alarm;

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};
use time::OffsetDateTime;

/// A source of time. The system's is [`SystemClock`]; tests bring their own.
pub trait Clock: Debug + Send + Sync + 'static {
    /// The time now, on both scales, read together.
    fn now(&self) -> Now;

    /// Waits for `length`; drop it to wake up earlier. The system's clock counts suspend. Needs a tokio runtime.
    fn sleep(&self, length: Duration) -> Sleep {
        Box::pin(tokio::time::sleep(length))
    }
}

/// A wait by a [`Clock`].
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One reading of the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Wall time (UTC). May step in either direction.
    pub wall: OffsetDateTime,
    /// Time since boot, suspend included (`CLOCK_BOOTTIME`). Never steps; has no meaning after a reboot.
    pub boot: Duration,
    /// Time since boot without suspend (`CLOCK_MONOTONIC`), the scale of timers.
    pub running: Duration,
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

    /// How long the machine slept between `earlier` and `self`.
    #[must_use]
    pub fn suspended_since(&self, earlier: &Self) -> Duration {
        let boot = self.boot.saturating_sub(earlier.boot);
        boot.saturating_sub(self.running.saturating_sub(earlier.running))
    }
}

/// The operating system's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let read = |clock| Duration::try_from(clock_gettime(clock)).unwrap_or_default();
        Now { wall: SystemTime::now().into(), boot: read(ClockId::Boottime), running: read(ClockId::Monotonic) }
    }

    fn sleep(&self, length: Duration) -> Sleep {
        Box::pin(alarm::sleep(length))
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
            Now { wall: shift.wall + elapsed, boot: shift.boot + elapsed, running: elapsed }
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
        let at = Duration::from_secs;
        let first = Now { wall: OffsetDateTime::UNIX_EPOCH, boot: at(50), running: at(40) };
        let passed = Now { wall: first.wall + at(10), boot: at(60), running: at(50) };
        let stepped = Now { wall: first.wall + at(3610), boot: at(60), running: at(50) };
        let slept = Now { wall: first.wall + at(100), boot: at(150), running: at(45) };
        assert!(passed.wall_step_since(&first).abs() < 1e-6);
        assert!((stepped.wall_step_since(&first) - 3600.0).abs() < 1e-6);
        assert!(slept.wall_step_since(&first).abs() < 1e-6);
        assert_eq!(slept.suspended_since(&first), at(95));
        assert_eq!(stepped.suspended_since(&first), at(0));
    }
}
