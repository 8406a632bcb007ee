//! Owns a running listener and the clients that meet it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crank_agent::clock::SystemClock;
use crank_agent::identity::{CertificateBundle, SpiffeId};
use crank_agent::metrics::Metrics;
use crank_agent::serve::{AllowedClient, Listener, Readiness, Server, Sources};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::support::{TestCa, client_config, valid_now};

pub(crate) const AGENT: [&str; 3] = ["streaming", "localhost", "spiffe://crank.local/worker/streaming"];
pub(crate) const PROMETHEUS: &str = "spiffe://crank.local/worker/prometheus";
pub(crate) const DRAIN: Duration = Duration::from_secs(5);

/// A readiness that the test sets, and can hold up.
#[derive(Debug, Default)]
pub(crate) struct Switches {
    pub(crate) ready: AtomicBool,
    pub(crate) started: AtomicBool,
    pub(crate) hold: AtomicBool,
    pub(crate) asked: AtomicBool,
}

impl Readiness for Switches {
    fn ready(&self) -> Result<(), String> {
        self.asked.store(true, Ordering::SeqCst);
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while self.hold.load(Ordering::SeqCst) && std::time::Instant::now() < end {
            std::thread::yield_now();
        }
        if self.ready.load(Ordering::SeqCst) { Ok(()) } else { Err("no certificate yet".to_owned()) }
    }

    fn started(&self) -> bool {
        self.started.load(Ordering::SeqCst)
    }
}

pub(crate) struct Running {
    pub(crate) ca: TestCa,
    pub(crate) address: SocketAddr,
    pub(crate) bundle: watch::Sender<Option<Arc<CertificateBundle>>>,
    pub(crate) metrics_allow: watch::Sender<Vec<AllowedClient>>,
    pub(crate) switches: Arc<Switches>,
    pub(crate) cancel: CancellationToken,
    pub(crate) task: JoinHandle<()>,
}

impl Running {
    /// A listener with no certificate yet.
    pub(crate) async fn empty() -> Self {
        Self::empty_with(DRAIN).await
    }

    pub(crate) async fn empty_with(drain: Duration) -> Self {
        let (bundle, bundle_receiver) = watch::channel(None);
        let (metrics_allow, allow_receiver) = watch::channel(Vec::new());
        let switches = Arc::new(Switches::default());
        let sources = Sources {
            bundle: bundle_receiver,
            metrics_allow: allow_receiver,
            readiness: Arc::<Switches>::clone(&switches),
            metrics: Metrics::new().unwrap(),
            clock: Arc::new(SystemClock),
        };
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.address();
        let server = Server::new(listener, sources).unwrap();
        let cancel = CancellationToken::new();
        let task = tokio::spawn(server.run(cancel.clone(), drain));
        Self { ca: TestCa::new("first"), address, bundle, metrics_allow, switches, cancel, task }
    }

    /// A listener with a certificate, and ready.
    pub(crate) async fn ready() -> Self {
        Self::ready_with(DRAIN).await
    }

    pub(crate) async fn ready_with(drain: Duration) -> Self {
        let running = Self::empty_with(drain).await;
        running.publish(running.ca.issue(&AGENT, valid_now()));
        running.switches.ready.store(true, Ordering::SeqCst);
        running.switches.started.store(true, Ordering::SeqCst);
        running
    }

    pub(crate) fn publish(&self, bundle: CertificateBundle) -> Arc<CertificateBundle> {
        let bundle = Arc::new(bundle);
        self.bundle.send_replace(Some(Arc::clone(&bundle)));
        bundle
    }

    pub(crate) async fn connect(&self, identity: Option<&CertificateBundle>) -> io::Result<Raw> {
        self.connect_with(client_config(&self.ca, identity)).await
    }

    pub(crate) async fn connect_with(&self, config: rustls::ClientConfig) -> io::Result<Raw> {
        let stream = TcpStream::connect(self.address).await?;
        handshake(stream, Arc::new(config)).await
    }

    /// One request on a connection of its own, by reqwest.
    pub(crate) async fn get(
        &self,
        path: &str,
        identity: Option<&CertificateBundle>,
    ) -> Result<(u16, String), reqwest::Error> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(client_config(&self.ca, identity))
            .no_proxy()
            .https_only(true)
            .timeout(Duration::from_secs(8))
            .resolve("localhost", self.address)
            .build()?;
        let response = client.get(format!("https://localhost:{}{path}", self.address.port())).send().await?;
        let status = response.status().as_u16();
        Ok((status, response.text().await?))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// A client that writes and reads HTTP by hand, so that a test sees the connection.
pub(crate) struct Raw(pub(crate) TlsStream<TcpStream>);

impl Raw {
    pub(crate) async fn get(&mut self, path: &str) -> io::Result<(u16, String)> {
        self.0.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await?;
        self.answer().await
    }

    pub(crate) async fn answer(&mut self) -> io::Result<(u16, String)> {
        let mut text = String::new();
        let head_end = loop {
            if let Some(end) = text.find("\r\n\r\n") {
                break end + 4;
            }
            self.read_into(&mut text).await?;
        };
        let head = text[..head_end].to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
        let length: usize = length.expect("content-length").parse().unwrap();
        while text.len() < head_end + length {
            self.read_into(&mut text).await?;
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Ok((status, text))
    }

    pub(crate) async fn read_into(&mut self, text: &mut String) -> io::Result<()> {
        let mut buffer = [0; 4096];
        match self.0.read(&mut buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
                Ok(())
            }
        }
    }

    /// Reads until the other side closes, in whatever way.
    pub(crate) async fn closed(&mut self) {
        let mut buffer = [0; 4096];
        while !matches!(self.0.read(&mut buffer).await, Ok(0) | Err(_)) {}
    }

    pub(crate) fn leaf(&self) -> Vec<u8> {
        self.0.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }
}

pub(crate) async fn handshake(stream: TcpStream, config: Arc<rustls::ClientConfig>) -> io::Result<Raw> {
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(config).connect(name, stream).await.map(Raw)
}

pub(crate) fn allow(id: &str) -> AllowedClient {
    AllowedClient::Spiffe(SpiffeId::new(id).unwrap())
}
