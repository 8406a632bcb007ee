//! Owns the questions to an OPA over its REST data API: over verified TLS, or through a Unix socket of this machine.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::{Client, Response, StatusCode, Url};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

use super::engine::{Answer, Asked, Engine};
use super::input::Input;
use super::{PolicyError, PolicyStatus};
use crate::bounded::{ReadError, read_file};
use crate::clock::Clock;
use crate::config::HttpsUrl;
use crate::crypto::{crypto_provider, sha256};
use crate::https;
use crate::identity::CertificateBundle;
use crate::identity::bundle::{BundleError, ROOTS_LIMIT, certificates_from_pem};
use crate::printable::{FOREIGN_TEXT_LIMIT, error_chain, printable};
use crate::tls::{ServerTrust, TlsError, client_config};
use crate::wire::{TRACE_HEADER, sound_decision_id};

/// Where an OPA answers. There is no kind for plain HTTP over a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpaAddress {
    /// HTTPS, verified to roots of its own.
    Https {
        /// The URL, to which `/v1/data/crank/…` is added.
        url: HttpsUrl,
        /// The roots that its certificate must reach (PEM). Read again when it changes.
        root_file: PathBuf,
        /// What this CA shows for itself, where OPA asks for it.
        identity: Option<OpaIdentity>,
    },
    /// A Unix socket: who may reach it is a matter of file modes.
    Socket(PathBuf),
}

/// A client certificate and its key (PEM). Read again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpaIdentity {
    /// Leaf and intermediates.
    pub certificate_file: PathBuf,
    /// The private key.
    pub key_file: PathBuf,
}

/// Credentials for OPA that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpaError {
    /// A file of them.
    #[error(transparent)]
    File(#[from] ReadError),
    /// What is in a file.
    #[error("the certificates for OPA are not usable")]
    Certificates(#[from] BundleError),
    /// What TLS makes of them.
    #[error("cannot set up TLS for OPA")]
    Tls(#[from] TlsError),
    /// The HTTP client.
    #[error("cannot set up the HTTP client for OPA")]
    Client(#[source] reqwest::Error),
    /// No thread to read on.
    #[error("cannot read the certificates for OPA: the thread for it ended")]
    Thread,
}

/// An OPA, asked anew for every decision.
pub(crate) struct OpaEngine {
    address: Arc<OpaAddress>,
    clock: Arc<dyn Clock>,
    timeout: Duration,
    /// The client, with the digest of the files that it was made with.
    client: Mutex<([u8; 32], Client)>,
    /// Why the last question had no answer.
    problem: Mutex<Option<String>>,
}

impl OpaEngine {
    /// Reads the credentials; OPA itself need not be there yet. Blocks on the file system.
    pub(crate) fn new(address: OpaAddress, timeout: Duration, clock: Arc<dyn Clock>) -> Result<Self, OpaError> {
        let material = Material::read(&address)?;
        let client = material.client(&address, timeout, Arc::clone(&clock))?;
        let client = Mutex::new((material.digest, client));
        Ok(Self { address: Arc::new(address), clock, timeout, client, problem: Mutex::new(None) })
    }

    async fn answer(&self, input: &Input) -> Result<Answer, PolicyError> {
        let client = self.client().await.map_err(|error| PolicyError::new(&error_chain(&error)))?;
        let url = self.url(input.hook.name());
        let mut request = client.post(url).json(&Question { input });
        if let Some(trace) = input.request.as_ref().and_then(|request| request.trace) {
            request = request.header(TRACE_HEADER, trace.next_step().to_string());
        }
        let response = request.send().await.map_err(|error| transport(&error))?;
        let status = response.status();
        let body = body(response).await?;
        if status != StatusCode::OK {
            let reason = serde_json::from_slice::<Complaint>(&body).unwrap_or_default().text();
            return Err(PolicyError::new(&format!("OPA answered {status}{reason}")));
        }
        let reply: DataReply = serde_json::from_slice(&body)
            .map_err(|error| PolicyError::new(&format!("OPA's answer is not the JSON expected: {error}")))?;
        let id = reply.decision_id.as_deref().and_then(sound_decision_id);
        let basis = id.map_or_else(|| "opa".to_owned(), |id| format!("opa {id}"));
        Ok(Answer { value: reply.result, basis })
    }

    /// A client for the credentials as they are on disk now.
    async fn client(&self) -> Result<Client, OpaError> {
        let address = Arc::clone(&self.address);
        let read = tokio::task::spawn_blocking(move || Material::read(&address)).await.map_err(|_| OpaError::Thread)?;
        let known = || self.client.lock().unwrap_or_else(PoisonError::into_inner);
        let next = read.and_then(|material| {
            let (digest, client) = known().clone();
            if digest == material.digest {
                return Ok(client);
            }
            let client = material.client(&self.address, self.timeout, Arc::clone(&self.clock))?;
            *known() = (material.digest, client.clone());
            Ok(client)
        });
        next.or_else(|error| {
            // Half written, perhaps. What was good goes on.
            tracing::warn!(error = %error_chain(&error), "the certificates for OPA cannot be used, going on as before");
            Ok(known().1.clone())
        })
    }

    fn url(&self, hook: &str) -> Url {
        let path = format!("/v1/data/crank/{hook}");
        let mut url = match &*self.address {
            OpaAddress::Https { url, .. } => url.join(&path),
            OpaAddress::Socket(_) => {
                let mut url = SOCKET_URL.parse::<Url>().expect("the constant is a URL");
                url.set_path(&path);
                url
            }
        };
        // An error in a function is an error of the policy, as it is with the rules in this process.
        url.set_query(Some("strict-builtin-errors=true"));
        url
    }
}

impl Engine for OpaEngine {
    fn ask(&self, input: Input) -> Asked<'_> {
        Box::pin(async move {
            let answer = self.answer(&input).await;
            let problem = answer.as_ref().err().map(|error| error.reason.clone());
            *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
            answer
        })
    }

    fn status(&self) -> PolicyStatus {
        let problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone();
        PolicyStatus { engine: "opa", revision: None, problem }
    }
}

type Content = Zeroizing<Vec<u8>>;

/// The files that a client is made with, read at one moment.
struct Material {
    roots: Content,
    /// Certificate and key.
    identity: Option<(Content, Content)>,
    digest: [u8; 32],
}

impl Material {
    fn read(address: &OpaAddress) -> Result<Self, OpaError> {
        let read = |path: &Path| read_file(path, FILE_LIMIT);
        let (roots, identity) = match address {
            OpaAddress::Https { root_file, identity, .. } => {
                let identity = match identity {
                    Some(OpaIdentity { certificate_file, key_file }) => {
                        Some((read(certificate_file)?, read(key_file)?))
                    }
                    None => None,
                };
                (read(root_file)?, identity)
            }
            OpaAddress::Socket(_) => (Content::default(), None),
        };
        let parts = [Some(&roots), identity.as_ref().map(|(one, _)| one), identity.as_ref().map(|(_, two)| two)];
        let digests: Vec<u8> = parts.into_iter().flatten().flat_map(|part| sha256(part)).collect();
        Ok(Self { roots, identity, digest: sha256(&digests) })
    }

    fn client(&self, address: &OpaAddress, timeout: Duration, clock: Arc<dyn Clock>) -> Result<Client, OpaError> {
        let builder = match address {
            OpaAddress::Socket(path) => https::socket_builder(trusts_nobody()?, https::CA, path),
            OpaAddress::Https { url, .. } => {
                let roots = certificates_from_pem("roots for OPA", &self.roots, ROOTS_LIMIT)?;
                let identity = match &self.identity {
                    Some((chain, key)) => Some(CertificateBundle::from_pem(chain, key, &self.roots)?),
                    None => None,
                };
                let tls = client_config(&trust(url, roots), identity.as_ref(), clock)?;
                https::client_builder(tls, https::CA)
            }
        };
        let builder = builder.connect_timeout(timeout).timeout(timeout);
        let builder = builder.pool_idle_timeout(IDLE).pool_max_idle_per_host(IDLE_CONNECTIONS);
        builder.build().map_err(OpaError::Client)
    }
}

/// Every worker of the mesh has a certificate for `localhost`: one of them must not pass for OPA with it.
fn trust(url: &HttpsUrl, roots: Vec<rustls::pki_types::CertificateDer<'static>>) -> ServerTrust {
    let url = url.join("/");
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    let local = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
    if local { ServerTrust::AuthorityRoots(roots) } else { ServerTrust::Peers { roots, crls: Vec::new() } }
}

/// What the client of a socket is made with, which has no use for TLS.
fn trusts_nobody() -> Result<rustls::ClientConfig, TlsError> {
    let builder = rustls::ClientConfig::builder_with_provider(crypto_provider()).with_safe_default_protocol_versions();
    let nobody = rustls::RootCertStore::empty();
    Ok(builder.map_err(TlsError::Protocol)?.with_root_certificates(nobody).with_no_client_auth())
}

/// Reads the body up to the limit, whatever the headers promise.
async fn body(mut response: Response) -> Result<Vec<u8>, PolicyError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| transport(&error))? {
        if body.len() + chunk.len() > REPLY_LIMIT {
            return Err(PolicyError::new(&format!("OPA sent more than {REPLY_LIMIT} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn transport(error: &reqwest::Error) -> PolicyError {
    PolicyError::new(&format!("OPA gave no answer: {}", error_chain(error)))
}

#[derive(Serialize)]
struct Question<'a> {
    input: &'a Input,
}

/// OPA's answer. Fields that we do not know are ignored; without `result` no rule answers.
#[derive(Deserialize)]
struct DataReply {
    result: Option<Value>,
    decision_id: Option<String>,
}

/// OPA's errors.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Complaint {
    message: String,
    errors: Vec<ComplaintError>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ComplaintError {
    message: String,
}

impl Complaint {
    fn text(&self) -> String {
        let first = self.errors.first().map(|error| error.message.as_str()).unwrap_or_default();
        let parts = [self.message.as_str(), first].into_iter().filter(|part| !part.is_empty());
        parts.fold(String::new(), |text, part| format!("{text}: {}", printable(part, FOREIGN_TEXT_LIMIT / 3)))
    }
}

/// Only its path counts: the connection goes to the socket.
const SOCKET_URL: &str = "http://localhost/";

/// The largest answer in bytes.
const REPLY_LIMIT: usize = 64 * 1024;

/// The largest file of certificates in bytes.
const FILE_LIMIT: u64 = 1024 * 1024;

/// Shorter than what servers and load balancers close idle connections after.
const IDLE: Duration = Duration::from_secs(20);

const IDLE_CONNECTIONS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_opa_are_told_in_one_line() {
        let complaint = |text: &str| serde_json::from_str::<Complaint>(text).unwrap_or_default().text();
        let text = r#"{"code": "internal_error", "message": "eval\n failed", "errors": [{"message": "div by 0"}]}"#;
        assert_eq!(complaint(text), ": eval\\n failed: div by 0");
        assert_eq!(complaint("<html>"), "");
    }

    #[test]
    fn on_this_machine_a_worker_does_not_pass_for_opa() {
        let local = |url: &str| {
            let trust = trust(&HttpsUrl::new(url).unwrap(), Vec::new());
            matches!(trust, ServerTrust::AuthorityRoots(_))
        };
        for url in ["https://localhost:8181", "https://127.0.0.1", "https://[::1]:8181/opa"] {
            assert!(local(url), "{url}");
        }
        assert!(!local("https://opa.example:8181"));
    }
}
