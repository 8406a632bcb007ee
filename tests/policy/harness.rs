//! OPA as a process, certificates for it, and an OPA that answers what it is told to.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crank_agent::clock::SystemClock;
use crank_agent::config::{Environment, HttpsUrl};
use crank_agent::identity::{KeyType, WorkerId};
use crank_agent::policy::opa::{OpaAddress, OpaIdentity};
use crank_agent::policy::{Capabilities, DefaultPolicy, Policy, PolicyConfig};
use crank_agent::trace_context::TraceContext;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

/// The rules that are shipped as an example.
pub(crate) fn rules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/policy/rules")
}

/// A real OPA with these rules, ended when it is dropped.
pub(crate) struct Opa {
    process: Child,
}

impl Opa {
    /// Serves at `address` as OPA takes it, with further flags, and returns when `is_up`.
    pub(crate) fn start(address: &str, flags: &[&str], is_up: impl Fn() -> bool) -> Self {
        let process = Command::new("opa")
            .args(["run", "--server", "--addr", address, "--ignore", "*_test.rego", "--disable-telemetry"])
            .args(["--log-level", "error", "--set", "decision_logs.console=true"])
            .args(flags)
            .arg(rules())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("opa is installed by tests/lab/install");
        let opa = Self { process };
        let deadline = Instant::now() + Duration::from_mins(1);
        while !is_up() {
            assert!(Instant::now() < deadline, "opa does not serve within 60 s");
            std::thread::sleep(Duration::from_millis(20));
        }
        opa
    }

    /// At a Unix socket in `directory`.
    pub(crate) fn at_socket(directory: &Path) -> (Self, PathBuf) {
        let socket = directory.join("opa.sock");
        let address = format!("unix://{}", socket.display());
        let opa = Self::start(&address, &[], || std::os::unix::net::UnixStream::connect(&socket).is_ok());
        (opa, socket)
    }
}

impl Drop for Opa {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A root, and certificates below it as files.
pub(crate) struct TestRoot {
    pub(crate) directory: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl TestRoot {
    pub(crate) fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(DnType::CommonName, "Policy Test Root");
        let issuer = CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(directory.path().join("root.crt"), issuer.pem()).unwrap();
        Self { directory, issuer }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `NAME.crt` and `NAME.key` for `localhost`, with the SPIFFE id if one is given.
    pub(crate) fn issue(&self, name: &str, spiffe_id: Option<&str>) -> OpaIdentity {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let ids = spiffe_id.map(|id| SanType::URI(id.try_into().unwrap()));
        parameters.subject_alt_names.extend(ids);
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        let identity = OpaIdentity {
            certificate_file: self.path(&format!("{name}.crt")),
            key_file: self.path(&format!("{name}.key")),
        };
        std::fs::write(&identity.certificate_file, certificate.pem()).unwrap();
        std::fs::write(&identity.key_file, key.serialize_pem()).unwrap();
        identity
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The default rules, narrowed by the OPA at `address`.
pub(crate) fn policy_at(address: OpaAddress) -> Box<dyn Policy> {
    let config = PolicyConfig::Opa { address, timeout: Duration::from_secs(1) };
    config.build(DefaultPolicy::default(), Environment::Production, Arc::new(SystemClock)).unwrap()
}

pub(crate) fn https(port: u16, root_file: PathBuf, identity: Option<OpaIdentity>) -> OpaAddress {
    let url = HttpsUrl::new(&format!("https://localhost:{port}")).unwrap();
    OpaAddress::Https { url, root_file, identity }
}

pub(crate) fn worker() -> WorkerId {
    WorkerId::new("streaming").unwrap()
}

/// What worker `streaming` asks for.
pub(crate) fn capabilities(names: &[&str]) -> Capabilities {
    let names = || names.iter().map(|name| name.parse().unwrap());
    Capabilities {
        names: names().collect(),
        permitted: names().collect(),
        key_type: KeyType::EcdsaP256,
        spiffe_id: "spiffe://crank.local/worker/streaming".parse().unwrap(),
        authentication: "token",
        credential: "tok_1".to_owned(),
        environment: Environment::Production,
        source: None,
        correlation_id: "req_1".to_owned(),
        trace: TraceContext::of_request("req_1"),
    }
}

/// Answers every request at a Unix socket with these bytes, as they are; keeps the connection open afterwards.
pub(crate) fn fake_opa(socket: &Path, answer: impl Into<Vec<u8>>) {
    let listener = UnixListener::bind(socket).unwrap();
    let answer: Arc<[u8]> = answer.into().into();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(&answer).await;
                let _ = stream.read(&mut request).await;
            });
        }
    });
}

/// An HTTP answer with this status and body.
pub(crate) fn http(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
}
