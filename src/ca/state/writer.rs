//! Owns group commit: reservations and certificates of requests at the same time go to disk in one transaction.
//!
//! While one transaction is being made durable, the next requests gather; so the number of writes to disk does not grow
//! with the number of requests. Nobody is answered before the transaction with his row is on disk.

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc, oneshot};

use super::backend::Pool;
use super::certificates::{Issuance, Recorded, Reservation, Reserved};
use super::{DecisionRecord, StateError, issuing};

/// Takes what is to be written. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Writer(mpsc::Sender<Write>);

/// One thing to write, and whom to tell.
pub(super) enum Write {
    Reserve(Box<Reservation>, oneshot::Sender<Result<Reserved, StateError>>),
    Record(Box<Issuance>, oneshot::Sender<Result<Recorded, StateError>>),
    Decide(Vec<DecisionRecord>, oneshot::Sender<Result<(), StateError>>),
}

impl Writer {
    /// Starts as many tasks as the database can use; they end with the last clone of the writer.
    pub(super) fn start(pool: &Pool) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..pool.lanes() {
            tokio::spawn(write_all(pool.clone(), Arc::clone(&receiver)));
        }
        Self(sender)
    }

    pub(super) async fn reserve(&self, reservation: Reservation) -> Result<Reserved, StateError> {
        self.write(|told| Write::Reserve(Box::new(reservation), told)).await
    }

    pub(super) async fn record(&self, issuance: Issuance) -> Result<Recorded, StateError> {
        self.write(|told| Write::Record(Box::new(issuance), told)).await
    }

    pub(super) async fn decide(&self, decisions: Vec<DecisionRecord>) -> Result<(), StateError> {
        self.write(|told| Write::Decide(decisions, told)).await
    }

    async fn write<T>(
        &self,
        write: impl FnOnce(oneshot::Sender<Result<T, StateError>>) -> Write,
    ) -> Result<T, StateError> {
        let (told, outcome) = oneshot::channel();
        self.0.send(write(told)).await.map_err(|_| StateError::Closed)?;
        outcome.await.map_err(|_| StateError::Closed)?
    }
}

async fn write_all(pool: Pool, receiver: Arc<Mutex<mpsc::Receiver<Write>>>) {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        if !gather(&receiver, &mut batch, BATCH).await {
            return;
        }
        // Whoever has gone away needs nothing: his client will ask again.
        batch.retain(|write| !write.is_forgotten());
        let several = batch.len() > 1;
        match issuing::write(&pool, &batch).await {
            Ok(outcomes) => {
                for (write, outcome) in batch.drain(..).zip(outcomes) {
                    write.tell(Ok(outcome));
                }
            }
            // One bad row must not fail the others: each by itself.
            Err(error) if several => {
                tracing::debug!(error = %error, writes = batch.len(), "writing one by one");
                for write in batch.drain(..) {
                    let outcome = issuing::write(&pool, std::slice::from_ref(&write)).await;
                    write.tell(outcome.and_then(|outcomes| outcomes.into_iter().next().ok_or(StateError::Closed)));
                }
            }
            Err(error) => {
                if let Some(write) = batch.pop() {
                    write.tell(Err(error));
                }
            }
        }
    }
}

/// Waits for something to do, then takes all there is, at most `limit`. `false` when nothing will come any more.
///
/// A transaction costs the same processor time for one row as for many. So those who are about to ask, and only wait for a
/// processor, come first, as long as there are more of them; when there is nobody, that takes no time.
pub(super) async fn gather<T>(receiver: &Mutex<mpsc::Receiver<T>>, batch: &mut Vec<T>, limit: usize) -> bool {
    let mut receiver = receiver.lock().await;
    if receiver.recv_many(batch, limit).await == 0 {
        return false;
    }
    loop {
        let before = batch.len();
        tokio::task::yield_now().await;
        while batch.len() < limit
            && let Ok(next) = receiver.try_recv()
        {
            batch.push(next);
        }
        if batch.len() == before || batch.len() == limit {
            return true;
        }
    }
}

/// What became of one [`Write`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Reserved(Reserved),
    Recorded(Recorded),
    Decided,
}

impl Write {
    fn is_forgotten(&self) -> bool {
        match self {
            Self::Reserve(_, told) => told.is_closed(),
            Self::Record(_, told) => told.is_closed(),
            // A denial is recorded whether or not the client waits for it.
            Self::Decide(..) => false,
        }
    }

    fn tell(self, outcome: Result<Outcome, StateError>) {
        // The receiver may have gone away meanwhile.
        match self {
            Self::Reserve(_, told) => {
                let _ = told.send(outcome.and_then(|outcome| match outcome {
                    Outcome::Reserved(reserved) => Ok(reserved),
                    Outcome::Recorded(_) | Outcome::Decided => Err(StateError::Closed),
                }));
            }
            Self::Record(_, told) => {
                let _ = told.send(outcome.and_then(|outcome| match outcome {
                    Outcome::Recorded(recorded) => Ok(recorded),
                    Outcome::Reserved(_) | Outcome::Decided => Err(StateError::Closed),
                }));
            }
            Self::Decide(_, told) => {
                let _ = told.send(outcome.map(drop));
            }
        }
    }
}

/// The most rows in one transaction.
const BATCH: usize = 64;

/// The most writes that wait; further requests wait for their place.
const QUEUE: usize = 1024;
