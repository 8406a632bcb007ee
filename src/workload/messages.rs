//! Owns the messages of the SPIFFE Workload API (standards/workloadapi.proto of SPIFFE), made of a certificate.

use std::collections::BTreeMap;

use rustls::pki_types::CertificateDer;
use zeroize::Zeroize;

use crate::identity::{CertificateBundle, KeyError};

/// `X509SVIDRequest` and `X509BundlesRequest`: they have no fields.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct NoParameters {}

/// `X509SVIDResponse`. Federated bundles, its field 3, are never there.
#[derive(prost::Message)]
#[prost(skip_debug)]
pub(super) struct X509SvidResponse {
    #[prost(message, repeated, tag = "1")]
    pub(super) svids: Vec<X509Svid>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub(super) crl: Vec<Vec<u8>>,
}

/// `X509SVID`, whose `x509_svid` is called `chain` here. Wiped on drop.
#[derive(prost::Message)]
#[prost(skip_debug)]
pub(super) struct X509Svid {
    #[prost(string, tag = "1")]
    pub(super) spiffe_id: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) chain: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) bundle: Vec<u8>,
    #[prost(string, tag = "5")]
    pub(super) hint: String,
}

impl Drop for X509Svid {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// `X509BundlesResponse`.
#[derive(PartialEq, prost::Message)]
pub(super) struct X509BundlesResponse {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub(super) crl: Vec<Vec<u8>>,
    #[prost(btree_map = "string, bytes", tag = "2")]
    pub(super) bundles: BTreeMap<String, Vec<u8>>,
}

impl X509SvidResponse {
    /// Key, chain, roots and CRLs of `bundle`, which is for `spiffe_id`.
    pub(super) fn of(bundle: &CertificateBundle, spiffe_id: &str, hint: &str) -> Result<Self, KeyError> {
        let svid = X509Svid {
            spiffe_id: spiffe_id.to_owned(),
            chain: concatenated(bundle.chain()),
            // Moved, not copied: what is left behind is empty.
            key: std::mem::take(&mut *bundle.key().to_pkcs8_der()?),
            bundle: concatenated(bundle.roots()),
            hint: hint.to_owned(),
        };
        Ok(Self { svids: vec![svid], crl: crls(bundle) })
    }
}

impl X509BundlesResponse {
    /// Roots and CRLs of `bundle`, under the id of its trust domain.
    pub(super) fn of(bundle: &CertificateBundle, trust_domain_id: &str) -> Self {
        Self {
            crl: crls(bundle),
            bundles: BTreeMap::from([(trust_domain_id.to_owned(), concatenated(bundle.roots()))]),
        }
    }
}

/// Whether the CRLs of `bundle` are among what is sent.
pub(super) fn crls_fit(bundle: &CertificateBundle) -> bool {
    bundle.crls().iter().map(|crl| crl.der().len()).sum::<usize>() <= CRLS_SIZE_LIMIT
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
