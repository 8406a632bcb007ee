//! Owns [`CertificateManager`]: the one loop that sleeps, obtains, checks, installs and publishes.

mod adopt;
mod attempt;
mod crl;
mod federation;
mod files;
mod handle;
mod handover;
mod news;
mod push;
mod report;
mod roots;
mod start;

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::clock::Clock;
use crate::config::{Config, FederatedDomain, RevokedFiles};
use crate::events::{CertificateEvent, EventBus, EventRecord};
use crate::identity::{CertificateBundle, Checks, KeyType, PrivateKey, RequestedIdentity};
use crate::issuer::roots::{KnownRoots, RootDigest};
use crate::issuer::{ConfiguredIssuer, Issuer, KeyMaker};
use crate::schedule::{Jitter, RenewReason, RenewalRecord, SLICE, Schedule, Step};
use crate::service_manager::ServiceManager;
use crate::status::AgentStatus;
use crate::store::{Store, StoreError};

use federation::Federated;
use handle::Told;
pub use handle::{Command, ManagerHandle, RenewOutcome};
pub(crate) use handover::Handover;
use news::{ASK_PAUSE, News};
use push::{Push, Pushed};
use start::Goal;

/// Keeps one worker's certificate: adopts what is on disk, obtains what is missing, renews in time, heals what others
/// change. The driver of [`Schedule`].
#[derive(Debug)]
pub struct CertificateManager<I = ConfiguredIssuer> {
    settings: Settings,
    issuer: Arc<I>,
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    events: EventBus,
    schedule: Schedule,
    current: Option<Current>,
    /// Found expired at the start. It is not in force; a CA with a grace may renew it.
    lapsed: Option<Arc<CertificateBundle>>,
    /// A key and CSR whose fate at the CA is unknown: sent again, so that a lost reply costs no second certificate.
    unanswered: Option<UnansweredOrder>,
    /// Issued, and not yet on disk.
    unpublished: Option<Unpublished>,
    /// A certificate was there before, be it only an expired one.
    had_certificate: bool,
    /// The roots on disk, also those beside a certificate that no longer serves.
    known: KnownRoots,
    /// The same for the one who waits at the CA.
    known_told: watch::Sender<KnownRoots>,
    /// The roots of other trust domains that the issuer hands out; `None`: it was not asked yet.
    handed_out: Option<Federated>,
    /// When the CA may be asked again which roots it hands out, by time since boot.
    follow_at: Duration,
    /// The start is over: from here on nothing but a stop ends the manager.
    started: bool,
    sweep_at: Option<Duration>,
    /// When the issuer is listened to again, by time since boot.
    listen_at: Duration,
    news: News,
    /// What the CA tells by itself, and who tells it on.
    pushed: (mpsc::Sender<Pushed>, mpsc::Receiver<Pushed>),
    waiters: Vec<oneshot::Sender<RenewOutcome>>,
    commands: mpsc::Receiver<Command>,
    told: Arc<Told>,
    published: watch::Sender<Option<Arc<CertificateBundle>>>,
    status: watch::Sender<AgentStatus>,
    /// Gets a sign of life with each step.
    service_manager: ServiceManager,
}

/// What the manager needs of the configuration.
#[derive(Debug, Clone)]
struct Settings {
    identity: RequestedIdentity,
    key_type: KeyType,
    allowed_skew: Duration,
    startup_wait: Duration,
    keep_generations: Duration,
    check_interval: Duration,
    push: bool,
    crls: bool,
    revoked_files: RevokedFiles,
    federation: Vec<FederatedDomain>,
}

#[derive(Debug, Clone)]
struct Current {
    bundle: Arc<CertificateBundle>,
    record: RenewalRecord,
    /// It is revoked, and its files were taken away.
    withdrawn: bool,
}

impl Current {
    fn is_revoked(&self) -> bool {
        self.record.revoked.is_some()
    }
}

#[derive(Debug)]
struct UnansweredOrder {
    key: PrivateKey,
    csr_pem: String,
}

#[derive(Debug)]
struct Unpublished {
    bundle: Arc<CertificateBundle>,
    followed: Vec<RootDigest>,
    correlation_id: String,
    /// The policy's decision on it, where the CA told.
    decision_id: Option<String>,
}

/// There is no valid certificate, and waiting longer is of no use or not wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot start without a valid certificate for `{worker}`: {message}; {advice}")]
pub struct CertificateUnavailableError {
    /// The worker id.
    pub worker: String,
    /// A fixed label, one of [`ERROR_KINDS`](crate::error_kind::ERROR_KINDS); decides on the exit code.
    pub kind: &'static str,
    /// What was tried, and how it failed.
    pub message: String,
    /// What to do.
    pub advice: &'static str,
}

impl CertificateManager<ConfiguredIssuer> {
    /// A manager for `config`, with its certificate directory opened and locked.
    ///
    /// # Errors
    /// When the directory is missing, is not writable, or another agent has it.
    pub fn open(config: &Config, clock: Arc<dyn Clock>, events: EventBus) -> Result<(Self, ManagerHandle), StoreError> {
        let store = Arc::new(Store::open(&config.files)?);
        let issuer = ConfiguredIssuer::new(config.ca.clone(), Arc::clone(&clock));
        Ok(Self::new(config, issuer, store, clock, events))
    }
}

impl<I: Issuer> CertificateManager<I> {
    /// A manager of given parts.
    pub fn new(
        config: &Config,
        issuer: I,
        store: Arc<Store>,
        clock: Arc<dyn Clock>,
        events: EventBus,
    ) -> (Self, ManagerHandle) {
        let (commands_sender, commands) = mpsc::channel(COMMANDS);
        let told = Arc::new(Told::default());
        let (published, published_receiver) = watch::channel(None);
        let status = report::first_status(config, issuer.url(), clock.now().wall);
        let (status, status_receiver) = watch::channel(status);
        // One that takes orders hands out none.
        let handed_out = (issuer.key_maker() == KeyMaker::Agent).then(Federated::new);
        let manager = Self {
            settings: Settings {
                identity: config.identity.clone(),
                key_type: config.key_type,
                allowed_skew: config.allowed_skew,
                startup_wait: config.ca.startup_wait,
                keep_generations: config.files.keep_generations,
                check_interval: config.timing.check_interval,
                push: config.ca.push,
                crls: config.ca.crl_limit.is_some(),
                revoked_files: config.revoked_files,
                federation: config.federation.clone(),
            },
            issuer: Arc::new(issuer),
            store,
            schedule: Schedule::new(config.timing),
            clock,
            events,
            current: None,
            lapsed: None,
            unanswered: None,
            unpublished: None,
            had_certificate: false,
            known: KnownRoots::default(),
            known_told: watch::Sender::default(),
            handed_out,
            follow_at: Duration::ZERO,
            started: false,
            sweep_at: None,
            listen_at: Duration::ZERO,
            news: News::default(),
            pushed: mpsc::channel(PUSHED),
            waiters: Vec::new(),
            commands,
            told: Arc::clone(&told),
            published,
            status,
            service_manager: ServiceManager::default(),
        };
        let (published, status) = (published_receiver, status_receiver);
        (manager, ManagerHandle { commands: commands_sender, told, published, status })
    }

    /// The same, with signs of life for a watchdog.
    pub(crate) fn watched_by(mut self, service_manager: ServiceManager) -> Self {
        self.service_manager = service_manager;
        self
    }

    /// Where deliveries show their state: in the status, of which they own that part.
    pub(crate) fn status_for_deliveries(&self) -> watch::Sender<AgentStatus> {
        self.status.clone()
    }

    /// Calls `listener` for each `event`. It runs on the manager's task and must return quickly.
    pub fn on_event(&self, event: CertificateEvent, listener: impl Fn(&EventRecord) + Send + Sync + 'static) {
        self.events.subscribe(move |record| {
            if record.event == event {
                listener(record);
            }
        });
    }

    /// A valid certificate: the one on disk, or a new one. Waits for the CA as long as the configuration says.
    ///
    /// # Errors
    /// When there is none by then, or the CA refuses.
    pub async fn ensure_certificates(&mut self) -> Result<Arc<CertificateBundle>, CertificateUnavailableError> {
        let bundle = self.obtain_first(Goal::Usable, &CancellationToken::new()).await?;
        self.sweep_if_due().await;
        Ok(bundle)
    }

    /// Keeps the certificate until `stop` is cancelled. An attempt under way is finished first.
    ///
    /// # Errors
    /// When there is no certificate at the start and none can be had. Never later.
    pub async fn run(self, stop: CancellationToken) -> Result<(), CertificateUnavailableError> {
        self.keep(stop).await.map(drop)
    }

    /// As [`run`](Self::run); returns what the next manager of the same worker goes on with.
    pub(crate) async fn keep(mut self, stop: CancellationToken) -> Result<Handover, CertificateUnavailableError> {
        if self.started {
            self.adopt().await;
        } else {
            match self.obtain_first(Goal::Any, &stop).await {
                Ok(_) => self.started = true,
                Err(_) if stop.is_cancelled() => {}
                Err(error) => return Err(error),
            }
        }
        self.known_told.send_replace(self.known.clone());
        let push = self.settings.push.then(|| {
            // The first question is for it, unless it does not get through.
            self.news.ask_at.get_or_insert(self.clock.now().boot.saturating_add(ASK_PAUSE));
            let push = Push {
                issuer: Arc::clone(&self.issuer),
                clock: Arc::clone(&self.clock),
                published: self.published.subscribe(),
                known: self.known_told.subscribe(),
                news: self.pushed.0.clone(),
                max_back_off: self.schedule.timing().max_back_off,
            };
            AbortOnDropHandle::new(tokio::spawn(push.run()))
        });
        let (watched, clock) = (self.service_manager.clone(), Arc::clone(&self.clock));
        while !stop.is_cancelled() {
            watched.alive_during(&*clock, self.turn(&stop, None)).await;
        }
        drop(push);
        Ok(self.hand_over())
    }

    /// Performs one step. Returns the error of an attempt that failed.
    async fn turn(&mut self, stop: &CancellationToken, deadline: Option<Duration>) -> Option<attempt::AttemptError> {
        if self.started
            && let Some(errand) = self.errand()
        {
            self.run_errand(errand).await;
            return None;
        }
        let now = self.clock.now();
        match self.schedule.step(now) {
            Step::Wait(wait) => self.wait(wait, deadline, stop).await,
            Step::Renew(reason) => return self.attempt(reason, deadline).await.err(),
            Step::Check => self.check().await,
            Step::ReportExpired => self.report_expiry(CertificateEvent::Expired),
            Step::ReportExpiring => self.report_expiry(CertificateEvent::ExpiringSoon),
            Step::ClockStepped(seconds) => self.report_clock(format!("the wall clock was set by {seconds:+.0} s")),
            Step::Suspended(length) => self.report_clock(format!("the machine slept for {} s", length.as_secs())),
        }
        None
    }

    async fn wait(&mut self, wait: Duration, deadline: Option<Duration>, stop: &CancellationToken) {
        self.known_told.send_if_modified(|told| {
            let changed = *told != self.known;
            if changed {
                told.clone_from(&self.known);
            }
            changed
        });
        let now = self.clock.now().boot;
        let until = |instant: Option<Duration>| instant.map_or(Duration::MAX, |at| at.saturating_sub(now));
        let sleep = wait.min(SLICE).min(until(deadline)).min(until(self.sweep_at));
        let sleep = if self.started { sleep.min(self.until_errand(now)) } else { sleep };
        let deaf = self.listen_at.saturating_sub(now);
        let sleep = if deaf.is_zero() { sleep } else { sleep.min(deaf) };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            Some(command) = self.commands.recv() => {
                self.obey(command).await;
                // All that came meanwhile, so that two requests to renew are one renewal.
                while let Ok(command) = self.commands.try_recv() {
                    self.obey(command).await;
                }
            }
            Some(pushed) = self.pushed.1.recv() => self.take_pushed(pushed).await,
            () = self.issuer.announced(), if self.started && deaf.is_zero() => self.hear(),
            () = self.clock.sleep(sleep) => {}
        }
        self.sweep_if_due().await;
    }

    /// The issuer has something new, or is gone.
    fn hear(&mut self) {
        let now = self.clock.now();
        self.listen_at = now.boot.saturating_add(HEARING_PAUSE);
        self.schedule.announced(now);
    }

    async fn obey(&mut self, command: Command) {
        self.told.take(&command);
        match command {
            Command::Renew(waiter) => {
                self.waiters.extend(waiter);
                self.schedule.request(RenewReason::Operator);
            }
            Command::FilesChanged => self.schedule.request_check(self.clock.now()),
            Command::CredentialsChanged => {
                self.schedule.credential_changed(self.clock.now());
                self.refresh_trust().await;
            }
        }
    }

    /// The checks on a certificate, as of now.
    fn checks(&self) -> Checks<'_> {
        let Settings { identity, allowed_skew, .. } = &self.settings;
        Checks { identity, now: self.wall(), allowed_skew: *allowed_skew }
    }

    fn wall(&self) -> OffsetDateTime {
        self.clock.now().wall
    }
}

/// The kind of the error when there was no attempt, or none that came to an end.
const NO_ANSWER: &str = "ca_unavailable";

/// One who announces all the time is not listened to all the time.
const HEARING_PAUSE: Duration = Duration::from_secs(1);

/// Commands that may wait; a manager in an attempt takes them afterwards.
const COMMANDS: usize = 32;

/// News that may wait; who brings more waits with it.
const PUSHED: usize = 4;

#[cfg(test)]
mod tests;
