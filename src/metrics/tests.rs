//! Owns the tests of the metrics: what moves them and that Prometheus takes them.

use std::io::Write;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;
use crate::events::EventError;
use crate::identity::{CertificateMetadata, SpiffeId, WorkerId};
use crate::status::{BackOff, CaStatus, LastAttempt};

const NOW: OffsetDateTime = time::macros::datetime!(2030-01-01 00:00 UTC);

fn event(event: CertificateEvent, kind: Option<&str>) -> EventRecord {
    EventRecord {
        certificate: None,
        event,
        severity: event.severity(),
        correlation_id: "req_1".to_owned(),
        worker_id: WorkerId::new("streaming").unwrap(),
        timestamp: NOW,
        cert_metadata: None,
        error: kind.map(|kind| EventError { kind: kind.to_owned(), message: "no".to_owned() }),
        decision_id: None,
        detail: None,
    }
}

fn status() -> AgentStatus {
    AgentStatus {
        certificates: Vec::new(),
        version: "1".to_owned(),
        worker_id: WorkerId::new("streaming").unwrap(),
        spiffe_id: Some(SpiffeId::new("spiffe://td/worker/streaming").unwrap()),
        directory: "/etc/certs".to_owned(),
        started_at: NOW,
        certificate: None,
        revoked: None,
        crl: None,
        next_renewal: None,
        renewal_request: None,
        last_attempt: None,
        back_off: None,
        ca: CaStatus { url: "https://ca".to_owned(), last_answer: None, clock_skew_seconds: None },
        deliveries: Vec::new(),
    }
}

fn certificate(left: time::Duration) -> CertificateMetadata {
    CertificateMetadata {
        expires_at: NOW + left,
        days_remaining: left.whole_days(),
        serial: "01".to_owned(),
        issuer: "CN=ca".to_owned(),
        subject: "CN=streaming".to_owned(),
        not_before: NOW - time::Duration::hours(1),
        names: Vec::new(),
    }
}

fn everything() -> Metrics {
    let metrics = Metrics::new().unwrap();
    let mut status = status();
    status.certificate = Some(certificate(time::Duration::days(10)));
    status.next_renewal = Some(NOW + time::Duration::days(3));
    status.last_attempt = Some(LastAttempt { at: NOW, correlation_id: "req_1".to_owned(), error: None });
    status.ca.clock_skew_seconds = Some(-1.5);
    metrics.observe_status(&status, NOW);
    metrics.observe_event(&event(CertificateEvent::CertIssued, None));
    metrics
}

/// The value of `sample` (name and labels).
fn value(metrics: &Metrics, sample: &str) -> Option<f64> {
    let text = metrics.render(true).unwrap();
    let line = text.lines().find(|line| line.rsplit_once(' ').is_some_and(|(name, _)| name == sample))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

#[test]
fn counters_are_there_with_zero_and_unknown_gauges_are_not() {
    let metrics = Metrics::new().unwrap();
    for sample in [
        "crank_cert_issuance_total",
        "crank_cert_renewal_total",
        "crank_ca_unavailable_total",
        "crank_cert_errors_total{type=\"refused\"}",
        "crank_cert_events_total{event=\"CERT_EXPIRED\"}",
        "crank_cert_expiration_seconds_count",
        "crank_cert_back_off_seconds",
        "crank_cert_consecutive_failures",
    ] {
        assert_eq!(value(&metrics, sample), Some(0.0), "{sample}");
    }
    for sample in [
        "crank_cert_not_after_timestamp_seconds",
        "crank_cert_not_before_timestamp_seconds",
        "crank_cert_next_renewal_timestamp_seconds",
        "crank_cert_last_success_timestamp_seconds",
        "crank_ca_clock_skew_seconds",
    ] {
        assert_eq!(value(&metrics, sample), None, "{sample}");
    }
    let build = format!("crank_agent_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(value(&metrics, &build), Some(1.0));
}

#[test]
fn events_move_the_counters_of_the_contract() {
    let metrics = Metrics::new().unwrap();
    metrics.observe_event(&event(CertificateEvent::CertIssued, None));
    metrics.observe_event(&event(CertificateEvent::CertRenewed, None));
    metrics.observe_event(&event(CertificateEvent::CertRenewed, None));
    metrics.observe_event(&event(CertificateEvent::CaUnavailable, Some("ca_unavailable")));
    assert_eq!(value(&metrics, "crank_cert_issuance_total"), Some(1.0));
    assert_eq!(value(&metrics, "crank_cert_renewal_total"), Some(2.0));
    assert_eq!(value(&metrics, "crank_ca_unavailable_total"), Some(1.0));
    assert_eq!(value(&metrics, "crank_cert_errors_total{type=\"ca_unavailable\"}"), Some(1.0));
    assert_eq!(value(&metrics, "crank_cert_events_total{event=\"CERT_RENEWED\"}"), Some(2.0));
}

#[test]
fn an_error_counts_under_its_kind_and_one_of_an_unknown_kind_under_other() {
    let metrics = Metrics::new().unwrap();
    for ErrorKind { label, .. } in ERROR_KINDS {
        metrics.observe_event(&event(CertificateEvent::CsrFailed, Some(label)));
        assert_eq!(value(&metrics, &format!("crank_cert_errors_total{{type=\"{label}\"}}")), Some(1.0), "{label}");
    }
    metrics.observe_event(&event(CertificateEvent::CsrFailed, Some("x\"} 1\ninjected 1")));
    assert_eq!(value(&metrics, "crank_cert_errors_total{type=\"other\"}"), Some(1.0));
    assert!(!metrics.render(true).unwrap().contains("injected"));
}

#[test]
fn status_sets_the_gauges_and_a_lost_certificate_removes_them() {
    let metrics = everything();
    let day = timestamp(NOW);
    assert_eq!(value(&metrics, "crank_cert_not_after_timestamp_seconds"), Some(day + 10.0 * DAY));
    assert_eq!(value(&metrics, "crank_cert_not_before_timestamp_seconds"), Some(day - HOUR));
    assert_eq!(value(&metrics, "crank_cert_next_renewal_timestamp_seconds"), Some(day + 3.0 * DAY));
    assert_eq!(value(&metrics, "crank_cert_last_success_timestamp_seconds"), Some(day));
    assert_eq!(value(&metrics, "crank_ca_clock_skew_seconds"), Some(-1.5));
    let bucket = |le: f64| format!("crank_cert_expiration_seconds_bucket{{le=\"{le}\"}}");
    assert_eq!(value(&metrics, &bucket(7.0 * DAY)), Some(0.0));
    assert_eq!(value(&metrics, &bucket(14.0 * DAY)), Some(1.0));

    metrics.observe_status(&status(), NOW);
    assert_eq!(value(&metrics, "crank_cert_not_after_timestamp_seconds"), None);
    assert_eq!(value(&metrics, "crank_cert_last_success_timestamp_seconds"), Some(day));
    assert_eq!(value(&metrics, "crank_cert_expiration_seconds_count"), Some(1.0));
}

#[test]
fn failures_show_back_off_and_keep_the_last_success() {
    let metrics = everything();
    let mut failing = status();
    failing.back_off = Some(BackOff { failures: 3, next_attempt: NOW + time::Duration::seconds(8) });
    failing.last_attempt = Some(LastAttempt {
        at: NOW + time::Duration::hours(1),
        correlation_id: "req_2".to_owned(),
        error: Some(EventError::new("refused", "no")),
    });
    metrics.observe_status(&failing, NOW);
    assert_eq!(value(&metrics, "crank_cert_back_off_seconds"), Some(8.0));
    assert_eq!(value(&metrics, "crank_cert_consecutive_failures"), Some(3.0));
    assert_eq!(value(&metrics, "crank_cert_last_success_timestamp_seconds"), Some(timestamp(NOW)));
    metrics.observe_status(&status(), NOW);
    assert_eq!(value(&metrics, "crank_cert_back_off_seconds"), Some(0.0));
    assert_eq!(value(&metrics, "crank_cert_consecutive_failures"), Some(0.0));
}

#[test]
fn an_expired_certificate_counts_as_zero_seconds_left() {
    let metrics = Metrics::new().unwrap();
    let mut expired = status();
    expired.certificate = Some(certificate(-time::Duration::days(1)));
    metrics.observe_status(&expired, NOW);
    assert_eq!(value(&metrics, "crank_cert_expiration_seconds_sum"), Some(0.0));
    assert_eq!(value(&metrics, "crank_cert_expiration_seconds_count"), Some(1.0));
}

#[test]
fn ready_is_what_the_scrape_found() {
    let metrics = Metrics::new().unwrap();
    assert!(metrics.render(true).unwrap().contains("\ncrank_agent_ready 1\n"));
    assert!(metrics.render(false).unwrap().contains("\ncrank_agent_ready 0\n"));
}

#[test]
fn two_agents_in_one_process_share_nothing() {
    let (first, second) = (Metrics::new().unwrap(), Metrics::new().unwrap());
    first.observe_event(&event(CertificateEvent::CertIssued, None));
    assert_eq!(value(&second, "crank_cert_issuance_total"), Some(0.0));
}

/// <https://prometheus.io/docs/practices/naming/>: snake case, one prefix, base units, `_total` on counters only.
#[test]
fn names_follow_the_rules_of_prometheus() {
    let families = everything().registry.gather();
    assert!(families.len() >= 14, "{}", families.len());
    for family in families {
        let name = family.name();
        assert!(name.starts_with("crank_"), "{name}");
        assert!(name.bytes().all(|c| c.is_ascii_lowercase() || c == b'_'), "{name}");
        assert!(!name.contains("__") && !name.ends_with("_count") && !name.ends_with("_sum"), "{name}");
        let counter = family.get_field_type() == prometheus::proto::MetricType::COUNTER;
        assert_eq!(counter, name.ends_with("_total"), "{name}");
        assert!(!["_ms", "_minutes", "_hours", "_days"].iter().any(|unit| name.contains(unit)), "{name}");
        assert!(family.help().ends_with('.') && family.help().len() > 8, "{name}: {}", family.help());
    }
}

proptest! {
    #[test]
    fn no_event_adds_a_label_value(kind in any::<String>(), index in 0..CertificateEvent::ALL.len()) {
        let metrics = Metrics::new().unwrap();
        let before = metrics.render(true).unwrap().lines().count();
        metrics.observe_event(&event(CertificateEvent::ALL[index], Some(&kind)));
        prop_assert_eq!(metrics.render(true).unwrap().lines().count(), before);
    }
}

#[test]
#[ignore = "needs promtool"]
fn promtool_takes_the_text_without_complaint() {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool");
    promtool.stdin.take().unwrap().write_all(everything().render(true).unwrap().as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let complaints = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaints.is_empty(), "{complaints}");
}

#[test]
fn every_failure_of_an_issuer_has_a_type_of_its_own() {
    use crate::issuer::{IssueError, IssueErrorKind};
    for kind in [
        IssueErrorKind::Unavailable,
        IssueErrorKind::RateLimited(None),
        IssueErrorKind::Unauthenticated,
        IssueErrorKind::Refused,
        IssueErrorKind::BrokenReply,
        IssueErrorKind::Untrusted,
        IssueErrorKind::Credential,
    ] {
        let kind = IssueError::new(kind, "x").kind();
        assert_eq!(error_type(kind), kind);
    }
}
