//! Owns the arithmetic of one bucket: a pure function of what is owed, the cost, and the time.

use std::time::Duration;

/// What may be spent: `burst` at once, and `rate` a second from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Units that flow back in a second. 0 means that nothing is counted.
    pub rate: u32,
    /// Units that may be owed before more is refused.
    pub burst: u32,
}

/// What somebody owes, told by when it will be paid back. In nanoseconds of the clock that the caller counts with, which
/// takes 584 years to overflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Debt {
    paid_at: u64,
}

impl Budget {
    /// Whether anything is counted.
    #[must_use]
    pub fn is_on(self) -> bool {
        self.rate > 0
    }

    /// Lets `cost` through when no more than the burst is owed with it; else tells how long to wait, and nothing more is
    /// owed than before. A cost above the burst is let through once nothing is owed.
    pub(super) fn take(self, debt: &mut Debt, cost: u32, now: Duration) -> Result<(), Duration> {
        if !self.is_on() {
            return Ok(());
        }
        let now = nanoseconds(now);
        let limit = self.time_for(self.burst.max(cost));
        let paid_at = debt.paid_at.max(now).saturating_add(self.time_for(cost));
        let owed = paid_at - now;
        if owed > limit {
            return Err(Duration::from_nanos(owed - limit));
        }
        debt.paid_at = paid_at;
        Ok(())
    }

    /// Adds `cost` to what is owed, whether there is room or not: what has happened has to be paid. No more is owed than
    /// twice the burst, so that nobody is locked out for longer than that takes.
    pub(super) fn charge(self, debt: &mut Debt, cost: u32, now: Duration) {
        if !self.is_on() {
            return;
        }
        let now = nanoseconds(now);
        let most = now.saturating_add(self.time_for(self.burst).saturating_mul(2));
        debt.paid_at = debt.paid_at.max(now).saturating_add(self.time_for(cost)).min(most);
    }

    fn time_for(self, units: u32) -> u64 {
        u64::from(units) * NANOSECONDS / u64::from(self.rate.max(1))
    }
}

impl Debt {
    /// Whether nothing is owed at `now`: as good as no bucket at all.
    pub(super) fn is_paid(self, now: Duration) -> bool {
        self.paid_at <= nanoseconds(now)
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

const NANOSECONDS: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BUDGET: Budget = Budget { rate: 10, burst: 20 };

    #[test]
    fn the_burst_is_to_be_had_at_once_and_the_rate_from_then_on() {
        let mut debt = Debt::default();
        let start = Duration::from_secs(1_000);
        for _ in 0..20 {
            assert_eq!(BUDGET.take(&mut debt, 1, start), Ok(()));
        }
        assert_eq!(BUDGET.take(&mut debt, 1, start), Err(Duration::from_millis(100)));
        assert_eq!(BUDGET.take(&mut debt, 1, start + Duration::from_millis(99)), Err(Duration::from_millis(1)));
        assert_eq!(BUDGET.take(&mut debt, 1, start + Duration::from_millis(100)), Ok(()));
        assert!(!debt.is_paid(start + Duration::from_secs(2)));
        assert!(debt.is_paid(start + Duration::from_millis(2_100)));
    }

    #[test]
    fn a_rate_of_zero_counts_nothing() {
        let off = Budget { rate: 0, burst: 0 };
        let mut debt = Debt::default();
        for _ in 0..1_000 {
            off.charge(&mut debt, u32::MAX, Duration::ZERO);
            assert_eq!(off.take(&mut debt, u32::MAX, Duration::ZERO), Ok(()));
        }
    }

    /// Steps of a clock that never goes back, with what is asked at each.
    fn history() -> impl Strategy<Value = Vec<(u64, u32, bool)>> {
        proptest::collection::vec((0_u64..3_000, 0_u32..30, any::<bool>()), 1..60)
    }

    proptest! {
        #[test]
        fn never_more_than_burst_and_rate_is_let_through(steps in history(), rate in 1_u32..50, burst in 1_u32..50) {
            let budget = Budget { rate, burst };
            let mut debt = Debt::default();
            let (mut now, mut spent) = (Duration::ZERO, 0.0);
            for (pause, cost, charged) in steps {
                now += Duration::from_millis(pause);
                if charged {
                    budget.charge(&mut debt, cost, now);
                } else if budget.take(&mut debt, cost.min(burst), now).is_ok() {
                    spent += f64::from(cost.min(burst));
                }
                prop_assert!(spent <= f64::from(burst) + f64::from(rate) * now.as_secs_f64() + 1e-3);
            }
        }

        #[test]
        fn whoever_waits_as_told_is_let_through_and_is_never_locked_out(steps in history(), cost in 1_u32..30) {
            let mut debt = Debt::default();
            let mut now = Duration::ZERO;
            for (pause, cost, charged) in steps {
                now += Duration::from_millis(pause);
                if charged {
                    BUDGET.charge(&mut debt, cost, now);
                } else {
                    let _ = BUDGET.take(&mut debt, cost, now);
                }
            }
            if let Err(wait) = BUDGET.take(&mut debt, cost, now) {
                prop_assert!(wait > Duration::ZERO && wait <= Duration::from_secs(7));
                prop_assert_eq!(BUDGET.take(&mut debt, cost, now + wait), Ok(()));
            }
        }

        #[test]
        fn a_refusal_costs_nothing(owed in 0_u32..100, cost in 1_u32..30) {
            let mut debt = Debt::default();
            BUDGET.charge(&mut debt, owed, Duration::ZERO);
            let before = debt;
            if BUDGET.take(&mut debt, cost, Duration::ZERO).is_err() {
                prop_assert_eq!(debt, before);
            }
        }

        #[test]
        fn no_time_and_no_numbers_overflow(
            seconds in any::<u64>(), rate in any::<u32>(), burst in any::<u32>(), cost in any::<u32>(),
        ) {
            let budget = Budget { rate, burst };
            let mut debt = Debt::default();
            for _ in 0..3 {
                budget.charge(&mut debt, cost, Duration::from_secs(seconds));
                let _ = budget.take(&mut debt, cost, Duration::from_secs(seconds));
            }
        }
    }
}
