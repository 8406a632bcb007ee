//! Owns the public part of everything in a CA's directory, read whole while nobody changes it.

use std::path::Path;

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::content::{CROSS, FORMER, ISSUER, NEXT, ROOT};
use super::files::{self, Lock, Settings, Stamp};
use super::issuing::{self, IssuerState, Issuing};
use super::{AuthorityError, CaCertificate, awaits_import, content, fingerprint};
use crate::identity::bundle::certificates_to_pem;

/// The public part of everything in a CA's directory.
#[derive(Debug)]
pub(super) struct Lineup {
    pub(super) settings: Settings,
    /// The one that signs first.
    pub(super) issuers: Vec<Issuing>,
    pub(super) cross: Vec<CertificateDer<'static>>,
}

impl Lineup {
    pub(super) fn load(data_dir: &Path) -> Result<Self, AuthorityError> {
        steadily(data_dir, || Self::read(&data_dir.join(files::DIRECTORY)))
    }

    pub(super) fn read(directory: &Path) -> Result<Self, AuthorityError> {
        files::check_private(directory, "700")?;
        let settings = files::read_settings(directory)?;
        let mut issuers = vec![Issuing::load(directory, IssuerState::Issuing)?];
        for (name, state) in [(NEXT, IssuerState::Next), (FORMER, IssuerState::Former)] {
            for id in content::issuer_ids(&directory.join(name))? {
                issuers.push(Issuing::load(&directory.join(name).join(id), state)?);
            }
        }
        let cross = directory.join(CROSS);
        let cross = if cross.exists() { issuing::read_certificates(&cross, CROSS_LIMIT)? } else { Vec::new() };
        Ok(Self { settings, issuers, cross })
    }

    pub(super) fn public(&self) -> Result<CaCertificate, AuthorityError> {
        let current = &self.issuers[0];
        let (root_path, issuer_path) = (current.directory.join(ROOT), current.directory.join(ISSUER));
        let end = |path: &Path, der| -> Result<_, AuthorityError> {
            Ok(issuing::parse(path, der)?.validity().not_after.to_datetime())
        };
        Ok(CaCertificate {
            root_pem: certificates_to_pem(std::slice::from_ref(&current.root)),
            roots_pem: certificates_to_pem(&self.roots()),
            root_fingerprint: fingerprint(&current.root),
            root_not_after: end(&root_path, &current.root)?,
            issuer_not_after: end(&issuer_path, current.certificate())?,
            root_path,
        })
    }

    pub(super) fn roots(&self) -> Vec<CertificateDer<'static>> {
        let mut roots: Vec<CertificateDer<'static>> = Vec::new();
        for issuer in &self.issuers {
            if !roots.contains(&issuer.root) {
                roots.push(issuer.root.clone());
            }
        }
        roots
    }

    pub(super) fn chain_of(&self, issuer: &Issuing) -> Vec<CertificateDer<'static>> {
        let roots = self.roots();
        let certifies = |cross: &CertificateDer<'static>| {
            let (Ok((_, cross)), Ok((_, root))) =
                (X509Certificate::from_der(cross), X509Certificate::from_der(&issuer.root))
            else {
                return false;
            };
            let by_another = roots.iter().any(|by| {
                *by != issuer.root
                    && X509Certificate::from_der(by).is_ok_and(|(_, by)| issuing::is_signed_by(&cross, &by))
            });
            by_another && cross.subject().as_raw() == root.subject().as_raw() && cross.public_key() == root.public_key()
        };
        issuer.chain.iter().chain(self.cross.iter().filter(|cross| certifies(cross))).cloned().collect()
    }
}

/// Reads what a change may put another in the place of meanwhile: again, until nothing moved.
pub(super) fn steadily<T>(data_dir: &Path, read: impl Fn() -> Result<T, AuthorityError>) -> Result<T, AuthorityError> {
    if data_dir.join(files::REQUEST).exists() && !files::exists(data_dir) {
        return Err(awaits_import(data_dir));
    }
    if !files::exists(data_dir) {
        return Err(AuthorityError::Missing(data_dir.to_owned()));
    }
    files::check_not_writable_by_others(data_dir)?;
    for _ in 1..STEADY_ATTEMPTS {
        let before = Stamp::of(data_dir);
        if before.is_none() {
            let _lock = Lock::acquire(data_dir)?;
            files::recover(data_dir)?;
            continue;
        }
        let result = read();
        if Stamp::of(data_dir) == before {
            return result;
        }
    }
    read()
}

/// Far more changes than can happen while some files are read.
const STEADY_ATTEMPTS: usize = 10;

/// More than a handful of roots can have.
const CROSS_LIMIT: usize = 64;
