//! OPA over real connections: the real one, and one that lies, stalls and floods.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use crank_agent::policy::opa::OpaAddress;
use crank_agent::policy::{Actor, RevocationReason};
use crank_agent::trace_context::TraceContext;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Opa, TestRoot, capabilities, fake_opa, free_port, http, https, policy_at, worker};

#[tokio::test]
#[ignore = "needs opa"]
async fn a_real_opa_over_mutual_tls_decides_and_its_own_decision_id_is_kept() {
    let root = TestRoot::new();
    let server = root.issue("server", None);
    let client = root.issue("client", None);
    let port = free_port();
    let path = |path: &std::path::Path| path.display().to_string();
    let _opa = Opa::start(
        &format!("127.0.0.1:{port}"),
        &[
            "--tls-cert-file",
            &path(&server.certificate_file),
            "--tls-private-key-file",
            &path(&server.key_file),
            "--tls-ca-cert-file",
            &path(&root.path("root.crt")),
            "--authentication",
            "tls",
        ],
        || TcpStream::connect(("127.0.0.1", port)).is_ok(),
    );
    let policy = policy_at(https(port, root.path("root.crt"), Some(client.clone())));
    let own = capabilities(&["streaming", "localhost"]);
    let decision = policy.can_issue_certificate(&worker(), &own).await.unwrap();
    assert!(decision.is_allowed(), "{decision:?}");
    assert!(decision.id.starts_with("dec_"));
    let basis = decision.basis.unwrap();
    assert!(basis.strip_prefix("opa ").is_some_and(|id| id.len() == 36), "{basis}");
    let period = policy.certificate_validity_period(&worker(), &own).await.unwrap();
    assert_eq!(period.period, Duration::from_hours(24));
    let foreign = capabilities(&["streaming", "ledger"]);
    let decision = policy.can_issue_certificate(&worker(), &foreign).await.unwrap();
    assert_eq!((decision.is_allowed(), decision.reason.as_str()), (false, "not a name of streaming: ledger"));
    let actor = Actor::Admin("mallory".to_owned());
    let revocation = policy.revoke_certificate(&worker(), RevocationReason::Superseded, &actor).await.unwrap();
    assert!(!revocation.is_allowed());
    assert_eq!(policy.status().problem, None);

    // A renewed client certificate is taken up, one that is broken leaves the good one.
    let renewed = root.issue("renewed", None);
    std::fs::copy(&renewed.certificate_file, &client.certificate_file).unwrap();
    assert!(policy.can_issue_certificate(&worker(), &own).await.unwrap().is_allowed(), "half of a pair");
    std::fs::copy(&renewed.key_file, &client.key_file).unwrap();
    assert!(policy.can_issue_certificate(&worker(), &own).await.unwrap().is_allowed());

    // Without a certificate of ours, it does not speak to us.
    let unknown = policy_at(https(port, root.path("root.crt"), None));
    assert!(unknown.can_issue_certificate(&worker(), &own).await.is_err());
    // And we do not speak to one that other roots vouch for.
    let other = TestRoot::new();
    let mistaken = policy_at(https(port, other.path("root.crt"), None));
    let error = mistaken.can_issue_certificate(&worker(), &own).await.unwrap_err();
    assert!(error.reason.contains("certificate"), "{error}");
}

#[tokio::test]
#[ignore = "needs opa"]
async fn on_this_machine_a_workers_certificate_does_not_pass_for_opa() {
    let root = TestRoot::new();
    let server = root.issue("worker", Some("spiffe://crank.local/worker/impostor"));
    let port = free_port();
    let _opa = Opa::start(
        &format!("127.0.0.1:{port}"),
        &[
            "--tls-cert-file",
            &server.certificate_file.display().to_string(),
            "--tls-private-key-file",
            &server.key_file.display().to_string(),
        ],
        || TcpStream::connect(("127.0.0.1", port)).is_ok(),
    );
    let policy = policy_at(https(port, root.path("root.crt"), None));
    let error = policy.can_issue_certificate(&worker(), &capabilities(&["streaming"])).await.unwrap_err();
    assert!(error.reason.contains("worker's"), "{error}");
}

#[tokio::test]
#[ignore = "needs opa"]
async fn an_opa_that_goes_away_denies_and_is_asked_again_when_it_is_back() {
    let directory = TempDir::new().unwrap();
    let (opa, socket) = Opa::at_socket(directory.path());
    let policy = policy_at(OpaAddress::Socket(socket.clone()));
    let own = capabilities(&["streaming"]);
    assert!(policy.can_issue_certificate(&worker(), &own).await.unwrap().is_allowed());
    drop(opa);
    let error = policy.can_issue_certificate(&worker(), &own).await.unwrap_err();
    assert!(error.reason.starts_with("OPA gave no answer"), "{error}");
    assert_eq!(policy.status().problem, Some(error.reason));
    let _ = std::fs::remove_file(&socket);
    let (_opa, _) = Opa::at_socket(directory.path());
    assert!(policy.can_issue_certificate(&worker(), &own).await.unwrap().is_allowed());
    assert_eq!(policy.status().problem, None);
}

#[tokio::test]
async fn whatever_is_no_answer_denies() {
    let large = format!("{{\"result\": {{\"allow\": true, \"reason\": \"{}\"}}}}", "x".repeat(70_000));
    let redirect = "HTTP/1.1 307 Temporary Redirect\r\nlocation: /v1/data/crank/other\r\ncontent-length: 0\r\n\r\n";
    let endless = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{}", "4\r\nxxxx\r\n".repeat(40_000));
    for (answer, told) in [
        (
            http("500 Internal Server Error", r#"{"message": "eval\nfailed"}"#),
            "500 Internal Server Error: eval\\nfailed",
        ),
        (http("404 Not Found", ""), "404"),
        (http("200 OK", "[]"), "not the JSON expected"),
        (http("200 OK", r#"{"result": true}"#), "not of the form"),
        (http("200 OK", r#"{"result": {"allow": "yes"}}"#), "not of the form"),
        (http("200 OK", &large), "more than 65536 bytes"),
        (endless, "more than 65536 bytes"),
        (redirect.to_owned(), "307"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{".to_owned(), "no answer"),
        ("SSH-2.0-OpenSSH\r\n".to_owned(), "OPA gave no answer"),
        (String::new(), "no answer"),
    ] {
        let directory = TempDir::new().unwrap();
        let socket = directory.path().join("opa.sock");
        fake_opa(&socket, answer.clone());
        let policy = policy_at(OpaAddress::Socket(socket));
        let begun = Instant::now();
        let error = policy.can_issue_certificate(&worker(), &capabilities(&["streaming"])).await.unwrap_err();
        assert!(error.reason.contains(told), "{answer:.80}: {error}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn an_answer_without_a_result_denies_and_a_foreign_decision_id_does_no_harm() {
    for (body, allowed, basis) in [
        (r#"{"decision_id": "a-b.c"}"#, false, "opa a-b.c"),
        (r#"{"result": {"allow": true}, "decision_id": "a\nb", "metrics": {}}"#, true, "opa"),
        (r#"{"result": {"allow": true}}"#, true, "opa"),
    ] {
        let directory = TempDir::new().unwrap();
        let socket = directory.path().join("opa.sock");
        fake_opa(&socket, http("200 OK", body));
        let policy = policy_at(OpaAddress::Socket(socket));
        let decision = policy.can_issue_certificate(&worker(), &capabilities(&["streaming"])).await.unwrap();
        assert_eq!((decision.is_allowed(), decision.basis.as_deref()), (allowed, Some(basis)), "{body}");
    }
}

#[tokio::test]
async fn the_question_carries_the_trace_of_the_request_from_a_step_of_its_own() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("opa.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let policy = policy_at(OpaAddress::Socket(socket));
    let asked = capabilities(&["streaming"]);
    let answered = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(http("200 OK", r#"{"result": {"allow": true}}"#).as_bytes()).await.unwrap();
        (stream, String::from_utf8(head).unwrap())
    };
    let worker = worker();
    let (decision, (_stream, head)) = tokio::join!(policy.can_issue_certificate(&worker, &asked), answered);
    assert!(decision.unwrap().is_allowed());
    let sent = head.lines().find_map(|line| line.strip_prefix("traceparent: ")).unwrap();
    let sent = TraceContext::parse(sent).unwrap();
    assert_eq!(sent.trace_id(), asked.trace.trace_id());
    assert_ne!(sent, asked.trace);
}
