//! Owns the turns of requests with the same credential: one after the other, so that what the first got is known to
//! the next.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Mutex, MutexGuard};

use super::Credential;
use crate::crypto::sha256;

/// A fixed number of places, so that no number of credentials fills memory. Two that share a place wait for each other,
/// which costs a few milliseconds.
#[derive(Debug)]
pub(crate) struct Turns(Box<[Place; PLACES]>);

#[derive(Debug, Default)]
struct Place {
    turn: Mutex<()>,
    /// How many turns have ended.
    ended: AtomicU64,
}

impl Default for Turns {
    fn default() -> Self {
        Self(Box::new(array::from_fn(|_| Place::default())))
    }
}

/// A look at a place, before its turn is taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Glance<'a> {
    /// `None` for a caller in this process, who vouches for each request of its own and waits for nobody; and for those
    /// who show nothing.
    place: Option<&'a Place>,
    ended: u64,
}

/// Nobody else with the same credential is being served while this lives.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    place: &'a Place,
    _held: MutexGuard<'a, ()>,
}

impl Turns {
    /// To be had before the record is read, so that the turn can tell whether what was read still holds.
    pub(super) fn glance(&self, credential: &Credential) -> Glance<'_> {
        let id = match credential {
            Credential::Token(id) | Credential::Certificate(id) | Credential::Signed { id, .. } => id,
            Credential::Anonymous(_) | Credential::Caller => return Glance { place: None, ended: 0 },
        };
        let [first, second, ..] = sha256(id.as_bytes());
        let place = &self.0[usize::from(u16::from_be_bytes([first, second])) % PLACES];
        Glance { place: Some(place), ended: place.ended.load(Ordering::Acquire) }
    }
}

impl<'a> Glance<'a> {
    /// Waits until nobody else with this credential is being served.
    pub(super) async fn take(self) -> Option<Turn<'a>> {
        let place = self.place?;
        Some(Turn { place, _held: place.turn.lock().await })
    }

    /// Whether somebody's turn has ended since, in this process. Asked while the turn is held.
    pub(super) fn is_overtaken(self) -> bool {
        self.place.is_some_and(|place| place.ended.load(Ordering::Acquire) != self.ended)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // Before the next one gets the turn, as fields are dropped after this.
        self.place.ended.fetch_add(1, Ordering::Release);
    }
}

const PLACES: usize = 1024;

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::{Context, Waker};

    use super::*;

    /// Whether a turn is to be had at once.
    fn is_free(turns: &Turns, credential: &Credential) -> bool {
        let mut turn = std::pin::pin!(turns.glance(credential).take());
        turn.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[tokio::test]
    async fn the_same_credential_waits_and_others_do_not() {
        let turns = Turns::default();
        let token = Credential::Token("tok_1".to_owned());
        let held = turns.glance(&token).take().await;
        assert!(!is_free(&turns, &token));
        assert!(is_free(&turns, &Credential::Token("tok_2".to_owned())));
        assert!(is_free(&turns, &Credential::Caller));
        drop(held);
        assert!(is_free(&turns, &token));
    }

    #[tokio::test]
    async fn who_waited_for_another_is_overtaken_and_who_was_alone_is_not() {
        let turns = Turns::default();
        let token = Credential::Token("tok_1".to_owned());
        let first = turns.glance(&token);
        let held = first.take().await;
        assert!(!first.is_overtaken());
        let second = turns.glance(&token);
        drop(held);
        let held = second.take().await;
        assert!(second.is_overtaken());
        drop(held);
        let third = turns.glance(&token);
        let _held = third.take().await;
        assert!(!third.is_overtaken());
        assert!(!turns.glance(&Credential::Caller).is_overtaken());
    }
}
