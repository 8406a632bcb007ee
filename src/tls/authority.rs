//! Owns the verification of an authority's TLS certificate: as webpki does it, and stricter.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerified;
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::verifier::{Presented, ServerJudge};
use super::{is_ca, rejected};
use crate::crypto::{crypto_provider, sha256};

/// Verifies as webpki does, with `anchor` as the root, and then refuses workers. It never accepts more than webpki
/// would.
#[derive(Debug)]
pub(super) struct Authority {
    pub(super) anchor: Anchor,
}

/// Where the chain has to end.
#[derive(Debug)]
pub(super) enum Anchor {
    /// At one of these.
    Roots(Arc<RootCertStore>),
    /// At the one with this SHA-256 fingerprint, to be found in what the server sends, or at one of these.
    Pin { fingerprint: [u8; 32], roots: Vec<CertificateDer<'static>> },
}

impl Anchor {
    fn roots(&self, sent: &[CertificateDer<'_>]) -> Result<Arc<RootCertStore>, rustls::Error> {
        let (fingerprint, further) = match self {
            Self::Roots(roots) => return Ok(Arc::clone(roots)),
            Self::Pin { fingerprint, roots } => (fingerprint, roots),
        };
        let pinned = sent.iter().find(|certificate| sha256(certificate) == *fingerprint);
        // A pinned certificate that is no CA would otherwise become one.
        if pinned.is_some_and(|pinned| !is_ca(pinned)) {
            return Err(rejected("the certificate with the configured sha256 fingerprint is not a CA certificate"));
        }
        let mut roots = RootCertStore::empty();
        for root in pinned.into_iter().chain(further.iter().filter(|root| is_ca(root))) {
            roots.add(root.clone().into_owned())?;
        }
        if roots.is_empty() {
            return Err(rejected("the server's chain has no root with the configured sha256 fingerprint"));
        }
        Ok(Arc::new(roots))
    }
}

impl ServerJudge for Authority {
    fn judge_server(&self, presented: &Presented<'_>) -> Result<ServerCertVerified, rustls::Error> {
        let roots = self.anchor.roots(presented.intermediates)?;
        let webpki = WebPkiServerVerifier::builder_with_provider(roots, crypto_provider()).build();
        let webpki = webpki.map_err(|error| rustls::Error::General(error.to_string()))?;
        let verified = presented.verify(&*webpki)?;
        match is_worker(presented.leaf) {
            Some(false) => Ok(verified),
            _ => Err(rejected("the certificate is a worker's, not an authority's")),
        }
    }
}

/// Whether a certificate has the SPIFFE id of a worker; `None` when it cannot be told.
fn is_worker(certificate: &CertificateDer<'_>) -> Option<bool> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let Some(names) = certificate.subject_alternative_name().ok()? else { return Some(false) };
    Some(names.value.general_names.iter().any(|name| match name {
        GeneralName::URI(uri) => {
            let rest = uri.strip_prefix("spiffe://").and_then(|id| id.split_once('/'));
            rest.is_some_and(|(_, path)| path.starts_with("worker/"))
        }
        _ => false,
    }))
}
