//! Owns the messages of the SPIFFE Workload API (standards/workloadapi.proto of SPIFFE), made of a certificate.

use std::collections::BTreeMap;

use rustls::pki_types::CertificateDer;
use zeroize::Zeroize;

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

impl X509SvidResponse {
    /// Key, chain, roots and CRLs of `bundle`, which is for `spiffe_id`.
    pub(crate) fn of(bundle: &CertificateBundle, spiffe_id: &str, hint: &str) -> Result<Self, KeyError> {
        let svid = X509Svid {
            spiffe_id: spiffe_id.to_owned(),
            chain: concatenated(bundle.chain()),
            // Moved, not copied: what is left behind is empty.
            key: std::mem::take(&mut *bundle.key().to_pkcs8_der()?),
            bundle: concatenated(bundle.roots()),
            hint: hint.to_owned(),
        };
        Ok(Self { svids: vec![svid], crl: crls(bundle), federated_bundles: federated(bundle).collect() })
    }
}

impl X509BundlesResponse {
    /// Roots and CRLs of `bundle`, the roots under the ids of their trust domains.
    pub(crate) fn of(bundle: &CertificateBundle, trust_domain_id: &str) -> Self {
        let own = (trust_domain_id.to_owned(), concatenated(bundle.roots()));
        Self { crl: crls(bundle), bundles: federated(bundle).chain([own]).collect() }
    }
}

/// Whether the CRLs of `bundle` are among what is sent.
pub(crate) fn crls_fit(bundle: &CertificateBundle) -> bool {
    bundle.crls().iter().map(|crl| crl.der().len()).sum::<usize>() <= CRLS_SIZE_LIMIT
}

/// The roots of other trust domains, by the ids of these.
fn federated(bundle: &CertificateBundle) -> impl Iterator<Item = (String, Vec<u8>)> {
    bundle.federated().iter().map(|(domain, roots)| (format!("spiffe://{domain}"), concatenated(roots)))
}

fn crls(bundle: &CertificateBundle) -> Vec<Vec<u8>> {
    if !crls_fit(bundle) {
        return Vec::new();
    }
    bundle.crls().iter().map(|crl| crl.der().to_vec()).collect()
}

fn concatenated(certificates: &[CertificateDer<'_>]) -> Vec<u8> {
    certificates.iter().flat_map(|certificate| certificate.iter().copied()).collect()
}

/// The most bytes of CRLs in one message. Clients take messages of up to 4 MiB, and a larger one would cost them their
/// certificate.
const CRLS_SIZE_LIMIT: usize = 2 * 1024 * 1024;
