//! Owns the upkeep of the record: what has been over for longer than the retention is forgotten, nothing else ever is.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::state::{Forgotten, State, StateError};
use crate::clock::{Clock, Now};
use crate::policy::default::LONGEST_LIFETIME;
use crate::printable::error_chain;

/// Forgets, as long as the CA serves. Several replicas may do so at once.
#[derive(Debug, Clone)]
pub(super) struct Retention {
    state: State,
    clock: Arc<dyn Clock>,
    length: Duration,
}

impl Retention {
    /// For what has been over for longer than `length`.
    pub(super) fn new(state: State, clock: Arc<dyn Clock>, length: Duration) -> Self {
        Self { state, clock, length }
    }

    /// Every hour, from an hour after the start on, until `cancel`. Whenever the wall clock was set meanwhile it waits
    /// another hour: a time that is about to be mended must not cost a record.
    pub(super) async fn run(self, cancel: CancellationToken) {
        loop {
            let before = self.clock.now();
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.clock.sleep(INTERVAL) => {}
            }
            let now = self.clock.now();
            if !is_steady(&before, &now) {
                tracing::warn!("the clock was set: nothing is forgotten for another hour");
                continue;
            }
            let forgotten = tokio::select! {
                () = cancel.cancelled() => return,
                forgotten = self.forget(now.wall) => forgotten,
            };
            match forgotten {
                Ok(forgotten) if forgotten.total() > 0 => tracing::info!(
                    certificates = forgotten.certificates,
                    tokens = forgotten.tokens,
                    decisions = forgotten.decisions,
                    "what was over has been forgotten"
                ),
                Ok(_) => {}
                Err(error) => tracing::warn!(error = %error_chain(&error), "cannot forget what is over; later again"),
            }
        }
    }

    /// Batch by batch, with a pause after each, as long as the batch took, in which others write.
    async fn forget(&self, now: OffsetDateTime) -> Result<Forgotten, StateError> {
        let Some(cutoff) = cutoff(now, self.length) else { return Ok(Forgotten::default()) };
        let Some(decided_before) = cutoff.checked_sub(ALLOWED_FOR) else { return Ok(Forgotten::default()) };
        let mut all = Forgotten::default();
        loop {
            let begun = tokio::time::Instant::now();
            let forgotten = self.state.forget_some(cutoff, decided_before).await?;
            if forgotten.total() == 0 {
                return Ok(all);
            }
            all = all.plus(forgotten);
            tokio::time::sleep(begun.elapsed().max(SHORTEST_PAUSE)).await;
        }
    }
}

/// What ended before is forgotten. `None` when that is before all time.
fn cutoff(now: OffsetDateTime, retention: Duration) -> Option<OffsetDateTime> {
    now.checked_sub(time::Duration::try_from(retention).ok()?)
}

/// Whether nobody set the clock between.
fn is_steady(before: &Now, now: &Now) -> bool {
    now.wall_step_since(before).abs() < STEP_SECONDS
}

const INTERVAL: Duration = Duration::from_hours(1);

/// Others write between two batches.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);

/// More than a clock that is kept right ever drifts in an hour.
const STEP_SECONDS: f64 = 60.0;

/// For how long what was allowed may be in force.
const ALLOWED_FOR: time::Duration = time::Duration::seconds(LONGEST_LIFETIME.as_secs().cast_signed());

#[cfg(test)]
mod tests;
