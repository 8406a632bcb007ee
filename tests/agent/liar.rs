//! Owns a CA that lies: real TLS with a certificate the agent trusts, and whatever reply a test wants.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

pub(crate) type Stream = StreamOwned<ServerConnection, TcpStream>;

/// Answers one request, whose body is `csr` as PEM; the connection closes afterwards.
pub(crate) type Answer = Arc<dyn Fn(&Authority, &str, &mut Stream) + Send + Sync>;

/// The keys of a small CA.
pub(crate) struct Authority {
    pub(crate) root: Certificate,
    pub(crate) issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = params.self_signed(&key).unwrap();
        Self { root, issuer: Issuer::new(params, key) }
    }

    /// A certificate for a CSR, for an hour, with `change` made to it.
    pub(crate) fn sign(&self, csr: &str, change: impl FnOnce(&mut CertificateParams)) -> String {
        let mut request = CertificateSigningRequestParams::from_pem(csr).unwrap();
        let now = time::OffsetDateTime::now_utc();
        request.params.not_before = now - Duration::from_mins(1);
        request.params.not_after = now + Duration::from_hours(1);
        change(&mut request.params);
        request.signed_by(&self.issuer).unwrap().pem()
    }
}

/// Answers what is no order but a question; the connection closes afterwards.
type Say = Arc<dyn Fn(&mut Stream) + Send + Sync>;

/// A server on loopback whose answer can be changed.
pub(crate) struct LyingCa {
    pub(crate) address: SocketAddr,
    pub(crate) authority: Arc<Authority>,
    answer: Arc<Mutex<Answer>>,
    say: Arc<Mutex<Say>>,
    heads: Heads,
}

/// The heads of all requests, in lower case.
type Heads = Arc<Mutex<Vec<String>>>;

impl LyingCa {
    pub(crate) fn start() -> Self {
        let authority = Arc::new(Authority::new("Lying CA"));
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, &authority.issuer).unwrap();
        let config = ServerConfig::builder_with_provider(crank_agent::crypto::crypto_provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone(), authority.root.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let answer: Arc<Mutex<Answer>> = Arc::new(Mutex::new(Arc::new(|_, _, _| {})));
        // An older CA, which knows of no questions.
        let say: Arc<Mutex<Say>> =
            Arc::new(Mutex::new(Arc::new(|stream| reply(stream, "404 Not Found", "text/plain", b""))));
        let heads = Heads::default();
        let (config, shared, keys) = (Arc::new(config), Arc::clone(&answer), Arc::clone(&authority));
        let (seen, saying) = (Arc::clone(&heads), Arc::clone(&say));
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let (config, keys, seen) = (Arc::clone(&config), Arc::clone(&keys), Arc::clone(&seen));
                let (answer, say) = (Arc::clone(&shared.lock().unwrap()), Arc::clone(&saying.lock().unwrap()));
                thread::spawn(move || serve(socket, config, &keys, (&answer, &say), &seen));
            }
        });
        Self { address, authority, answer, say, heads }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    pub(crate) fn write_root(&self, path: &Path) {
        std::fs::write(path, self.authority.root.pem()).unwrap();
    }

    /// The head of the last order, in lower case.
    pub(crate) fn last_head(&self) -> String {
        let heads = self.heads.lock().unwrap();
        heads.iter().rfind(|head| head.starts_with("post ")).cloned().unwrap_or_default()
    }

    /// How often a path was asked for that ends like this.
    pub(crate) fn asked(&self, end: &str) -> usize {
        let end = format!("{end} http/1.1\r\n");
        self.heads.lock().unwrap().iter().filter(|head| head.starts_with("get ") && head.contains(&end)).count()
    }

    /// What it says from now on to whatever it is asked.
    pub(crate) fn say(&self, say: impl Fn(&mut Stream) + Send + Sync + 'static) {
        *self.say.lock().unwrap() = Arc::new(say);
    }

    /// What it answers from now on.
    pub(crate) fn answer(&self, answer: impl Fn(&Authority, &str, &mut Stream) + Send + Sync + 'static) {
        *self.answer.lock().unwrap() = Arc::new(answer);
    }
}

/// A reply with a content length.
pub(crate) fn reply(stream: &mut Stream, status: &str, content_type: &str, body: &[u8]) {
    let head = format!("HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n", body.len());
    // The agent may hang up as soon as it has seen enough.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).and_then(|()| stream.flush());
}

/// The reply of a CA that has signed.
pub(crate) fn success(authority: &Authority, certificate: &str, stream: &mut Stream) {
    let body = serde_json::json!({
        "status": "success", "certificate": certificate, "ca_certificate": authority.root.pem(),
        "provider": {"name": "liar"},
    });
    reply(stream, "200 OK", "application/json", body.to_string().as_bytes());
}

fn serve(
    socket: TcpStream,
    config: Arc<ServerConfig>,
    authority: &Authority,
    (answer, say): (&Answer, &Say),
    heads: &Heads,
) {
    let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), socket);
    let Some((head, body)) = read_request(&mut stream) else { return };
    let question = head.starts_with("get ");
    heads.lock().unwrap().push(head);
    if question {
        say(&mut stream);
    } else {
        let Ok(request) = serde_json::from_slice::<crank_agent::wire::CsrRequest>(&body) else { return };
        answer(authority, &request.csr, &mut stream);
    }
    stream.conn.send_close_notify();
    let _ = stream.flush();
}

fn read_request(stream: &mut Stream) -> Option<(String, Vec<u8>)> {
    let mut data = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        if let Some(end) = data.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&data[..end]).to_ascii_lowercase();
            let length: usize =
                head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok()).unwrap_or(0);
            if data.len() >= end + 4 + length {
                return Some((head, data[end + 4..].to_vec()));
            }
        }
        match stream.read(&mut chunk) {
            Ok(count) if count > 0 => data.extend_from_slice(&chunk[..count]),
            _ => return None,
        }
    }
}
