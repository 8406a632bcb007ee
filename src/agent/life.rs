//! Owns one life of the agent's parts: from a configuration to the next one, or to the end.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use time::format_description::well_known::Rfc3339;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::asked::{Handles, Socket};
use super::listening::{Files, Heard, Signals};
use super::part::{Ended, Part};
use super::readiness::AgentReadiness;
use super::reloading::{Occasion, Reloading};
use super::workload::Workload;
use super::{AgentError, Shared};
use crate::config::{Arguments, Config};
use crate::control::ControlServer;
use crate::manager::{CertificateUnavailableError, Command, Handover};
use crate::printable::error_chain;
use crate::serve::{Readiness as _, Server, Sources};
use crate::status::AgentStatus;
use crate::store::Store;
use crate::tasks::{TaskError, Tasks};

/// The parts under one configuration.
pub(super) struct Life {
    config: Config,
    /// One for each certificate, the first before those further.
    parts: Vec<Part>,
    server: Option<Server>,
    control: Option<Arc<ControlServer>>,
    workload: Option<Workload>,
    readiness: Arc<AgentReadiness>,
    watched: BTreeSet<PathBuf>,
}

/// What the next life goes on with, by the names of the certificates.
pub(super) type Handovers = BTreeMap<Option<String>, Handover>;

/// How a life ends.
pub(super) enum End {
    /// For good.
    Stopped,
    /// With another configuration.
    Reload(Box<Config>, Handovers),
}

impl Life {
    /// Opens everything that `config` names: directory, listener, control socket.
    pub(super) async fn begin(shared: &Shared, config: &Config) -> Result<Self, AgentError> {
        shared.begin_certificates(config);
        let mut parts = vec![Part::begin(shared, None, config)?];
        for further in &config.certificates {
            parts.push(Part::begin(shared, Some(&further.name), &further.config)?);
        }
        let certificates = parts.iter().map(|part| (part.name.clone(), part.readiness())).collect();
        let readiness = Arc::new(AgentReadiness { certificates });
        let handle = &parts[0].handle;
        let server = match &config.server {
            None => {
                shared.kept.close_listener();
                None
            }
            Some(server) => {
                let sources = Sources {
                    bundle: handle.published(),
                    metrics_allow: watch::channel(server.metrics_allow.clone()).1,
                    readiness: Arc::<AgentReadiness>::clone(&readiness),
                    metrics: shared.metrics.clone(),
                    clock: Arc::clone(&shared.clock),
                };
                Some(Server::new(shared.kept.listener(server.listen).await?, sources)?)
            }
        };
        let control = match shared.kept.control(&config.control_socket) {
            Ok(control) => Some(control),
            // The worker is not to lose its certificate because nobody can ask about it.
            Err(error) if error.forbids_writing_only() => {
                tracing::error!(error = %error_chain(&error), "there is no control socket for now");
                None
            }
            Err(error) => return Err(error.into()),
        };
        let workload = Workload::begin(shared, config)?;
        let watched = parts.iter().flat_map(|part| part.store.watched_paths());
        let watched = watched.chain(config_file(&shared.arguments)).collect();
        let config = config.clone();
        Ok(Self { config, parts, server, control, workload, readiness, watched })
    }

    /// The same, going on where the life before ended.
    pub(super) fn after(mut self, mut before: Handovers) -> Self {
        let goes_on = |part: Part| match before.remove(&part.name) {
            Some(handover) => part.after(handover),
            None => part,
        };
        self.parts = self.parts.into_iter().map(goes_on).collect();
        self
    }

    /// Runs the parts. On a reload the managers first finish what they are at, while probes are still answered.
    pub(super) async fn run(
        self,
        shared: &Shared,
        signals: &mut Signals,
        reloading: &mut Reloading,
    ) -> Result<End, AgentError> {
        let Self { config, parts, server, control, workload, readiness, watched } = self;
        // Children of `stop`: whatever ends the agent ends the life.
        let all = shared.stop.child_token();
        let managers_stop = all.child_token();
        let mut tasks = Tasks::new(all.clone());
        let handles: Handles = parts.iter().map(|part| (part.name.clone(), part.handle.clone())).collect();
        let stores: Vec<Arc<Store>> = parts.iter().map(|part| Arc::clone(&part.store)).collect();
        let credentials = parts.iter().flat_map(Part::credential_files).collect();
        let mut managers = Managers::spawn(parts, &mut tasks, &managers_stop, &all);
        spawn_listener(&mut tasks, server, &all);
        let socket = Socket::new(control, Arc::clone(&shared.kept), config.control_socket.clone());
        let lost = socket.lost();
        spawn_service_manager(&mut tasks, shared, Arc::clone(&readiness), &all);
        socket.spawn(&mut tasks, readiness, &handles, &all);
        Workload::spawn(workload, &mut tasks, &config, &handles, &all);
        let tell = |command: fn() -> Command| handles.iter().for_each(|(_, handle)| note(handle.tell(command())));
        let mut files = Files::watch(watched, credentials);
        // What changed between the reading of the configuration and the watch.
        let mut next = shared.reload(&config, reloading, Occasion::Look);
        if next.is_some() {
            managers_stop.cancel();
        }
        let failed = loop {
            let heard = tokio::select! {
                biased;
                () = all.cancelled() => break None,
                ended = managers.ended() => match ended {
                    // Where one gave up, it did so on the configuration that is about to be replaced.
                    Some(error) if next.is_none() => break Some(error),
                    _ if managers.all_ended() => break None,
                    _ => continue,
                },
                // Once another life is to come, what is not urgent is left to it.
                heard = signals.next(next.is_some()) => heard,
                () = files.changed(), if next.is_none() => Heard::Files,
            };
            let occasion = match heard {
                Heard::Stop => {
                    shared.service_manager.stopping();
                    shared.stop.cancel();
                    break None;
                }
                Heard::Renew => {
                    tell(|| Command::Renew(None));
                    continue;
                }
                Heard::Reload => {
                    shared.service_manager.reloading();
                    Occasion::Operator
                }
                Heard::Files => Occasion::Look,
            };
            tell(|| Command::FilesChanged);
            if !config.control_socket.exists() {
                lost.notify_one();
            }
            if files.credentials_changed() || occasion == Occasion::Operator {
                tell(|| Command::CredentialsChanged);
            }
            next = shared.reload(&config, reloading, occasion);
            if next.is_some() {
                managers_stop.cancel();
            } else if occasion == Occasion::Operator {
                shared.service_manager.reloaded();
            }
        };
        if next.is_none() {
            shared.kept.close_listener();
            shared.kept.close_workload();
        }
        all.cancel();
        let drained = {
            let join = tasks.join(DRAIN);
            tokio::pin!(join);
            loop {
                tokio::select! {
                    biased;
                    drained = join.as_mut() => break drained,
                    () = signals.stop(), if !shared.stop.is_cancelled() => {
                        shared.service_manager.stopping();
                        shared.stop.cancel();
                    }
                }
            }
        };
        // Being cut off is no failure: the manager has ended, or nothing that it is at is half done.
        let drained = drained.or_else(|error| match error {
            TaskError::NotStopped { .. } => Ok(()),
            error => Err(error),
        });
        if next.is_none() || shared.stop.is_cancelled() {
            for store in &stores {
                store.release();
            }
        }
        drained?;
        match (failed, next) {
            _ if shared.stop.is_cancelled() => Ok(End::Stopped),
            (None, Some(next)) => Ok(End::Reload(next, managers.handovers)),
            (Some(error), None) => Err(error.into()),
            _ => Ok(End::Stopped),
        }
    }
}

/// The managers of one life, as they end.
struct Managers {
    running: usize,
    handovers: Handovers,
    told: (mpsc::Sender<Ended>, mpsc::Receiver<Ended>),
}

impl Managers {
    /// Runs the parts, whose managers stop with `stop`, and all else with `all`.
    fn spawn(parts: Vec<Part>, tasks: &mut Tasks, stop: &CancellationToken, all: &CancellationToken) -> Self {
        let managers = Self { running: parts.len(), handovers: Handovers::new(), told: mpsc::channel(parts.len()) };
        for part in parts {
            part.spawn(tasks, stop.clone(), managers.told.0.clone(), all);
        }
        managers
    }

    /// Waits for the end of one; its error, if it failed. Cancel-safe.
    async fn ended(&mut self) -> Option<CertificateUnavailableError> {
        let Ended { name, result } = self.told.1.recv().await?;
        self.running -= 1;
        result.map(|handover| self.handovers.insert(name, handover)).err()
    }

    fn all_ended(&self) -> bool {
        self.running == 0
    }
}

fn spawn_listener(tasks: &mut Tasks, server: Option<Server>, stop: &CancellationToken) {
    let Some(server) = server else { return };
    let token = stop.clone();
    tasks.spawn("listener", async move {
        server.run(token, CONNECTION_DRAIN).await;
        Ok::<(), Infallible>(())
    });
}

/// Readiness and a line of status for the service manager, each when it changes.
fn spawn_service_manager(tasks: &mut Tasks, shared: &Shared, readiness: Arc<AgentReadiness>, stop: &CancellationToken) {
    let service_manager = shared.service_manager.clone();
    if !service_manager.is_there() {
        return;
    }
    let (token, mut status) = (stop.clone(), readiness.first().status.clone());
    tasks.spawn("service manager", async move {
        let mut told = String::new();
        loop {
            let ready = readiness.ready();
            let line = status_line(&status.borrow_and_update(), &ready);
            if line != told {
                service_manager.status(&line);
                told = line;
            }
            if ready.is_ok() {
                service_manager.ready();
            }
            tokio::select! {
                () = token.cancelled() => break,
                changed = status.changed() => if changed.is_err() { break },
            }
        }
        Ok::<(), Infallible>(())
    });
}

fn status_line(status: &AgentStatus, ready: &Result<(), String>) -> String {
    let failed = status.last_attempt.as_ref().and_then(|attempt| attempt.error.as_ref());
    let failed = failed.map(|error| format!("; last attempt failed: {}", error.message)).unwrap_or_default();
    match (ready, &status.certificate) {
        (Ok(()), Some(certificate)) => {
            let until = certificate.expires_at.format(&Rfc3339).unwrap_or_default();
            format!("{} has certificate {} until {until}{failed}", status.worker_id, certificate.serial)
        }
        (Err(reason), _) => format!("{} is not ready: {reason}{failed}", status.worker_id),
        (Ok(()), None) => String::new(),
    }
}

/// The configuration file, if its directory is there. To wait for that directory is to wake up with every program that
/// opens a file in its parent, which is `/etc`; SIGHUP reads a file that came with its directory.
fn config_file(arguments: &Arguments) -> Option<PathBuf> {
    let path = std::path::absolute(arguments.config_file()).ok()?;
    path.parent()?.is_dir().then_some(path)
}

pub(super) fn note(told: bool) {
    if !told {
        tracing::debug!("the manager has stopped, or is busy and will look by itself");
    }
}

/// How long the parts may take to stop.
const DRAIN: Duration = Duration::from_secs(4);

/// How long open connections may take to end: less, so that the listener itself ends in time.
pub(super) const CONNECTION_DRAIN: Duration = Duration::from_secs(3);
