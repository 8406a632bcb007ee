//! Owns the checks between what a CA returns, or the disk holds, and what is installed.

use std::net::IpAddr;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use time::OffsetDateTime;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::bundle::{BundleError, CertificateBundle};
use super::key::PrivateKey;
use super::names::{NamedBy, RequestedIdentity, SpiffeId};
use crate::crypto::crypto_provider;
use crate::printable::{FOREIGN_TEXT_LIMIT, printable};

/// The checks on a certificate for `identity` at `now`.
#[derive(Debug, Clone, Copy)]
pub struct Checks<'a> {
    /// What was asked for.
    pub identity: &'a RequestedIdentity,
    /// The wall time.
    pub now: OffsetDateTime,
    /// How far in the future `notBefore` may lie.
    pub allowed_skew: Duration,
}

/// Why a certificate is not installed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// It does not parse, is too long, or is for another key.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The chain does not lead to a configured root, or something in it is not valid for TLS.
    #[error("the chain does not verify to the configured roots: {0}")]
    Chain(String),
    /// The names are not exactly those asked for.
    #[error("the names are not those asked for: missing [{missing}], unexpected [{unexpected}]")]
    Names {
        /// Names that were asked for and are not there, comma separated.
        missing: String,
        /// Names that are there and were not asked for, comma separated.
        unexpected: String,
    },
    /// The common name is another worker's.
    #[error("the subject's common name is `{found}`, expected `{expected}`")]
    CommonName {
        /// The worker id.
        expected: String,
        /// What the certificate says.
        found: String,
    },
    /// `notBefore` is further in the future than the allowed skew.
    #[error("not valid before {not_before}, and it is {now} here; compare this machine's clock with the CA's")]
    NotYetValid {
        /// `notBefore`.
        not_before: OffsetDateTime,
        /// Our wall time.
        now: OffsetDateTime,
    },
    /// `notAfter` has passed.
    #[error("expired at {not_after}, and it is {now} here")]
    Expired {
        /// `notAfter`.
        not_after: OffsetDateTime,
        /// Our wall time.
        now: OffsetDateTime,
    },
    /// It is a CA certificate.
    #[error("it is a CA certificate (basicConstraints CA:TRUE); a worker's must not be")]
    IsCa,
    /// Key usage lacks digital signature, or allows signing certificates or CRLs.
    #[error("key usage does not fit: {0}")]
    KeyUsage(&'static str),
    /// Extended key usage is present and lacks server or client authentication.
    #[error("extended key usage does not fit: expected serverAuth and clientAuth, or no such extension")]
    ExtendedKeyUsage,
    /// An extension does not parse.
    #[error("its extensions do not parse: {0}")]
    Extensions(&'static str),
}

impl CheckError {
    /// A fixed label for metrics and events.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Bundle(BundleError::KeyMismatch) => "key_mismatch",
            Self::Bundle(_) => "unreadable_certificate",
            Self::Chain(_) => "untrusted_chain",
            Self::Names { .. } | Self::CommonName { .. } => "wrong_names",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::Expired { .. } => "expired",
            Self::IsCa => "is_ca",
            Self::KeyUsage(_) => "key_usage",
            Self::ExtendedKeyUsage => "extended_key_usage",
            Self::Extensions(_) => "extensions",
        }
    }

    /// Whether the certificate, though not what is asked for now, still is one that the worker can use meanwhile.
    #[must_use]
    pub fn still_usable(&self) -> bool {
        matches!(self, Self::Names { .. })
    }
}

impl Checks<'_> {
    /// Makes a bundle of what a CA returned for `key`, if every check passes: the leaf's public key is ours; the chain
    /// verifies to `roots`; subject and names are exactly those asked for, with one URI (SPIFFE X.509-SVID, section 2);
    /// it is valid now; extended key usage, key usage and basic constraints fit.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn accept(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKey,
        roots: Vec<CertificateDer<'static>>,
    ) -> Result<CertificateBundle, CheckError> {
        let bundle = CertificateBundle::new(chain, key, roots)?;
        self.check(&bundle)?;
        Ok(bundle)
    }

    /// The same checks on a bundle that exists. Names are checked last: see [`CheckError::still_usable`].
    ///
    /// # Errors
    /// The first check that fails.
    pub fn check(&self, bundle: &CertificateBundle) -> Result<(), CheckError> {
        let (_, leaf) = X509Certificate::from_der(&bundle.chain()[0])
            .map_err(|_| CheckError::Extensions("the certificate is not DER"))?;
        check_constraints(&leaf)?;
        check_validity(bundle, self.now, self.allowed_skew)?;
        // Within the skew allowed, the chain is verified as of its first valid second.
        verify_certificate_chain(bundle.chain(), bundle.roots(), self.now.max(bundle.not_before()))?;
        self.check_names(&leaf)
    }

    fn check_names(&self, leaf: &X509Certificate<'_>) -> Result<(), CheckError> {
        if self.identity.named_by == NamedBy::Authority {
            return self.check_registered_names(leaf);
        }
        let worker = self.identity.worker_id.as_str();
        for common_name in leaf.subject().iter_common_name() {
            let found = common_name.as_str().unwrap_or("(not text)");
            if found != worker {
                let found = printable(found, 80);
                return Err(CheckError::CommonName { expected: worker.to_owned(), found });
            }
        }
        let found = names_of(leaf).ok_or(CheckError::Extensions("subjectAltName"))?;
        let asked: Vec<String> = self.identity.names.iter().map(ToString::to_string).collect();
        let missing: Vec<&str> = asked.iter().filter(|name| !found.contains(name)).map(String::as_str).collect();
        let unexpected: Vec<&str> = found.iter().filter(|name| !asked.contains(name)).map(String::as_str).collect();
        if missing.is_empty() && unexpected.is_empty() {
            return Ok(());
        }
        let list = |names: &[&str]| printable(&names.join(", "), FOREIGN_TEXT_LIMIT);
        Err(CheckError::Names { missing: list(&missing), unexpected: list(&unexpected) })
    }

    /// Subject and further names are the authority's to choose.
    fn check_registered_names(&self, leaf: &X509Certificate<'_>) -> Result<(), CheckError> {
        let found = names_of(leaf).ok_or(CheckError::Extensions("subjectAltName"))?;
        let mut missing = self.identity.names.iter().map(ToString::to_string).collect::<Vec<_>>();
        missing.retain(|name| !found.contains(name));
        if spiffe_id_of(leaf).is_none() && missing.is_empty() {
            missing.push("one URI, a SPIFFE id".to_owned());
        }
        if missing.is_empty() {
            return Ok(());
        }
        let list = |names: &[String]| printable(&names.join(", "), FOREIGN_TEXT_LIMIT);
        Err(CheckError::Names { missing: list(&missing), unexpected: list(&found) })
    }
}

/// Verifies a chain, leaf first, to one of `roots` at `now`, for use as TLS server and client (RFC 5280, section 6).
///
/// # Errors
/// When `chain` is empty, a root is no CA certificate, or there is no valid path.
pub fn verify_certificate_chain(
    chain: &[CertificateDer<'_>],
    roots: &[CertificateDer<'_>],
    now: OffsetDateTime,
) -> Result<(), CheckError> {
    [Purpose::Client, Purpose::Server].into_iter().try_for_each(|purpose| verify_for(purpose, chain, roots, now))
}

/// What a certificate is used as in TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Client,
    Server,
}

/// Checks that `bundle` can be used as `purpose` at `now`, whosever it is: it is valid, and its chain reaches its roots.
///
/// # Errors
/// The first check that fails.
pub(crate) fn check_usable(
    bundle: &CertificateBundle,
    purpose: Purpose,
    now: OffsetDateTime,
) -> Result<(), CheckError> {
    check_validity(bundle, now, USUAL_SKEW)?;
    verify_for(purpose, bundle.chain(), bundle.roots(), now.max(bundle.not_before()))
}

fn verify_for(
    purpose: Purpose,
    chain: &[CertificateDer<'_>],
    roots: &[CertificateDer<'_>],
    now: OffsetDateTime,
) -> Result<(), CheckError> {
    let fail = |error: webpki::Error| CheckError::Chain(printable(&error.to_string(), FOREIGN_TEXT_LIMIT));
    let (leaf, intermediates) = chain.split_first().ok_or_else(|| CheckError::Chain("it is empty".to_owned()))?;
    let anchors = trust_anchors(roots)?;
    let leaf = EndEntityCert::try_from(leaf).map_err(fail)?;
    let seconds = u64::try_from(now.unix_timestamp()).unwrap_or(0);
    let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let algorithms = crypto_provider().signature_verification_algorithms.all;
    let usage = match purpose {
        Purpose::Client => KeyUsage::client_auth(),
        Purpose::Server => KeyUsage::server_auth(),
    };
    let verified = leaf.verify_for_usage(algorithms, &anchors, intermediates, time, usage, None, None);
    verified.map(drop).map_err(|error| match error {
        webpki::Error::RequiredEkuNotFoundContext(_) => CheckError::ExtendedKeyUsage,
        other => fail(other),
    })
}

/// When the leaf of `bundle` expires.
#[must_use]
pub fn certificate_expiration(bundle: &CertificateBundle) -> OffsetDateTime {
    bundle.not_after()
}

/// The SANs of `certificate` as `DNS:…`, `IP:…`, `URI:…`, and other kinds as `other:…`; printable, sorted. `None` when
/// the extension does not parse.
pub(crate) fn names_of(certificate: &X509Certificate<'_>) -> Option<Vec<String>> {
    let Some(extension) = certificate.subject_alternative_name().ok()? else { return Some(Vec::new()) };
    let mut names: Vec<String> = extension.value.general_names.iter().map(general_name).collect();
    names.sort();
    Some(names)
}

/// The one URI of `certificate`, if it is a SPIFFE id (X.509-SVID, section 2).
pub(crate) fn spiffe_id_of(certificate: &X509Certificate<'_>) -> Option<SpiffeId> {
    let names = certificate.subject_alternative_name().ok()??;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let (only, further) = (uris.next()?, uris.next());
    if further.is_some() { None } else { SpiffeId::new(only).ok() }
}

/// One general name as text, in the form of [`SubjectAltName`](super::SubjectAltName).
pub(crate) fn general_name(name: &GeneralName<'_>) -> String {
    let text = match name {
        GeneralName::DNSName(name) => format!("DNS:{name}"),
        GeneralName::URI(uri) => format!("URI:{uri}"),
        GeneralName::IPAddress(bytes) => match ip_address(bytes) {
            Some(address) => format!("IP:{address}"),
            None => "other:IP address of a wrong length".to_owned(),
        },
        other => format!("other:{other}"),
    };
    printable(&text, 300)
}

/// webpki takes any certificate as an anchor; a root must be a CA, or pinning a leaf would make it one.
fn trust_anchors<'a>(roots: &'a [CertificateDer<'_>]) -> Result<Vec<TrustAnchor<'a>>, CheckError> {
    roots
        .iter()
        .map(|root| {
            let is_ca = X509Certificate::from_der(root).is_ok_and(|(_, root)| root.is_ca());
            if !is_ca {
                return Err(CheckError::Chain("a configured root is not a CA certificate".to_owned()));
            }
            anchor_from_trusted_cert(root).map_err(|error| CheckError::Chain(error.to_string()))
        })
        .collect()
}

fn check_validity(bundle: &CertificateBundle, now: OffsetDateTime, allowed_skew: Duration) -> Result<(), CheckError> {
    let (not_before, not_after) = (bundle.not_before(), bundle.not_after());
    let skew = time::Duration::try_from(allowed_skew).unwrap_or(time::Duration::MAX);
    if not_before > now.saturating_add(skew) {
        return Err(CheckError::NotYetValid { not_before, now });
    }
    if now >= not_after {
        return Err(CheckError::Expired { not_after, now });
    }
    Ok(())
}

fn check_constraints(leaf: &X509Certificate<'_>) -> Result<(), CheckError> {
    let constraints = leaf.basic_constraints().map_err(|_| CheckError::Extensions("basicConstraints"))?;
    if constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(CheckError::IsCa);
    }
    let usage = leaf.key_usage().map_err(|_| CheckError::Extensions("keyUsage"))?;
    if let Some(usage) = usage {
        if usage.value.key_cert_sign() || usage.value.crl_sign() {
            return Err(CheckError::KeyUsage("it allows signing certificates or CRLs"));
        }
        if !usage.value.digital_signature() {
            return Err(CheckError::KeyUsage("it does not allow digital signature, which TLS needs"));
        }
    }
    let extended = leaf.extended_key_usage().map_err(|_| CheckError::Extensions("extendedKeyUsage"))?;
    if extended.is_some_and(|usage| !(usage.value.server_auth && usage.value.client_auth)) {
        return Err(CheckError::ExtendedKeyUsage);
    }
    Ok(())
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(four));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// The skew allowed where no setting says another.
const USUAL_SKEW: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
    use time::macros::datetime;

    use super::*;
    use crate::identity::{KeyType, generate_csr};
    use crate::testing::{TestCa, identity};

    const NOW: OffsetDateTime = datetime!(2026-01-01 00:00 UTC);
    const HOUR: Duration = Duration::from_hours(1);

    /// What the checks say of a certificate to which `change` was made.
    fn verdict(change: impl FnOnce(&mut CertificateParams)) -> Result<(), CheckError> {
        let (ca, identity) = (TestCa::new(), identity("streaming"));
        let key = PrivateKey::generate(KeyType::EcdsaP256).unwrap();
        let csr = generate_csr(&identity, &key, KeyType::EcdsaP256).unwrap();
        let leaf = ca.sign(&csr, NOW, HOUR, change);
        checks(&identity).accept(vec![leaf], key, ca.roots()).map(drop)
    }

    fn checks(identity: &RequestedIdentity) -> Checks<'_> {
        Checks { identity, now: NOW, allowed_skew: Duration::from_mins(1) }
    }

    #[test]
    fn what_was_asked_for_is_accepted() {
        assert_eq!(verdict(|_| {}), Ok(()));
    }

    #[test]
    fn a_leaf_without_usage_extensions_is_good_for_any_purpose() {
        let bare = |params: &mut CertificateParams| {
            params.key_usages.clear();
            params.extended_key_usages.clear();
        };
        assert_eq!(verdict(bare), Ok(()));
    }

    #[test]
    fn each_deviation_is_found_by_its_kind() {
        type Change = fn(&mut CertificateParams);
        let cases: [(&str, Change); 12] = [
            ("wrong_names", |params| drop(params.subject_alt_names.pop())),
            ("wrong_names", |params| params.subject_alt_names.push(SanType::DnsName("more".try_into().unwrap()))),
            ("wrong_names", |params| params.subject_alt_names.push(SanType::IpAddress([10, 0, 0, 1].into()))),
            ("wrong_names", |params| params.subject_alt_names.clear()),
            ("wrong_names", |params| params.distinguished_name.push(rcgen::DnType::CommonName, "other")),
            ("expired", |params| params.not_after = NOW),
            ("not_yet_valid", |params| params.not_before = NOW + Duration::from_secs(61)),
            ("is_ca", |params| params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained)),
            ("key_usage", |params| params.key_usages.push(KeyUsagePurpose::CrlSign)),
            ("key_usage", |params| params.key_usages = vec![KeyUsagePurpose::KeyAgreement]),
            ("extended_key_usage", |params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            }),
            ("untrusted_chain", |params| {
                // An extension that nobody knows and that must be understood.
                let mut extension = rcgen::CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
                extension.set_criticality(true);
                params.custom_extensions.push(extension);
            }),
        ];
        for (index, (kind, change)) in cases.into_iter().enumerate() {
            let error = verdict(change).unwrap_err();
            assert_eq!(error.kind(), kind, "case {index}: {error}");
        }
    }

    #[test]
    fn the_allowed_skew_is_taken_and_no_more() {
        assert_eq!(verdict(|params| params.not_before = NOW + Duration::from_mins(1)), Ok(()));
    }

    #[test]
    fn only_other_names_leave_a_certificate_usable_meanwhile() {
        let (ca, old, new) = (TestCa::new(), identity("streaming"), {
            let mut new = identity("streaming");
            new.names.insert("further".parse().unwrap());
            new
        });
        let bundle = ca.bundle(&old, NOW, HOUR);
        assert_eq!(checks(&old).check(&bundle), Ok(()));
        assert!(checks(&new).check(&bundle).unwrap_err().still_usable());
        let expired = Checks { now: NOW + HOUR * 2, ..checks(&new) };
        assert!(!expired.check(&bundle).unwrap_err().still_usable());
        let other = identity("other");
        assert!(!checks(&other).check(&bundle).unwrap_err().still_usable());
    }

    #[test]
    fn a_root_that_is_no_ca_verifies_nothing() {
        let (ca, identity) = (TestCa::new(), identity("streaming"));
        let bundle = ca.bundle(&identity, NOW, HOUR);
        let error = verify_certificate_chain(bundle.chain(), bundle.chain(), NOW).unwrap_err();
        assert_eq!(error, CheckError::Chain("a configured root is not a CA certificate".to_owned()));
        assert!(verify_certificate_chain(&[], bundle.roots(), NOW).is_err());
        assert!(verify_certificate_chain(bundle.chain(), TestCa::new().roots().as_slice(), NOW).is_err());
        assert_eq!(certificate_expiration(&bundle), NOW + HOUR);
    }
    #[test]
    fn a_chain_is_complete_or_it_is_none() {
        let ca = TestCa::new();
        let issuing = PrivateKey::generate(KeyType::EcdsaP256).unwrap();
        let csr = generate_csr(&identity("issuing"), &issuing, KeyType::EcdsaP256).unwrap();
        let intermediate = ca.sign(&csr, NOW, HOUR, |params| {
            params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            params.extended_key_usages.clear();
            params.subject_alt_names.clear();
        });
        let pair = rcgen::KeyPair::from_pem(&issuing.to_pem().unwrap()).unwrap();
        let issuer = rcgen::Issuer::from_ca_cert_der(&intermediate, pair).unwrap();
        let key = PrivateKey::generate(KeyType::EcdsaP256).unwrap();
        let csr = generate_csr(&identity("streaming"), &key, KeyType::EcdsaP256).unwrap();
        let mut request = rcgen::CertificateSigningRequestParams::from_pem(&csr).unwrap();
        (request.params.not_before, request.params.not_after) = (NOW, NOW + HOUR / 2);
        let leaf = request.signed_by(&issuer).unwrap().der().clone();

        let whole = [leaf, intermediate];
        let verdict = |chain: &[_], now| verify_certificate_chain(chain, &ca.roots(), now);
        assert_eq!(verdict(&whole, NOW), Ok(()));
        for (case, chain, now) in [
            ("without the intermediate", &whole[..1], NOW),
            ("without the leaf", &whole[1..], NOW),
            ("before it begins", &whole[..], NOW - HOUR),
            ("after its end", &whole[..], NOW + HOUR / 2 + Duration::from_secs(1)),
        ] {
            assert!(verdict(chain, now).is_err(), "{case}");
        }
    }
}
