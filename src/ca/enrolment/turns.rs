//! Owns the turns of requests with the same credential: one after the other, so that what the first got is known to
//! the next.

use std::array;

use tokio::sync::{Mutex, MutexGuard};

use super::Credential;
use crate::crypto::sha256;

/// A fixed number of places, so that no number of credentials fills memory. Two that share a place wait for each other,
/// which costs a few milliseconds.
#[derive(Debug)]
pub(crate) struct Turns([Mutex<()>; PLACES]);

impl Default for Turns {
    fn default() -> Self {
        Self(array::from_fn(|_| Mutex::new(())))
    }
}

impl Turns {
    /// Waits until nobody else with this credential is being served. A caller in this process vouches for each request
    /// of its own and waits for nobody; nor do those who show nothing.
    pub(super) async fn take(&self, credential: &Credential) -> Option<MutexGuard<'_, ()>> {
        let id = match credential {
            Credential::Token(id) | Credential::Certificate(id) | Credential::Signed { id, .. } => id,
            Credential::Anonymous(_) | Credential::Caller => return None,
        };
        let place = usize::from(sha256(id.as_bytes())[0]) % PLACES;
        Some(self.0[place].lock().await)
    }
}

const PLACES: usize = 64;

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::{Context, Waker};

    use super::*;

    /// Whether a turn is to be had at once.
    fn is_free(turns: &Turns, credential: &Credential) -> bool {
        let mut turn = std::pin::pin!(turns.take(credential));
        turn.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[tokio::test]
    async fn the_same_credential_waits_and_others_do_not() {
        let turns = Turns::default();
        let token = Credential::Token("tok_1".to_owned());
        let held = turns.take(&token).await;
        assert!(!is_free(&turns, &token));
        assert!(is_free(&turns, &Credential::Token("tok_2".to_owned())));
        assert!(is_free(&turns, &Credential::Caller));
        drop(held);
        assert!(is_free(&turns, &token));
    }
}
