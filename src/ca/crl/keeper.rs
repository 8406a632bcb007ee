//! Owns the loop that looks for changes of the record and keeps every issuer's CRL ahead of need.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{CrlError, is_due, sign_crl};
use crate::ca::authority::Signer;
use crate::ca::manager::CertificateAuthorityManager;
use crate::ca::state::StateError;
use crate::printable::error_chain;

impl CertificateAuthorityManager {
    /// Takes note of what changed in the record.
    ///
    /// # Errors
    /// When the record fails. What was known before stays.
    pub(crate) async fn look(&self) -> Result<(), StateError> {
        let digests: Vec<[u8; 32]> = self.authority().signers().iter().map(|signer| signer.digest()).collect();
        self.standing.look(&self.state, &digests, self.clock.now().wall).await
    }

    /// Signs the CRLs that are due, by what is known. Returns whether there was one. When it returns, every revocation
    /// that was known is on a CRL that is on record and served.
    ///
    /// # Errors
    /// When the record fails or a CRL cannot be signed; those of other issuers are.
    pub(crate) async fn sign_due_crls(&self) -> Result<bool, CrlError> {
        let (mut signed, mut failed) = (false, None);
        let (now, lifetime) = (self.clock.now().wall, self.in_force().crl_lifetime);
        for issuer in self.authority().signers() {
            let digest = issuer.digest();
            let due = self
                .standing
                .with(|known| is_due(known.crls.of(&digest), known.last_revocation(&digest), lifetime, now));
            if due {
                match self.sign_next(Arc::clone(issuer), digest).await {
                    Ok(()) => signed = true,
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
        }
        if signed {
            self.look().await?;
        }
        failed.map_or(Ok(signed), Err)
    }

    /// Reserve, sign, record: as with certificates.
    async fn sign_next(&self, issuer: Arc<Signer>, digest: [u8; 32]) -> Result<(), CrlError> {
        let plan = self.state.reserve_crl(digest, self.in_force().crl_lifetime, self.clock.now().wall).await?;
        let number = plan.number;
        let signed = tokio::task::spawn_blocking(move || sign_crl(&issuer, &plan).map(|der| (plan, der))).await;
        let (plan, der) =
            signed.map_err(|_| CrlError::Signing { number, reason: "signing was given up".to_owned() })??;
        self.state.record_crl(&plan, &der).await?;
        tracing::debug!(number, entries = plan.entries.len(), next_update = %plan.next_update, "signed a CRL");
        Ok(())
    }

    /// Looks and signs whenever something may have changed, until cancelled: told by this process, or every [`LOOK`].
    pub(crate) async fn keep_crls(self: Arc<Self>, cancel: CancellationToken) {
        let mut authority = self.authority_changes();
        let mut signed_at = None;
        let mut failures = 0;
        loop {
            match self.look_and_sign(&mut signed_at).await {
                Ok(()) => failures = 0,
                Err(error) => {
                    failures += 1;
                    tracing::error!(error = error_chain(&error), kind = error.kind(), "cannot keep the CRL up to date");
                }
            }
            let pause = (LOOK * 2_u32.saturating_pow(failures)).min(LONGEST_PAUSE);
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.standing.told(), if failures == 0 => {}
                // Roots may be others while the issuer is the same.
                Ok(()) = authority.changed() => self.standing.touch(),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Many revocations at once make one CRL: nobody makes a fleet fetch them without end.
    async fn look_and_sign(&self, signed_at: &mut Option<Instant>) -> Result<(), CrlError> {
        self.look().await?;
        if signed_at.is_none_or(|at| at.elapsed() >= BETWEEN_CRLS) && self.sign_due_crls().await? {
            *signed_at = Some(Instant::now());
            let number = self.standing.with(|known| known.crls.current().map(|crl| crl.number));
            tracing::info!(number, "signed a CRL");
        }
        Ok(())
    }
}

/// How often the record is looked at for what other processes change.
const LOOK: Duration = Duration::from_millis(250);

/// The least time between two CRLs of this process.
const BETWEEN_CRLS: Duration = Duration::from_secs(1);

/// The longest wait after failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
