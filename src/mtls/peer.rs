//! Owns who is at the other end of a connection.

use rustls::CommonState;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::clock::{Clock, SystemClock};
use crate::identity::check::spiffe_id_of;
use crate::identity::{CertificateMetadata, SpiffeId};

/// Whoever is at the other end of a connection, by the certificate that was verified in its handshake. What it may do is
/// for the worker to say: everyone of the mesh has such a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Its SPIFFE id; `None` where the certificate has none, or more than one URI (SPIFFE X.509-SVID, section 2).
    pub spiffe_id: Option<SpiffeId>,
    /// The certificate.
    pub certificate: CertificateMetadata,
}

impl PeerIdentity {
    /// The peer of `connection`; `None` before its handshake is done.
    #[must_use]
    pub fn of(connection: &CommonState) -> Option<Self> {
        Self::read(connection.peer_certificates()?.first()?, SystemClock.now().wall)
    }

    fn read(leaf: &[u8], now: OffsetDateTime) -> Option<Self> {
        let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
        Some(Self { spiffe_id: spiffe_id_of(&leaf), certificate: CertificateMetadata::of(&leaf, now) })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{CertificateParams, SanType};

    use super::*;
    use crate::identity::{KeyType, PrivateKey, generate_csr};
    use crate::testing::{TestCa, identity};

    const NOW: OffsetDateTime = time::macros::datetime!(2026-08-20 12:00 UTC);

    fn read(change: impl FnOnce(&mut CertificateParams)) -> PeerIdentity {
        let key = PrivateKey::generate(KeyType::EcdsaP256).unwrap();
        let csr = generate_csr(&identity("streaming"), &key, KeyType::EcdsaP256).unwrap();
        let leaf = TestCa::new().sign(&csr, NOW, Duration::from_hours(48), change);
        PeerIdentity::read(&leaf, NOW).unwrap()
    }

    #[test]
    fn a_worker_is_known_by_its_spiffe_id_and_its_certificate() {
        let peer = read(|_| {});
        assert_eq!(peer.spiffe_id.unwrap().as_str(), "spiffe://crank.local/worker/streaming");
        assert_eq!(peer.certificate.days_remaining, 2);
    }

    #[test]
    fn two_uris_or_none_or_another_are_no_spiffe_id() {
        let uri = |text: &str| SanType::URI(text.try_into().unwrap());
        let other = uri("spiffe://crank.local/worker/other");
        assert_eq!(read(|params| params.subject_alt_names.push(other)).spiffe_id, None);
        assert_eq!(read(|params| params.subject_alt_names.clear()).spiffe_id, None);
        let web = uri("https://crank.local/worker/streaming");
        assert_eq!(read(|params| params.subject_alt_names = vec![web]).spiffe_id, None);
    }

    #[test]
    fn what_is_no_certificate_is_nobody() {
        assert_eq!(PeerIdentity::read(b"nothing", NOW), None);
    }
}
