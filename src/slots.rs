//! Owns the limit on connections: who holds a slot, since when it has been idle, and who must go when all are taken.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A fixed number of slots for connections.
#[derive(Debug, Clone)]
pub(crate) struct Slots {
    free: Arc<Semaphore>,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    next_id: u64,
    activities: BTreeMap<u64, Arc<Activity>>,
}

/// The right to one connection, until it is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    id: u64,
    activity: Arc<Activity>,
    slots: Slots,
    _permit: OwnedSemaphorePermit,
}

/// What one connection is doing.
#[derive(Debug)]
pub(crate) struct Activity {
    state: Mutex<State>,
    evicted: CancellationToken,
}

/// Sending bytes is no activity, only whole requests are: so a client that drips its bytes counts as idle.
#[derive(Debug, Clone, Copy)]
struct State {
    answering: bool,
    since: Instant,
}

impl Slots {
    pub(crate) fn new(limit: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(limit)), taken: Arc::default() }
    }

    /// Waits for a slot. When all are taken, the connection that has been idle longest is asked to leave.
    pub(crate) async fn take(&self) -> Slot {
        let permit = loop {
            if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
                break permit;
            }
            self.evict_longest_idle();
            // When all were answering requests, one of them is idle soon: so ask again.
            if let Ok(Ok(permit)) = tokio::time::timeout(RETRY, Arc::clone(&self.free).acquire_owned()).await {
                break permit;
            }
        };
        let activity = Arc::new(Activity {
            state: Mutex::new(State { answering: false, since: Instant::now() }),
            evicted: CancellationToken::new(),
        });
        let mut taken = lock(&self.taken);
        let id = taken.next_id;
        taken.next_id += 1;
        taken.activities.insert(id, Arc::clone(&activity));
        drop(taken);
        Slot { id, activity, slots: self.clone(), _permit: permit }
    }

    /// Whether all slots are taken.
    pub(crate) fn full(&self) -> bool {
        self.free.available_permits() == 0
    }

    fn evict_longest_idle(&self) {
        let taken = lock(&self.taken);
        let idle = taken.activities.values().filter_map(|activity| {
            let state = activity.state();
            (!state.answering && !activity.evicted.is_cancelled()).then_some((state.since, activity))
        });
        if let Some((_, activity)) = idle.min_by_key(|(since, _)| *since) {
            activity.evicted.cancel();
        }
    }
}

impl Slot {
    pub(crate) fn activity(&self) -> Arc<Activity> {
        Arc::clone(&self.activity)
    }

    /// Ends when the connection must make room for another.
    pub(crate) async fn evicted(&self) {
        self.activity.evicted.cancelled().await;
    }

    /// Ends when no request has been begun or answered for `limit`.
    pub(crate) async fn idle_for(&self, limit: Duration) {
        loop {
            let State { answering, since } = self.activity.state();
            let from = if answering { Instant::now() } else { since };
            if Instant::now() >= from + limit {
                return;
            }
            tokio::time::sleep_until(from + limit).await;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        lock(&self.slots.taken).activities.remove(&self.id);
    }
}

impl Activity {
    /// A request has arrived.
    pub(crate) fn begin(&self) {
        *lock(&self.state) = State { answering: true, since: Instant::now() };
    }

    /// Its answer is ready.
    pub(crate) fn end(&self) {
        *lock(&self.state) = State { answering: false, since: Instant::now() };
    }

    fn state(&self) -> State {
        *lock(&self.state)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long to wait for a slot before asking another connection to leave.
const RETRY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    async fn passed(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    fn evicted(slot: &Slot) -> bool {
        slot.activity.evicted.is_cancelled()
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_makes_room_and_one_that_answers_does_not() {
        let slots = Slots::new(3);
        let answering = slots.take().await;
        answering.activity.begin();
        passed(1).await;
        let idle = slots.take().await;
        passed(1).await;
        let recent = slots.take().await;
        assert!(slots.full());

        let other = slots.clone();
        let newcomer = tokio::spawn(async move { other.take().await });
        idle.evicted().await;
        assert!(!evicted(&answering) && !evicted(&recent));
        drop(idle);
        newcomer.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_newcomer_waits_while_all_answer_and_gets_the_first_that_turns_idle() {
        let slots = Slots::new(1);
        let slot = slots.take().await;
        slot.activity.begin();
        let other = slots.clone();
        let newcomer = tokio::spawn(async move { other.take().await });
        tokio::time::sleep(RETRY * 5).await;
        assert!(!evicted(&slot) && !newcomer.is_finished());
        slot.activity.end();
        slot.evicted().await;
        drop(slot);
        drop(newcomer.await.unwrap());
        assert!(!slots.full());
        assert!(lock(&slots.taken).activities.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn idle_time_counts_from_the_last_answer() {
        let slots = Slots::new(1);
        let slot = slots.take().await;
        let start = Instant::now();
        let activity = slot.activity();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(20)).await;
            activity.begin();
            tokio::time::sleep(Duration::from_secs(5)).await;
            activity.end();
        });
        slot.idle_for(Duration::from_secs(30)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(55));
    }
}
