//! Owns what a [`CertificateBundle`] is to rustls, for programs that make TLS settings of their own.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::sign::CertifiedKey;

use super::{TlsError, root_store};
use crate::crypto::crypto_provider;
use crate::identity::CertificateBundle;

impl CertificateBundle {
    /// Chain and key as rustls presents them: for a resolver, or `SingleCertAndKey`.
    ///
    /// # Errors
    /// When the key is of a kind that rustls cannot sign with.
    pub fn to_certified_key(&self) -> Result<CertifiedKey, TlsError> {
        CertifiedKey::from_der(self.chain().to_vec(), self.key().to_rustls(), &crypto_provider())
            .map_err(TlsError::Certificate)
    }

    /// The roots as rustls verifies with them: these and no others.
    ///
    /// # Errors
    /// When one is no CA certificate.
    pub fn to_root_store(&self) -> Result<Arc<RootCertStore>, TlsError> {
        root_store(self.roots())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::{TestCa, identity};

    #[test]
    fn a_bundle_is_to_rustls_what_it_is_on_disk() {
        let now = time::macros::datetime!(2026-08-20 12:00 UTC);
        let bundle = TestCa::new().bundle(&identity("streaming"), now, Duration::from_hours(1));
        let certified = bundle.to_certified_key().unwrap();
        assert_eq!(certified.cert, bundle.chain());
        certified.keys_match().unwrap();
        assert_eq!(bundle.to_root_store().unwrap().len(), bundle.roots().len());
        let no_root = bundle.with_roots(bundle.chain().to_vec()).unwrap();
        assert!(matches!(no_root.to_root_store(), Err(TlsError::Root(_))));
    }
}
