//! Tests of when something is forgotten.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

use super::*;
use crate::ca::state::{Database, NewToken};
use crate::clock::Sleep;
use crate::identity::WorkerId;

const NOW: OffsetDateTime = time::macros::datetime!(2026-08-20 12:00 UTC);

/// Tells the readings it is given, one after the other, and then sleeps for ever.
#[derive(Debug)]
struct Told {
    readings: Mutex<Vec<Now>>,
    sleeps: AtomicUsize,
}

impl Clock for Told {
    fn now(&self) -> Now {
        let mut readings = self.readings.lock().unwrap();
        if readings.len() > 1 { readings.remove(0) } else { readings[0] }
    }

    fn sleep(&self, length: Duration) -> Sleep {
        assert_eq!(length, INTERVAL);
        self.sleeps.fetch_add(1, Ordering::SeqCst);
        if self.readings.lock().unwrap().len() > 1 {
            Box::pin(std::future::ready(()))
        } else {
            Box::pin(std::future::pending())
        }
    }
}

fn reading(wall: OffsetDateTime, hours: u64) -> Now {
    Now { wall, boot: Duration::from_hours(hours), running: Duration::from_hours(hours) }
}

/// How many tokens of two are left: one that lapsed five days before [`NOW`], one that lapses in five days.
async fn left_after(readings: Vec<Now>) -> usize {
    let directory = TempDir::new().unwrap();
    let state = State::open(directory.path(), &Database::Sqlite).await.unwrap();
    for (id, days) in [("t1", -5), ("t2", 5)] {
        let expires_at = NOW + time::Duration::days(days);
        let digest = crate::crypto::sha256(id.as_bytes());
        let (worker_id, names) = (WorkerId::new("streaming").unwrap(), std::collections::BTreeSet::new());
        let token = NewToken { id: id.to_owned(), digest, worker_id, names, created_at: expires_at, expires_at };
        state.add_token(&token).await.unwrap();
    }
    let rounds = readings.len() / 2;
    let clock = Arc::new(Told { readings: Mutex::new(readings), sleeps: AtomicUsize::new(0) });
    let shared = Arc::clone(&clock) as Arc<dyn Clock>;
    let retention = Retention::new(state.clone(), shared, Duration::from_hours(4 * 24));
    let cancel = CancellationToken::new();
    let task = tokio::spawn(retention.run(cancel.clone()));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    // The last of them is one more than the rounds, and begins when those are over.
    while clock.sleeps.load(Ordering::SeqCst) <= rounds {
        assert!(tokio::time::Instant::now() < deadline, "not within 30 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cancel.cancel();
    task.await.unwrap();
    state.tokens(10).await.unwrap().len()
}

#[tokio::test]
async fn what_has_been_over_for_longer_than_the_retention_is_forgotten_after_an_hour() {
    let hour = time::Duration::HOUR;
    assert_eq!(left_after(vec![reading(NOW - hour, 1), reading(NOW, 2), reading(NOW, 2)]).await, 1);
}

#[tokio::test]
async fn nothing_is_forgotten_while_somebody_sets_the_clock() {
    // Ten years ahead, so that all would be over; mended within the next hour.
    let wrong = NOW + time::Duration::days(3650);
    let hour = time::Duration::HOUR;
    let readings = vec![
        reading(NOW - 2 * hour, 1),
        reading(wrong - hour, 2),
        reading(wrong - hour, 2),
        reading(NOW - 2 * time::Duration::days(1), 3),
        reading(NOW, 3),
    ];
    assert_eq!(left_after(readings).await, 2);
}

#[test]
fn a_retention_longer_than_time_forgets_nothing() {
    assert_eq!(cutoff(NOW, Duration::MAX), None);
    assert_eq!(cutoff(NOW, Duration::from_hours(24 * 365 * 20_000)), None);
    assert_eq!(cutoff(NOW, Duration::from_hours(24)), Some(NOW - time::Duration::DAY));
}
