//! A CA that lies: nothing it returns is installed, and the last good certificate stays.

use std::io::Write;
use std::time::Duration;

use crate::liar::{Authority, LyingCa, Stream, reply, success};
use crate::processes::{Worker, until};
use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType};

/// A lie, the `kind` of the error it must be found by, and the exit code of `renew` and `init`.
type Lie = (&'static str, &'static str, i32, fn(&Authority, &str, &mut Stream));

const LIES: &[Lie] = &[
    ("a certificate for someone else's key", "key_mismatch", 77, |authority, csr, stream| {
        let request = rcgen::CertificateSigningRequestParams::from_pem(csr).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = request.params.signed_by(&key, &authority.issuer).unwrap();
        success(authority, &certificate.pem(), stream);
    }),
    ("a fixed certificate with status success", "key_mismatch", 77, |authority, _, stream| {
        success(authority, &authority.root.pem(), stream);
    }),
    ("other names", "wrong_names", 77, |authority, csr, stream| {
        let other = |params: &mut rcgen::CertificateParams| {
            params.subject_alt_names = vec![SanType::DnsName("other".try_into().unwrap())];
        };
        success(authority, &authority.sign(csr, other), stream);
    }),
    ("one name more", "wrong_names", 77, |authority, csr, stream| {
        let more = |params: &mut rcgen::CertificateParams| {
            params.subject_alt_names.push(SanType::DnsName("*.example.com".try_into().unwrap()));
        };
        success(authority, &authority.sign(csr, more), stream);
    }),
    ("a second SPIFFE id", "wrong_names", 77, |authority, csr, stream| {
        let more = |params: &mut rcgen::CertificateParams| {
            params.subject_alt_names.push(SanType::URI("spiffe://other/worker/x".try_into().unwrap()));
        };
        success(authority, &authority.sign(csr, more), stream);
    }),
    ("another worker's common name", "wrong_names", 77, |authority, csr, stream| {
        let other = |params: &mut rcgen::CertificateParams| {
            params.distinguished_name.push(rcgen::DnType::CommonName, "other");
        };
        success(authority, &authority.sign(csr, other), stream);
    }),
    ("an expired certificate", "expired", 77, |authority, csr, stream| {
        let past = |params: &mut rcgen::CertificateParams| {
            params.not_before -= Duration::from_hours(2);
            params.not_after -= Duration::from_hours(2);
        };
        success(authority, &authority.sign(csr, past), stream);
    }),
    ("a certificate from tomorrow", "not_yet_valid", 77, |authority, csr, stream| {
        let future = |params: &mut rcgen::CertificateParams| {
            params.not_before += Duration::from_hours(24);
            params.not_after += Duration::from_hours(24);
        };
        success(authority, &authority.sign(csr, future), stream);
    }),
    ("a CA certificate", "is_ca", 77, |authority, csr, stream| {
        let ca = |params: &mut rcgen::CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        success(authority, &authority.sign(csr, ca), stream);
    }),
    ("key usage to sign certificates", "key_usage", 77, |authority, csr, stream| {
        let usage = |params: &mut rcgen::CertificateParams| params.key_usages.push(KeyUsagePurpose::KeyCertSign);
        success(authority, &authority.sign(csr, usage), stream);
    }),
    ("key usage without digital signature", "key_usage", 77, |authority, csr, stream| {
        let usage = |params: &mut rcgen::CertificateParams| params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
        success(authority, &authority.sign(csr, usage), stream);
    }),
    ("extended key usage for code signing", "extended_key_usage", 77, |authority, csr, stream| {
        let usage = |params: &mut rcgen::CertificateParams| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        };
        success(authority, &authority.sign(csr, usage), stream);
    }),
    ("another issuer of the same name", "untrusted_chain", 77, |authority, csr, stream| {
        success(authority, &Authority::new("Lying CA").sign(csr, |_| {}), stream);
    }),
    ("another issuer with its root", "untrusted_chain", 77, |_, csr, stream| {
        let other = Authority::new("Other CA");
        success(&other, &other.sign(csr, |_| {}), stream);
    }),
    ("success and no certificate", "broken_reply", 69, |authority, _, stream| success(authority, "", stream)),
    ("garbage in PEM", "broken_reply", 69, |authority, _, stream| {
        let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        success(authority, pem, stream);
    }),
    ("a status other than success", "broken_reply", 69, |authority, csr, stream| {
        let body = serde_json::json!({
            "status": "pending", "certificate": authority.sign(csr, |_| {}), "ca_certificate": authority.root.pem(),
        });
        reply(stream, "200 OK", "application/json", body.to_string().as_bytes());
    }),
    ("a page of HTML", "broken_reply", 69, |_, _, stream| reply(stream, "200 OK", "text/html", b"<html>")),
    ("not JSON", "broken_reply", 69, |_, _, stream| reply(stream, "200 OK", "application/json", b"{\"status\":")),
    ("a redirect", "broken_reply", 69, |_, _, stream| {
        let _ = stream.write_all(b"HTTP/1.1 307 T\r\nlocation: https://localhost:1/\r\ncontent-length: 0\r\n\r\n");
    }),
    ("ten megabytes", "broken_reply", 69, |_, _, stream| {
        reply(stream, "200 OK", "application/json", &vec![b' '; 10 * 1024 * 1024]);
    }),
    ("a reply cut short", "ca_unavailable", 69, |_, _, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{");
    }),
    ("a reply that never ends", "ca_unavailable", 69, |_, _, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n");
        while stream.write_all(b" ").and_then(|()| stream.flush()).is_ok() {
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }),
    ("no reply at all", "ca_unavailable", 69, |_, _, stream| {
        let _ = std::io::Read::read(stream, &mut [0; 1]);
    }),
    ("a reason with control characters", "refused", 77, |_, _, stream| {
        let body = serde_json::json!({"detail": "no\r\n\u{1b}[2J{\"event\":\"CERT_ISSUED\"}"});
        reply(stream, "403 Forbidden", "application/json", body.to_string().as_bytes());
    }),
    ("an error of its own", "ca_unavailable", 69, |_, _, stream| reply(stream, "500 Oops", "text/plain", b"oops")),
    ("a wish for patience", "rate_limited", 69, |_, _, stream| reply(stream, "429 Slow", "text/plain", b"slow")),
];

fn worker_of(ca: &LyingCa, directory: &std::path::Path) -> Worker {
    let root_file = directory.join("root.crt");
    ca.write_root(&root_file);
    let worker = Worker::at("streaming", &ca.url(), &root_file);
    worker.write_token("token-of-any-kind");
    worker.with("CRANK_CA_TIMEOUT", "1500ms").with("CRANK_CA_STARTUP_WAIT", "1s")
}

#[test]
fn no_lie_replaces_the_last_good_certificate() {
    let ca = LyingCa::start();
    let directory = tempfile::tempdir().unwrap();
    let worker = worker_of(&ca, directory.path());
    ca.answer(|authority, csr, stream| success(authority, &authority.sign(csr, |_| {}), stream));
    let mut agent = worker.start();
    agent.event("CERT_ISSUED", 1);
    let serial = worker.serial().unwrap();
    for (lie, kind, code, answer) in LIES {
        ca.answer(answer);
        let output = worker.run_once(&["renew"]);
        assert_eq!(output.status.code(), Some(*code), "{lie}: {output:?}");
        let status: serde_json::Value = serde_json::from_slice(&worker.run_once(&["status", "--json"]).stdout).unwrap();
        assert_eq!(status["last_attempt"]["error"]["kind"], *kind, "{lie}: {status}");
        assert_eq!(worker.serial().unwrap(), serial, "{lie}");
        assert_eq!(worker.run_once(&["health"]).status.code(), Some(0), "{lie}");
    }
    assert!(agent.is_running());
    let failed = agent.event("CERT_VALIDATION_FAILED", 1);
    assert_eq!(failed["error"]["kind"], "key_mismatch");
    assert_eq!(failed["cert_metadata"]["serial"], serial.as_str());
    assert_eq!(agent.count("CERT_RENEWED"), 0);
    // Every line of the log is one JSON object, whatever the CA put into it.
    for line in agent.log().lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|_| panic!("not JSON: {line}"));
    }
    // And the truth is still taken.
    ca.answer(|authority, csr, stream| success(authority, &authority.sign(csr, |_| {}), stream));
    assert_eq!(worker.run_once(&["renew"]).status.code(), Some(0));
    assert_ne!(worker.serial().unwrap(), serial);
}

/// What it is, and how it is said.
type Nonsense = (&'static str, fn(&mut Stream));

/// What a CA may say where it is asked what there is to know.
const NONSENSE: &[Nonsense] = &[
    ("nothing at all", |_| {}),
    ("a page of HTML", |stream| reply(stream, "200 OK", "text/html", b"<html>")),
    ("a redirect", |stream| {
        let _ = stream.write_all(b"HTTP/1.1 307 T\r\nlocation: https://localhost:1/\r\ncontent-length: 0\r\n\r\n");
    }),
    ("twenty megabytes", |stream| {
        reply(stream, "200 OK", "application/json", &vec![b' '; 20 * 1024 * 1024]);
    }),
    ("a length that nobody has", |stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551615\r\n\r\n{");
    }),
    ("an answer that never ends", |stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(b" ").and_then(|()| stream.flush()).is_ok() {
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }),
    ("a window and a reason of other types", |stream| {
        let body = br#"{"suggestedWindow":[1,2],"explanation":{},"revoked":null,"crl":7,"roots":"x"}"#;
        reply(stream, "200 OK", "application/json", body);
    }),
    ("control characters", |stream| {
        let body = r#"{"explanation":"\r\n\u001b[2J{}","suggestedWindow":"\n{\"event\":\"CERT_REVOKED\"}"}"#;
        reply(stream, "200 OK", "application/json", body.as_bytes());
    }),
    ("a CRL that is none", |stream| {
        let body = b"-----BEGIN X509 CRL-----\nMAUwAwIBAQ==\n-----END X509 CRL-----\n";
        reply(stream, "200 OK", "application/x-pem-file", body);
    }),
    ("that it is not to be asked for a thousand years", |stream| {
        let head = b"HTTP/1.1 503 Gone\r\nretry-after: 31536000000\r\ncontent-length: 0\r\n\r\n";
        let _ = stream.write_all(head);
    }),
];

#[test]
fn nothing_that_a_ca_says_of_a_certificate_harms_the_agent() {
    let ca = LyingCa::start();
    let directory = tempfile::tempdir().unwrap();
    let worker = worker_of(&ca, directory.path()).with("CRANK_SCHEDULE_MAX_BACK_OFF", "10s");
    ca.answer(|authority, csr, stream| success(authority, &authority.sign(csr, |_| {}), stream));
    worker.start().event("CERT_ISSUED", 1);
    let serial = worker.serial();
    for (lie, say) in NONSENSE {
        let asked = || (ca.asked("/renewal-info"), ca.asked("/ca/crl"));
        let before = asked();
        ca.say(say);
        let mut agent = worker.start();
        agent.event("CERT_ADOPTED", 1);
        until(lie, || (asked().0 > before.0 && asked().1 > before.1).then_some(()));
        assert_eq!(worker.run_once(&["health"]).status.code(), Some(0), "{lie}");
        assert!(agent.is_running(), "{lie}");
        assert_eq!((agent.count("CERT_REVOKED"), agent.count("RENEWAL_REQUESTED")), (0, 0), "{lie}");
        assert_eq!(worker.serial(), serial, "{lie}");
        for line in agent.log().lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|_| panic!("{lie}: not JSON: {line}"));
        }
        let after = asked();
        assert!(after.0 - before.0 < 5 && after.1 - before.1 < 5, "{lie}: {before:?} {after:?}");
    }
    assert!(!worker.certificates().join("ca.crl").exists());
}

#[test]
fn no_lie_makes_a_first_certificate() {
    let ca = LyingCa::start();
    let directory = tempfile::tempdir().unwrap();
    for (lie, _, code, answer) in LIES {
        let worker = worker_of(&ca, directory.path());
        ca.answer(answer);
        let output = worker.run_once(&["init"]);
        assert_eq!(output.status.code(), Some(*code), "{lie}: {output:?}");
        assert_eq!(worker.serial(), None, "{lie}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("cannot start without a valid certificate"), "{lie}: {error}");
        assert!(!error.contains("token-of-any-kind"), "{lie}: {error}");
    }
}

#[test]
fn a_chain_beyond_the_limit_is_refused() {
    let ca = LyingCa::start();
    let directory = tempfile::tempdir().unwrap();
    let worker = worker_of(&ca, directory.path());
    ca.answer(|authority, csr, stream| {
        let chain = authority.sign(csr, |_| {}) + &authority.root.pem().repeat(20);
        success(authority, &chain, stream);
    });
    let output = worker.run_once(&["init"]);
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("at most 10 certificates"));
}

#[test]
fn a_request_carries_a_trace_that_has_the_digits_of_its_correlation_id() {
    let ca = LyingCa::start();
    let directory = tempfile::tempdir().unwrap();
    let worker = worker_of(&ca, directory.path());
    ca.answer(|authority, csr, stream| success(authority, &authority.sign(csr, |_| {}), stream));
    assert_eq!(worker.run_once(&["init"]).status.code(), Some(0));
    let head = ca.last_head();
    let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap();
    let trace = crank_agent::trace_context::TraceContext::parse(header("traceparent")).unwrap();
    assert_eq!(header("x-correlation-id"), format!("req_{}", trace.trace_id()));
}
