//! Owns one life of the agent's parts: from a configuration to the next one, or to the end.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::control::ControlSocket;
use super::readiness::DiskReadiness;
use super::{AgentError, Shared};
use crate::config::{Arguments, CaTrust, Config};
use crate::control::{ControlState, RenewRequest};
use crate::issuer::crank::CrankIssuer;
use crate::manager::{CertificateManager, CertificateUnavailableError, Command, ManagerHandle};
use crate::printable::error_chain;
use crate::schedule::SLICE;
use crate::serve::{Readiness as _, Server, Sources};
use crate::store::Store;
use crate::tasks::Tasks;
use crate::watch::{FileWatcher, WatchError};

/// The parts under one configuration.
pub(super) struct Life {
    config: Config,
    manager: CertificateManager,
    handle: ManagerHandle,
    server: Option<Server>,
    control: ControlSocket,
    readiness: Arc<DiskReadiness>,
    watched: BTreeSet<PathBuf>,
}

/// How a life ends.
pub(super) enum End {
    /// For good.
    Stopped,
    /// With another configuration.
    Reload(Box<Config>),
}

impl Life {
    /// Opens everything that `config` names: directory, listener, control socket.
    pub(super) async fn begin(shared: &Shared, config: &Config) -> Result<Self, AgentError> {
        let store = Arc::new(Store::open(&config.files)?);
        let issuer = CrankIssuer::new(config.ca.clone(), Arc::clone(&shared.clock));
        let (manager, handle) = CertificateManager::new(
            config,
            issuer,
            Arc::clone(&store),
            Arc::clone(&shared.clock),
            shared.events.clone(),
        );
        let readiness = Arc::new(DiskReadiness {
            status: handle.status(),
            store: Arc::clone(&store),
            clock: Arc::clone(&shared.clock),
        });
        let server = match &config.server {
            None => None,
            Some(server) => {
                let sources = Sources {
                    bundle: handle.published(),
                    metrics_allow: watch::channel(server.metrics_allow.clone()).1,
                    readiness: Arc::<DiskReadiness>::clone(&readiness),
                    metrics: shared.metrics.clone(),
                    clock: Arc::clone(&shared.clock),
                };
                Some(Server::bind(server.listen, sources).await?)
            }
        };
        let control = ControlSocket::bind(config)?;
        let mut watched = store.watched_paths();
        watched.extend(config_file(&shared.arguments));
        watched.extend(credential_files(config));
        Ok(Self { config: config.clone(), manager, handle, server, control, readiness, watched })
    }

    /// Runs the parts. On a reload the manager first finishes what it is at, while probes are still answered.
    pub(super) async fn run(self, shared: &Shared, signals: &mut Signals) -> Result<End, AgentError> {
        let Self { config, manager, handle, server, control, readiness, watched } = self;
        // Children of `stop`: whatever ends the agent ends the life.
        let all = shared.stop.child_token();
        let manager_stop = all.child_token();
        let mut tasks = Tasks::new(all.clone());
        let (ended_sender, mut ended) = watch::channel(None::<Result<(), CertificateUnavailableError>>);
        let token = manager_stop.clone();
        tasks.spawn("manager", async move {
            let result = manager.run(token).await;
            ended_sender.send_replace(Some(result));
            Ok::<(), CertificateUnavailableError>(())
        });
        if let Some(server) = server {
            let token = all.clone();
            tasks.spawn("listener", async move {
                server.run(token, CONNECTION_DRAIN).await;
                Ok::<(), Infallible>(())
            });
        }
        let (renew, mut renewals) = mpsc::channel::<RenewRequest>(1);
        let state = ControlState { status: handle.status(), readiness: Arc::new(move || readiness.ready()), renew };
        let token = all.clone();
        tasks.spawn("control", async move {
            control.run(state, token).await;
            Ok::<(), Infallible>(())
        });
        let told = handle.clone();
        tasks.spawn("renewals", async move {
            // Ends with the control task, which holds the sender.
            while let Some(request) = renewals.recv().await {
                note(told.tell(Command::Renew(Some(request.reply))));
            }
            Ok::<(), Infallible>(())
        });
        let (status, metrics, clock, token) =
            (handle.status(), shared.metrics.clone(), Arc::clone(&shared.clock), all.clone());
        tasks.spawn("metrics", async move {
            let mut status = status;
            loop {
                metrics.observe_status(&status.borrow_and_update(), clock.now().wall);
                tokio::select! {
                    () = token.cancelled() => break,
                    changed = status.changed() => if changed.is_err() { break },
                }
            }
            Ok::<(), Infallible>(())
        });
        let mut files = Files::watch(watched);
        // What changed between the reading of the configuration and the watch.
        let mut next = shared.reload(&config);
        if next.is_some() {
            manager_stop.cancel();
        }
        let failure = loop {
            tokio::select! {
                () = all.cancelled() => break None,
                _ = ended.changed() => {
                    let result = ended.borrow().clone();
                    match result {
                        Some(Err(error)) => break Some(error),
                        // Told to stop for a reload, and done.
                        _ => break None,
                    }
                }
                heard = hear(signals, &mut files) => match heard {
                    Heard::Stop => {
                        shared.stop.cancel();
                        break None;
                    }
                    Heard::Renew => note(handle.tell(Command::Renew(None))),
                    Heard::Reload | Heard::Files if next.is_none() => {
                        note(handle.tell(Command::FilesChanged));
                        note(handle.tell(Command::CredentialsChanged));
                        next = shared.reload(&config);
                        if next.is_some() {
                            manager_stop.cancel();
                        }
                    }
                    Heard::Reload | Heard::Files => {}
                },
            }
        };
        all.cancel();
        let drained = tasks.join(DRAIN).await;
        if let Some(error) = failure {
            return Err(error.into());
        }
        match next {
            Some(next) if !shared.stop.is_cancelled() => {
                drained?;
                Ok(End::Reload(Box::new(next)))
            }
            // Being cut off in an attempt at the end is no failure: nothing is half done.
            _ => match drained {
                Ok(()) | Err(crate::tasks::TaskError::NotStopped { .. }) => Ok(End::Stopped),
                Err(error) => Err(error.into()),
            },
        }
    }
}

/// What the agent hears from outside.
enum Heard {
    Stop,
    Reload,
    Renew,
    Files,
}

/// The process's signals. They outlive a life, so that none is lost between two.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    user1: Signal,
}

impl Signals {
    pub(super) fn open() -> Result<Self, AgentError> {
        let open = |kind| signal(kind).map_err(AgentError::Signals);
        Ok(Self {
            terminate: open(SignalKind::terminate())?,
            interrupt: open(SignalKind::interrupt())?,
            hang_up: open(SignalKind::hangup())?,
            user1: open(SignalKind::user_defined1())?,
        })
    }

    async fn next(&mut self) -> Heard {
        tokio::select! {
            _ = self.terminate.recv() => Heard::Stop,
            _ = self.interrupt.recv() => Heard::Stop,
            _ = self.hang_up.recv() => Heard::Reload,
            _ = self.user1.recv() => Heard::Renew,
        }
    }

    /// Waits for a signal that ends the process.
    pub(super) async fn stop(&mut self) {
        while !matches!(self.next().await, Heard::Stop) {}
    }
}

/// File changes.
struct Files {
    watcher: Option<FileWatcher>,
    paths: BTreeSet<PathBuf>,
}

impl Files {
    fn watch(paths: BTreeSet<PathBuf>) -> Self {
        let watcher = FileWatcher::new(&paths).inspect_err(unwatched).ok();
        Self { watcher, paths }
    }

    /// Waits for a change; without a watcher, for a while.
    async fn changed(&mut self) -> Heard {
        if let Some(watcher) = &mut self.watcher {
            if let Err(error) = watcher.changed().await {
                unwatched(&error);
                self.watcher = None;
            }
        } else {
            tokio::time::sleep(SLICE).await;
            self.watcher = FileWatcher::new(&self.paths).ok();
        }
        Heard::Files
    }
}

async fn hear(signals: &mut Signals, files: &mut Files) -> Heard {
    tokio::select! {
        heard = signals.next() => heard,
        heard = files.changed() => heard,
    }
}

fn unwatched(error: &WatchError) {
    tracing::warn!(error = %error_chain(error), "files are looked at now and then instead");
}

/// The configuration file, if its directory is there. To wait for that directory is to wake up with every program that
/// opens a file in its parent, which is `/etc`; SIGHUP reads a file that came with its directory.
fn config_file(arguments: &Arguments) -> Option<PathBuf> {
    let path = std::path::absolute(arguments.config_file()).ok()?;
    path.parent()?.is_dir().then_some(path)
}

fn credential_files(config: &Config) -> impl Iterator<Item = PathBuf> {
    let root = match &config.ca.trust {
        CaTrust::RootFile(path) => Some(path.clone()),
        CaTrust::Fingerprint(_) => None,
    };
    [root, config.ca.issued_roots_file.clone(), config.ca.token_file.clone()].into_iter().flatten()
}

fn note(told: bool) {
    if !told {
        tracing::debug!("the manager has stopped, or is busy and will look by itself");
    }
}

/// How long requests in progress may take at the end.
const CONNECTION_DRAIN: Duration = Duration::from_secs(3);

/// How long the parts may take to stop.
const DRAIN: Duration = Duration::from_secs(4);
