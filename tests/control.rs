//! The control socket with real sockets: what it answers, and what no caller can do to it.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crank_agent::control::client::{self, ClientError};
use crank_agent::control::{
    CONNECTION_LIMIT, ControlServer, ControlState, DEADLINE, REQUEST_LIMIT, Readiness, ReadinessCheck, RenewRequest,
    SOCKET_MODE,
};
use crank_agent::events::EventError;
use crank_agent::exit::Exit;
use crank_agent::identity::{CertificateMetadata, TrustDomain, WorkerId};
use crank_agent::status::{AgentStatus, CaStatus, DeliveryStatus};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

struct Agent {
    _directory: tempfile::TempDir,
    socket: PathBuf,
    status: watch::Sender<AgentStatus>,
    renewals: mpsc::Receiver<RenewRequest>,
    cancelled: CancellationToken,
    task: JoinHandle<()>,
}

impl Agent {
    fn start(readiness: ReadinessCheck) -> Self {
        Self::start_with_mode(readiness, SOCKET_MODE)
    }

    fn start_with_mode(readiness: ReadinessCheck, mode: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        let server = Arc::new(ControlServer::bind(&socket, mode).unwrap());
        let (status, watched) = watch::channel(agent_status());
        let (renew, renewals) = mpsc::channel(2);
        let cancelled = CancellationToken::new();
        let state = ControlState { status: watched, further: Vec::new(), readiness, renew };
        let task = tokio::spawn(server.run(state, cancelled.clone()));
        Self { _directory: directory, socket, status, renewals, cancelled, task }
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.socket).await.unwrap()
    }

    /// Sends `request` as it is and reads all that comes.
    async fn raw(&self, request: &[u8]) -> serde_json::Value {
        let mut stream = self.connect().await;
        // The server may have seen enough before all of it is written.
        let _ = stream.write_all(request).await;
        reply(&mut stream).await
    }
}

async fn reply(stream: &mut UnixStream) -> serde_json::Value {
    let mut reply = Vec::new();
    let _ = stream.read_to_end(&mut reply).await;
    assert_eq!(reply.last(), Some(&b'\n'), "{}", String::from_utf8_lossy(&reply));
    serde_json::from_slice(&reply).unwrap()
}

fn ready() -> ReadinessCheck {
    Arc::new(|| Ok(()))
}

fn agent_status() -> AgentStatus {
    let worker_id = WorkerId::new("streaming").unwrap();
    AgentStatus {
        certificates: Vec::new(),
        version: "0.1.0".to_owned(),
        spiffe_id: Some(TrustDomain::new("crank.local").unwrap().worker(&worker_id)),
        worker_id,
        directory: "/etc/certs".to_owned(),
        started_at: OffsetDateTime::UNIX_EPOCH,
        certificate: Some(certificate()),
        revoked: None,
        crl: None,
        next_renewal: Some(OffsetDateTime::UNIX_EPOCH),
        renewal_request: None,
        last_attempt: None,
        back_off: None,
        ca: CaStatus { url: "https://ca".to_owned(), last_answer: None, clock_skew_seconds: Some(0.25) },
        deliveries: Vec::new(),
    }
}

fn certificate() -> CertificateMetadata {
    CertificateMetadata {
        expires_at: OffsetDateTime::UNIX_EPOCH,
        days_remaining: -1,
        serial: "4a:3b".to_owned(),
        issuer: "CN=issuer".to_owned(),
        subject: "CN=streaming".to_owned(),
        not_before: OffsetDateTime::UNIX_EPOCH,
        names: vec!["DNS:streaming".to_owned()],
    }
}

#[tokio::test]
async fn status_comes_through_whole_and_follows_the_agent() {
    let agent = Agent::start(ready());
    let report = client::status(&agent.socket).await.unwrap();
    assert_eq!(report.status, agent_status());
    assert!(report.readiness.ready);
    agent.status.send_modify(|status| status.certificate = None);
    assert_eq!(client::status(&agent.socket).await.unwrap().status.certificate, None);
}

#[tokio::test]
async fn health_is_what_the_check_says_now() {
    let agent = Agent::start(Arc::new(|| Err("the certificate\nhas expired".to_owned())));
    let readiness = client::health(&agent.socket).await.unwrap();
    assert_eq!(readiness, Readiness { ready: false, reason: Some("the certificate\\nhas expired".to_owned()) });
}

#[tokio::test]
async fn a_check_that_panics_is_not_ready() {
    let agent = Agent::start(Arc::new(|| panic!("in the check")));
    assert!(!client::health(&agent.socket).await.unwrap().ready);
    assert!(!client::health(&agent.socket).await.unwrap().ready, "and the server lives");
}

#[tokio::test]
async fn checks_that_hang_take_up_few_threads() {
    let (release, hold) = std::sync::mpsc::channel::<()>();
    let hold = std::sync::Mutex::new(hold);
    let started = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&started);
    let agent = Agent::start(Arc::new(move || {
        count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let _ = hold.lock().map(|hold| hold.recv());
        Ok(())
    }));
    let mut asked = Vec::new();
    for _ in 0..CONNECTION_LIMIT {
        let mut stream = agent.connect().await;
        stream.write_all(b"{\"command\":\"health\"}\n").await.unwrap();
        asked.push(stream);
    }
    let mut refused = 0;
    for mut stream in asked {
        let reply = reply(&mut stream).await;
        assert_eq!(reply["ready"], false);
        refused += usize::from(reply["reason"].as_str().unwrap().contains("earlier checks"));
    }
    let started = started.load(std::sync::atomic::Ordering::SeqCst);
    assert!(started <= 4, "{started} checks run");
    assert!(refused >= CONNECTION_LIMIT - 4, "{refused}");
    drop(release);
}

#[tokio::test]
async fn renew_waits_for_the_outcome() {
    let mut agent = Agent::start(ready());
    let socket = agent.socket.clone();
    let asked = tokio::spawn(async move { client::renew(&socket, Duration::from_mins(1)).await });
    agent.renewals.recv().await.unwrap().reply.send(Ok(certificate())).unwrap();
    assert_eq!(asked.await.unwrap().unwrap(), certificate());
}

#[tokio::test]
async fn a_renewal_that_fails_ends_with_the_code_of_its_kind() {
    let mut agent = Agent::start(ready());
    for (kind, exit) in [
        ("ca_unavailable", Exit::Unavailable),
        ("refused", Exit::Refused),
        ("no_space", Exit::CannotWrite),
        ("something_else", Exit::Internal),
    ] {
        let socket = agent.socket.clone();
        let asked = tokio::spawn(async move { client::renew(&socket, Duration::from_mins(1)).await });
        agent.renewals.recv().await.unwrap().reply.send(Err(EventError::new(kind, "because"))).unwrap();
        let error = asked.await.unwrap().unwrap_err();
        assert_eq!((error.to_string().as_str(), error.exit()), ("because", exit));
    }
}

#[tokio::test(start_paused = true)]
async fn renew_gives_up_waiting_after_its_deadline_and_frees_the_connection() {
    let mut agent = Agent::start(ready());
    let before = Instant::now();
    let error = client::renew(&agent.socket, Duration::from_secs(20)).await.unwrap_err();
    assert!(matches!(error, ClientError::TimedOut { .. }), "{error}");
    assert_eq!(error.exit(), Exit::Unavailable);
    assert_eq!(before.elapsed().as_secs(), 20);
    let mut request = agent.renewals.recv().await.unwrap();
    request.reply.closed().await;
    assert!(before.elapsed() < Duration::from_mins(1), "the connection is held although the caller has left");
}

#[tokio::test]
async fn more_wishes_to_renew_than_the_queue_holds_are_told_so() {
    let agent = Agent::start(ready());
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut stream = agent.connect().await;
        stream.write_all(b"{\"command\":\"renew\"}\n").await.unwrap();
        waiting.push(stream);
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while agent.renewals.len() < 2 && Instant::now() < deadline {
        tokio::task::yield_now().await;
    }
    let error = client::renew(&agent.socket, Duration::from_secs(10)).await.unwrap_err();
    assert!(matches!(&error, ClientError::Failed(error) if error.kind == "busy"), "{error}");
    assert_eq!(error.exit(), Exit::Unavailable);
}

#[tokio::test]
async fn garbage_is_answered_with_an_error_and_does_no_harm() {
    let agent = Agent::start(ready());
    let deep = [b"[".repeat(3000), b"\n".to_vec()].concat();
    for request in [
        &b"\n"[..],
        b"x\n",
        b"{}\n",
        b"[]\n",
        b"null\n",
        b"{\"command\":7}\n",
        b"{\"command\":\"\"}\n",
        b"{\"command\":\"STATUS\"}\n",
        b"{\"command\":\"sta\\u0000tus\"}\n",
        b"{\"command\":\"status\",\"command\":\"renew\"}\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\xfe\n",
        &deep,
    ] {
        let reply = agent.raw(request).await;
        assert_eq!(reply["error"]["kind"], "bad_request", "{reply}");
    }
    let reply = agent.raw(b"{\"command\":\"sign\\u001b[31m\"}\n").await;
    let message = reply["error"]["message"].as_str().unwrap();
    assert_eq!(message, "unknown command `sign\\u{1b}[31m`: expected status, health or renew");
    assert!(client::health(&agent.socket).await.unwrap().ready);
}

#[tokio::test]
async fn a_request_that_is_too_long_is_refused_unread() {
    let agent = Agent::start(ready());
    let reply = agent.raw(&vec![b' '; REQUEST_LIMIT + 1]).await;
    assert_eq!(reply["error"]["message"], "the request has more than 4096 bytes");
    let reply = agent.raw(&vec![b'x'; 10 * 1024 * 1024]).await;
    assert_eq!(reply["error"]["message"], "the request has more than 4096 bytes");
    let padded = [vec![b' '; REQUEST_LIMIT - 21], b"{\"command\":\"health\"}\n".to_vec()].concat();
    assert_eq!(padded.len(), REQUEST_LIMIT);
    assert_eq!(agent.raw(&padded).await["ready"], true);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_does_not_speak_is_let_go_in_time() {
    let agent = Agent::start(ready());
    for part in [&b""[..], b"{\"comm"] {
        let mut stream = agent.connect().await;
        stream.write_all(part).await.unwrap();
        let before = Instant::now();
        assert_eq!(reply(&mut stream).await["error"]["kind"], "timeout");
        assert_eq!(before.elapsed().as_secs(), DEADLINE.as_secs());
    }
}

#[tokio::test]
async fn a_caller_that_ends_its_side_after_the_request_is_answered() {
    let agent = Agent::start(ready());
    let mut stream = agent.connect().await;
    stream.write_all(b"{\"command\":\"health\"}").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(reply(&mut stream).await["ready"], true);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_does_not_read_is_let_go_in_time() {
    let agent = Agent::start(ready());
    // Larger than a socket's buffers.
    let delivery = delivery_status("x".repeat(200_000), "y".repeat(60_000));
    agent.status.send_modify(|status| status.deliveries.push(delivery));
    let mut held = Vec::new();
    for _ in 0..CONNECTION_LIMIT {
        let mut stream = agent.connect().await;
        stream.write_all(b"{\"command\":\"status\"}\n").await.unwrap();
        held.push(stream);
    }
    tokio::time::sleep(DEADLINE + Duration::from_secs(6)).await;
    assert!(client::health(&agent.socket).await.unwrap().ready);
}

#[tokio::test(start_paused = true)]
async fn a_reply_beyond_the_limit_is_an_error_instead() {
    let agent = Agent::start(ready());
    let delivery = delivery_status("x".repeat(300_000), String::new());
    agent.status.send_modify(|status| status.deliveries.push(delivery));
    let error = client::status(&agent.socket).await.unwrap_err();
    assert_eq!(error.to_string(), "the reply is too long");
}

#[tokio::test]
async fn connections_beyond_the_limit_are_told_to_come_again() {
    let agent = Agent::start(ready());
    let mut held = Vec::new();
    for _ in 0..CONNECTION_LIMIT {
        held.push(agent.connect().await);
    }
    let error = client::health(&agent.socket).await.unwrap_err();
    assert!(matches!(&error, ClientError::Failed(error) if error.kind == "busy"), "{error}");
    drop(held);
    let deadline = Instant::now() + Duration::from_secs(10);
    while client::health(&agent.socket).await.is_err() {
        assert!(Instant::now() < deadline, "the connections are not given back");
    }
}

#[tokio::test]
async fn stopping_ends_open_connections_and_removes_the_socket() {
    let agent = Agent::start(ready());
    let mut idle = agent.connect().await;
    let mut renewing = agent.connect().await;
    renewing.write_all(b"{\"command\":\"renew\"}\n").await.unwrap();
    // Answered after both have been accepted.
    client::health(&agent.socket).await.unwrap();
    agent.cancelled.cancel();
    assert_eq!(reply(&mut idle).await["error"]["kind"], "stopping");
    assert_eq!(reply(&mut renewing).await["error"]["kind"], "stopping");
    agent.task.await.unwrap();
    assert!(!agent.socket.exists());
    let error = client::health(&agent.socket).await.unwrap_err();
    assert!(matches!(error, ClientError::NotRunning { .. }), "{error}");
    assert_eq!(error.exit(), Exit::Unavailable);
}

#[tokio::test]
async fn a_server_that_is_none_of_ours_is_recognised() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    for answer in [&b"hello\n"[..], b"{\"reply\":\"health\"}\n", &b" ".repeat(300 * 1024)] {
        let answer = answer.to_vec();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 64];
            assert_ne!(stream.read(&mut request).await.unwrap(), 0);
            let _ = stream.write_all(&answer).await;
        };
        let (result, ()) = tokio::join!(client::health(&socket), serve);
        assert!(matches!(result, Err(ClientError::Broken(_))), "{result:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_does_not_hold_the_caller() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let _listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let error = client::health(&socket).await.unwrap_err();
    assert!(matches!(error, ClientError::TimedOut { .. }), "{error}");
}

#[tokio::test]
#[ignore = "needs root"]
async fn another_user_gets_no_answer_even_where_the_mode_would_let_it() {
    let agent = Agent::start_with_mode(ready(), 0o666);
    let directory = agent.socket.parent().unwrap();
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
    // A copy where that user can run it.
    let program = directory.join("crank-agent");
    std::fs::copy(Path::new(env!("CARGO_BIN_EXE_crank-agent")), &program).unwrap();
    for (uid, code, said) in [(65_534, 77, "answers only root"), (0, 0, "")] {
        let output = tokio::process::Command::new(&program)
            .arg("health")
            .arg("--socket")
            .arg(&agent.socket)
            .uid(uid)
            .output()
            .await
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.contains(said), "{text}");
    }
}

fn delivery_status(name: String, result: String) -> DeliveryStatus {
    DeliveryStatus { name, result, at: None, detail: None, not_ready: false }
}
