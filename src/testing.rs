//! Owns what unit tests share: a small CA, and the configuration of a worker in a temporary directory.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams,
    DnType, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason, RevokedCertParams, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::{
    CaConfig, CaKind, CaTrust, Config, Environment, FilesConfig, HttpsUrl, LogConfig, LogFormat, RevokedFiles,
};
use crate::identity::{
    CertificateBundle, Crl, KeyType, PrivateKey, RequestedIdentity, TrustDomain, WorkerId, generate_csr,
};
use crate::schedule::Timing;

/// A self-signed root that signs what it is asked to.
pub(crate) struct TestCa {
    root: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl TestCa {
    pub(crate) fn new() -> Self {
        Self::named("Test CA")
    }

    pub(crate) fn named(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self { root: params.self_signed(&key).unwrap(), issuer: Issuer::new(params, key) }
    }

    pub(crate) fn roots(&self) -> Vec<CertificateDer<'static>> {
        vec![self.root.der().clone()]
    }

    /// A CRL with the leaves of `revoked`, since its beginning and because of their keys.
    pub(crate) fn crl(&self, number: u64, validity: Range<OffsetDateTime>, revoked: &[&CertificateBundle]) -> Crl {
        let revoked = revoked.iter().map(|bundle| RevokedCertParams {
            serial_number: serial_of(bundle),
            revocation_time: validity.start,
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: validity.start,
            next_update: validity.end,
            crl_number: number.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Crl::from_der(params.signed_by(&self.issuer).unwrap().der().clone()).unwrap()
    }

    /// Signs `csr` as it is, valid from a minute before `now`, with `change` made.
    pub(crate) fn sign(
        &self,
        csr: &str,
        now: OffsetDateTime,
        lifetime: Duration,
        change: impl FnOnce(&mut CertificateParams),
    ) -> CertificateDer<'static> {
        let mut request = CertificateSigningRequestParams::from_pem(csr).unwrap();
        request.params.not_before = now - Duration::from_mins(1);
        request.params.not_after = now + lifetime;
        change(&mut request.params);
        request.signed_by(&self.issuer).unwrap().der().clone()
    }

    /// A bundle for `identity`, valid from a minute before `now`.
    pub(crate) fn bundle(
        &self,
        identity: &RequestedIdentity,
        now: OffsetDateTime,
        lifetime: Duration,
    ) -> CertificateBundle {
        let key = PrivateKey::generate(KeyType::EcdsaP256).unwrap();
        let csr = generate_csr(identity, &key, KeyType::EcdsaP256).unwrap();
        let leaf = self.sign(&csr, now, lifetime, |_| {});
        CertificateBundle::new(vec![leaf], key, self.roots()).unwrap()
    }
}

fn serial_of(bundle: &CertificateBundle) -> SerialNumber {
    let (_, leaf) = X509Certificate::from_der(&bundle.chain()[0]).unwrap();
    SerialNumber::from_slice(leaf.tbs_certificate.raw_serial())
}

/// The identity of the worker `name`.
pub(crate) fn identity(name: &str) -> RequestedIdentity {
    let domain = TrustDomain::new("crank.local").unwrap();
    RequestedIdentity::new(WorkerId::new(name).unwrap(), &domain, [])
}

/// The configuration of the worker `streaming` below `directory`; its CA is nowhere.
pub(crate) fn config(directory: &Path) -> Config {
    let files = directory.join("certs");
    Config {
        identity: identity("streaming"),
        environment: Environment::Development,
        key_type: KeyType::EcdsaP256,
        ca: CaConfig {
            kind: CaKind::Crank,
            url: HttpsUrl::new("https://localhost:1").unwrap(),
            trust: CaTrust::RootFile(directory.join("root.crt")),
            issued_roots_file: None,
            follow_roots: true,
            token_file: None,
            timeout: Duration::from_secs(5),
            startup_wait: Duration::from_mins(1),
            push: false,
            crl_limit: Some(1024 * 1024),
        },
        control_socket: files.join(".crank-agent.sock"),
        workload_api: None,
        files: FilesConfig {
            directory: files,
            owner: None,
            group: None,
            key_mode: 0o600,
            keep_generations: Duration::from_mins(1),
            further: Vec::new(),
        },
        federation: Vec::new(),
        timing: Timing::default(),
        revoked_files: RevokedFiles::Keep,
        allowed_skew: Duration::from_mins(1),
        server: None,
        deliveries: Vec::new(),
        certificates: Vec::new(),
        log: LogConfig { format: LogFormat::Json, filter: "info".to_owned() },
    }
}
