//! Owns the answer to the orchestrator's question: is a usable certificate on disk now?

use std::sync::Arc;

use tokio::sync::watch;

use crate::clock::Clock;
use crate::serve::Readiness;
use crate::status::AgentStatus;
use crate::store::Store;

/// By the clock and the disk, not by how the last write ended.
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
            if status.certificate.is_none() {
                return Err("no certificate yet".to_owned());
            }
            if !status.certificate_valid(now) {
                return Err("the certificate has expired".to_owned());
            }
        }
        if self.store.usable(now) { Ok(()) } else { Err("the certificate files are missing or changed".to_owned()) }
    }

    fn started(&self) -> bool {
        self.status.borrow().certificate.is_some()
    }
}
