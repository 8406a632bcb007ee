//! Owns the start: how long is waited for a first certificate, and with what.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::attempt::AttemptError;
use super::{CertificateManager, CertificateUnavailableError, NO_ANSWER};
use crate::identity::CertificateBundle;
use crate::issuer::Issuer;

/// What a start may end with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    /// A certificate, be it one that was revoked: the agent is there to replace it.
    Any,
    /// A certificate for use.
    Usable,
}

impl<I: Issuer> CertificateManager<I> {
    pub(super) async fn obtain_first(
        &mut self,
        goal: Goal,
        stop: &CancellationToken,
    ) -> Result<Arc<CertificateBundle>, CertificateUnavailableError> {
        if self.current.is_none() {
            self.adopt().await;
        }
        let deadline = self.clock.now().boot.saturating_add(self.settings.startup_wait);
        let mut last: Option<AttemptError> = None;
        let mut attempts: u32 = 0;
        loop {
            if let Some(current) = self.current.as_ref().filter(|_| self.meets(goal)) {
                return Ok(Arc::clone(&current.bundle));
            }
            if stop.is_cancelled() {
                return Err(self.unavailable(NO_ANSWER, "told to stop".to_owned()));
            }
            if let Some(failed) = self.turn(stop, Some(deadline)).await {
                attempts += 1;
                let hopeless = failed.is_final_without_certificate();
                last = Some(failed);
                if !hopeless && self.clock.now().boot < deadline {
                    continue;
                }
            } else if self.meets(goal) || self.clock.now().boot < deadline || self.may_try(attempts) {
                continue;
            }
            return Err(self.first_failed(last.as_ref(), attempts));
        }
    }

    fn meets(&self, goal: Goal) -> bool {
        self.current.as_ref().is_some_and(|current| goal == Goal::Any || !current.is_revoked())
    }

    /// However short the time to wait at the start, there is one attempt.
    fn may_try(&self, attempts: u32) -> bool {
        attempts == 0 && self.schedule.until_attempt(self.clock.now()).is_zero()
    }
}
