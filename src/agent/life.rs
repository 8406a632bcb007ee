//! Owns one life of the agent's parts: from a configuration to the next one, or to the end.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use time::format_description::well_known::Rfc3339;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::asked::Socket;
use super::listening::{Files, Heard, Signals};
use super::readiness::DiskReadiness;
use super::reloading::{Occasion, Reloading};
use super::workload::Workload;
use super::{AgentError, Shared};
use crate::config::{Arguments, CaTrust, Config};
use crate::control::ControlServer;
use crate::deliver::{Deliveries, Progress, Tools};
use crate::issuer::crank::CrankIssuer;
use crate::manager::{CertificateManager, Command, Handover, ManagerHandle};
use crate::printable::error_chain;
use crate::serve::{Readiness as _, Server, Sources};
use crate::status::AgentStatus;
use crate::store::Store;
use crate::tasks::{TaskError, Tasks};

/// The parts under one configuration.
pub(super) struct Life {
    config: Config,
    manager: CertificateManager,
    handle: ManagerHandle,
    store: Arc<Store>,
    server: Option<Server>,
    control: Option<Arc<ControlServer>>,
    workload: Option<Workload>,
    readiness: Arc<DiskReadiness>,
    deliveries: Option<Deliveries>,
    watched: BTreeSet<PathBuf>,
}

/// How a life ends.
pub(super) enum End {
    /// For good.
    Stopped,
    /// With another configuration, and what the next life goes on with, if there is anything.
    Reload(Box<Config>, Option<Box<Handover>>),
}

impl Life {
    /// Opens everything that `config` names: directory, listener, control socket.
    pub(super) async fn begin(shared: &Shared, config: &Config) -> Result<Self, AgentError> {
        let store = shared.kept.store(&config.files)?;
        let issuer = CrankIssuer::new(config.ca.clone(), Arc::clone(&shared.clock));
        let (manager, handle) = CertificateManager::new(
            config,
            issuer,
            Arc::clone(&store),
            Arc::clone(&shared.clock),
            shared.events.clone(),
        );
        let manager = manager.watched_by(shared.service_manager.clone());
        let readiness = Arc::new(DiskReadiness {
            status: handle.status(),
            store: Arc::clone(&store),
            clock: Arc::clone(&shared.clock),
        });
        let server = match &config.server {
            None => {
                shared.kept.close_listener();
                None
            }
            Some(server) => {
                let sources = Sources {
                    bundle: handle.published(),
                    metrics_allow: watch::channel(server.metrics_allow.clone()).1,
                    readiness: Arc::<DiskReadiness>::clone(&readiness),
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
        let tools = Tools {
            published: handle.published(),
            status: manager.status_for_deliveries(),
            clock: Arc::clone(&shared.clock),
            events: shared.events.clone(),
            metrics: shared.metrics.clone(),
        };
        let any = !config.deliveries.is_empty();
        let deliveries = any.then(|| Deliveries::new(config, &shared.kept.deliveries(), tools));
        let workload = Workload::begin(shared, config)?;
        let mut watched = store.watched_paths();
        watched.extend(config_file(&shared.arguments));
        let config = config.clone();
        Ok(Self { config, manager, handle, store, server, control, workload, readiness, deliveries, watched })
    }

    /// The same, going on where the life before ended.
    pub(super) fn after(mut self, before: Option<Box<Handover>>) -> Self {
        if let Some(before) = before {
            self.manager = self.manager.after(*before);
        }
        self
    }

    /// Runs the parts. On a reload the manager first finishes what it is at, while probes are still answered.
    pub(super) async fn run(
        self,
        shared: &Shared,
        signals: &mut Signals,
        reloading: &mut Reloading,
    ) -> Result<End, AgentError> {
        let Self { config, manager, handle, store, server, control, workload, readiness, deliveries, watched } = self;
        // Children of `stop`: whatever ends the agent ends the life.
        let all = shared.stop.child_token();
        let manager_stop = all.child_token();
        let mut tasks = Tasks::new(all.clone());
        let (ended_sender, mut ended) = oneshot::channel();
        let token = manager_stop.clone();
        tasks.spawn("manager", async move {
            // Nobody listens once the life is over.
            let _ = ended_sender.send(manager.keep(token).await);
            Ok::<(), Infallible>(())
        });
        spawn_listener(&mut tasks, server, &all);
        let socket = Socket::new(control, Arc::clone(&shared.kept), config.control_socket.clone());
        let lost = socket.lost();
        spawn_service_manager(&mut tasks, shared, Arc::clone(&readiness), &all);
        socket.spawn(&mut tasks, readiness, &handle, &all);
        Workload::spawn(workload, &mut tasks, &config, &handle, &all);
        spawn_metrics(&mut tasks, shared, &handle, &all);
        spawn_deliveries(&mut tasks, shared, deliveries, &all);
        let mut files = Files::watch(watched, credential_files(&config));
        // What changed between the reading of the configuration and the watch.
        let mut next = shared.reload(&config, reloading, Occasion::Look);
        if next.is_some() {
            manager_stop.cancel();
        }
        let result = loop {
            let heard = tokio::select! {
                biased;
                () = all.cancelled() => break None,
                result = &mut ended => break result.ok(),
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
                    note(handle.tell(Command::Renew(None)));
                    continue;
                }
                Heard::Reload => {
                    shared.service_manager.reloading();
                    Occasion::Operator
                }
                Heard::Files => Occasion::Look,
            };
            note(handle.tell(Command::FilesChanged));
            if !config.control_socket.exists() {
                lost.notify_one();
            }
            if files.credentials_changed() || occasion == Occasion::Operator {
                note(handle.tell(Command::CredentialsChanged));
            }
            next = shared.reload(&config, reloading, occasion);
            if next.is_some() {
                manager_stop.cancel();
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
            store.release();
        }
        drained?;
        match (result, next) {
            _ if shared.stop.is_cancelled() => Ok(End::Stopped),
            // Where it gave up, it did so on the configuration that is about to be replaced.
            (Some(result), Some(next)) => Ok(End::Reload(next, result.ok().map(Box::new))),
            (Some(Err(error)), None) => Err(error.into()),
            _ => Ok(End::Stopped),
        }
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

fn spawn_deliveries(tasks: &mut Tasks, shared: &Shared, deliveries: Option<Deliveries>, stop: &CancellationToken) {
    let Some(deliveries) = deliveries else {
        shared.metrics.forget_served();
        shared.kept.keep_deliveries(Progress::default());
        return;
    };
    let (kept, token) = (Arc::clone(&shared.kept), stop.clone());
    tasks.spawn("deliveries", async move {
        kept.keep_deliveries(deliveries.run(token).await);
        Ok::<(), Infallible>(())
    });
}

fn spawn_metrics(tasks: &mut Tasks, shared: &Shared, handle: &ManagerHandle, stop: &CancellationToken) {
    let (metrics, clock, token) = (shared.metrics.clone(), Arc::clone(&shared.clock), stop.clone());
    let mut status = handle.status();
    tasks.spawn("metrics", async move {
        loop {
            metrics.observe_status(&status.borrow_and_update(), clock.now().wall);
            tokio::select! {
                () = token.cancelled() => break,
                changed = status.changed() => if changed.is_err() { break },
            }
        }
        Ok::<(), Infallible>(())
    });
}

/// Readiness and a line of status for the service manager, each when it changes.
fn spawn_service_manager(tasks: &mut Tasks, shared: &Shared, readiness: Arc<DiskReadiness>, stop: &CancellationToken) {
    let service_manager = shared.service_manager.clone();
    if !service_manager.is_there() {
        return;
    }
    let (token, mut status) = (stop.clone(), readiness.status.clone());
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

fn credential_files(config: &Config) -> BTreeSet<PathBuf> {
    let root = match &config.ca.trust {
        CaTrust::RootFile(path) => Some(path.clone()),
        CaTrust::Fingerprint(_) => None,
    };
    let files = [root, config.ca.issued_roots_file.clone(), config.ca.token_file.clone()].into_iter().flatten();
    files.chain(config.federation.iter().map(|domain| domain.roots_file.clone())).collect()
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
