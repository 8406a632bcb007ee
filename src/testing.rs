//! Owns what unit tests share: a small CA, and the configuration of a worker in a temporary directory.

use std::path::Path;
use std::time::Duration;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;

use crate::config::{CaConfig, CaTrust, Config, Environment, FilesConfig, HttpsUrl, LogConfig, LogFormat};
use crate::identity::{CertificateBundle, KeyType, PrivateKey, RequestedIdentity, TrustDomain, WorkerId, generate_csr};
use crate::schedule::Timing;

/// A self-signed root that signs what it is asked to.
pub(crate) struct TestCa {
    root: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl TestCa {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Test CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self { root: params.self_signed(&key).unwrap(), issuer: Issuer::new(params, key) }
    }

    pub(crate) fn roots(&self) -> Vec<CertificateDer<'static>> {
        vec![self.root.der().clone()]
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
            url: HttpsUrl::new("https://localhost:1").unwrap(),
            trust: CaTrust::RootFile(directory.join("root.crt")),
            issued_roots_file: None,
            follow_roots: true,
            token_file: None,
            timeout: Duration::from_secs(5),
            startup_wait: Duration::from_mins(1),
        },
        control_socket: files.join(".crank-agent.sock"),
        files: FilesConfig {
            directory: files,
            owner: None,
            group: None,
            key_mode: 0o600,
            keep_generations: Duration::from_mins(1),
        },
        timing: Timing::default(),
        allowed_skew: Duration::from_mins(1),
        server: None,
        log: LogConfig { format: LogFormat::Json, filter: "info".to_owned() },
    }
}
