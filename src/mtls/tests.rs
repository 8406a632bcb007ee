//! Real handshakes between workers whose directories change under them.

use std::path::PathBuf;
use std::time::Duration;

use rustls::pki_types::ServerName;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::*;
use crate::clock::Clock as _;
use crate::identity::{CertificateBundle, Crl, KeyType, PrivateKey, generate_csr};
use crate::printable::error_chain;
use crate::schedule::{Jitter, RenewalRecord};
use crate::store::Store;
use crate::testing::{TestCa, config, identity};

pub(super) const DAY: Duration = Duration::from_hours(24);

pub(super) fn now() -> OffsetDateTime {
    SystemClock.now().wall
}

/// A worker with a directory of its own.
pub(super) struct Peer {
    directory: tempfile::TempDir,
    pub(super) bundle: CertificateBundle,
    store: Store,
}

impl Peer {
    pub(super) fn new(ca: &TestCa, name: &str, crls: &[Crl]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let bundle = ca.bundle(&identity(name), now(), DAY);
        Self::with(bundle, directory, crls)
    }

    /// One whose certificate ends after `lifetime`.
    pub(super) fn living(ca: &TestCa, name: &str, lifetime: Duration) -> Self {
        Self::with(ca.bundle(&identity(name), now(), lifetime), tempfile::tempdir().unwrap(), &[])
    }

    fn with(bundle: CertificateBundle, directory: tempfile::TempDir, crls: &[Crl]) -> Self {
        let store = Store::open(&config(directory.path()).files).unwrap();
        let peer = Self { directory, bundle, store };
        peer.publish(crls);
        peer
    }

    /// What the agent does when it has renewed.
    pub(super) fn renew(&mut self, ca: &TestCa, name: &str) {
        self.bundle = ca.bundle(&identity(name), now(), DAY);
        self.publish(&[]);
    }

    /// What the agent does when there is another CRL.
    pub(super) fn publish(&self, crls: &[Crl]) {
        let bundle = self.bundle.try_clone().unwrap().with_crls(crls.to_vec());
        let record = RenewalRecord::new(Jitter::LEAST, now());
        self.store.publish(&bundle, &record.into(), SystemClock.now()).unwrap();
    }

    pub(super) fn files(&self) -> PathBuf {
        self.directory.path().join("certs")
    }

    fn client(&self) -> Arc<ClientConfig> {
        Arc::new(create_mtls_client_config(&self.files()).unwrap())
    }

    pub(super) fn server(&self) -> Arc<ServerConfig> {
        Arc::new(create_mtls_server_config(&self.files()).unwrap())
    }
}

type Ends = (client::TlsStream<DuplexStream>, server::TlsStream<DuplexStream>);

/// A connection over which a byte went each way, or why there is none, by whoever refused.
async fn connect(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Result<Ends, String> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = ServerName::try_from("localhost").unwrap();
    let connecting = async {
        let mut stream = TlsConnector::from(Arc::clone(client)).connect(name, near).await?;
        stream.write_all(b"x").await?;
        stream.read_exact(&mut [0]).await?;
        Ok::<_, std::io::Error>(stream)
    };
    let accepting = async {
        let mut stream = TlsAcceptor::from(Arc::clone(server)).accept(far).await?;
        stream.read_exact(&mut [0]).await?;
        stream.write_all(b"y").await?;
        Ok::<_, std::io::Error>(stream)
    };
    match tokio::join!(connecting, accepting) {
        (Ok(client), Ok(server)) => Ok((client, server)),
        (client, server) => {
            let say = |result: Option<std::io::Error>| result.map_or_else(String::new, |error| error.to_string());
            Err(format!("client: {}; server: {}", say(client.err()), say(server.err())))
        }
    }
}

pub(super) fn crl(ca: &TestCa, number: u64, revoked: &[&CertificateBundle]) -> Crl {
    ca.crl(number, now() - DAY..now() + DAY, revoked)
}

#[tokio::test]
async fn a_revoked_client_is_refused_from_the_next_handshake_on_and_open_connections_go_on() {
    let ca = TestCa::new();
    let (client, server) = (Peer::new(&ca, "client", &[]), Peer::new(&ca, "server", &[crl(&ca, 1, &[])]));
    let (connector, acceptor) = (client.client(), server.server());
    let (mut near, mut far) = connect(&connector, &acceptor).await.unwrap();
    server.publish(&[crl(&ca, 2, &[&client.bundle])]);
    let refused = connect(&connector, &acceptor).await.unwrap_err();
    assert!(refused.contains("server: invalid peer certificate: Revoked"), "{refused}");
    near.write_all(b"z").await.unwrap();
    far.read_exact(&mut [0]).await.unwrap();
    // Of another CRL, another client is none the worse.
    let other = Peer::new(&ca, "other", &[]);
    connect(&other.client(), &acceptor).await.unwrap();
}

#[tokio::test]
async fn a_revoked_server_is_refused_from_the_next_handshake_on() {
    let ca = TestCa::new();
    let (client, server) = (Peer::new(&ca, "client", &[]), Peer::new(&ca, "server", &[]));
    let (connector, acceptor) = (client.client(), server.server());
    connect(&connector, &acceptor).await.unwrap();
    client.publish(&[crl(&ca, 1, &[&server.bundle])]);
    let refused = connect(&connector, &acceptor).await.unwrap_err();
    assert!(refused.contains("client: invalid peer certificate: Revoked"), "{refused}");
    client.publish(&[crl(&ca, 2, &[])]);
    connect(&connector, &acceptor).await.unwrap();
}

#[tokio::test]
async fn whose_revocation_cannot_be_known_is_refused() {
    let (ca, other) = (TestCa::new(), TestCa::named("Other"));
    let of_other = crl(&other, 1, &[]);
    let run_out = ca.crl(1, now() - 2 * DAY..now() - DAY / 2, &[]);
    for (case, crls, expected) in [
        ("no CRL of its issuer", vec![of_other.clone()], "UnknownRevocationStatus"),
        ("the CRL has run out", vec![run_out, of_other], "ExpiredRevocationList"),
    ] {
        let (careful, plain) = (Peer::new(&ca, "careful", &crls), Peer::new(&ca, "plain", &[]));
        let as_client = connect(&careful.client(), &plain.server()).await.unwrap_err();
        assert!(as_client.contains(expected) || as_client.contains("expired"), "{case}: {as_client}");
        let as_server = connect(&plain.client(), &careful.server()).await.unwrap_err();
        assert!(as_server.contains(expected) || as_server.contains("expired"), "{case}: {as_server}");
    }
}

#[tokio::test]
async fn while_one_issuer_takes_over_from_another_of_the_same_name_both_count() {
    let (old, new) = (TestCa::new(), TestCa::new());
    let both = |crls: Vec<Crl>, peer: Peer| {
        let roots = [old.roots(), new.roots()].concat();
        let bundle = peer.bundle.with_roots(roots).unwrap();
        let peer = Peer { bundle, ..peer };
        peer.publish(&crls);
        peer
    };
    let crls = || vec![crl(&old, 1, &[]), crl(&new, 1, &[])];
    let before = both(crls(), Peer::new(&old, "before", &[]));
    let after = both(crls(), Peer::new(&new, "after", &[]));
    connect(&before.client(), &after.server()).await.unwrap();
    connect(&after.client(), &before.server()).await.unwrap();
    before.publish(&[crl(&old, 2, &[]), crl(&new, 2, &[&after.bundle])]);
    connect(&after.client(), &before.server()).await.unwrap_err();
}

#[tokio::test]
async fn a_crl_that_is_of_no_use_is_no_reason_to_check_nothing() {
    let ca = TestCa::new();
    let peer = Peer::new(&ca, "peer", &[crl(&ca, 1, &[])]);
    let (connector, acceptor) = (peer.client(), peer.server());
    std::fs::write(peer.files().join("..data/ca.crl"), "nothing").unwrap();
    assert!(matches!(create_mtls_client(&peer.files()), Err(MtlsError::Certificates { .. })));
    // What was read before stays in use.
    connect(&connector, &acceptor).await.unwrap();
}

#[tokio::test]
async fn a_renewed_certificate_is_presented_from_the_next_handshake_on() {
    let ca = TestCa::new();
    let mut peer = Peer::new(&ca, "peer", &[]);
    let (connector, acceptor) = (peer.client(), peer.server());
    let presented = |ends: &Ends| ends.0.get_ref().1.peer_certificates().unwrap()[0].clone();
    let before = presented(&connect(&connector, &acceptor).await.unwrap());
    peer.renew(&ca, "peer");
    let after = presented(&connect(&connector, &acceptor).await.unwrap());
    assert!(before != after && after == peer.bundle.chain()[0]);
}

/// Why nothing can be made of `peer`'s directory: the same for client and server.
fn refusal(peer: &Peer) -> (&'static str, String) {
    let client = create_mtls_client(&peer.files()).unwrap_err();
    let server = create_mtls_server_config(&peer.files()).unwrap_err();
    assert_eq!(client.kind(), server.kind());
    (client.kind(), error_chain(&client))
}

#[test]
fn without_a_valid_certificate_there_is_neither_client_nor_server() {
    let ca = TestCa::new();
    let peer = Peer::new(&ca, "peer", &[]);
    create_mtls_client(&peer.files()).unwrap();
    let expired = Peer::with(ca.bundle(&identity("peer"), now() - 2 * DAY, DAY), tempfile::tempdir().unwrap(), &[]);
    let early = Peer::with(ca.bundle(&identity("peer"), now() + DAY, DAY), tempfile::tempdir().unwrap(), &[]);
    let stray = Peer::with(
        ca.bundle(&identity("peer"), now(), DAY).with_roots(TestCa::named("Other").roots()).unwrap(),
        tempfile::tempdir().unwrap(),
        &[],
    );
    let empty = Peer::new(&ca, "peer", &[]);
    std::fs::remove_file(empty.files().join("..data")).unwrap();
    for (peer, kind, advice) in [
        (&expired, "expired", "`crank-agent status` tells why there is no other: expired at "),
        (&early, "not_yet_valid", "not valid before "),
        (&stray, "untrusted_chain", "does not verify to the configured roots"),
        (&empty, "missing", "`crank-agent run` or `crank-agent init` puts one there"),
    ] {
        let (found, text) = refusal(peer);
        assert_eq!(found, kind, "{text}");
        assert!(text.contains(advice) && text.contains(&peer.files().display().to_string()), "{text}");
    }
    let nowhere = create_mtls_client("/nowhere/certs".as_ref()).unwrap_err();
    assert_eq!(nowhere.kind(), "no_directory");
}

#[test]
fn a_certificate_serves_for_what_it_may_be_used_for_and_nothing_else() {
    let ca = TestCa::new();
    let key = PrivateKey::generate(KeyType::EcdsaP256).unwrap();
    let csr = generate_csr(&identity("peer"), &key, KeyType::EcdsaP256).unwrap();
    let leaf = ca.sign(&csr, now(), DAY, |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    });
    let bundle = CertificateBundle::new(vec![leaf], key, ca.roots()).unwrap();
    let peer = Peer::with(bundle, tempfile::tempdir().unwrap(), &[]);
    create_mtls_client(&peer.files()).unwrap();
    assert_eq!(create_mtls_server_config(&peer.files()).unwrap_err().kind(), "extended_key_usage");
}

#[tokio::test]
async fn a_certificate_that_is_not_valid_does_not_take_the_place_of_one_that_is() {
    let ca = TestCa::new();
    let mut peer = Peer::new(&ca, "peer", &[]);
    let (connector, acceptor) = (peer.client(), peer.server());
    peer.bundle = ca.bundle(&identity("peer"), now() - 2 * DAY, DAY);
    peer.publish(&[]);
    connect(&connector, &acceptor).await.unwrap();
}
