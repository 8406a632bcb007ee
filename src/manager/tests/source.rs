//! An issuer that makes the keys and renews in its own time.

use tokio::sync::Notify;

use super::*;
use crate::events::EventBus;
use crate::identity::RequestedIdentity;
use crate::issuer::{FollowedRoots, IssueError, Issued, KeyMaker, Order};
use crate::schedule::RenewedBy;

/// What the issuer has, and what it was asked.
#[derive(Default)]
struct Source {
    /// What it hands out, or how it fails.
    has: Mutex<Option<Result<CertificateBundle, IssueErrorKind>>>,
    news: Notify,
    /// It says all the time that there is something new.
    babbles: bool,
    asked: Mutex<usize>,
}

struct FakeSource(Arc<Source>);

impl Issuer for FakeSource {
    fn key_maker(&self) -> KeyMaker {
        KeyMaker::Issuer
    }

    async fn announced(&self) {
        if !self.0.babbles {
            self.0.news.notified().await;
        }
    }

    async fn issue(&self, order: &Order<'_>) -> Result<Issued, IssueError> {
        assert_eq!(order.csr_pem, "");
        *self.0.asked.lock().unwrap() += 1;
        match self.0.has.lock().unwrap().as_ref().unwrap() {
            Err(kind) => Err(IssueError::new(*kind, "test")),
            Ok(bundle) => Ok(Issued {
                key: Some(bundle.key().try_clone().unwrap()),
                chain: bundle.chain().to_vec(),
                trusted: bundle.roots().to_vec(),
                publish: FollowedRoots { roots: bundle.roots().to_vec(), followed: Vec::new() },
                federated: bundle.federated().clone(),
                decision_id: None,
                clock_skew_seconds: None,
            }),
        }
    }

    fn roots(&self, _: &KnownRoots) -> Result<Option<Vec<rustls::pki_types::CertificateDer<'static>>>, IssueError> {
        Ok(None)
    }

    async fn follow(&self, _: &KnownRoots) -> Result<Option<FollowedRoots>, IssueError> {
        Ok(None)
    }

    fn url(&self) -> &'static str {
        "unix:///fake"
    }
}

struct Beside {
    _directory: tempfile::TempDir,
    ca: TestCa,
    clock: Arc<TestClock>,
    source: Arc<Source>,
    events: Arc<Mutex<Vec<EventRecord>>>,
    handle: ManagerHandle,
    task: tokio::task::JoinHandle<Result<(), CertificateUnavailableError>>,
    _stop: tokio_util::sync::DropGuard,
}

impl Beside {
    /// A manager beside an issuer that fails for now.
    fn failing(kind: IssueErrorKind) -> Self {
        Self::with(kind, false)
    }

    fn with(kind: IssueErrorKind, babbles: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(TestClock::at(START));
        let source = Arc::new(Source { has: Mutex::new(Some(Err(kind))), babbles, ..Source::default() });
        let mut config = config(directory.path());
        config.identity = RequestedIdentity::registered(config.identity.worker_id, None, []);
        config.timing.renewed_by = RenewedBy::Issuer;
        let events = Arc::new(Mutex::new(Vec::new()));
        let (bus, sink) = (EventBus::default(), Arc::clone(&events));
        bus.subscribe(move |record| sink.lock().unwrap().push(record.clone()));
        let store = Arc::new(Store::open(&config.files).unwrap());
        let issuer = FakeSource(Arc::clone(&source));
        let (manager, handle) = CertificateManager::new(&config, issuer, store, Arc::<TestClock>::clone(&clock), bus);
        let stop = CancellationToken::new();
        let task = tokio::spawn(manager.run(stop.clone()));
        let (ca, stop) = (TestCa::new(), stop.drop_guard());
        Self { _directory: directory, ca, clock, source, events, handle, task, _stop: stop }
    }

    /// One that has a certificate of an hour.
    async fn serving() -> Self {
        let world = Self::failing(IssueErrorKind::Unavailable);
        *world.source.has.lock().unwrap() = Some(Ok(world.another()));
        world.until(Event::CertIssued, 1).await;
        world
    }

    fn another(&self) -> CertificateBundle {
        self.ca.bundle(&crate::testing::identity("streaming"), self.clock.now().wall, HOUR)
    }

    fn hand_out(&self, bundle: CertificateBundle) {
        self.put(Ok(bundle));
    }

    fn put(&self, has: Result<CertificateBundle, IssueErrorKind>) {
        *self.source.has.lock().unwrap() = Some(has);
        self.source.news.notify_one();
    }

    fn asked(&self) -> usize {
        *self.source.asked.lock().unwrap()
    }

    fn in_force(&self) -> Arc<CertificateBundle> {
        self.handle.published().borrow().clone().unwrap()
    }

    fn count(&self, event: Event) -> usize {
        self.events.lock().unwrap().iter().filter(|record| record.event == event).count()
    }

    async fn until(&self, event: Event, count: usize) {
        for _ in 0..100_000 {
            if self.count(event) >= count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        panic!("no {event}: {:?}", self.events.lock().unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn each_certificate_that_it_announces_is_published_and_it_is_not_asked_otherwise() {
    let world = Beside::serving().await;
    for renewal in 1..=5 {
        let (asked, next) = (world.asked(), world.another());
        let serial = next.serial().to_owned();
        tokio::time::sleep(HOUR / 2).await;
        assert_eq!(world.asked(), asked);
        world.hand_out(world.another());
        assert_ne!(world.in_force().serial(), serial);
        let before = world.clock.now().boot;
        world.until(Event::CertRenewed, renewal).await;
        assert!(world.clock.now().boot.saturating_sub(before) < Duration::from_secs(2));
    }
    assert_eq!(
        world.count(Event::CsrGenerated) + world.count(Event::CsrSubmitted) + world.count(Event::ExpiringSoon),
        0
    );
    assert_eq!(world.handle.status().borrow().next_renewal, None);
    let spiffe_id = world.handle.status().borrow().spiffe_id.clone();
    assert_eq!(spiffe_id.unwrap().as_str(), "spiffe://crank.local/worker/streaming");
}

#[tokio::test(start_paused = true)]
async fn the_same_certificate_again_is_no_news_and_other_roots_are_published_with_it() {
    let world = Beside::serving().await;
    let (first, asked) = (world.in_force(), world.asked());
    tokio::time::sleep(Duration::from_mins(1)).await;
    world.hand_out(first.try_clone().unwrap());
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(world.asked(), asked + 1);
    assert!(Arc::ptr_eq(&world.in_force(), &first));
    let roots = [world.ca.roots(), TestCa::named("Other").roots()].concat();
    world.hand_out(first.with_roots(roots.clone()).unwrap());
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!((world.in_force().roots(), world.in_force().serial()), (roots.as_slice(), first.serial()));
    let federated = [(crate::identity::TrustDomain::new("other.example").unwrap(), TestCa::new().roots())].into();
    world.hand_out(world.in_force().try_clone().unwrap().with_federated(federated));
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!((world.in_force().federated().len(), world.in_force().serial()), (1, first.serial()));
    assert_eq!(world.count(Event::CertIssued) + world.count(Event::CertRenewed), 1);
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_renew_in_time_is_asked_from_the_warning_on_with_back_off() {
    let world = Beside::serving().await;
    let asked = world.asked();
    tokio::time::sleep(HOUR * 4 / 5).await;
    assert_eq!((world.asked(), world.count(Event::ExpiringSoon)), (asked, 0));
    world.until(Event::CaUnavailable, 3).await;
    let message = world.events.lock().unwrap().iter().rev().find_map(|record| record.error.clone()).unwrap().message;
    assert!(message.starts_with("unix:///fake still hands out the certificate in force"), "{message}");
    world.until(Event::Expired, 1).await;
    // Nine minutes, at least half a second and at most a minute apart.
    assert!((9..60).contains(&world.asked()), "{}", world.asked());
    world.hand_out(world.another());
    world.until(Event::CertRenewed, 1).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_is_gone_is_asked_again_with_back_off_and_what_there_is_stays() {
    let world = Beside::serving().await;
    let first = world.in_force();
    world.put(Err(IssueErrorKind::Unavailable));
    world.until(Event::CaUnavailable, 10).await;
    assert!(Arc::ptr_eq(&world.in_force(), &first));
    assert!(world.handle.status().borrow().back_off.is_some());
    world.hand_out(first.try_clone().unwrap());
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert!(world.handle.status().borrow().back_off.is_none());
    assert_eq!(world.count(Event::CertRenewed), 0);
}

#[tokio::test(start_paused = true)]
async fn one_that_announces_all_the_time_does_not_make_it_run_hot() {
    let world = Beside::with(IssueErrorKind::Unavailable, true);
    world.hand_out(world.another());
    world.until(Event::CertIssued, 1).await;
    tokio::time::sleep(HOUR / 2).await;
    // The least interval is ten seconds.
    assert!((2..=181).contains(&world.asked()), "{}", world.asked());
    world.put(Err(IssueErrorKind::Refused));
    let asked = world.asked();
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert!(world.asked() - asked <= 61, "{}", world.asked() - asked);
}

#[tokio::test(start_paused = true)]
async fn whom_it_does_not_know_waits_for_as_long_as_for_a_ca() {
    let world = Beside::failing(IssueErrorKind::NotRegistered);
    let error = world.task.await.unwrap().unwrap_err();
    assert_eq!((error.kind, error.advice), ("not_registered", "register this process, the agent, and not the worker"));
    assert!(*world.source.asked.lock().unwrap() > 3);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_fit_does_not_replace_what_there_is() {
    let world = Beside::serving().await;
    let first = world.in_force();
    tokio::time::sleep(Duration::from_mins(1)).await;
    let stranger = TestCa::named("Other").bundle(&crate::testing::identity("streaming"), START, HOUR);
    let roots = world.ca.roots();
    world.hand_out(stranger.with_roots(roots).unwrap());
    world.until(Event::ValidationFailed, 1).await;
    assert!(Arc::ptr_eq(&world.in_force(), &first));
    world.hand_out(world.another());
    world.until(Event::CertRenewed, 1).await;
}
