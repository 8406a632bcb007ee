//! Owns the composition of the agent: the only place where its parts are wired.

mod asked;
mod kept;
mod life;
mod listening;
mod part;
mod readiness;
mod reloading;
mod workload;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, SystemClock};
use crate::config::{Arguments, Config, ConfigReport, resolve};
use crate::events::log::{LogControl, log_event};
use crate::events::{CertificateEvent, EventBus, EventError, EventRecord, new_correlation_id};
use crate::exit::Exit;
use crate::initialization::{InitializationError, initialize};
use crate::manager::CertificateUnavailableError;
use crate::metrics::{Metrics, MetricsError};
use crate::printable::error_chain;
use crate::serve::ServeError;
use crate::service_manager::ServiceManager;
use crate::store::StoreError;
use crate::tasks::TaskError;
use crate::unix_socket::SocketError;

use kept::Kept;
use life::{End, Life};
use listening::Signals;
use reloading::{Occasion, Reloading, Verdict};

/// Why the agent ended.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The certificate directory cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no first certificate.
    #[error(transparent)]
    Unavailable(#[from] CertificateUnavailableError),
    /// The TLS listener cannot start.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A Unix socket cannot be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Metrics cannot be registered.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// A part of the agent failed.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// A signal came before there was a certificate.
    #[error("interrupted before there was a certificate")]
    Interrupted,
    /// Signals cannot be received.
    #[error("cannot receive signals")]
    Signals(#[source] std::io::Error),
}

impl From<InitializationError> for AgentError {
    fn from(error: InitializationError) -> Self {
        match error {
            InitializationError::Store(error) => Self::Store(error),
            InitializationError::Unavailable(error) => Self::Unavailable(error),
        }
    }
}

impl AgentError {
    /// The exit code of the process.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Store(error) => Exit::of_error_kind(error.kind()),
            Self::Unavailable(error) => Exit::of_error_kind(error.kind),
            Self::Serve(_) | Self::Socket(_) => Exit::Configuration,
            Self::Interrupted => Exit::Unavailable,
            Self::Metrics(_) | Self::Task(_) | Self::Signals(_) => Exit::Internal,
        }
    }
}

/// Obtains a certificate unless a valid one is on disk, and ends. Gives up its waiting on SIGTERM and SIGINT.
///
/// # Errors
/// When the certificate directory cannot be used, the CA refuses, or does not answer in the configured time.
pub async fn init(config: &Config) -> Result<(), AgentError> {
    let events = EventBus::default();
    events.subscribe(log_event);
    let mut signals = Signals::begin()?;
    tokio::select! {
        result = initialize_all(config, &events) => result.map_err(AgentError::from),
        () = signals.stop() => Err(AgentError::Interrupted),
    }
}

async fn initialize_all(config: &Config, events: &EventBus) -> Result<(), InitializationError> {
    initialize(config, events.clone()).await?;
    for further in &config.certificates {
        initialize(&further.config, events.of_certificate(&further.name)).await?;
    }
    Ok(())
}

/// What an agent is given beside its settings.
#[derive(Debug)]
pub struct Surroundings {
    /// A bus of this agent alone: events go to its listeners and to the log.
    pub events: EventBus,
    /// The log of the process, if the agent may change what it admits.
    pub log: Option<LogControl>,
    /// Who is told of readiness, reloads and life.
    pub service_manager: ServiceManager,
    /// Cancelled, the agent ends.
    pub stop: CancellationToken,
}

impl Surroundings {
    /// Listeners to events, and nothing else.
    #[must_use]
    pub fn telling(events: EventBus) -> Self {
        Self { events, log: None, service_manager: ServiceManager::default(), stop: CancellationToken::new() }
    }
}

/// What outlives a change of configuration.
#[derive(Debug, Clone)]
struct Shared {
    arguments: Arguments,
    clock: Arc<dyn Clock>,
    events: EventBus,
    metrics: Metrics,
    service_manager: ServiceManager,
    kept: Arc<Kept>,
    stop: CancellationToken,
}

/// Runs the agent until `surroundings.stop` is cancelled, or SIGTERM or SIGINT comes. `arguments` are resolved again on
/// SIGHUP and when a watched file changes.
///
/// # Errors
/// When a part cannot start, or there is no first certificate.
pub async fn run(arguments: Arguments, config: Config, surroundings: Surroundings) -> Result<(), AgentError> {
    let Surroundings { events, log, service_manager, stop } = surroundings;
    let mut signals = Signals::begin()?;
    events.subscribe(log_event);
    let metrics = Metrics::new()?;
    let observer = metrics.clone();
    events.subscribe(move |record| {
        // Those of a further certificate are counted by its own metrics.
        if record.certificate.is_none() {
            observer.observe_event(record);
        }
    });
    let kept = Arc::new(Kept::default());
    let shared = Shared { arguments, clock: Arc::new(SystemClock), events, metrics, service_manager, kept, stop };
    let (mut config, mut reloading) = (config, Reloading::default());
    let mut life = Life::begin(&shared, &config).await?;
    loop {
        let (next, handovers) = match life.run(&shared, &mut signals, &mut reloading).await? {
            End::Stopped => return Ok(()),
            End::Reload(next, handovers) => (*next, handovers),
        };
        let begun = match Life::begin(&shared, &next).await {
            Ok(life) => {
                shared.report(&next, CertificateEvent::ConfigReloaded, None);
                config = next;
                apply_log(log.as_ref(), &config);
                life
            }
            Err(error) => {
                let error = EventError::new("configuration", &error_chain(&error));
                shared.report(&config, CertificateEvent::ConfigRejected, Some(error));
                reloading.refuse(next);
                Life::begin(&shared, &config).await?
            }
        };
        life = begun.after(handovers);
        shared.service_manager.reloaded();
    }
}

fn apply_log(log: Option<&LogControl>, config: &Config) {
    if let Some(Err(error)) = log.map(|log| log.apply(&config.log)) {
        tracing::warn!(error = %error_chain(&error), "the log stays as it is");
    }
}

impl Shared {
    /// Resolves the arguments again. `None`: nothing changed, or it was refused, which has been told.
    fn reload(&self, current: &Config, reloading: &mut Reloading, occasion: Occasion) -> Option<Box<Config>> {
        let read = resolve(&self.arguments);
        let warnings = read.as_ref().map(|resolution| resolution.warnings.clone()).unwrap_or_default();
        match reloading.decide(read.map(|resolution| resolution.config), current, occasion) {
            Verdict::Stay => None,
            Verdict::Apply(next) => {
                for warning in warnings {
                    tracing::warn!("{warning}");
                }
                Some(next)
            }
            Verdict::Reject(report) => {
                self.report(current, CertificateEvent::ConfigRejected, Some(rejection(&report)));
                None
            }
        }
    }

    /// The same for one certificate: its events and metrics have its name.
    fn of_certificate(&self, name: Option<&str>) -> Result<Self, MetricsError> {
        let Some(name) = name else { return Ok(self.clone()) };
        let (events, metrics) = (self.events.of_certificate(name), self.metrics.of_certificate(name)?);
        let observer = metrics.clone();
        events.subscribe(move |record| observer.observe_event(record));
        Ok(Self { events, metrics, ..self.clone() })
    }

    /// Forgets the certificates that `config` does not have.
    fn begin_certificates(&self, config: &Config) {
        self.kept.begin_certificates(config);
        self.metrics.retain(|name| config.certificates.iter().any(|further| further.name == name));
    }

    fn report(&self, config: &Config, event: CertificateEvent, error: Option<EventError>) {
        self.events.emit(&EventRecord {
            event,
            severity: event.severity(),
            correlation_id: new_correlation_id(),
            worker_id: config.identity.worker_id.clone(),
            timestamp: self.clock.now().wall,
            cert_metadata: None,
            error,
            decision_id: None,
            detail: None,
            certificate: None,
        });
    }
}

fn rejection(report: &ConfigReport) -> EventError {
    EventError::new(report.kind(), &report.to_string().replace('\n', "; "))
}
