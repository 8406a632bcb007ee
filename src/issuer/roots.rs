//! Owns which roots count: those configured, and those that the CA has handed out over a verified connection.

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::crypto::sha256;
use crate::printable::hex;

/// SHA-256 of a root's DER, as 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RootDigest(String);

impl RootDigest {
    /// The digest of `root`.
    #[must_use]
    pub fn of(root: &CertificateDer<'_>) -> Self {
        Self(hex(&sha256(root)))
    }
}

/// The roots in `ca.crt`, and which of them the CA has handed out. What is in `ca.crt` for another reason, such as that
/// the tools before this one put it there, proves nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownRoots {
    /// All of `ca.crt`, in order.
    pub published: Vec<CertificateDer<'static>>,
    /// The digests of those that the CA has handed out over a verified connection, configured or not.
    pub followed: Vec<RootDigest>,
}

impl KnownRoots {
    /// The published roots that the CA has handed out.
    pub fn followed_roots(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.published.iter().filter(|root| self.followed.contains(&RootDigest::of(root)))
    }
}

/// `first` and then those of `further` that are not among them.
#[must_use]
pub fn union<'a>(
    mut first: Vec<CertificateDer<'static>>,
    further: impl IntoIterator<Item = &'a CertificateDer<'static>>,
) -> Vec<CertificateDer<'static>> {
    for root in further {
        if !first.contains(root) {
            first.push(root.clone());
        }
    }
    first
}

/// Of what a CA hands out, what can be a root: self-signed CA certificates. The first [`FOLLOWED_LIMIT`] of them.
#[must_use]
pub fn self_signed(certificates: Vec<CertificateDer<'static>>) -> Vec<CertificateDer<'static>> {
    certificates.into_iter().filter(is_root).take(FOLLOWED_LIMIT).collect()
}

fn is_root(certificate: &CertificateDer<'static>) -> bool {
    let Ok(([], parsed)) = X509Certificate::from_der(certificate) else { return false };
    let may_sign = parsed.key_usage().is_ok_and(|usage| usage.is_none_or(|usage| usage.value.key_cert_sign()));
    let own_issuer = parsed.subject().as_raw() == parsed.issuer().as_raw();
    parsed.is_ca() && may_sign && own_issuer && parsed.verify_signature(None).is_ok()
}

/// More roots at a time than any change of roots needs.
pub const FOLLOWED_LIMIT: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestCa, identity};

    #[test]
    fn only_self_signed_ca_certificates_are_roots() {
        let (ca, other) = (TestCa::new(), TestCa::new());
        let now = time::OffsetDateTime::now_utc();
        let bundle = ca.bundle(&identity("streaming"), now, std::time::Duration::from_hours(1));
        let mut broken = ca.roots()[0].to_vec();
        *broken.last_mut().unwrap() ^= 1;
        let handed_out = vec![bundle.chain()[0].clone(), other.roots()[0].clone(), broken.into(), vec![0x30, 0].into()];
        assert_eq!(self_signed(handed_out), other.roots());
        assert_eq!(self_signed(vec![ca.roots()[0].clone(); 100]).len(), FOLLOWED_LIMIT);
    }

    #[test]
    fn what_nobody_handed_out_is_published_and_not_followed() {
        let (ca, other) = (TestCa::new().roots(), TestCa::new().roots());
        let followed = vec![RootDigest::of(&other[0])];
        let known = KnownRoots { published: [ca.clone(), other.clone()].concat(), followed };
        assert_eq!(known.followed_roots().cloned().collect::<Vec<_>>(), other);
        assert_eq!(union(other.clone(), &known.published), [other, ca].concat());
    }
}
