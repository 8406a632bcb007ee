//! Owns sleeping by a timer of the kernel: one wake-up a sleep, however long, and none too late after a suspend.

use std::io;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Sleeps for `length` by `CLOCK_BOOTTIME`. The runtime's own timers are approached in steps, of which each is a wake-up,
/// and stand still in a suspend; they serve where the kernel has no timer for us.
pub(super) async fn sleep(length: Duration) {
    match set_timer(length) {
        // An error of a timer that is set has no known cause; the caller looks at the clock in any case.
        Ok(timer) => drop(timer.readable().await),
        Err(error) => {
            tracing::debug!(%error, "no kernel timer to sleep by");
            tokio::time::sleep(length).await;
        }
    }
}

fn set_timer(length: Duration) -> io::Result<AsyncFd<rustix::fd::OwnedFd>> {
    let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    // Zero would mean never.
    let value = Timespec::try_from(length.max(Duration::from_nanos(1))).map_err(io::Error::other)?;
    let once = Itimerspec { it_interval: Timespec::default(), it_value: value };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &once)?;
    #[expect(deprecated, reason = "its successor is unsafe, and sound for an OwnedFd, which nobody else closes")]
    AsyncFd::with_interest(timer, Interest::READABLE)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn it_sleeps_for_the_time_given_and_not_for_ever() {
        for milliseconds in [0, 1, 30] {
            let length = Duration::from_millis(milliseconds);
            let begun = Instant::now();
            tokio::time::timeout(Duration::from_secs(10), sleep(length)).await.unwrap();
            assert!(begun.elapsed() >= length);
        }
    }

    #[tokio::test]
    async fn a_sleep_that_is_given_up_leaves_nothing_open() {
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let before = open();
        for _ in 0..1000 {
            let given_up = tokio::time::timeout(Duration::ZERO, sleep(Duration::from_hours(1))).await;
            assert!(given_up.is_err());
        }
        // Other tests open files at the same time.
        assert!(open() < before + 500);
    }
}
