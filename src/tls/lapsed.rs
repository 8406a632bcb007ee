//! Owns the acceptance of client certificates that have expired a short while ago, where a listener allows that.

use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerified;
use rustls::{CertificateError, DistinguishedName, Error};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::ClientDemand;
use super::verifier::ClientJudge;

/// Verifies as `inner` does. A certificate that has expired no longer than `grace` ago is verified once more as of its
/// last second: whatever else is wrong with it, such as its revocation, still ends the handshake. What it may be used for
/// is for the listener to say.
#[derive(Debug)]
pub(super) struct Lapsed<J> {
    pub(super) inner: J,
    pub(super) grace: Duration,
}

impl<J: ClientJudge> ClientJudge for Lapsed<J> {
    fn judge_client(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let refused = match self.inner.judge_client(end_entity, intermediates, now) {
            Err(Error::InvalidCertificate(
                error @ (CertificateError::Expired | CertificateError::ExpiredContext { .. }),
            )) => error,
            verified => return verified,
        };
        match last_second(end_entity).filter(|end| is_within(self.grace, *end, now)) {
            Some(end) => self.inner.judge_client(end_entity, intermediates, end),
            None => Err(Error::InvalidCertificate(refused)),
        }
    }

    fn demand(&self) -> ClientDemand {
        self.inner.demand()
    }

    fn root_hints(&self) -> &[DistinguishedName] {
        self.inner.root_hints()
    }
}

fn last_second(certificate: &CertificateDer<'_>) -> Option<UnixTime> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
    Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
}

/// Whether `end` lies behind, and no further than `grace`.
fn is_within(grace: Duration, end: UnixTime, now: UnixTime) -> bool {
    let ago = now.as_secs().checked_sub(end.as_secs());
    ago.is_some_and(|ago| ago > 0 && ago <= grace.as_secs())
}

#[cfg(test)]
mod tests {
    use rcgen::CertificateParams;
    use time::OffsetDateTime;

    use super::*;
    use crate::identity::{KeyType, PrivateKey, generate_csr};
    use crate::testing::{TestCa, identity};
    use crate::tls::PeerClients;

    const NOW: OffsetDateTime = time::macros::datetime!(2026-08-20 12:00 UTC);

    fn leaf(ca: &TestCa, change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let key = PrivateKey::generate(KeyType::EcdsaP256).unwrap();
        let csr = generate_csr(&identity("streaming"), &key, KeyType::EcdsaP256).unwrap();
        ca.sign(&csr, NOW, Duration::from_hours(1), change)
    }

    fn accepts(ca: &TestCa, leaf: &CertificateDer<'_>, grace: Duration, after: time::Duration) -> bool {
        let inner = PeerClients::new(&ca.roots(), &[], ClientDemand::Required).unwrap();
        let verifier = Lapsed { inner, grace };
        let seconds = u64::try_from((NOW + after).unix_timestamp()).unwrap();
        let at = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        verifier.judge_client(leaf, &[], at).is_ok()
    }

    #[test]
    fn an_expired_certificate_is_accepted_within_the_grace_and_not_beyond() {
        let ca = TestCa::new();
        let leaf = leaf(&ca, |_| {});
        let grace = Duration::from_mins(10);
        for (minutes, accepted) in [(-2, false), (0, true), (60, true), (61, true), (70, true), (71, false)] {
            assert_eq!(accepts(&ca, &leaf, grace, time::Duration::minutes(minutes)), accepted, "{minutes}");
        }
        assert!(!accepts(&ca, &leaf, Duration::ZERO, time::Duration::minutes(61)));
    }

    #[test]
    fn whatever_else_is_wrong_is_not_forgiven() {
        let (ca, other) = (TestCa::new(), TestCa::new());
        let (grace, after) = (Duration::from_hours(24), time::Duration::hours(2));
        assert!(accepts(&ca, &leaf(&ca, |_| {}), grace, after));
        assert!(!accepts(&ca, &leaf(&other, |_| {}), grace, after));
        let server_only = leaf(&ca, |params| {
            params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        });
        assert!(!accepts(&ca, &server_only, grace, after));
    }
}
