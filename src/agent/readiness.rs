//! Owns the answer to the orchestrator's question: is a usable certificate on disk now?

use std::sync::Arc;

use tokio::sync::watch;

use crate::clock::Clock;
use crate::serve::Readiness;
use crate::status::AgentStatus;
use crate::store::Store;

/// Of all certificates: the agent is ready when each is.
#[derive(Debug)]
pub(super) struct AgentReadiness {
    /// By name, the first without one; never empty.
    pub(super) certificates: Vec<(Option<String>, DiskReadiness)>,
}

impl AgentReadiness {
    /// Of the first certificate.
    pub(super) fn first(&self) -> &DiskReadiness {
        &self.certificates[0].1
    }
}

impl Readiness for AgentReadiness {
    fn ready(&self) -> Result<(), String> {
        self.certificates.iter().try_for_each(|(name, readiness)| match name {
            None => readiness.ready(),
            Some(name) => readiness.ready().map_err(|reason| format!("certificate `{name}`: {reason}")),
        })
    }

    fn started(&self) -> bool {
        self.certificates.iter().all(|(_, readiness)| readiness.started())
    }
}

/// Of one certificate: by the clock and the disk, not by how the last write ended.
#[derive(Debug)]
pub(super) struct DiskReadiness {
    pub(super) status: watch::Receiver<AgentStatus>,
    pub(super) store: Arc<Store>,
    pub(super) clock: Arc<dyn Clock>,
}

impl Readiness for DiskReadiness {
    fn ready(&self) -> Result<(), String> {
        let now = self.clock.now().wall;
        {
            let status = self.status.borrow();
            let Some(certificate) = &status.certificate else { return Err("no certificate yet".to_owned()) };
            if let Some(revoked) = &status.revoked {
                return Err(format!("the certificate was revoked: {}", revoked.reason.name()));
            }
            if now >= certificate.expires_at {
                return Err("the certificate has expired".to_owned());
            }
            // Within the allowed skew, it is published before its time.
            if now < certificate.not_before {
                return Err("the certificate is not valid yet by this machine's clock".to_owned());
            }
            if let Some(delivery) = status.deliveries.iter().find(|delivery| delivery.not_ready) {
                return Err(format!("the worker does not serve the certificate: {}", delivery.name));
            }
        }
        if self.store.usable(now) { Ok(()) } else { Err("the certificate files are missing or changed".to_owned()) }
    }

    fn started(&self) -> bool {
        self.status.borrow().certificate.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use time::OffsetDateTime;

    use super::*;
    use crate::clock::testing::TestClock;
    use crate::events::EventBus;
    use crate::manager::CertificateManager;
    use crate::schedule::{Jitter, RenewalRecord};
    use crate::testing::{TestCa, config};

    const NOW: OffsetDateTime = time::macros::datetime!(2030-01-01 00:00 UTC);

    #[tokio::test]
    async fn it_says_by_clock_and_disk_why_not() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path());
        let clock = Arc::new(TestClock::at(NOW));
        let bundle = TestCa::new().bundle(&config.identity, NOW, Duration::from_hours(1));
        let record = RenewalRecord::new(Jitter::new(0.5).unwrap(), NOW);
        Store::open(&config.files).unwrap().publish(&bundle, &record.into(), clock.now()).unwrap();
        let store = Arc::new(Store::open(&config.files).unwrap());
        store.load().unwrap();
        let (_manager, handle) = CertificateManager::new(
            &config,
            crate::issuer::ConfiguredIssuer::new(config.ca.clone(), Arc::<TestClock>::clone(&clock)),
            Arc::clone(&store),
            Arc::<TestClock>::clone(&clock),
            EventBus::default(),
        );
        let mut status = handle.status().borrow().clone();
        let (sender, receiver) = watch::channel(status.clone());
        let readiness = DiskReadiness { status: receiver, store, clock: Arc::<TestClock>::clone(&clock) };
        let reason = || readiness.ready().unwrap_err();
        assert_eq!(reason(), "no certificate yet");
        assert!(!readiness.started());
        status.certificate = Some(bundle.metadata(NOW));
        sender.send_replace(status);
        assert_eq!(readiness.ready(), Ok(()));
        assert!(readiness.started());
        clock.step(time::Duration::minutes(-2));
        assert_eq!(reason(), "the certificate is not valid yet by this machine's clock");
        clock.step(time::Duration::hours(2));
        assert_eq!(reason(), "the certificate has expired");
        clock.step(time::Duration::hours(-2) + time::Duration::minutes(2));
        std::fs::remove_file(config.files.directory.join("client.key")).unwrap();
        assert_eq!(reason(), "the certificate files are missing or changed");
    }
}
