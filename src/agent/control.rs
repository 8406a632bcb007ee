//! Owns the control socket's place in the agent's life: one that the volume does not take now is tried again later.

use std::io::ErrorKind;
use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::control::{ControlError, ControlServer, ControlState, SOCKET_MODE};
use crate::printable::error_chain;
use crate::schedule::SLICE;

/// The control socket, bound or to be bound.
#[derive(Debug)]
pub(super) struct ControlSocket {
    path: PathBuf,
    server: Option<ControlServer>,
}

impl ControlSocket {
    /// Binds the socket that `config` names. In a certificate directory that cannot be written at present it is left for
    /// later: the worker's certificate matters more than who asks about it.
    pub(super) fn bind(config: &Config) -> Result<Self, ControlError> {
        let path = config.control_socket.clone();
        let with_the_certificates = path.parent() == Some(config.files.directory.as_path());
        let server = match ControlServer::bind(&path, SOCKET_MODE) {
            Ok(server) => Some(server),
            Err(error) if with_the_certificates && is_of_the_volume(&error) => {
                tracing::warn!(error = %error_chain(&error), "going on without status, health and renew");
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Self { path, server })
    }

    /// Answers until `cancelled`; binds first if need be.
    pub(super) async fn run(mut self, state: ControlState, cancelled: CancellationToken) {
        let server = loop {
            if let Some(server) = self.server.take() {
                break server;
            }
            tokio::select! {
                () = cancelled.cancelled() => return,
                () = tokio::time::sleep(SLICE) => {}
            }
            self.server = ControlServer::bind(&self.path, SOCKET_MODE).ok();
        };
        server.run(state, cancelled).await;
    }
}

/// Whether the volume may take it another time: it is full, read-only, or closed to this user.
fn is_of_the_volume(error: &ControlError) -> bool {
    let ControlError::Io { source, .. } = error else { return false };
    matches!(
        source.kind(),
        ErrorKind::ReadOnlyFilesystem | ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::PermissionDenied
    )
}
