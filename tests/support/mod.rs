//! Owns what several tests need: an authority of their own, with a root, an intermediate and whatever leaf is asked for.

#![allow(dead_code, reason = "each test program uses its own part of it")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper that fails is a failed test")]

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crank_agent::identity::{CertificateBundle, PrivateKey};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;

/// A certificate authority: self-signed root, one intermediate.
#[derive(Debug)]
pub(crate) struct TestCa {
    root: CertificateDer<'static>,
    root_pem: String,
    intermediate: CertifiedIssuer<'static, KeyPair>,
}

impl TestCa {
    /// A new authority; `name` is in its distinguished names.
    pub(crate) fn new(name: &str) -> Self {
        let root = CertifiedIssuer::self_signed(ca_params(&format!("{name} root")), key()).unwrap();
        let intermediate = CertifiedIssuer::signed_by(ca_params(&format!("{name} issuing")), key(), &root).unwrap();
        Self { root: root.der().clone(), root_pem: root.pem(), intermediate }
    }

    /// The root as DER.
    pub(crate) fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// The root as PEM.
    pub(crate) fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// A bundle for `names` (URIs, addresses, else DNS names), good as server and client, with leaf and intermediate.
    pub(crate) fn issue(&self, names: &[&str], validity: Range<OffsetDateTime>) -> CertificateBundle {
        self.issue_with(names, validity, |_| {})
    }

    /// As [`issue`](Self::issue), with `change` applied to the leaf before it is signed.
    pub(crate) fn issue_with(
        &self,
        names: &[&str],
        validity: Range<OffsetDateTime>,
        change: impl FnOnce(&mut CertificateParams),
    ) -> CertificateBundle {
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(names.first().unwrap_or(&"nobody"));
        params.subject_alt_names = names.iter().map(|name| san(name)).collect();
        params.not_before = validity.start;
        params.not_after = validity.end;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = key();
        let leaf = params.signed_by(&key, &self.intermediate).unwrap();
        let key = PrivateKey::from_pem(key.serialize_pem().as_bytes()).unwrap();
        let chain = vec![leaf.der().clone(), self.intermediate.der().clone()];
        CertificateBundle::new(chain, key, vec![self.root.clone()]).unwrap()
    }
}

/// From an hour ago to in an hour.
pub(crate) fn valid_now() -> Range<OffsetDateTime> {
    let now = OffsetDateTime::now_utc();
    now - time::Duration::HOUR..now + time::Duration::HOUR
}

/// From two hours ago to an hour ago.
pub(crate) fn expired() -> Range<OffsetDateTime> {
    let now = OffsetDateTime::now_utc();
    now - 2 * time::Duration::HOUR..now - time::Duration::HOUR
}

/// TLS settings of a client that trusts `ca` and shows `identity`, if any.
pub(crate) fn client_config(ca: &TestCa, identity: Option<&CertificateBundle>) -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.root().clone()).unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    match identity {
        Some(bundle) => {
            builder.with_client_auth_cert(bundle.chain().to_vec(), bundle.key().to_rustls()).expect("client identity")
        }
        None => builder.with_no_client_auth(),
    }
}

/// Waits until `condition` holds; fails with `what` after `deadline`.
pub(crate) async fn eventually(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + deadline;
    while !condition() {
        assert!(tokio::time::Instant::now() < end, "not within {deadline:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn distinguished_name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn san(name: &str) -> SanType {
    if name.contains("://") {
        return SanType::URI(name.try_into().unwrap());
    }
    match name.parse::<IpAddr>() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName(name.try_into().unwrap()),
    }
}

fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}
