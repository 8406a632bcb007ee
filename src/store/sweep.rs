//! Owns how long a superseded generation stays: until readers that opened it have surely done with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use time::OffsetDateTime;

use super::layout::GenerationName;
use crate::clock::Now;

/// When each generation on disk was superseded, as far as is known.
#[derive(Debug, Default)]
pub(super) struct Superseded {
    generations: BTreeMap<GenerationName, Since>,
}

/// Since when a generation is not in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Since {
    /// Time since boot when this process superseded it, or saw it first.
    pub(super) boot: Duration,
    /// For one that an earlier process superseded: when, by the wall clock of that time. Otherwise the wall clock has no
    /// say, since it may step.
    pub(super) wall: Option<OffsetDateTime>,
}

impl Since {
    /// How long it is to stay yet; zero: remove it. A wall time in the future counts as none, so that no generation
    /// stays longer than `keep` after it was seen first.
    pub(super) fn remaining(self, now: Now, keep: Duration) -> Duration {
        let by_boot = keep.saturating_sub(now.boot.saturating_sub(self.boot));
        let age = self.wall.and_then(|wall| Duration::try_from(now.wall - wall).ok());
        age.map_or(by_boot, |age| by_boot.min(keep.saturating_sub(age)))
    }
}

impl Superseded {
    /// This process put another generation in the place of `name`.
    pub(super) fn supersede(&mut self, name: GenerationName, now: Now) {
        self.generations.insert(name, Since { boot: now.boot, wall: None });
    }

    /// Takes note of `name`, found on disk; `wall` is when it was superseded by what the disk says.
    pub(super) fn since(&mut self, name: &GenerationName, now: Now, wall: OffsetDateTime) -> Since {
        *self.generations.entry(name.clone()).or_insert(Since { boot: now.boot, wall: Some(wall) })
    }

    /// Forgets all that are no longer on disk.
    pub(super) fn retain(&mut self, on_disk: &BTreeSet<GenerationName>) {
        self.generations.retain(|name, _| on_disk.contains(name));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEEP: Duration = Duration::from_mins(1);

    fn now(wall: i64, boot: u64) -> Now {
        Now {
            wall: OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(wall),
            boot: Duration::from_secs(boot),
            running: Duration::from_secs(boot),
        }
    }

    proptest! {
        #[test]
        fn no_clock_step_shortens_or_lengthens_the_stay_of_what_this_process_superseded(
            superseded in 0_u64..1000, passed in 0_u64..200, wall in -10_000_000_000_i64..10_000_000_000,
        ) {
            let since = Since { boot: Duration::from_secs(superseded), wall: None };
            let remaining = since.remaining(now(wall, superseded + passed), KEEP);
            prop_assert_eq!(remaining, KEEP.saturating_sub(Duration::from_secs(passed)));
        }

        #[test]
        fn nothing_stays_longer_than_the_time_after_it_was_seen_first(
            wall in -10_000_000_000_i64..10_000_000_000, then in -10_000_000_000_i64..10_000_000_000, passed in 60_u64..1000,
        ) {
            let since = Since { boot: Duration::from_secs(5), wall: Some(now(then, 0).wall) };
            prop_assert_eq!(since.remaining(now(wall, 5 + passed), KEEP), Duration::ZERO);
        }
    }

    #[test]
    fn a_restart_does_not_start_the_time_again() {
        let since = Since { boot: Duration::from_secs(5), wall: Some(now(1000, 0).wall) };
        assert_eq!(since.remaining(now(1050, 5), KEEP), Duration::from_secs(10));
        assert_eq!(since.remaining(now(1060, 6), KEEP), Duration::ZERO);
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let names = [1, 2].map(|number| GenerationName::new(OffsetDateTime::UNIX_EPOCH, number));
        let mut superseded = Superseded::default();
        for name in &names {
            superseded.supersede(name.clone(), now(0, 0));
        }
        superseded.retain(&names.into_iter().take(1).collect());
        assert_eq!(superseded.generations.len(), 1);
    }
}
