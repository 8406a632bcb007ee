//! Owns an issuer's keys between one reading and the next: when to read again, and what counts meanwhile.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Mutex;

use super::fetch;
use super::jwk::KeySet;
use super::jws::Header;
use super::refusal::TokenRefusal;
use super::settings::{KeySource, TokenIssuer};
use crate::clock::Clock;

/// The keys of one issuer. Read when a token asks for them and they are old or do not have its key, by one request at a
/// time; the last good ones stay in force while that fails.
#[derive(Debug)]
pub(super) struct Keys {
    issuer: String,
    source: KeySource,
    clock: Arc<dyn Clock>,
    held: RwLock<Held>,
    /// Held by whoever reads.
    turn: Mutex<Told>,
}

#[derive(Debug, Clone, Default)]
struct Held {
    /// The last good keys, and when they were read.
    keys: Option<(Arc<KeySet>, Duration)>,
    /// When it was last tried.
    tried: Option<Duration>,
}

/// The last failure that was logged, so that a failure that stays is logged once.
type Told = Option<fetch::FetchError>;

/// What to do for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    /// Take what there is.
    Use,
    /// Read first, unless another request does; then take what there is.
    Refresh,
    /// Read first, or wait for the request that does.
    Await,
    /// There is nothing to take, and it is too early to try again.
    GiveUp,
}

impl Keys {
    /// No keys yet.
    pub(super) fn new(issuer: &TokenIssuer, clock: Arc<dyn Clock>) -> Self {
        Self {
            issuer: issuer.issuer.clone(),
            source: issuer.keys.clone(),
            clock,
            held: RwLock::default(),
            turn: Mutex::default(),
        }
    }

    /// The keys to hold a token with this header against. They may lack its key.
    pub(super) async fn find(&self, header: &Header) -> Result<Arc<KeySet>, TokenRefusal> {
        match self.plan(header) {
            Plan::Use | Plan::GiveUp => {}
            Plan::Refresh => {
                if let Ok(told) = self.turn.try_lock() {
                    self.read(told).await;
                }
            }
            Plan::Await => {
                let told = self.turn.lock().await;
                // Whoever was before may have read what is asked for.
                if matches!(self.plan(header), Plan::Await | Plan::Refresh) {
                    self.read(told).await;
                }
            }
        }
        let held = self.held();
        let good = held.keys.filter(|(_, read)| self.now().saturating_sub(*read) < LONGEST_AGE);
        good.map(|(keys, _)| keys).ok_or(TokenRefusal::KeysUnavailable)
    }

    /// Reads them now, however new those that are held are.
    pub(super) async fn read_again(&self) {
        self.read(self.turn.lock().await).await;
    }

    async fn read(&self, mut told: tokio::sync::MutexGuard<'_, Told>) {
        // Noted before, so that a request that is given up half-way counts as a try.
        self.held.write().unwrap_or_else(PoisonError::into_inner).tried = Some(self.now());
        let read = match &self.source {
            KeySource::File(path) => fetch::from_file(path).await,
            KeySource::Url(url) => fetch::from_url(url, Arc::clone(&self.clock)).await,
        };
        match read {
            Ok(keys) => {
                let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
                held.keys = Some((Arc::new(keys), self.now()));
                *told = None;
            }
            Err(error) if told.as_ref() == Some(&error) => {}
            Err(error) => {
                tracing::warn!(%error, issuer = self.issuer, "cannot read an issuer's keys; the last good ones stay");
                *told = Some(error);
            }
        }
    }

    fn plan(&self, header: &Header) -> Plan {
        let held = self.held();
        let since = |then: Duration| self.now().saturating_sub(then);
        let age = held.keys.as_ref().map(|(_, read)| since(*read));
        let knows = held.keys.as_ref().is_some_and(|(keys, _)| keys.knows(header));
        plan(age, knows, held.tried.map(since), &self.source)
    }

    fn held(&self) -> Held {
        self.held.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn now(&self) -> Duration {
        self.clock.now().boot
    }
}

/// `age` is that of the keys, `knows` whether they have the one asked for, `tried` how long ago they were last read.
fn plan(age: Option<Duration>, knows: bool, tried: Option<Duration>, source: &KeySource) -> Plan {
    let (refresh, pause) = match source {
        KeySource::File(_) => (FILE_PAUSE, FILE_PAUSE),
        KeySource::Url(_) => (URL_REFRESH, URL_PAUSE),
    };
    let may_try = tried.is_none_or(|ago| ago >= pause);
    match age.filter(|age| *age < LONGEST_AGE) {
        None if may_try => Plan::Await,
        None => Plan::GiveUp,
        Some(_) if !may_try => Plan::Use,
        Some(_) if !knows => Plan::Await,
        Some(age) if age >= refresh => Plan::Refresh,
        Some(_) => Plan::Use,
    }
}

/// How often a file is read at most. It is small, and so a change counts within a second.
const FILE_PAUSE: Duration = Duration::from_secs(1);

/// How long the keys of a URL count before they are fetched again.
const URL_REFRESH: Duration = Duration::from_mins(5);

/// How often a URL is asked at most, whatever keys tokens name.
const URL_PAUSE: Duration = Duration::from_secs(10);

/// How long keys count that cannot be read again.
const LONGEST_AGE: Duration = Duration::from_hours(24);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ca::oidc::settings::KeyUrl;
    use crate::config::HttpsUrl;

    fn url() -> KeySource {
        let url = HttpsUrl::new("https://keys.example").unwrap();
        KeySource::Url(KeyUrl { url, root_file: "/r".into(), token_file: None })
    }

    #[expect(clippy::unnecessary_wraps, reason = "reads as what it stands for")]
    const fn seconds(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    #[test]
    fn keys_are_read_when_they_are_old_or_lack_one_and_not_too_often() {
        for (age, knows, tried, expected) in [
            (None, false, None, Plan::Await),
            (None, false, seconds(9), Plan::GiveUp),
            (None, false, seconds(10), Plan::Await),
            (seconds(10), true, seconds(10), Plan::Use),
            (seconds(10), false, seconds(10), Plan::Await),
            (seconds(9), false, seconds(9), Plan::Use),
            (seconds(300), true, seconds(300), Plan::Refresh),
            (seconds(300), true, seconds(9), Plan::Use),
            (seconds(86_399), true, seconds(9), Plan::Use),
            (seconds(86_400), true, seconds(9), Plan::GiveUp),
            (seconds(86_400), true, seconds(10), Plan::Await),
        ] {
            assert_eq!(plan(age, knows, tried, &url()), expected, "{age:?} {knows} {tried:?}");
        }
    }

    proptest! {
        #[test]
        fn no_token_makes_it_ask_more_often_than_the_pause(
            age in proptest::option::of(0_u64..200_000), knows in any::<bool>(), tried in 0_u64..10,
        ) {
            let plan = plan(age.map(Duration::from_secs), knows, seconds(tried), &url());
            prop_assert!(matches!(plan, Plan::Use | Plan::GiveUp), "{:?}", plan);
        }
    }
}
