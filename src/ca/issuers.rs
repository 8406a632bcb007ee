//! Owns the commands on issuers and roots: request, import, rotate, activate, retire.

use std::path::{Path, PathBuf};

use super::CaError;
use super::authority::{
    Authority, ImportOptions, Imported, InitOptions, IssuerFacts, KeySettings, RotateOptions, Rotated,
};
use super::manager::CertificateAuthorityManager;
use super::state::{Database, State};
use crate::clock::Clock;
use crate::identity::TrustDomain;

/// These work on the data directory, beside a serving CA, which notices within two seconds. They block on the file
/// system; with encrypted keys for a second.
impl CertificateAuthorityManager {
    /// Makes a key under `data_dir` and a request (PKCS#10) for the certificate of an issuing intermediate, and returns
    /// the request as PEM with the file it is kept in. Until its certificate is imported the CA can't serve, unless it
    /// has another issuer.
    ///
    /// # Errors
    /// When there is a request already, an option does not fit, or a file cannot be written.
    pub fn request_issuer(data_dir: &Path, options: &InitOptions) -> Result<(String, PathBuf), CaError> {
        Ok(Authority::request(data_dir, options).map(|(file, pem)| (pem, file))?)
    }

    /// Takes over an issuing certificate or a root with its key. The first one of a CA signs from then on; a further one
    /// has to be [activated](Self::activate_issuer).
    ///
    /// # Errors
    /// Every reason that the certificate is not fit to issue from; or a file that cannot be read or written.
    pub fn import_issuer(data_dir: &Path, options: &ImportOptions, clock: &dyn Clock) -> Result<Imported, CaError> {
        Ok(Authority::import(data_dir, options, clock.now().wall)?)
    }

    /// Makes a new root and an issuer below it. From now on both roots are handed out; the old issuer signs until
    /// another is [activated](Self::activate_issuer).
    ///
    /// # Errors
    /// When there is no CA, an option does not fit, or a file cannot be read or written.
    pub fn rotate_root(data_dir: &Path, options: &RotateOptions, clock: &dyn Clock) -> Result<Rotated, CaError> {
        Ok(Authority::rotate(data_dir, options, clock.now().wall)?)
    }

    /// Lets the issuer `id` sign from now on; `None`: the only next one. The one before is kept as a former one, and its
    /// root is still handed out. Returns the id.
    ///
    /// # Errors
    /// When there is no such issuer, or it has no key that opens.
    pub fn activate_issuer(data_dir: &Path, id: Option<&str>, keys: &KeySettings) -> Result<String, CaError> {
        Ok(Authority::activate(data_dir, id, keys)?)
    }

    /// Takes the issuer `id` away with its key, and with it its root unless another issuer is below that; `None`: the
    /// only former one. Returns what was taken away.
    ///
    /// # Errors
    /// When it signs, there is no such issuer, or certificates of it have not expired and `unexpired` is not to ignore
    /// them.
    pub async fn retire_issuer(
        data_dir: &Path,
        database: &Database,
        id: Option<&str>,
        unexpired: Unexpired,
        clock: &dyn Clock,
    ) -> Result<IssuerFacts, CaError> {
        let issuer = Authority::retirable(data_dir, id)?;
        if unexpired == Unexpired::Refuse {
            let state = State::open(data_dir, database).await?;
            let count = state.unexpired_by_issuer(&issuer.digest, clock.now().wall).await;
            state.close().await;
            let count = count?;
            if count > 0 {
                return Err(super::AuthorityError::StillNeeded { id: issuer.id, count }.into());
            }
        }
        Authority::retire(data_dir, &issuer.id)?;
        Ok(issuer)
    }

    /// The trust domain of the CA under `data_dir`.
    ///
    /// # Errors
    /// When there is no CA, or its parts do not fit.
    pub fn trust_domain_of(data_dir: &Path) -> Result<TrustDomain, CaError> {
        Ok(Authority::trust_domain_of(data_dir)?)
    }

    /// Every issuer, the one that signs first, with the number of its certificates that have not expired.
    ///
    /// # Errors
    /// When there is no CA, or its record does not open.
    pub async fn issuers(
        data_dir: &Path,
        database: &Database,
        clock: &dyn Clock,
    ) -> Result<Vec<(IssuerFacts, u64)>, CaError> {
        let issuers = Authority::issuers(data_dir)?;
        let state = State::open(data_dir, database).await?;
        let mut counted = Vec::new();
        for issuer in issuers {
            let count = state.unexpired_by_issuer(&issuer.digest, clock.now().wall).await?;
            counted.push((issuer, count));
        }
        state.close().await;
        Ok(counted)
    }
}

/// What to do about certificates of an issuer that is retired while they have not expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unexpired {
    /// Keep the issuer.
    Refuse,
    /// Nobody will trust them any longer.
    Ignore,
}
