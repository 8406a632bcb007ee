//! Owns the work that is prepared ahead of the clock: keys, CSRs, credentials, and the requests made of them.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use crank_agent::ca::Tokens;
use crank_agent::identity::csr::generate_csr;
use crank_agent::identity::{KeyType, PrivateKey, RequestedIdentity, TrustDomain, WorkerId};
use hyper::body::Bytes;
use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;

use crate::Result;
use crate::load::{Lane, Prepared};

/// A worker with a key and a CSR of its own.
pub(crate) struct Worker {
    identity: RequestedIdentity,
    key: PrivateKey,
    csr: String,
}

/// `count` workers whose ids begin with `prefix`, each with the names that an agent asks for.
pub(crate) fn workers(prefix: &str, count: usize) -> Result<Vec<Worker>> {
    let domain = TrustDomain::new(crank_agent::ca::DEFAULT_TRUST_DOMAIN)?;
    let worker = |number: usize| {
        let identity = RequestedIdentity::new(WorkerId::new(&format!("{prefix}-{number}"))?, &domain, []);
        let (key, csr) = key_and_csr(&identity)?;
        Ok(Worker { identity, key, csr })
    };
    (0..count).map(worker).collect()
}

/// Requests of crank-ca's, each with a join token of its own.
pub(crate) async fn enrolments(tokens: &Tokens, workers: &[Worker]) -> Result<Vec<Prepared>> {
    let mut prepared = Vec::with_capacity(workers.len());
    for worker in workers {
        let id = worker.identity.worker_id.clone();
        let token = tokens.create(id, Duration::from_hours(1), []).await?;
        prepared.push(request(worker, &worker.csr, Some(token.secret.expose())));
    }
    Ok(prepared)
}

/// Requests of step-ca's, each with a one-time token of its own, signed by the provisioner.
pub(crate) fn step_enrolments(provisioner: &Provisioner, workers: &[Worker]) -> Result<Vec<Prepared>> {
    let prepare = |worker: &Worker| {
        let body = json!({ "csr": worker.csr, "ott": provisioner.token(&worker.identity)? });
        Ok(Prepared { path: "/1.0/sign", bearer: None, body: Bytes::from(body.to_string()) })
    };
    workers.iter().map(prepare).collect()
}

/// For each worker a lane of `count` renewals with its certificate, each for a new key. `chains` are as answered by
/// crank-ca.
pub(crate) fn renewals(root_pem: &str, workers: &[Worker], chains: &[String], count: usize) -> Result<Vec<Lane>> {
    let lane = |(worker, chain): (&Worker, &String)| {
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>()?;
        let tls = builder(root_pem)?.with_client_auth_cert(chain, worker.key.to_rustls())?;
        let requests = (0..count)
            .map(|_| Ok(request(worker, &key_and_csr(&worker.identity)?.1, None)))
            .collect::<Result<Vec<_>>>()?;
        Ok(Lane { tls: without_resumption(tls), requests })
    };
    workers.iter().zip(chains).map(lane).collect()
}

/// The requests dealt out to `count` lanes.
pub(crate) fn deal(tls: &Arc<ClientConfig>, requests: Vec<Prepared>, count: usize) -> Vec<Lane> {
    let mut lanes: Vec<Lane> = (0..count).map(|_| Lane { tls: Arc::clone(tls), requests: Vec::new() }).collect();
    for (number, request) in requests.into_iter().enumerate() {
        lanes[number % count].requests.push(request);
    }
    lanes
}

/// A client that trusts this root and shows no certificate.
pub(crate) fn anonymous(root_pem: &str) -> Result<Arc<ClientConfig>> {
    Ok(without_resumption(builder(root_pem)?.with_no_client_auth()))
}

/// The key that signs step-ca's one-time tokens.
pub(crate) struct Provisioner(EcdsaKeyPair);

impl Provisioner {
    pub(crate) const NAME: &'static str = "bench";

    pub(crate) fn generate() -> Result<Self> {
        Ok(Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?))
    }

    /// The public key as a JWK (RFC 7517).
    pub(crate) fn jwk(&self) -> serde_json::Value {
        let point = self.0.public_key().as_ref();
        let half = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(&point[range]);
        json!({
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": Self::NAME, "x": half(1..33), "y": half(33..65),
        })
    }

    fn token(&self, identity: &RequestedIdentity) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let mut id = [0; 16];
        aws_lc_rs::rand::fill(&mut id)?;
        // As `DNS:streaming`.
        let names: Vec<String> = identity.names.iter().map(ToString::to_string).collect();
        let names: Vec<&str> = names.iter().filter_map(|name| Some(name.split_once(':')?.1)).collect();
        let claims = json!({
            "iss": Self::NAME, "aud": "https://localhost/1.0/sign", "sub": identity.worker_id.as_str(), "sans": names,
            "jti": URL_SAFE_NO_PAD.encode(id), "iat": now, "nbf": now, "exp": now + 3600,
        });
        let header = json!({ "alg": "ES256", "kid": Self::NAME, "typ": "JWT" });
        let encode = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let signature = self.0.sign(&SystemRandom::new(), signed.as_bytes())?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

fn request(worker: &Worker, csr: &str, token: Option<&str>) -> Prepared {
    let body = json!({ "csr": csr, "service_name": worker.identity.worker_id.as_str() });
    Prepared { path: "/certificates/csr", bearer: token.map(str::to_owned), body: Bytes::from(body.to_string()) }
}

fn key_and_csr(identity: &RequestedIdentity) -> Result<(PrivateKey, String)> {
    let key = PrivateKey::generate(KeyType::EcdsaP256)?;
    let csr = generate_csr(identity, &key, KeyType::EcdsaP256)?;
    Ok((key, csr))
}

type WantsIdentity = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn builder(root_pem: &str) -> Result<WantsIdentity> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(root_pem.as_bytes())?)?;
    Ok(ClientConfig::builder_with_provider(crank_agent::crypto::crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots))
}

/// As the agent: a resumed session would outlive a renewed identity.
fn without_resumption(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.resumption = Resumption::disabled();
    Arc::new(config)
}
