//! The CA that tests choose the answers of, and a manager that has nothing else around it.

use std::collections::BTreeMap;

use super::*;
use crate::identity::crl::crls_to_pem;
use crate::issuer::roots::{RootDigest, union};
use crate::issuer::{CrlAnswer, FollowedRoots, IssueError, Issued, Order, RenewalAnswer, RenewalNews, RenewalQuestion};

/// A CA whose answers a test chooses.
pub(super) struct FakeIssuer {
    pub(super) ca: TestCa,
    pub(super) clock: Arc<TestClock>,
    pub(super) shared: Arc<Shared>,
}

#[derive(Default)]
pub(super) struct Shared {
    pub(super) failure: Mutex<Option<IssueErrorKind>>,
    pub(super) csrs: Mutex<Vec<String>>,
    /// For each order, whether it came with a certificate.
    pub(super) by_certificate: Mutex<Vec<bool>>,
    /// The configured roots.
    pub(super) roots: Mutex<Option<Vec<rustls::pki_types::CertificateDer<'static>>>>,
    /// What the CA hands out as its roots; `None`: they are not followed.
    pub(super) handed_out: Mutex<Option<Vec<rustls::pki_types::CertificateDer<'static>>>>,
    /// The CA's clock less ours, in seconds.
    pub(super) skew: Mutex<f64>,
    /// How long an answer takes.
    pub(super) delay: Mutex<Duration>,
    /// While true, orders get no answer.
    pub(super) silent: watch::Sender<bool>,
    /// What the CA says of every certificate, a revocation only of those with these serials; `None`: this CA says nothing.
    pub(super) info: watch::Sender<Option<RenewalInfo>>,
    pub(super) revoked: Mutex<Vec<String>>,
    /// Questions about that, by whether the CA was to wait.
    pub(super) questions: Mutex<Vec<bool>>,
    /// Certificates that it takes for revoked when they come with an order.
    pub(super) revoked_at_the_door: Mutex<bool>,
    pub(super) crl: Mutex<Option<CrlOfNow>>,
    pub(super) crl_questions: Mutex<usize>,
}

/// The CRL that the CA signs when it is asked.
#[derive(Clone)]
pub(super) struct CrlOfNow {
    pub(super) number: u64,
    pub(super) validity: std::ops::Range<OffsetDateTime>,
    pub(super) revoked: Vec<Arc<CertificateBundle>>,
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
        Ok(Issued {
            key: None,
            chain: vec![leaf],
            trusted,
            publish,
            federated: BTreeMap::new(),
            decision_id: Some("dec_1".to_owned()),
            clock_skew_seconds,
        })
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

pub(super) struct World {
    pub(super) directory: tempfile::TempDir,
    pub(super) clock: Arc<TestClock>,
    pub(super) shared: Arc<Shared>,
    pub(super) events: Arc<Mutex<Vec<EventRecord>>>,
    pub(super) handle: ManagerHandle,
    pub(super) stop: CancellationToken,
    pub(super) task: tokio::task::JoinHandle<Result<Handover, CertificateUnavailableError>>,
}

impl World {
    pub(super) fn start() -> Self {
        Self::with(|_| {}, None)
    }

    pub(super) fn with(change: impl FnOnce(&mut Config), failure: Option<IssueErrorKind>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(TestClock::at(START));
        let shared = Arc::new(Shared { failure: Mutex::new(failure), ..Shared::default() });
        Self::begin(directory, change, clock, shared, Arc::default(), None)
    }

    pub(super) fn begin(
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
    pub(super) async fn reconfigured(self, change: impl FnOnce(&mut Config)) -> Self {
        self.stop.cancel();
        let before = self.task.await.unwrap().unwrap();
        Self::begin(self.directory, change, self.clock, self.shared, self.events, Some(before))
    }

    pub(super) fn orders(&self) -> usize {
        self.shared.csrs.lock().unwrap().len()
    }

    /// A directory where the swap's link belongs: no publication gets through until it is removed.
    pub(super) fn obstruct(&self) -> std::path::PathBuf {
        let obstacle = self.directory.path().join("certs/..data_tmp");
        std::fs::create_dir(&obstacle).unwrap();
        obstacle
    }

    pub(super) fn fail(&self, failure: Option<IssueErrorKind>) {
        *self.shared.failure.lock().unwrap() = failure;
    }

    pub(super) fn count(&self, event: Event) -> usize {
        self.events.lock().unwrap().iter().filter(|record| record.event == event).count()
    }

    /// Lets time pass until the event has come `count` times.
    pub(super) async fn until(&self, event: Event, count: usize) {
        for _ in 0..100_000 {
            if self.count(event) >= count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        panic!("no {event}: {:?}", self.events.lock().unwrap());
    }
}
