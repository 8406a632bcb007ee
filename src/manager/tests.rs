//! The manager with a real store, a CA of the tests' own, and paused time.

use std::sync::Mutex;

use time::macros::datetime;

use super::*;
use crate::clock::testing::TestClock;
use crate::events::CertificateEvent as Event;
use crate::issuer::{IssueError, IssueErrorKind, Issued, Order};
use crate::testing::{TestCa, config};

const START: OffsetDateTime = datetime!(2026-01-01 00:00 UTC);
const HOUR: Duration = Duration::from_hours(1);

/// A CA whose answers a test chooses.
struct FakeIssuer {
    ca: TestCa,
    clock: Arc<TestClock>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    failure: Mutex<Option<IssueErrorKind>>,
    skew: Mutex<f64>,
    csrs: Mutex<Vec<String>>,
    /// For each order, whether it came with a certificate.
    by_certificate: Mutex<Vec<bool>>,
}

impl Issuer for FakeIssuer {
    async fn issue(&self, order: &Order<'_>) -> Result<Issued, IssueError> {
        self.shared.csrs.lock().unwrap().push(order.csr_pem.to_owned());
        self.shared.by_certificate.lock().unwrap().push(order.current.is_some());
        if let Some(kind) = *self.shared.failure.lock().unwrap() {
            return Err(IssueError::new(kind, "test"));
        }
        let leaf = self.ca.sign(order.csr_pem, self.clock.now().wall, HOUR * 12, |_| {});
        Ok(Issued {
            chain: vec![leaf],
            roots: self.ca.roots(),
            clock_skew_seconds: Some(*self.shared.skew.lock().unwrap()),
        })
    }

    fn roots(&self) -> Result<Option<Vec<rustls::pki_types::CertificateDer<'static>>>, IssueError> {
        Ok(None)
    }

    fn url(&self) -> &'static str {
        "https://fake"
    }
}

struct World {
    directory: tempfile::TempDir,
    clock: Arc<TestClock>,
    shared: Arc<Shared>,
    events: Arc<Mutex<Vec<EventRecord>>>,
    handle: ManagerHandle,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), CertificateUnavailableError>>,
}

impl World {
    fn start() -> Self {
        Self::with(|_| {}, None)
    }

    fn with(change: impl FnOnce(&mut Config), failure: Option<IssueErrorKind>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(directory.path());
        change(&mut config);
        let clock = Arc::new(TestClock::at(START));
        let shared = Arc::new(Shared { failure: Mutex::new(failure), ..Shared::default() });
        let issuer = FakeIssuer { ca: TestCa::new(), clock: Arc::clone(&clock), shared: Arc::clone(&shared) };
        let bus = EventBus::default();
        let events: Arc<Mutex<Vec<EventRecord>>> = Arc::default();
        let sink = Arc::clone(&events);
        bus.subscribe(move |record| sink.lock().unwrap().push(record.clone()));
        let store = Arc::new(Store::open(&config.files).unwrap());
        let (manager, handle) = CertificateManager::new(&config, issuer, store, Arc::<TestClock>::clone(&clock), bus);
        let stop = CancellationToken::new();
        let task = tokio::spawn(manager.run(stop.clone()));
        Self { directory, clock, shared, events, handle, stop, task }
    }

    fn fail(&self, failure: Option<IssueErrorKind>) {
        *self.shared.failure.lock().unwrap() = failure;
    }

    fn count(&self, event: Event) -> usize {
        self.events.lock().unwrap().iter().filter(|record| record.event == event).count()
    }

    /// Lets time pass until the event has come `count` times.
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
async fn a_suspend_that_outlives_the_certificate_ends_in_a_valid_one() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    world.clock.suspend(HOUR * 16);
    let before = tokio::time::Instant::now();
    world.until(Event::CertRenewed, 1).await;
    assert!(before.elapsed() <= SLICE + Duration::from_secs(1), "noticed within {SLICE:?}");
    assert_eq!(world.count(Event::Expired), 1);
    assert_eq!(world.count(Event::ClockStepped), 1);
    // The expired certificate was not used to ask.
    assert_eq!(*world.shared.by_certificate.lock().unwrap(), [false, false]);
}

#[tokio::test(start_paused = true)]
async fn it_stays_alive_and_recovers_when_the_credential_has_lapsed_too() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    world.fail(Some(IssueErrorKind::Credential));
    world.clock.suspend(HOUR * 16);
    world.until(Event::CsrFailed, 2).await;
    assert!(!world.task.is_finished());
    world.fail(None);
    assert!(world.handle.tell(Command::CredentialsChanged));
    let before = tokio::time::Instant::now();
    world.until(Event::CertRenewed, 1).await;
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn renewal_is_by_certificate_and_keeps_the_old_one_until_then() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    let first = world.handle.published().borrow().as_ref().unwrap().serial().to_owned();
    world.fail(Some(IssueErrorKind::Unavailable));
    world.until(Event::CaUnavailable, 5).await;
    assert_eq!(world.handle.published().borrow().as_ref().unwrap().serial(), first);
    let status = world.handle.status().borrow().clone();
    assert_eq!(status.back_off.unwrap().failures, 5);
    world.fail(None);
    world.until(Event::CertRenewed, 1).await;
    assert_ne!(world.handle.published().borrow().as_ref().unwrap().serial(), first);
    assert!(world.handle.status().borrow().back_off.is_none());
    assert!(world.shared.by_certificate.lock().unwrap()[1..].iter().all(|by_certificate| *by_certificate));
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_order_is_sent_again_with_the_same_key() {
    let world = World::with(|_| {}, Some(IssueErrorKind::Unavailable));
    world.until(Event::CaUnavailable, 3).await;
    world.fail(None);
    world.until(Event::CertIssued, 1).await;
    let csrs = world.shared.csrs.lock().unwrap().clone();
    assert!(csrs.len() >= 4 && csrs.iter().all(|csr| *csr == csrs[0]));
    assert_eq!(world.count(Event::CsrGenerated), 1);
    world.until(Event::CertRenewed, 1).await;
    assert_ne!(world.shared.csrs.lock().unwrap().last(), csrs.last(), "a fresh key for every certificate");
}

#[tokio::test(start_paused = true)]
async fn without_certificate_and_ca_it_ends_after_the_wait() {
    let world = World::with(|_| {}, Some(IssueErrorKind::Unavailable));
    let before = tokio::time::Instant::now();
    let error = world.task.await.unwrap().unwrap_err();
    assert_eq!(error.kind, "ca_unavailable");
    assert!((60.0..62.0).contains(&before.elapsed().as_secs_f64()), "{:?}", before.elapsed());
    assert!(error.to_string().contains("attempts: "), "{error}");
}

#[tokio::test(start_paused = true)]
async fn without_certificate_a_refusal_ends_it_at_once() {
    let world = World::with(|_| {}, Some(IssueErrorKind::Refused));
    let error = world.task.await.unwrap().unwrap_err();
    assert_eq!(error.kind, "refused");
    assert_eq!(world.shared.csrs.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_the_disk_does_not_take_is_written_later_without_asking_again() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    // A directory where the swap's link belongs: no publication gets through.
    let obstacle = world.directory.path().join("certs/..data_tmp");
    std::fs::create_dir(&obstacle).unwrap();
    assert!(world.handle.tell(Command::Renew(None)));
    world.until(Event::PublishFailed, 3).await;
    assert_eq!(world.shared.csrs.lock().unwrap().len(), 2);
    std::fs::remove_dir(&obstacle).unwrap();
    world.until(Event::CertRenewed, 1).await;
    assert_eq!(world.shared.csrs.lock().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_ca_is_not_asked_for_what_the_disk_would_not_take() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    // A directory where a link belongs: it is not removed, and no publication gets through.
    let obstacle = world.directory.path().join("certs/client.key");
    std::fs::remove_file(&obstacle).unwrap();
    std::fs::create_dir(&obstacle).unwrap();
    assert!(world.handle.tell(Command::Renew(None)));
    world.until(Event::PublishFailed, 5).await;
    assert_eq!(world.shared.csrs.lock().unwrap().len(), 1);
    std::fs::remove_dir(&obstacle).unwrap();
    world.until(Event::CertRenewed, 1).await;
    assert_eq!(world.shared.csrs.lock().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_key_removed_by_someone_is_put_back_at_the_next_check() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    let key = world.directory.path().join("certs/client.key");
    std::fs::remove_file(&key).unwrap();
    world.until(Event::FilesHealed, 1).await;
    assert!(key.exists());
    assert_eq!(world.count(Event::FilesChanged), 1);
}

#[tokio::test(start_paused = true)]
async fn earlier_generations_are_removed_after_their_time() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    let generations = || {
        let entries = std::fs::read_dir(world.directory.path().join("certs")).unwrap();
        entries.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("..2")).count()
    };
    assert!(world.handle.tell(Command::Renew(None)));
    world.until(Event::CertRenewed, 1).await;
    assert_eq!(generations(), 2);
    tokio::time::sleep(Duration::from_secs(62)).await;
    assert_eq!(generations(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_clock_set_forward_by_years_does_not_cost_the_certificate() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    world.fail(Some(IssueErrorKind::Refused));
    world.clock.step(time::Duration::days(3650));
    world.until(Event::Expired, 1).await;
    world.clock.step(time::Duration::days(-3650));
    tokio::time::sleep(Duration::from_mins(1)).await;
    let status = world.handle.status().borrow().clone();
    assert!(status.certificate_valid(world.clock.now().wall));
    world.fail(None);
    let asked = world.shared.csrs.lock().unwrap().len();
    tokio::time::sleep(HOUR).await;
    assert_eq!(world.shared.csrs.lock().unwrap().len(), asked, "not due, so not asked for");
}

#[tokio::test(start_paused = true)]
async fn it_stops_when_told() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    world.stop.cancel();
    assert_eq!(world.task.await.unwrap(), Ok(()));
    assert!(!world.handle.tell(Command::Renew(None)));
}

#[tokio::test(start_paused = true)]
async fn a_ca_whose_clock_is_off_is_told_and_shown() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    assert_eq!(world.count(Event::ClockSkew), 0);
    *world.shared.skew.lock().unwrap() = -90.0;
    world.until(Event::CertRenewed, 1).await;
    assert_eq!(world.count(Event::ClockSkew), 1);
    assert_eq!(world.handle.status().borrow().ca.clock_skew_seconds, Some(-90.0));
}
