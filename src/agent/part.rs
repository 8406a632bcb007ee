//! Owns the parts of one certificate within a life: its manager, its directory, its deliveries.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::readiness::DiskReadiness;
use super::{AgentError, Shared};
use crate::config::{CaTrust, Config};
use crate::deliver::{Deliveries, Progress, Tools};
use crate::issuer::ConfiguredIssuer;
use crate::manager::{CertificateManager, CertificateUnavailableError, Handover, ManagerHandle};
use crate::service_manager::ServiceManager;
use crate::store::Store;
use crate::tasks::Tasks;

/// One certificate under one configuration.
pub(super) struct Part {
    /// `None`: the first.
    pub(super) name: Option<String>,
    pub(super) handle: ManagerHandle,
    pub(super) store: Arc<Store>,
    shared: Shared,
    config: Config,
    manager: CertificateManager,
    deliveries: Option<Deliveries>,
}

/// How a manager ended.
pub(super) struct Ended {
    pub(super) name: Option<String>,
    pub(super) result: Result<Handover, CertificateUnavailableError>,
}

impl Part {
    /// Opens the certificate directory. `shared` is that of the agent.
    pub(super) fn begin(shared: &Shared, name: Option<&str>, config: &Config) -> Result<Self, AgentError> {
        let shared = shared.of_certificate(name)?;
        let store = shared.kept.store(name, &config.files)?;
        let issuer = ConfiguredIssuer::new(config.ca.clone(), Arc::clone(&shared.clock));
        let (manager, handle) = CertificateManager::new(
            config,
            issuer,
            Arc::clone(&store),
            Arc::clone(&shared.clock),
            shared.events.clone(),
        );
        // The watchdog is to bark when the first stops, not only when all have.
        let watched = name.is_none().then(|| shared.service_manager.clone());
        let manager = manager.watched_by(watched.unwrap_or_else(ServiceManager::default));
        let tools = Tools {
            published: handle.published(),
            status: manager.status_for_deliveries(),
            clock: Arc::clone(&shared.clock),
            events: shared.events.clone(),
            metrics: shared.metrics.clone(),
        };
        let any = !config.deliveries.is_empty();
        let deliveries = any.then(|| Deliveries::new(config, &shared.kept.deliveries(name), tools));
        let name = name.map(str::to_owned);
        Ok(Self { name, handle, store, shared, config: config.clone(), manager, deliveries })
    }

    /// The same, going on where the life before ended.
    pub(super) fn after(mut self, before: Handover) -> Self {
        self.manager = self.manager.after(before);
        self
    }

    pub(super) fn readiness(&self) -> DiskReadiness {
        DiskReadiness {
            status: self.handle.status(),
            store: Arc::clone(&self.store),
            clock: Arc::clone(&self.shared.clock),
        }
    }

    /// The files by which this certificate is obtained.
    pub(super) fn credential_files(&self) -> BTreeSet<PathBuf> {
        let Config { ca, federation, .. } = &self.config;
        let root = match &ca.trust {
            CaTrust::RootFile(path) => Some(path.clone()),
            CaTrust::Fingerprint(_) => None,
        };
        let files = [root, ca.issued_roots_file.clone(), ca.token_file.clone()].into_iter().flatten();
        files.chain(federation.iter().map(|domain| domain.roots_file.clone())).collect()
    }

    /// Runs manager, deliveries and metrics. The manager stops with `manager_stop`, and `ended` is told.
    pub(super) fn spawn(
        self,
        tasks: &mut Tasks,
        manager_stop: CancellationToken,
        ended: mpsc::Sender<Ended>,
        stop: &CancellationToken,
    ) {
        let Self { name, handle, shared, manager, deliveries, .. } = self;
        let of = name.clone();
        tasks.spawn("manager", async move {
            let result = manager.keep(manager_stop).await;
            // Nobody listens once the life is over.
            let _ = ended.send(Ended { name: of, result }).await;
            Ok::<(), Infallible>(())
        });
        spawn_metrics(tasks, &shared, &handle, stop);
        spawn_deliveries(tasks, &shared, name, deliveries, stop);
    }
}

fn spawn_deliveries(
    tasks: &mut Tasks,
    shared: &Shared,
    name: Option<String>,
    deliveries: Option<Deliveries>,
    stop: &CancellationToken,
) {
    let Some(deliveries) = deliveries else {
        shared.metrics.forget_served();
        shared.kept.keep_deliveries(name, Progress::default());
        return;
    };
    let (kept, token) = (Arc::clone(&shared.kept), stop.clone());
    tasks.spawn("deliveries", async move {
        kept.keep_deliveries(name, deliveries.run(token).await);
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
