//! Owns revocation by the operator, beside a serving CA.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::{RevocationError, RevokedCertificate, Revoker};
use crate::ca::authority::{Authority, AuthorityError};
use crate::ca::enrolment::Context;
use crate::ca::state::{Database, State};
use crate::clock::Clock;
use crate::events::new_correlation_id;
use crate::identity::WorkerId;
use crate::policy::Actor;
use crate::policy::{Policy, RevocationReason};

/// The operator's hand on the certificates of one CA: works on its record, in the same process as a serving CA or in
/// another, which takes note within a second. Needs no key.
pub struct Revocations {
    state: State,
    policy: Box<dyn Policy>,
    clock: Arc<dyn Clock>,
}

impl Revocations {
    /// Those of the CA under `data_dir`, with its policy.
    ///
    /// # Errors
    /// When there is no CA, or its database does not open.
    pub async fn open(
        data_dir: &Path,
        database: &Database,
        policy: Box<dyn Policy>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, RevocationError> {
        if !Authority::exists(data_dir) {
            return Err(AuthorityError::Missing(data_dir.to_owned()).into());
        }
        Ok(Self { state: State::open(data_dir, database).await?, policy, clock })
    }

    /// Revokes the certificate with this serial, `4a:3b:…` or without colons. On record when it returns; one that is
    /// revoked already stays as it is.
    ///
    /// # Errors
    /// When no worker has such a certificate, the policy does not allow it, or the record fails.
    pub async fn revoke_certificate(
        &self,
        serial: &str,
        reason: RevocationReason,
    ) -> Result<RevokedCertificate, RevocationError> {
        self.revoke(serial, reason, &new_correlation_id()).await
    }

    /// Revokes every certificate of a worker that is in force, those too that are issued meanwhile with one of them.
    ///
    /// # Errors
    /// When there is none, the policy does not allow it, or the record fails; then some may be revoked.
    pub async fn revoke_worker(
        &self,
        worker_id: &WorkerId,
        reason: RevocationReason,
    ) -> Result<Vec<RevokedCertificate>, RevocationError> {
        let correlation_id = new_correlation_id();
        let mut revoked = Vec::new();
        for _ in 0..ROUNDS {
            let serials = self.state.serials_in_force(worker_id, self.clock.now().wall).await?;
            if serials.is_empty() {
                break;
            }
            for serial in serials {
                revoked.push(self.revoke(&serial, reason, &correlation_id).await?);
            }
        }
        if revoked.is_empty() { Err(RevocationError::NoneInForce) } else { Ok(revoked) }
    }

    /// Closes the database.
    pub async fn close(self) {
        self.state.close().await;
    }

    async fn revoke(
        &self,
        serial: &str,
        reason: RevocationReason,
        correlation_id: &str,
    ) -> Result<RevokedCertificate, RevocationError> {
        let context = Context::local(correlation_id);
        let revoker = Revoker { state: &self.state, policy: &*self.policy, clock: &*self.clock };
        revoker.revoke(&Actor::Operator, serial, reason, &context).await
    }
}

impl fmt::Debug for Revocations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revocations").finish_non_exhaustive()
    }
}

/// A renewal that is under way while its certificate is revoked is either refused or seen in the next round. A worker
/// with a stock of join tokens could go on for ever.
const ROUNDS: usize = 10;
