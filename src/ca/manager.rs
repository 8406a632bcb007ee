//! Owns [`CertificateAuthorityManager`]: one CA with its keys, its record, its policy and its clock.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::authority::{Authority, CaCertificate, InitOptions, IssuerFacts, KeySettings, Stamp, fingerprint};
use super::enrolment::{Context, Credential, EnrolmentError, IssuedCertificate, Requester, Turns};
use super::in_force::InForce;
use super::renewal_info::{RenewalInfo, RenewalOrders, Subject};
use super::revocation::{RevocationError, RevokedCertificate, Revoker, Standing};
use super::state::{Database, State, StateError};
use super::token::Tokens;
use super::{CaError, request};
use crate::clock::{Clock, SystemClock};
use crate::config::Environment;
use crate::identity::{RequestedIdentity, SubjectAltName, TrustDomain};
use crate::policy::{Actor, Policy, PolicyStatus, RevocationReason};
use crate::printable::error_chain;

/// A CA: makes its own root once, then signs certificates for workers and keeps the record of them.
pub struct CertificateAuthorityManager {
    data_dir: PathBuf,
    keys: KeySettings,
    authority: watch::Sender<Arc<Authority>>,
    pub(super) state: State,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) environment: Environment,
    /// Names of the CA itself, which no worker gets.
    pub(super) reserved: BTreeSet<SubjectAltName>,
    pub(super) turns: Turns,
    /// What is known of revocations, orders and CRLs.
    pub(super) standing: Standing,
    in_force: watch::Sender<Arc<InForce>>,
}

impl CertificateAuthorityManager {
    /// Makes a self-signed root and an issuing intermediate under `data_dir`, which is made where it is missing. A
    /// crash leaves either nothing that counts or a whole CA. Blocks on the file system.
    ///
    /// # Errors
    /// When there is a CA already, an option does not fit, or a file cannot be written.
    pub fn generate_ca_certificate(
        data_dir: &Path,
        options: &InitOptions,
        clock: &dyn Clock,
    ) -> Result<CaCertificate, CaError> {
        Ok(Authority::generate(data_dir, options, clock.now().wall)?)
    }

    /// Whether there is a CA under `data_dir`.
    #[must_use]
    pub fn is_initialized(data_dir: &Path) -> bool {
        Authority::exists(data_dir)
    }

    /// The issuer of the CA under `data_dir` whose certificate, or root, is the first in the PEM file `certificate`.
    ///
    /// # Errors
    /// When there is no CA, its parts do not fit, or the file cannot be read.
    pub fn issuer_of(data_dir: &Path, certificate: &Path) -> Result<Option<IssuerFacts>, CaError> {
        Ok(Authority::issuer_of(data_dir, certificate)?)
    }

    /// The public side of the CA under `data_dir`.
    ///
    /// # Errors
    /// When there is none, or its parts do not fit, or its keys are open to other users.
    pub fn ca_certificate(data_dir: &Path) -> Result<CaCertificate, CaError> {
        Ok(Authority::public_of(data_dir)?)
    }

    /// Opens the CA under `data_dir`, whose keys are in plain files, and its record.
    ///
    /// # Errors
    /// When there is none, its parts do not fit, its files are open to other users, or its database does not open.
    pub async fn open(
        data_dir: &Path,
        database: &Database,
        policy: Box<dyn Policy>,
        environment: Environment,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, CaError> {
        Self::open_with_keys(data_dir, &KeySettings::default(), database, policy, environment, clock).await
    }

    /// The same with keys that have to be opened.
    ///
    /// # Errors
    /// As [`open`](Self::open), and when a key does not open.
    pub async fn open_with_keys(
        data_dir: &Path,
        keys: &KeySettings,
        database: &Database,
        policy: Box<dyn Policy>,
        environment: Environment,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, CaError> {
        let (authority, _) = watch::channel(Arc::new(load(data_dir, keys).await?));
        let (in_force, _) = watch::channel(Arc::new(InForce::closed(policy.into(), &clock)));
        Ok(Self {
            data_dir: data_dir.to_owned(),
            keys: keys.clone(),
            authority,
            state: State::open(data_dir, database).await?,
            clock,
            environment,
            reserved: BTreeSet::new(),
            turns: Turns::default(),
            standing: Standing::new(),
            in_force,
        })
    }

    /// The public side of this CA.
    #[must_use]
    pub fn certificate(&self) -> CaCertificate {
        self.authority().public().clone()
    }

    /// The trust domain of the SPIFFE ids it issues.
    #[must_use]
    pub fn trust_domain(&self) -> TrustDomain {
        self.authority().trust_domain().clone()
    }

    /// The settings as they are now.
    pub(super) fn in_force(&self) -> Arc<InForce> {
        Arc::clone(&self.in_force.borrow())
    }

    /// From now on these count.
    pub(super) fn put_in_force(&self, settings: Arc<InForce>) {
        self.in_force.send_replace(settings);
    }

    /// Keys and certificates as they are now. One request keeps what it began with.
    pub(super) fn authority(&self) -> Arc<Authority> {
        Arc::clone(&self.authority.borrow())
    }

    /// Told each time that keys and certificates are others.
    pub(super) fn authority_changes(&self) -> watch::Receiver<Arc<Authority>> {
        self.authority.subscribe()
    }

    /// Revokes a certificate on behalf of whoever the program that this CA runs in vouches for. On record when it
    /// returns; one that is revoked already stays as it is.
    ///
    /// # Errors
    /// When no worker has such a certificate, the policy does not allow it, or the record fails.
    pub async fn revoke_certificate(
        &self,
        serial: &str,
        reason: RevocationReason,
        correlation_id: &str,
    ) -> Result<RevokedCertificate, RevocationError> {
        self.revoke(&Actor::Operator, serial, reason, &Context::local(correlation_id)).await
    }

    /// Revokes a certificate, and has everybody told.
    pub(super) async fn revoke(
        &self,
        actor: &Actor,
        serial: &str,
        reason: RevocationReason,
        context: &Context,
    ) -> Result<RevokedCertificate, RevocationError> {
        let in_force = self.in_force();
        let revoker = Revoker { state: &self.state, policy: &*in_force.policy, clock: &*self.clock };
        let done = revoker.revoke(actor, serial, reason, context).await?;
        // It is revoked: what follows is only sooner than the next look would be.
        if let Err(error) = self.look().await {
            tracing::warn!(error = error_chain(&error), "cannot look for changes of the record for now");
        }
        self.standing.tell();
        Ok(done)
    }

    /// The orders to renew of this CA.
    #[must_use]
    pub fn renewal_orders(&self) -> RenewalOrders {
        RenewalOrders::new(self.state.clone(), Arc::clone(&self.clock))
    }

    /// How many workers wait for news of their certificates at this moment.
    #[must_use]
    pub fn waiting_count(&self) -> usize {
        self.in_force().waiters.total()
    }

    /// What is to be said about the renewal of a certificate.
    pub(super) fn renewal_info(&self, subject: &Subject) -> RenewalInfo {
        let roots: Vec<String> = self.authority().roots().iter().map(|root| fingerprint(root)).collect();
        let in_force = self.in_force();
        self.standing.with(|known| RenewalInfo::new(subject, known, &roots, in_force.explanation_url.as_deref()))
    }

    /// Reads keys and certificates anew. Requests under way keep those that they began with.
    ///
    /// # Errors
    /// When they cannot be read, or do not fit: those before stay in force.
    pub async fn reload(&self) -> Result<(), CaError> {
        self.put_authority_in_force(self.load_authority().await?);
        Ok(())
    }

    /// Keys and certificates as they are in the directory.
    pub(super) async fn load_authority(&self) -> Result<Authority, CaError> {
        load(&self.data_dir, &self.keys).await
    }

    /// From now on these sign, and are handed out.
    pub(super) fn put_authority_in_force(&self, loaded: Authority) {
        let before = self.authority.send_replace(Arc::new(loaded));
        let now = self.authority();
        if before.issuer() != now.issuer() || before.roots() != now.roots() {
            tracing::info!(
                issuer = %now.issuing().subject(),
                fingerprint = now.public().root_fingerprint,
                roots = now.roots().len(),
                "issuer and roots are others now"
            );
        }
    }

    /// Reloads whenever the CA's directory has changed; looks once a second, until cancelled.
    pub(super) async fn follow_directory(self: Arc<Self>, cancel: CancellationToken) {
        let mut in_force = Stamp::of(&self.data_dir);
        let mut told = None;
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
            let stamp = Stamp::of(&self.data_dir);
            if stamp == in_force {
                continue;
            }
            match self.reload().await {
                Ok(()) => (in_force, told) = (stamp, None),
                Err(error) => {
                    // Tried again each second, told once.
                    let text = crate::printable::error_chain(&error);
                    if told.as_ref() != Some(&text) {
                        tracing::error!(
                            error = text,
                            "the CA's directory has changed and cannot be read; what was read before stays"
                        );
                        told = Some(text);
                    }
                }
            }
        }
    }

    /// The join tokens of this CA.
    #[must_use]
    pub fn tokens(&self) -> Tokens {
        Tokens::new(self.state.clone(), Arc::clone(&self.clock))
    }

    /// Which policy rules are in force.
    #[must_use]
    pub fn policy_status(&self) -> PolicyStatus {
        self.in_force().policy.status()
    }

    /// How many certificates have been issued to workers.
    ///
    /// # Errors
    /// When the record fails.
    pub async fn issued_count(&self) -> Result<u64, StateError> {
        self.state.issued_count().await
    }

    /// Signs the key of a CSR for `identity`, for whose truth the caller vouches. The CSR may ask for some of its names
    /// and for nothing else; the same checks, policy and record apply as for a request over the network.
    ///
    /// # Errors
    /// When the CSR or the policy does not allow it, or signing or the record fails.
    pub async fn sign_worker_certificate(
        &self,
        csr_pem: &str,
        identity: &RequestedIdentity,
        correlation_id: &str,
    ) -> Result<IssuedCertificate, EnrolmentError> {
        if csr_pem.len() > crate::wire::REQUEST_LIMIT {
            return Err(EnrolmentError::Csr(request::CsrRefusal::Malformed("expected at most 64 KiB")));
        }
        let requester = Requester {
            worker_id: identity.worker_id.clone(),
            permitted: identity.names.clone(),
            default_names: identity.names.clone(),
            credential: Credential::Caller,
            is_unused: false,
        };
        self.enrol_as(&requester, csr_pem, &Context::local(correlation_id)).await
    }
}

impl std::fmt::Debug for CertificateAuthorityManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateAuthorityManager").field("certificate", &self.certificate()).finish_non_exhaustive()
    }
}

/// Makes a CA with default options under `cert_dir`, or finds the one that is there. Blocks on the file system.
///
/// The trust domain is [`DEFAULT_TRUST_DOMAIN`]. In development the CA says so in its name, so that nobody mistakes
/// its root for another.
///
/// # Errors
/// As [`CertificateAuthorityManager::generate_ca_certificate`] and [`CertificateAuthorityManager::ca_certificate`].
pub fn initialize_controller_certificates(cert_dir: &Path, environment: Environment) -> Result<CaCertificate, CaError> {
    if Authority::exists(cert_dir) {
        return CertificateAuthorityManager::ca_certificate(cert_dir);
    }
    let trust_domain = TrustDomain::new(DEFAULT_TRUST_DOMAIN)
        .map_err(|_| CaError::Setting { setting: "trust domain", reason: "expected a SPIFFE trust domain" })?;
    let mut options = InitOptions::new(trust_domain);
    if environment == Environment::Development {
        options.name.push_str(" Development");
    }
    CertificateAuthorityManager::generate_ca_certificate(cert_dir, &options, &SystemClock)
}

/// Off the async threads: opening an encrypted key takes a while.
async fn load(data_dir: &Path, keys: &KeySettings) -> Result<Authority, CaError> {
    let (data_dir, keys) = (data_dir.to_owned(), keys.clone());
    let loaded = tokio::task::spawn_blocking(move || Authority::load(&data_dir, &keys)).await;
    Ok(loaded.map_err(|_| CaError::Task("key loading"))??)
}

/// How soon a change of the CA's directory is noticed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The trust domain where none is configured.
pub const DEFAULT_TRUST_DOMAIN: &str = "crank.local";
