//! An HTTPS server of keys that does as it is told, and counts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

pub(crate) struct KeyServer {
    directory: TempDir,
    address: SocketAddr,
    told: Arc<Mutex<Told>>,
    task: tokio::task::JoinHandle<()>,
}

struct Told {
    answer: Vec<u8>,
    requests: Vec<String>,
}

impl KeyServer {
    pub(crate) async fn start() -> Self {
        let root_key = KeyPair::generate().unwrap();
        let mut root = CertificateParams::default();
        root.distinguished_name.push(DnType::CommonName, "Keys");
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = root.self_signed(&root_key).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(["localhost".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, &Issuer::new(root, root_key)).unwrap();
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("root.pem"), certificate.pem()).unwrap();
        std::fs::write(directory.path().join("token"), "reader-token\n").unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let told = Arc::new(Mutex::new(Told { answer: Vec::new(), requests: Vec::new() }));
        let task = tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(config)), Arc::clone(&told)));
        Self { directory, address, told, task }
    }

    /// The settings that lead to it.
    pub(crate) fn settings(&self) -> String {
        let file = |name: &str| self.directory.path().join(name).display().to_string();
        let port = self.address.port();
        format!(
            "jwks_url = \"https://localhost:{port}/openid/v1/jwks\"\nroot_file = \"{}\"\ntoken_file = \"{}\"\n",
            file("root.pem"),
            file("token")
        )
    }

    pub(crate) fn root_file(&self) -> PathBuf {
        self.directory.path().join("root.pem")
    }

    pub(crate) fn answer(&self, status: &str, header: &str, body: &str) {
        let length = body.len();
        let text = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{header}Connection: close\r\n\r\n{body}");
        self.told.lock().unwrap().answer = text.into_bytes();
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.told.lock().unwrap().requests.clone()
    }
}

impl Drop for KeyServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, told: Arc<Mutex<Told>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        // A client that does not trust us ends the handshake.
        let Ok(mut stream) = acceptor.accept(stream).await else { continue };
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if stream.read_exact(&mut byte).await.is_err() {
                break;
            }
            head.extend_from_slice(&byte);
        }
        let answer = {
            let mut told = told.lock().unwrap();
            told.requests.push(String::from_utf8(head).unwrap());
            told.answer.clone()
        };
        let _ = stream.write_all(&answer).await;
        let _ = stream.shutdown().await;
    }
}
