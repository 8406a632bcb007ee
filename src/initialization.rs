//! Owns the first steps of a worker: waiting for the CA, and a first certificate.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, SystemClock};
use crate::config::{CaConfig, Config};
use crate::events::EventBus;
use crate::identity::CertificateBundle;
use crate::issuer::{ConfiguredIssuer, IssueError, IssueErrorKind};
use crate::manager::{CertificateManager, CertificateUnavailableError};
use crate::schedule::Jitter;
use crate::schedule::backoff::BackOff;
use crate::store::StoreError;

/// A worker that has no certificate.
#[derive(Debug, thiserror::Error)]
pub enum InitializationError {
    /// The certificate directory cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No certificate is to be had.
    #[error(transparent)]
    Unavailable(#[from] CertificateUnavailableError),
}

/// Obtains a worker's certificate unless a valid one is on disk, and publishes it: the work of `crank-agent init`.
///
/// # Errors
/// When the certificate directory cannot be used, the CA refuses, or does not answer in the configured time.
pub async fn initialize_worker_certificates(config: &Config) -> Result<Arc<CertificateBundle>, InitializationError> {
    initialize(config, EventBus::default()).await
}

/// The same, telling `events`.
pub(crate) async fn initialize(
    config: &Config,
    events: EventBus,
) -> Result<Arc<CertificateBundle>, InitializationError> {
    let (mut manager, _handle) = CertificateManager::open(config, Arc::new(SystemClock), events)?;
    Ok(manager.ensure_certificates().await?)
}

/// Waits until the CA answers `GET /health` over verified TLS, for at most `wait`, with back-off between attempts.
///
/// # Errors
/// The last failure, when `wait` is over; at once, when the CA is not the one expected.
pub async fn wait_for_ca_service(config: &CaConfig, wait: Duration) -> Result<(), IssueError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let issuer = ConfiguredIssuer::new(config.clone(), Arc::clone(&clock));
    let deadline = clock.now().boot.saturating_add(wait);
    let mut back_off = BackOff::new(Duration::from_mins(1));
    loop {
        let Err(error) = issuer.health().await else { return Ok(()) };
        let left = deadline.saturating_sub(clock.now().boot);
        if error.kind != IssueErrorKind::Unavailable || left.is_zero() {
            return Err(error);
        }
        tokio::time::sleep(back_off.next_wait(Jitter::draw()).min(left)).await;
    }
}
