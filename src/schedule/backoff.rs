//! Owns the wait after failures: 1 s, 2 s, 4 s … with full jitter and a floor. The only file that uses the `backoff`
//! crate.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;

use super::Jitter;

/// The waits of one series of failures.
#[derive(Debug)]
pub struct BackOff {
    exponential: ExponentialBackoff,
    failures: u32,
}

impl BackOff {
    /// A series that has not begun, with waits of at most `max`.
    #[must_use]
    pub fn new(max: Duration) -> Self {
        let max_interval = max.max(FIRST);
        let exponential = ExponentialBackoff {
            current_interval: FIRST,
            initial_interval: FIRST,
            // The crate's own jitter is a band round the interval; the full jitter is drawn in `next_wait`.
            randomization_factor: 0.0,
            multiplier: 2.0,
            max_interval,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        Self { exponential, failures: 0 }
    }

    /// The wait after one more failure: uniform between the floor of half a second and 1 s, 2 s, 4 s … `max` ("full
    /// jitter", M. Brooker, Exponential Backoff And Jitter, 2015). The floor keeps the first wait from being none.
    pub fn next_wait(&mut self, jitter: Jitter) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let ceiling = self.exponential.next_backoff().unwrap_or(self.exponential.max_interval);
        FLOOR + ceiling.saturating_sub(FLOOR).mul_f64(f64::from(jitter))
    }

    /// Ends the series, after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
        self.exponential.reset();
    }

    /// Failures since the last success.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

/// The longest first wait.
const FIRST: Duration = Duration::from_secs(1);

/// The shortest wait.
const FLOOR: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_longest_waits_are_1_2_4_up_to_the_limit() {
        let mut series = BackOff::new(Duration::from_mins(1));
        let almost_one = Jitter::new(0.999_999).unwrap();
        let mut waits = [1, 2, 4, 8, 16, 32, 60, 60, 60].map(Duration::from_secs).into_iter();
        assert!(waits.all(|longest| longest.saturating_sub(series.next_wait(almost_one)) < Duration::from_millis(1)));
        series.reset();
        assert_eq!(series.failures(), 0);
        assert!(series.next_wait(almost_one) <= Duration::from_secs(1));
    }

    proptest! {
        #[test]
        fn every_wait_is_between_the_floor_and_the_limit(
            jitters in prop::collection::vec(0.0_f64..1.0, 1..200),
            max in 1_u64..600,
        ) {
            let mut series = BackOff::new(Duration::from_secs(max));
            for jitter in jitters {
                let wait = series.next_wait(Jitter::new(jitter).unwrap());
                prop_assert!(wait >= FLOOR && wait <= Duration::from_secs(max));
            }
        }
    }
}
