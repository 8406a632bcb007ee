//! Owns the roots of other trust domains: read from the files that are configured, published beside the certificate.

use std::collections::BTreeMap;

use rustls::pki_types::CertificateDer;

use super::CertificateManager;
use crate::bounded::read_file;
use crate::config::FederatedDomain;
use crate::identity::TrustDomain;
use crate::identity::bundle::{ROOTS_LIMIT, certificates_from_pem};
use crate::issuer::Issuer;
use crate::printable::error_chain;

/// By trust domain, never mixed: no domain speaks for another.
pub(super) type Federated = BTreeMap<TrustDomain, Vec<CertificateDer<'static>>>;

impl<I: Issuer> CertificateManager<I> {
    /// Brings the published roots of other trust domains in step with the configured files.
    pub(super) async fn refresh_federation(&mut self) {
        let Some(current) = self.current.clone().filter(|current| !current.withdrawn) else { return };
        let federated = self.federated();
        if federated == *current.bundle.federated() {
            return;
        }
        let Ok(bundle) = current.bundle.try_clone() else { return };
        let followed = self.known.followed.clone();
        if self.republish(current, bundle.with_federated(federated), followed).await {
            tracing::info!("published the changed roots of other trust domains");
        }
    }

    /// The roots of each configured trust domain: those in its file, or where that is of no use those published before. Of
    /// others, those that the issuer hands out.
    pub(super) fn federated(&self) -> Federated {
        let before = self.current.as_ref().map(|current| current.bundle.federated());
        let mut federated = self.handed_out.as_ref().or(before).cloned().unwrap_or_default();
        for FederatedDomain { trust_domain, roots_file } in &self.settings.federation {
            let bytes = read_file(roots_file, FILE_LIMIT).map_err(|error| error_chain(&error));
            let roots = bytes.and_then(|bytes| {
                certificates_from_pem("roots", &bytes, ROOTS_LIMIT)
                    .map_err(|error| format!("{}: {error}", roots_file.display()))
            });
            match roots {
                Ok(roots) => {
                    federated.insert(trust_domain.clone(), roots);
                }
                Err(error) => {
                    tracing::warn!(trust_domain = trust_domain.as_str(), error, "its published roots stay as they are");
                    let kept = before.and_then(|before| before.get(trust_domain)).cloned();
                    federated.extend(kept.map(|roots| (trust_domain.clone(), roots)));
                }
            }
        }
        federated
    }
}

/// The largest file of roots, in bytes.
const FILE_LIMIT: u64 = 1024 * 1024;
