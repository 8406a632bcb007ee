//! Owns the threads on which rules are evaluated: with stacks that suffice for the longest chain of rules, since both
//! evaluation and compilation are recursive.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::RegoError;

/// A fixed number of threads; they end when this is dropped and what they are at is done. Making one for each evaluation
/// would cost several times as much as most evaluations.
pub(super) struct Threads {
    work: SyncSender<Work>,
    /// One for each thread. What outlives its deadline keeps its place until it has ended.
    pub(super) places: Arc<Semaphore>,
}

type Work = Box<dyn FnOnce() + Send>;

impl Threads {
    pub(super) fn start(count: usize) -> Result<Self, RegoError> {
        let (work, receiver) = sync_channel(count);
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..count {
            let receiver = Arc::clone(&receiver);
            builder().spawn(move || work_off(&receiver)).map_err(|_| RegoError::Thread)?;
        }
        Ok(Self { work, places: Arc::new(Semaphore::new(count)) })
    }

    /// Waits for a place and does `work` there. `None` when it panics.
    pub(super) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let place: OwnedSemaphorePermit = Arc::clone(&self.places).acquire_owned().await.ok()?;
        let (sender, result) = oneshot::channel();
        let work = Box::new(move || {
            let done = work();
            drop(place);
            // Whoever waited may have gone.
            let _ = sender.send(done);
        });
        // There is room for as many as there are places.
        self.work.try_send(work).ok()?;
        result.await.ok()
    }
}

fn work_off(receiver: &Mutex<Receiver<Work>>) {
    loop {
        let next = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(work) = next else { return };
        // Told to whoever waits by what is dropped with it.
        let _ = catch_unwind(AssertUnwindSafe(work));
    }
}

/// Does `work` on a thread of its own.
pub(super) fn on_large_stack<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, RegoError> {
    builder().spawn(work).map_err(|_| RegoError::Thread)
}

fn builder() -> Builder {
    Builder::new().name("rego".to_owned()).stack_size(STACK_SIZE)
}

/// In bytes of address space; what is not used takes no memory. See the test of the longest chain.
const STACK_SIZE: usize = 128 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_told_and_takes_neither_thread_nor_place() {
        let threads = Threads::start(1).unwrap();
        for _ in 0..3 {
            assert_eq!(threads.run(|| panic!("in a rule")).await, None::<()>);
        }
        assert_eq!(threads.run(|| 7).await, Some(7));
    }
}
