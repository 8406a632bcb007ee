//! Owns the messages of the SPIFFE Workload API (standards/workloadapi.proto of SPIFFE), made of a certificate.

use std::collections::{BTreeMap, BTreeSet};

use rustls::pki_types::CertificateDer;
use zeroize::Zeroize;

use super::state::{Identity, Trust, trust};
use crate::identity::{CertificateBundle, KeyError};

/// `X509SVIDRequest` and `X509BundlesRequest`: they have no fields.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct NoParameters {}

/// `X509SVIDResponse`.
#[derive(prost::Message)]
#[prost(skip_debug)]
pub(crate) struct X509SvidResponse {
    #[prost(message, repeated, tag = "1")]
    pub(crate) svids: Vec<X509Svid>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub(crate) crl: Vec<Vec<u8>>,
    #[prost(btree_map = "string, bytes", tag = "3")]
    pub(crate) federated_bundles: BTreeMap<String, Vec<u8>>,
}

/// `X509SVID`, whose `x509_svid` is called `chain` here. Wiped on drop.
#[derive(prost::Message)]
#[prost(skip_debug)]
pub(crate) struct X509Svid {
    #[prost(string, tag = "1")]
    pub(crate) spiffe_id: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) chain: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) bundle: Vec<u8>,
    #[prost(string, tag = "5")]
    pub(crate) hint: String,
}

impl Drop for X509Svid {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// `X509BundlesResponse`.
#[derive(PartialEq, prost::Message)]
pub(crate) struct X509BundlesResponse {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub(crate) crl: Vec<Vec<u8>>,
    #[prost(btree_map = "string, bytes", tag = "2")]
    pub(crate) bundles: BTreeMap<String, Vec<u8>>,
}

impl X509Svid {
    /// Key, chain and roots of `bundle`, which is for `spiffe_id`.
    pub(crate) fn of(bundle: &CertificateBundle, spiffe_id: &str, hint: &str) -> Result<Self, KeyError> {
        Ok(Self {
            spiffe_id: spiffe_id.to_owned(),
            chain: concatenated(bundle.chain()),
            // Moved, not copied: what is left behind is empty.
            key: std::mem::take(&mut *bundle.key().to_pkcs8_der()?),
            bundle: concatenated(bundle.roots()),
            hint: hint.to_owned(),
        })
    }
}

impl X509SvidResponse {
    /// Of several identities, in their order.
    pub(super) fn of(identities: &[&Identity]) -> Result<Self, KeyError> {
        let svid = |identity: &&Identity| X509Svid::of(&identity.bundle, identity.spiffe_id.as_str(), &identity.hint);
        let mut federated = by_id(&trust(identities));
        for identity in identities {
            federated.remove(&identity.trust_domain_id());
        }
        let svids = identities.iter().map(svid).collect::<Result<_, _>>()?;
        Ok(Self { svids, crl: crls(identities), federated_bundles: federated })
    }
}

impl X509BundlesResponse {
    /// Roots and CRLs, the roots under the ids of their trust domains.
    pub(super) fn of(identities: &[&Identity]) -> Self {
        Self { crl: crls(identities), bundles: by_id(&trust(identities)) }
    }
}

/// Whether the CRLs of `bundle` are among what is sent.
pub(crate) fn crls_fit(bundle: &CertificateBundle) -> bool {
    bundle.crls().iter().map(|crl| crl.der().len()).sum::<usize>() <= CRLS_SIZE_LIMIT
}

/// Roots by the ids of their trust domains.
fn by_id(trust: &Trust<'_>) -> BTreeMap<String, Vec<u8>> {
    trust.iter().map(|(domain, roots)| (format!("spiffe://{domain}"), concatenated(roots))).collect()
}

/// The CRLs of all, each once.
fn crls(identities: &[&Identity]) -> Vec<Vec<u8>> {
    let fitting = identities.iter().filter(|identity| crls_fit(&identity.bundle));
    let all: BTreeSet<&[u8]> = fitting.flat_map(|identity| identity.bundle.crls()).map(|crl| &**crl.der()).collect();
    let all: Vec<Vec<u8>> = all.into_iter().map(<[u8]>::to_vec).collect();
    if all.iter().map(Vec::len).sum::<usize>() <= CRLS_SIZE_LIMIT { all } else { Vec::new() }
}

fn concatenated(certificates: &[CertificateDer<'_>]) -> Vec<u8> {
    certificates.iter().flat_map(|certificate| certificate.iter().copied()).collect()
}

/// The most bytes of CRLs in one message. Clients take messages of up to 4 MiB, and a larger one would cost them their
/// certificate.
const CRLS_SIZE_LIMIT: usize = 2 * 1024 * 1024;
