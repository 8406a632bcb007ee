//! Owns the buckets of all who ask, in a fixed amount of memory.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::bucket::{Budget, Debt};

/// A fixed number of places for buckets, in sets of [`WAYS`]. A key belongs to one set, by a hash with a secret of this
/// process, so that nobody can aim at the set of another.
///
/// When a set is full, the bucket that owes least is forgotten. To be forgotten is to owe nothing: nobody is refused for
/// it, however many others come. And whoever wants to be forgotten, to spend again, needs [`WAYS`] others in the same
/// set that owe more, which costs him as much as he gains.
#[derive(Debug)]
pub(super) struct Table {
    budget: Budget,
    secret: RandomState,
    sets: Box<[Mutex<Set>]>,
}

type Set = [Place; WAYS];

#[derive(Debug, Clone, Copy, Default)]
struct Place {
    key: u64,
    debt: Debt,
}

impl Table {
    /// A table of nobody.
    pub(super) fn new(budget: Budget) -> Self {
        Self::with_sets(budget, SETS)
    }

    fn with_sets(budget: Budget, sets: usize) -> Self {
        let sets = if budget.is_on() { sets } else { 0 };
        Self { budget, secret: RandomState::new(), sets: (0..sets).map(|_| Mutex::default()).collect() }
    }

    /// Lets `key` spend `cost`, or tells how long to wait.
    pub(super) fn take(&self, key: &impl Hash, cost: u32, now: Duration) -> Result<(), Duration> {
        self.with(key, now, |debt| self.budget.take(debt, cost, now)).unwrap_or(Ok(()))
    }

    /// The same with twice the burst, for what is to be had even by those who are refused the rest.
    pub(super) fn take_overdrawn(&self, key: &impl Hash, cost: u32, now: Duration) -> Result<(), Duration> {
        let budget = Budget { burst: self.budget.burst.saturating_mul(2), ..self.budget };
        self.with(key, now, |debt| budget.take(debt, cost, now)).unwrap_or(Ok(()))
    }

    /// Puts `cost` on the account of `key`.
    pub(super) fn charge(&self, key: &impl Hash, cost: u32, now: Duration) {
        self.with(key, now, |debt| self.budget.charge(debt, cost, now));
    }

    fn with<T>(&self, key: &impl Hash, now: Duration, change: impl FnOnce(&mut Debt) -> T) -> Option<T> {
        let hash = self.secret.hash_one(key);
        let place = usize::try_from(hash % u64::try_from(self.sets.len().max(1)).ok()?).ok()?;
        let mut set = lock(self.sets.get(place)?);
        Some(change(&mut place_for(&mut set, hash, now).debt))
    }
}

/// The place of `key`; where it has none, a free one, or that of whoever owes least.
fn place_for(set: &mut Set, key: u64, now: Duration) -> &mut Place {
    let found = set.iter().position(|place| place.key == key && !place.debt.is_paid(now));
    let least = || (0..WAYS).min_by_key(|&index| set[index].debt).unwrap_or(0);
    let index = found.unwrap_or_else(least);
    let place = &mut set[index];
    if found.is_none() {
        *place = Place { key, debt: Debt::default() };
    }
    place
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const WAYS: usize = 8;

/// With [`WAYS`], room for 32,768 buckets in some 600 KiB.
const SETS: usize = 4096;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BUDGET: Budget = Budget { rate: 1, burst: 10 };

    #[test]
    fn each_has_a_bucket_of_its_own() {
        let table = Table::new(BUDGET);
        for _ in 0..10 {
            assert!(table.take(&"a", 1, Duration::ZERO).is_ok());
        }
        assert!(table.take(&"a", 1, Duration::ZERO).is_err());
        assert!(table.take(&"b", 1, Duration::ZERO).is_ok());
    }

    #[test]
    fn the_memory_is_fixed() {
        let bytes = SETS * size_of::<Mutex<Set>>();
        assert!(bytes < 700 * 1024, "{bytes}");
        assert_eq!(Table::new(Budget { rate: 0, burst: 0 }).sets.len(), 0);
    }

    #[test]
    fn who_owes_most_is_remembered_whoever_comes() {
        let table = Table::with_sets(BUDGET, 1);
        table.charge(&"debtor", 20, Duration::ZERO);
        for stranger in 0..100_000_u32 {
            let _ = table.take(&stranger, 1, Duration::ZERO);
        }
        assert!(table.take(&"debtor", 1, Duration::ZERO).is_err());
    }

    proptest! {
        /// Compared with buckets that are never forgotten.
        #[test]
        fn nobody_is_refused_for_what_others_do(
            steps in proptest::collection::vec((0_u8..40, 0_u64..800, 1_u32..6), 1..400),
        ) {
            let table = Table::with_sets(BUDGET, 2);
            let mut own = std::collections::BTreeMap::<u8, Debt>::new();
            let mut now = Duration::ZERO;
            for (key, pause, cost) in steps {
                now += Duration::from_millis(pause);
                let alone = BUDGET.take(own.entry(key).or_default(), cost, now);
                let shared = table.take(&key, cost, now);
                prop_assert!(shared.is_ok() || alone.is_err());
                if alone.is_err() && shared.is_ok() {
                    // Was forgotten before; what has been let through counts.
                    BUDGET.charge(own.entry(key).or_default(), cost, now);
                }
            }
        }
    }
}
