//! The manager with a real store, a CA of the tests' own, and paused time.

use std::sync::Mutex;

use time::macros::datetime;

use super::*;
use crate::clock::testing::TestClock;
use crate::events::CertificateEvent as Event;
use crate::identity::crl::crls_to_pem;
use crate::issuer::roots::{RootDigest, union};
use crate::issuer::{
    CrlAnswer, FollowedRoots, IssueError, IssueErrorKind, Issued, Order, RenewalAnswer, RenewalInfo, RenewalNews,
    RenewalQuestion,
};
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
    csrs: Mutex<Vec<String>>,
    /// For each order, whether it came with a certificate.
    by_certificate: Mutex<Vec<bool>>,
    /// The configured roots.
    roots: Mutex<Option<Vec<rustls::pki_types::CertificateDer<'static>>>>,
    /// What the CA hands out as its roots; `None`: they are not followed.
    handed_out: Mutex<Option<Vec<rustls::pki_types::CertificateDer<'static>>>>,
    /// The CA's clock less ours, in seconds.
    skew: Mutex<f64>,
    /// How long an answer takes.
    delay: Mutex<Duration>,
    /// While true, orders get no answer.
    silent: watch::Sender<bool>,
    /// What the CA says of every certificate, a revocation only of those with these serials; `None`: this CA says nothing.
    info: watch::Sender<Option<RenewalInfo>>,
    revoked: Mutex<Vec<String>>,
    /// Questions about that, by whether the CA was to wait.
    questions: Mutex<Vec<bool>>,
    /// Certificates that it takes for revoked when they come with an order.
    revoked_at_the_door: Mutex<bool>,
    crl: Mutex<Option<CrlOfNow>>,
    crl_questions: Mutex<usize>,
}

/// The CRL that the CA signs when it is asked.
#[derive(Clone)]
struct CrlOfNow {
    number: u64,
    validity: std::ops::Range<OffsetDateTime>,
    revoked: Vec<Arc<CertificateBundle>>,
}

impl Issuer for FakeIssuer {
    async fn issue(&self, order: &Order<'_>) -> Result<Issued, IssueError> {
        self.shared.csrs.lock().unwrap().push(order.csr_pem.to_owned());
        self.shared.by_certificate.lock().unwrap().push(order.current.is_some());
        let mut silent = self.shared.silent.subscribe();
        drop(silent.wait_for(|silent| !silent).await);
        let delay = *self.shared.delay.lock().unwrap();
        tokio::time::sleep(delay).await;
        let clock_skew_seconds = Some(*self.shared.skew.lock().unwrap());
        if order.current.is_some() && *self.shared.revoked_at_the_door.lock().unwrap() {
            return Err(IssueError::new(IssueErrorKind::Revoked, "test"));
        }
        if let Some(kind) = *self.shared.failure.lock().unwrap() {
            let decision_id = (kind == IssueErrorKind::Refused).then(|| "dec_2".to_owned());
            return Err(IssueError { decision_id, clock_skew_seconds, ..IssueError::new(kind, "test") });
        }
        let leaf = self.ca.sign(order.csr_pem, self.clock.now().wall, HOUR * 12, |_| {});
        let follows = self.shared.handed_out.lock().unwrap().is_some();
        let trusted = union(self.configured(), order.known.followed_roots().filter(|_| follows));
        let publish = self.to_publish();
        Ok(Issued { chain: vec![leaf], trusted, publish, decision_id: Some("dec_1".to_owned()), clock_skew_seconds })
    }

    fn roots(&self, known: &KnownRoots) -> Result<Option<Vec<rustls::pki_types::CertificateDer<'static>>>, IssueError> {
        let configured = self.shared.roots.lock().unwrap().clone();
        let follows = self.shared.handed_out.lock().unwrap().is_some();
        Ok(configured.map(|roots| union(roots, known.followed_roots().filter(|_| follows))))
    }

    async fn follow(&self, _: &KnownRoots) -> Result<Option<FollowedRoots>, IssueError> {
        if let Some(kind) = *self.shared.failure.lock().unwrap() {
            return Err(IssueError::new(kind, "test"));
        }
        let follows = self.shared.handed_out.lock().unwrap().is_some();
        Ok(follows.then(|| self.to_publish()))
    }

    async fn renewal_info(&self, question: &RenewalQuestion<'_>) -> Result<RenewalAnswer, IssueError> {
        self.shared.questions.lock().unwrap().push(question.wait.is_some());
        let mut info = self.shared.info.subscribe();
        let waited = question.wait.filter(|_| question.tag.is_some());
        if let Some(wait) = waited {
            let other =
                |info: &Option<RenewalInfo>| info.as_ref().is_none_or(|info| info.etag.as_deref() != question.tag);
            let _ = tokio::time::timeout(wait, info.wait_for(other)).await;
        }
        let mut info = info.borrow().clone();
        let revoked = self.shared.revoked.lock().unwrap().iter().any(|serial| *serial == question.current.serial());
        if let Some(info) = info.as_mut().filter(|_| !revoked) {
            info.revoked = None;
        }
        let news = match info {
            None => RenewalNews::NotOffered,
            Some(info) if info.etag.as_deref() == question.tag => RenewalNews::Same,
            Some(info) => RenewalNews::Info(Box::new(info)),
        };
        Ok(RenewalAnswer { news, retry_after: None, waited: waited.is_some() })
    }

    async fn crl(&self, tag: Option<&str>, _: &KnownRoots) -> Result<CrlAnswer, IssueError> {
        *self.shared.crl_questions.lock().unwrap() += 1;
        let Some(crl) = self.shared.crl.lock().unwrap().clone() else { return Ok(CrlAnswer::NotOffered) };
        let etag = Some(crl.number.to_string());
        if etag.as_deref() == tag {
            return Ok(CrlAnswer::Same);
        }
        let revoked: Vec<&CertificateBundle> = crl.revoked.iter().map(AsRef::as_ref).collect();
        let crl = self.ca.crl(crl.number, crl.validity, &revoked);
        Ok(CrlAnswer::Crls { pem: crls_to_pem(&[crl]).into_bytes(), etag })
    }

    fn url(&self) -> &'static str {
        "https://fake"
    }
}

impl FakeIssuer {
    fn configured(&self) -> Vec<rustls::pki_types::CertificateDer<'static>> {
        self.shared.roots.lock().unwrap().clone().unwrap_or_else(|| self.ca.roots())
    }

    fn to_publish(&self) -> FollowedRoots {
        let followed = self.shared.handed_out.lock().unwrap().clone().unwrap_or_default();
        let digests = followed.iter().map(RootDigest::of).collect();
        FollowedRoots { roots: union(self.configured(), &followed), followed: digests }
    }
}

struct World {
    directory: tempfile::TempDir,
    clock: Arc<TestClock>,
    shared: Arc<Shared>,
    events: Arc<Mutex<Vec<EventRecord>>>,
    handle: ManagerHandle,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<Handover, CertificateUnavailableError>>,
}

impl World {
    fn start() -> Self {
        Self::with(|_| {}, None)
    }

    fn with(change: impl FnOnce(&mut Config), failure: Option<IssueErrorKind>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(TestClock::at(START));
        let shared = Arc::new(Shared { failure: Mutex::new(failure), ..Shared::default() });
        Self::begin(directory, change, clock, shared, Arc::default(), None)
    }

    fn begin(
        directory: tempfile::TempDir,
        change: impl FnOnce(&mut Config),
        clock: Arc<TestClock>,
        shared: Arc<Shared>,
        events: Arc<Mutex<Vec<EventRecord>>>,
        before: Option<Handover>,
    ) -> Self {
        let mut config = config(directory.path());
        change(&mut config);
        let issuer = FakeIssuer { ca: TestCa::new(), clock: Arc::clone(&clock), shared: Arc::clone(&shared) };
        let bus = EventBus::default();
        let sink = Arc::clone(&events);
        bus.subscribe(move |record| sink.lock().unwrap().push(record.clone()));
        let store = Arc::new(Store::open(&config.files).unwrap());
        let (mut manager, handle) =
            CertificateManager::new(&config, issuer, store, Arc::<TestClock>::clone(&clock), bus);
        if let Some(before) = before {
            manager = manager.after(before);
        }
        let stop = CancellationToken::new();
        let task = tokio::spawn(manager.keep(stop.clone()));
        Self { directory, clock, shared, events, handle, stop, task }
    }

    /// The configuration changes: the next manager goes on where this one stops.
    async fn reconfigured(self, change: impl FnOnce(&mut Config)) -> Self {
        self.stop.cancel();
        let before = self.task.await.unwrap().unwrap();
        Self::begin(self.directory, change, self.clock, self.shared, self.events, Some(before))
    }

    fn orders(&self) -> usize {
        self.shared.csrs.lock().unwrap().len()
    }

    /// A directory where the swap's link belongs: no publication gets through until it is removed.
    fn obstruct(&self) -> std::path::PathBuf {
        let obstacle = self.directory.path().join("certs/..data_tmp");
        std::fs::create_dir(&obstacle).unwrap();
        obstacle
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
    let obstacle = world.obstruct();
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
async fn what_expires_before_the_disk_takes_it_is_not_written() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    let obstacle = world.obstruct();
    assert!(world.handle.tell(Command::Renew(None)));
    world.until(Event::PublishFailed, 1).await;
    world.clock.suspend(HOUR * 13);
    std::fs::remove_dir(&obstacle).unwrap();
    world.until(Event::CertRenewed, 1).await;
    assert!(world.handle.status().borrow().certificate_valid(world.clock.now().wall));
    assert_eq!(world.orders(), 3);
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
    let world = World::with(|config| config.files.keep_generations = Duration::from_secs(5), None);
    world.until(Event::CertIssued, 1).await;
    let generations = || {
        let entries = std::fs::read_dir(world.directory.path().join("certs")).unwrap();
        entries.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("..2")).count()
    };
    assert!(world.handle.tell(Command::Renew(None)));
    world.until(Event::CertRenewed, 1).await;
    assert_eq!(generations(), 2);
    tokio::time::sleep(Duration::from_secs(7)).await;
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
    assert!(world.task.await.unwrap().is_ok());
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

#[tokio::test(start_paused = true)]
async fn requests_to_renew_during_an_attempt_are_one_more_attempt() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    world.shared.silent.send_replace(true);
    assert!(world.handle.tell(Command::Renew(None)));
    world.until(Event::CsrSubmitted, 2).await;
    let (first, outcome) = oneshot::channel();
    let (second, other_outcome) = oneshot::channel();
    for command in [Command::Renew(None), Command::Renew(Some(first)), Command::Renew(Some(second))] {
        assert!(world.handle.tell(command));
    }
    // However many there are of those that nobody waits for, there is room for the others.
    for _ in 0..1_000 {
        for command in [Command::Renew(None), Command::FilesChanged, Command::CredentialsChanged] {
            assert!(world.handle.tell(command));
        }
    }
    world.shared.silent.send_replace(false);
    let renewed = outcome.await.unwrap().unwrap();
    assert_eq!(other_outcome.await.unwrap().unwrap(), renewed);
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!((world.orders(), world.count(Event::CertRenewed)), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn a_ca_that_never_answers_does_not_prolong_the_start() {
    let world = World::with(|config| config.ca.startup_wait = HOUR / 60, None);
    world.shared.silent.send_replace(true);
    let before = tokio::time::Instant::now();
    let error = world.task.await.unwrap().unwrap_err();
    assert_eq!(error.kind, "ca_unavailable");
    assert!((60.0..67.0).contains(&before.elapsed().as_secs_f64()), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn without_time_to_wait_there_is_one_attempt() {
    let at_once = |config: &mut Config| config.ca.startup_wait = Duration::ZERO;
    let world = World::with(at_once, None);
    world.until(Event::CertIssued, 1).await;
    let world = World::with(at_once, Some(IssueErrorKind::Unavailable));
    let error = world.task.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("attempts: 1"), "{error}");
    assert_eq!(world.shared.csrs.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_takes_no_certificate_is_noticed_before_the_ca_is_asked() {
    let obstruct = |config: &mut Config| {
        std::fs::create_dir_all(config.files.directory.join("client.crt")).unwrap();
    };
    let world = World::with(obstruct, None);
    let before = tokio::time::Instant::now();
    let error = world.task.await.unwrap().unwrap_err();
    assert_eq!(error.kind, "obstructed");
    assert!(error.to_string().contains("client.crt is a directory"), "{error}");
    assert!(before.elapsed() < Duration::from_secs(1));
    assert_eq!(world.shared.csrs.lock().unwrap().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_waits_for_a_volume_that_takes_it() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    let obstacle = world.directory.path().join("certs/client.crt");
    std::fs::remove_file(&obstacle).unwrap();
    std::fs::create_dir(&obstacle).unwrap();
    assert!(world.handle.tell(Command::Renew(None)));
    world.until(Event::PublishFailed, 3).await;
    assert_eq!(world.orders(), 1);
    std::fs::remove_dir(&obstacle).unwrap();
    world.until(Event::CertRenewed, 1).await;
    assert_eq!(world.orders(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_fight_over_the_files_is_a_slow_one() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    let key = world.directory.path().join("certs/client.key");
    for _ in 0..20 * 60 {
        let _ = std::fs::remove_file(&key);
        assert!(world.handle.tell(Command::FilesChanged));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let healed = world.count(Event::FilesHealed);
    assert!((10..40).contains(&healed), "{healed} in ten minutes");
    // And when it is over, one loss is put right at once.
    tokio::time::sleep(Duration::from_mins(3)).await;
    let healed = world.count(Event::FilesHealed);
    for loss in 1..=2 {
        std::fs::remove_file(&key).unwrap();
        assert!(world.handle.tell(Command::FilesChanged));
        let before = tokio::time::Instant::now();
        world.until(Event::FilesHealed, healed + loss).await;
        assert!(before.elapsed() < Duration::from_secs(3), "{:?}", before.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn credentials_that_change_all_the_time_do_not_make_it_ask_all_the_time() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    world.fail(Some(IssueErrorKind::Refused));
    assert!(world.handle.tell(Command::Renew(None)));
    world.until(Event::CsrFailed, 1).await;
    world.clock.suspend(HOUR * 11);
    let asked = world.orders();
    for _ in 0..5 * 600 {
        assert!(world.handle.tell(Command::CredentialsChanged));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let made = world.orders() - asked;
    assert!((30..=61).contains(&made), "{made} in ten minutes");
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_run_left_is_removed() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    assert!(world.handle.tell(Command::Renew(None)));
    world.until(Event::CertRenewed, 1).await;
    world.stop.cancel();
    drop(world.task.await.unwrap().unwrap());
    let world = World::begin(world.directory, |_| {}, world.clock, world.shared, world.events, None);
    world.until(Event::CertAdopted, 1).await;
    tokio::time::sleep(Duration::from_secs(62)).await;
    let entries = std::fs::read_dir(world.directory.path().join("certs")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.starts_with("..2")).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn roots_that_do_not_fit_cost_nothing_once_they_fit_again() {
    let world = World::start();
    world.until(Event::CertIssued, 1).await;
    let own = world.handle.published().borrow().as_ref().unwrap().roots().to_vec();
    let other = TestCa::new().roots();
    let set = |roots: &[rustls::pki_types::CertificateDer<'static>]| {
        *world.shared.roots.lock().unwrap() = Some(roots.to_vec());
        assert!(world.handle.tell(Command::CredentialsChanged));
    };
    let published = || world.handle.published().borrow().as_ref().unwrap().clone();
    let serial = published().serial().to_owned();
    // One more: published at once, without another certificate.
    set(&[own.clone(), other.clone()].concat());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(published().roots().len(), 2);
    assert_eq!(published().serial(), serial);
    // Another: a certificate of it is wanted, and the old one stays meanwhile.
    world.fail(Some(IssueErrorKind::Untrusted));
    set(&other);
    world.until(Event::CaUnavailable, 1).await;
    assert_eq!((published().roots().len(), published().serial()), (2, serial.as_str()));
    world.fail(None);
    set(&own);
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!((published().roots().len(), published().serial()), (1, serial.as_str()));
    // On some file systems nobody tells: the next check finds out.
    *world.shared.roots.lock().unwrap() = Some([own, other].concat());
    tokio::time::sleep(HOUR + SLICE).await;
    assert_eq!(published().roots().len(), 2);
}

mod adoption;
mod crls;
mod failures;
mod handover;
mod news;
mod roots;
