//! Owns how the Workload API is wired: its socket, made again where it is lost, and what it serves.

use std::convert::Infallible;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::asked::Handles;
use super::kept::Kept;
use super::life::CONNECTION_DRAIN;
use super::{AgentError, Shared};
use crate::config::{Config, WorkloadApiConfig};
use crate::manager::ManagerHandle;
use crate::printable::error_chain;
use crate::tasks::Tasks;
use crate::workload::{Sources, WorkloadServer, WorkloadSocket};

/// The Workload API of one life.
pub(super) struct Workload {
    settings: WorkloadApiConfig,
    bound: Option<Arc<WorkloadSocket>>,
    kept: Arc<Kept>,
}

impl Workload {
    /// Opens its socket. `None`: it is off.
    pub(super) fn begin(shared: &Shared, config: &Config) -> Result<Option<Self>, AgentError> {
        let Some(settings) = config.workload_api.clone() else {
            shared.kept.close_workload();
            return Ok(None);
        };
        let bound = match shared.kept.workload(&settings) {
            Ok(socket) => Some(socket),
            // Files, renewal and probes are not to end with it.
            Err(error) if error.forbids_writing_only() => {
                tracing::error!(error = %error_chain(&error), "there is no Workload API for now");
                None
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Some(Self { settings, bound, kept: Arc::clone(&shared.kept) }))
    }

    /// Serves it, unless it is off.
    pub(super) fn spawn(
        workload: Option<Self>,
        tasks: &mut Tasks,
        config: &Config,
        handles: &Handles,
        stop: &CancellationToken,
    ) {
        let Some(Self { settings, bound, kept }) = workload else { return };
        let of = |handle: &ManagerHandle, config: &Config, hint: &str| Sources {
            published: handle.published(),
            status: handle.status(),
            revoked: config.revoked_files,
            hint: hint.to_owned(),
        };
        let sources = handles.iter().filter_map(|(name, handle)| match name {
            None => Some(of(handle, config, config.identity.worker_id.as_str())),
            Some(name) => {
                let further = config.certificates.iter().find(|further| further.name == *name)?;
                Some(of(handle, &further.config, name))
            }
        });
        let sources = sources.collect();
        let server = WorkloadServer::new(sources, settings.allow.clone());
        let token = stop.clone();
        tasks.spawn("workload api", async move {
            let bind_again = || match kept.workload(&settings) {
                Ok(socket) => {
                    tracing::info!("the socket of the Workload API is there again");
                    Some(socket)
                }
                Err(error) => {
                    tracing::debug!(error = %error_chain(&error), "there is still no socket of the Workload API");
                    None
                }
            };
            server.run(bound, bind_again, token, CONNECTION_DRAIN).await;
            Ok::<(), Infallible>(())
        });
    }
}
