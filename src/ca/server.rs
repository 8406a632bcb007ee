//! Owns the serving CA: its start, its own server certificate, its connections, its end.

mod certificate;
mod connection;
mod reload;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admission::LONGEST_GRACE;
use super::http::Site;
use super::in_force::InForce;
use super::kubernetes::{KubernetesSigner, sign_requests};
use super::limits::{Place, Source};
use super::manager::CertificateAuthorityManager;
use super::retention::Retention;
use super::{CaConfig, CaConfigReport, CaError, Deadlines, Tokens};
use crate::clock::Clock;
use crate::identity::{SubjectAltName, TrustDomain};
use crate::policy::DefaultPolicy;
use crate::slots::Slots;

use certificate::ServerCertificate;
pub use reload::Reloader;

/// Starts serving CAs; several may run in one process.
#[derive(Debug)]
pub struct Server;

/// A CA that serves until its cancellation token is cancelled.
#[derive(Debug)]
pub struct RunningCa {
    address: SocketAddr,
    manager: Arc<CertificateAuthorityManager>,
    reloader: Arc<Reloader>,
    questions: mpsc::Sender<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Server {
    /// Opens the CA under `config.data_dir`, which `init` has made, and serves it. When this returns, the port is open
    /// and the server certificate is valid. Needs a tokio runtime.
    ///
    /// # Errors
    /// When a setting does not fit, the CA does not open, or the address can't be listened on.
    pub async fn start(
        config: CaConfig,
        clock: Arc<dyn Clock>,
        cancel: CancellationToken,
    ) -> Result<RunningCa, CaError> {
        let Checked { policy, names } = checked(&config)?;
        let listen = |source| CaError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;

        let mut manager = CertificateAuthorityManager::open_with_keys(
            &config.data_dir,
            &config.keys,
            &config.database,
            config.policy.build(policy, config.environment, Arc::clone(&clock))?,
            config.environment,
            Arc::clone(&clock),
        )
        .await?;
        let in_force = InForce::of(&config, Arc::clone(&manager.in_force().policy), &clock, None);
        manager.put_in_force(Arc::new(in_force));
        manager.reserved = names.iter().filter(|name| !is_local(name)).cloned().collect();
        let manager = Arc::new(manager);
        // No handshake before all revocations are known and on a CRL.
        manager.look().await?;
        manager.sign_due_crls().await?;
        let certificate = ServerCertificate::issue(Arc::clone(&manager), names, config.server_lifetime).await?;
        let (acceptor, _) = watch::channel(certificate.acceptor()?);
        let (questions_sender, questions) = mpsc::channel(1);
        let serving = Serving {
            listener,
            acceptor,
            manager: Arc::clone(&manager),
            certificate,
            retention: Retention::new(manager.state.clone(), clock, config.retention),
            max_connections: config.max_connections,
            deadlines: config.deadlines,
            cluster: config.kubernetes.clone(),
            cancel,
        };
        let task = tokio::spawn(serving.run(questions));
        let reloader = Arc::new(Reloader::new(Arc::clone(&manager), config));
        Ok(RunningCa { address, manager, reloader, questions: questions_sender, task })
    }
}

impl RunningCa {
    /// Where it listens, with the port it got.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The root as a PEM file.
    #[must_use]
    pub fn root_path(&self) -> PathBuf {
        self.manager.certificate().root_path
    }

    /// The root as PEM.
    #[must_use]
    pub fn root_pem(&self) -> String {
        self.manager.certificate().root_pem
    }

    /// SHA-256 of the root's DER, as `sha256:` and 64 hexadecimal digits.
    #[must_use]
    pub fn root_fingerprint(&self) -> String {
        self.manager.certificate().root_fingerprint
    }

    /// The trust domain of the SPIFFE ids it issues.
    #[must_use]
    pub fn trust_domain(&self) -> TrustDomain {
        self.manager.trust_domain()
    }

    /// Its join tokens.
    #[must_use]
    pub fn tokens(&self) -> Tokens {
        self.manager.tokens()
    }

    /// The CA behind the server.
    #[must_use]
    pub fn manager(&self) -> &CertificateAuthorityManager {
        &self.manager
    }

    /// Changes its settings, as long as it serves.
    #[must_use]
    pub fn reloader(&self) -> Arc<Reloader> {
        Arc::clone(&self.reloader)
    }

    /// Asks, each time it is called, the loop that takes connections whether it still turns.
    pub fn heartbeat(&self) -> impl AsyncFn() -> bool + use<> {
        let questions = self.questions.clone();
        async move || {
            let (reply, answered) = oneshot::channel();
            questions.send(reply).await.is_ok() && answered.await.is_ok()
        }
    }

    /// Waits until it has stopped: after cancellation, within [`DRAIN_DEADLINE`].
    ///
    /// # Errors
    /// When the server's task panicked.
    pub async fn stopped(self) -> Result<(), CaError> {
        self.task.await.map_err(|_| CaError::Task("CA server"))
    }
}

/// What settings give that fit each other.
struct Checked {
    policy: DefaultPolicy,
    /// Of the server.
    names: BTreeSet<SubjectAltName>,
}

/// Looks through the settings.
fn checked(config: &CaConfig) -> Result<Checked, CaError> {
    let setting = |setting| move |reason| CaError::Setting { setting, reason };
    let policy = DefaultPolicy::new(config.lifetime).map_err(setting("lifetime"))?;
    if config.names.is_empty() {
        return Err(setting("dns")("expected at least one name for the server certificate"));
    }
    if !(1..=Semaphore::MAX_PERMITS).contains(&config.max_connections) {
        return Err(setting("max connections")("expected at least 1"));
    }
    let names: BTreeSet<SubjectAltName> = config.names.iter().cloned().collect();
    if names.iter().any(|name| matches!(name, SubjectAltName::Uri(_))) {
        return Err(setting("dns")("expected DNS names and IP addresses"));
    }
    let problems = config.revocation.problems(config.max_connections);
    if !problems.is_empty() {
        return Err(CaConfigReport { problems }.into());
    }
    if config.renewal_grace > LONGEST_GRACE {
        return Err(setting("renewal grace")("expected at most 7d"));
    }
    if config.limits.connections_per_source == Some(0) {
        return Err(setting("connections per source")("expected at least 1"));
    }
    Ok(Checked { policy, names })
}

/// How long requests in flight may take after cancellation.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(4);

struct Serving {
    listener: TcpListener,
    /// Verifies clients to the roots of now.
    acceptor: watch::Sender<TlsAcceptor>,
    manager: Arc<CertificateAuthorityManager>,
    certificate: Arc<ServerCertificate>,
    retention: Retention,
    max_connections: usize,
    deadlines: Deadlines,
    /// Whose requests are signed beside those that come here.
    cluster: Option<KubernetesSigner>,
    cancel: CancellationToken,
}

impl Serving {
    /// `questions` are whether the loop turns.
    async fn run(self, mut questions: mpsc::Receiver<oneshot::Sender<()>>) {
        let site = Arc::new(Site::new(&self.manager, self.deadlines));
        let connections = TaskTracker::new();
        let slots = Slots::new(self.max_connections);
        // Cancelled when those in flight have had their time.
        let abort = CancellationToken::new();
        let mut crls = tokio::spawn(Arc::clone(&self.manager).keep_crls(self.cancel.clone()));
        let acceptors = self.acceptor.subscribe();
        let renewed = Arc::clone(&self.certificate).keep_renewed(self.acceptor.clone(), self.cancel.clone());
        let followed = Arc::clone(&self.manager).follow_directory(self.cancel.clone());
        let mut renewal = tokio::spawn(async { tokio::join!(renewed, followed) });
        let retention = tokio::spawn(self.retention.clone().run(self.cancel.clone()));
        let cluster = self
            .cluster
            .clone()
            .map(|signer| tokio::spawn(sign_requests(Arc::clone(&self.manager), signer, self.cancel.clone())));
        'serving: loop {
            let mut accepted = std::pin::pin!(async {
                let (stream, address, place) = self.admitted().await;
                // Beyond the limit, the one that has been idle longest makes room; meanwhile others wait in the kernel's
                // backlog.
                (stream, address, place, slots.take().await)
            });
            let (stream, address, place, slot) = loop {
                tokio::select! {
                    biased;
                    () = self.cancel.cancelled() => break 'serving,
                    ended = &mut renewal => {
                        tracing::error!(panicked = ended.is_err(), "the renewal of the CA's server certificate has ended");
                        break 'serving;
                    }
                    ended = &mut crls => {
                        tracing::error!(panicked = ended.is_err(), "the keeping of CRLs has ended");
                        break 'serving;
                    }
                    // Whoever asked may have gone.
                    Some(reply) = questions.recv() => drop(reply.send(())),
                    accepted = accepted.as_mut() => break accepted,
                }
            };
            let acceptor = acceptors.borrow().clone();
            let connection = connection::serve(acceptor, Arc::clone(&site), stream, address, slot, self.cancel.clone());
            let abort = abort.clone();
            connections.spawn(async move {
                tokio::select! {
                    () = connection => {}
                    () = abort.cancelled() => {}
                }
                drop(place);
            });
        }
        drop(self.listener);
        connections.close();
        if tokio::time::timeout(DRAIN_DEADLINE, connections.wait()).await.is_err() {
            abort.cancel();
            connections.wait().await;
        }
        renewal.abort();
        crls.abort();
        retention.abort();
        if let Some(cluster) = cluster {
            cluster.abort();
        }
        self.manager.state.close().await;
    }
}

impl Serving {
    /// The next connection that its source may have. The others are hung up on, which costs less than a handshake.
    async fn admitted(&self) -> (TcpStream, SocketAddr, Place) {
        loop {
            let (stream, address) = accept(&self.listener).await;
            if let Some(place) = self.manager.in_force().admission.limits.connect(Source::of(address.ip())) {
                return (stream, address, place);
            }
            tracing::debug!(%address, "too many connections of this source");
        }
    }
}

/// The next connection. An error of the listener, such as too many open files, is waited out.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            // The client's doing: the next may be there already.
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections for now");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Every worker is `localhost` to itself.
fn is_local(name: &SubjectAltName) -> bool {
    match name {
        SubjectAltName::Dns(name) => name.as_str() == "localhost",
        SubjectAltName::Ip(IpAddr::V4(address)) => address.is_loopback(),
        SubjectAltName::Ip(IpAddr::V6(address)) => address.is_loopback(),
        SubjectAltName::Uri(_) => false,
    }
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(500);
