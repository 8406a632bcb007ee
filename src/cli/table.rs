//! Owns the table that `status` prints for people: plain text, aligned, the same on a terminal and in a file.

use crank_agent::control::StatusReport;
use crank_agent::duration::format_duration;
use crank_agent::identity::SpiffeId;
use crank_agent::printable::{FOREIGN_TEXT_LIMIT, printable};
use crank_agent::status::{AgentStatus, FurtherStatus};
use time::OffsetDateTime;
use time::macros::format_description;

/// The state of an agent at `now`, a line for each fact.
pub(crate) fn status(report: &StatusReport, now: OffsetDateTime) -> String {
    let mut table = Table::default();
    let status = &report.status;
    whose(&mut table, status);
    table.row("ready", &readiness(report));
    table.gap();
    of_certificate(&mut table, status, now);
    table.row("agent", &format!("{}, started {}", status.version, instant(status.started_at, now)));
    deliveries(&mut table, status);
    for FurtherStatus { name, status } in &status.certificates {
        table.gap();
        table.row("further", name);
        whose(&mut table, status);
        table.gap();
        of_certificate(&mut table, status, now);
        deliveries(&mut table, status);
    }
    table.text
}

fn whose(table: &mut Table, status: &AgentStatus) {
    table.row("worker", status.worker_id.as_str());
    table.row("SPIFFE id", status.spiffe_id.as_ref().map_or("not known", SpiffeId::as_str));
}

/// Certificate, renewal, CA and directory.
fn of_certificate(table: &mut Table, status: &AgentStatus, now: OffsetDateTime) {
    certificate(table, status, now);
    table.gap();
    table.row("next renewal", &status.next_renewal.map_or_else(|| "not known".to_owned(), |at| instant(at, now)));
    if let Some(request) = &status.renewal_request {
        let why = request.explanation.as_deref().unwrap_or("without an explanation");
        table.row("requested", &format!("by the CA, until {}: {why}", moment(request.window_end)));
    }
    table.row("last attempt", &last_attempt(status, now));
    if let Some(back_off) = &status.back_off {
        let next = instant(back_off.next_attempt, now);
        table.row("back-off", &format!("{} failures in a row; next attempt {next}", back_off.failures));
    }
    table.gap();
    table.row("CA", &status.ca.url);
    table.row("last answer", &status.ca.last_answer.map_or_else(|| "none yet".to_owned(), |at| instant(at, now)));
    if let Some(skew) = status.ca.clock_skew_seconds {
        table.row("clock", &skew_text(skew));
    }
    table.gap();
    table.row("directory", &status.directory);
}

fn deliveries(table: &mut Table, status: &AgentStatus) {
    for delivery in &status.deliveries {
        let result = delivery.result.replace('_', " ");
        let since = delivery.at.map(|at| format!(" since {}", moment(at))).unwrap_or_default();
        let detail = delivery.detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
        table.row("delivery", &format!("{}: {result}{since}{detail}", delivery.name));
    }
}

/// An instant as people read it: UTC, to the second.
pub(crate) fn moment(at: OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
    at.to_offset(time::UtcOffset::UTC).format(format).unwrap_or_else(|_| "a time out of range".to_owned())
}

fn readiness(report: &StatusReport) -> String {
    match (&report.readiness.ready, &report.readiness.reason) {
        (true, _) => "yes".to_owned(),
        (false, Some(reason)) => format!("NO: {reason}"),
        (false, None) => "NO".to_owned(),
    }
}

fn certificate(table: &mut Table, status: &AgentStatus, now: OffsetDateTime) {
    let Some(certificate) = &status.certificate else {
        return table.row("certificate", "none yet");
    };
    table.row("certificate", &certificate.subject);
    for (index, name) in certificate.names.iter().enumerate() {
        table.row(if index == 0 { "names" } else { "" }, name);
    }
    table.row("serial", &certificate.serial);
    table.row("issuer", &certificate.issuer);
    table.row("valid from", &moment(certificate.not_before));
    let until = moment(certificate.expires_at);
    if certificate.expires_at > now {
        table.row("valid until", &format!("{until} ({} left)", length(certificate.expires_at - now)));
    } else {
        table.row("valid until", &format!("{until} (EXPIRED {} ago)", length(now - certificate.expires_at)));
    }
    if let Some(revoked) = &status.revoked {
        table.row("REVOKED", &format!("{}: {}", instant(revoked.at, now), revoked.reason.name()));
    }
    if let Some(crl) = &status.crl {
        let state = if crl.next_update > now { "good until" } else { "RAN OUT" };
        table.row("CRL", &format!("number {}, {state} {}", crl.numbers.join(", "), instant(crl.next_update, now)));
    }
}

fn last_attempt(status: &AgentStatus, now: OffsetDateTime) -> String {
    let Some(attempt) = &status.last_attempt else { return "none yet".to_owned() };
    let at = instant(attempt.at, now);
    match &attempt.error {
        None => format!("{at}: succeeded ({})", attempt.correlation_id),
        Some(error) => format!("{at}: FAILED, {}: {} ({})", error.kind, error.message, attempt.correlation_id),
    }
}

fn skew_text(seconds: f64) -> String {
    if seconds.abs() < 1.0 {
        return "within 1 s of the CA's".to_owned();
    }
    let side = if seconds > 0.0 { "behind" } else { "ahead of" };
    format!("{:.0} s {side} the CA's", seconds.abs())
}

/// An instant and how far away it is.
fn instant(at: OffsetDateTime, now: OffsetDateTime) -> String {
    let distance = if at > now { format!("in {}", length(at - now)) } else { format!("{} ago", length(now - at)) };
    format!("{} ({distance})", moment(at))
}

/// A length of time in its two largest units.
fn length(duration: time::Duration) -> String {
    let seconds = duration.whole_seconds().unsigned_abs();
    let coarse = match seconds {
        0..3_600 => seconds,
        3_600..86_400 => seconds - seconds % 60,
        _ => seconds - seconds % 3_600,
    };
    format_duration(std::time::Duration::from_secs(coarse))
}

/// Labels on the left, values on the right.
#[derive(Default)]
struct Table {
    text: String,
}

impl Table {
    /// A row; what an agent said is foreign text.
    fn row(&mut self, label: &str, value: &str) {
        let line = format!("{label:<WIDTH$}  {}", printable(value, 2 * FOREIGN_TEXT_LIMIT));
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    fn gap(&mut self) {
        self.text.push('\n');
    }
}

/// The width of the longest label.
const WIDTH: usize = 12;

#[cfg(test)]
mod tests {
    use crank_agent::control::Readiness;
    use crank_agent::events::EventError;
    use crank_agent::identity::{CertificateMetadata, TrustDomain, WorkerId};
    use crank_agent::policy::RevocationReason;
    use crank_agent::schedule::Revocation;
    use crank_agent::status::{AgentStatus, BackOff, CaStatus, CrlStatus, DeliveryStatus, LastAttempt, RenewalRequest};
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-08-20 12:00:00 UTC);

    fn report() -> StatusReport {
        let worker_id = WorkerId::new("streaming").unwrap();
        let status = AgentStatus {
            version: "0.1.0".to_owned(),
            spiffe_id: Some(TrustDomain::new("crank.local").unwrap().worker(&worker_id)),
            worker_id,
            directory: "/etc/certs".to_owned(),
            started_at: datetime!(2026-08-19 11:59:30 UTC),
            certificate: Some(CertificateMetadata {
                expires_at: datetime!(2026-08-25 13:30:45 UTC),
                days_remaining: 5,
                serial: "4a:3b:2c:1d".to_owned(),
                issuer: "CN=Crank Issuing CA".to_owned(),
                subject: "CN=streaming, O=Crank Platform, OU=Worker Services".to_owned(),
                not_before: datetime!(2026-08-18 13:29:45 UTC),
                names: vec!["DNS:localhost".to_owned(), "DNS:streaming".to_owned()],
            }),
            revoked: None,
            crl: None,
            next_renewal: Some(datetime!(2026-08-22 01:02:03 UTC)),
            renewal_request: None,
            last_attempt: Some(LastAttempt {
                at: datetime!(2026-08-20 11:59:00 UTC),
                correlation_id: "req_1".to_owned(),
                error: Some(EventError::new("ca_unavailable", "cannot connect to https://ca: refused")),
            }),
            back_off: Some(BackOff { failures: 3, next_attempt: datetime!(2026-08-20 12:00:07 UTC) }),
            ca: CaStatus {
                url: "https://ca".to_owned(),
                last_answer: Some(datetime!(2026-08-18 13:30:45 UTC)),
                clock_skew_seconds: Some(-4.2),
            },
            certificates: Vec::new(),
            deliveries: vec![DeliveryStatus {
                name: "nginx".to_owned(),
                result: "not_served".to_owned(),
                at: Some(datetime!(2026-08-20 11:58:00 UTC)),
                detail: Some("it serves 4a:3b".to_owned()),
                not_ready: false,
            }],
        };
        StatusReport { status, readiness: Readiness { ready: true, reason: None } }
    }

    #[test]
    fn the_table_reads_as_documented() {
        let expected = "\
worker        streaming
SPIFFE id     spiffe://crank.local/worker/streaming
ready         yes

certificate   CN=streaming, O=Crank Platform, OU=Worker Services
names         DNS:localhost
              DNS:streaming
serial        4a:3b:2c:1d
issuer        CN=Crank Issuing CA
valid from    2026-08-18 13:29:45 UTC
valid until   2026-08-25 13:30:45 UTC (5d1h left)

next renewal  2026-08-22 01:02:03 UTC (in 1d13h)
last attempt  2026-08-20 11:59:00 UTC (1m ago): FAILED, ca_unavailable: cannot connect to https://ca: refused (req_1)
back-off      3 failures in a row; next attempt 2026-08-20 12:00:07 UTC (in 7s)

CA            https://ca
last answer   2026-08-18 13:30:45 UTC (1d22h ago)
clock         4 s ahead of the CA's

directory     /etc/certs
agent         0.1.0, started 2026-08-19 11:59:30 UTC (1d ago)
delivery      nginx: not served since 2026-08-20 11:58:00 UTC: it serves 4a:3b
";
        assert_eq!(status(&report(), NOW), expected);
    }

    #[test]
    fn an_agent_without_a_certificate_says_so() {
        let mut report = report();
        report.status.certificate = None;
        report.status.last_attempt = None;
        report.status.back_off = None;
        report.status.next_renewal = None;
        report.status.ca.last_answer = None;
        report.readiness = Readiness { ready: false, reason: Some("no certificate".to_owned()) };
        let text = status(&report, NOW);
        for line in [
            "ready         NO: no certificate\n",
            "certificate   none yet\n",
            "next renewal  not known\n",
            "last attempt  none yet\n",
            "last answer   none yet\n",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
    }

    #[test]
    fn an_expired_certificate_stands_out() {
        let text = status(&report(), datetime!(2026-08-26 13:30:45 UTC));
        assert!(text.contains("(EXPIRED 1d ago)\n"), "{text}");
    }

    #[test]
    fn what_the_ca_took_back_or_asks_for_stands_out() {
        let mut report = report();
        report.status.revoked =
            Some(Revocation { at: datetime!(2026-08-20 11:00:00 UTC), reason: RevocationReason::KeyCompromise });
        report.status.crl = Some(CrlStatus {
            numbers: vec!["7".to_owned(), "3".to_owned()],
            next_update: datetime!(2026-08-21 12:00:00 UTC),
        });
        report.status.renewal_request = Some(RenewalRequest {
            at: NOW,
            window_end: datetime!(2026-08-20 13:00:00 UTC),
            explanation: Some("a new issuer".to_owned()),
        });
        let text = status(&report, NOW);
        for line in [
            "REVOKED       2026-08-20 11:00:00 UTC (1h ago): keyCompromise\n",
            "CRL           number 7, 3, good until 2026-08-21 12:00:00 UTC (in 1d)\n",
            "requested     by the CA, until 2026-08-20 13:00:00 UTC: a new issuer\n",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
        let text = status(&report, datetime!(2026-08-22 12:00:00 UTC));
        assert!(text.contains("CRL           number 7, 3, RAN OUT 2026-08-21 12:00:00 UTC (1d ago)\n"), "{text}");
    }

    #[test]
    fn foreign_text_cannot_make_lines_or_colours() {
        let mut report = report();
        report.status.directory = "/etc\nworker  other\u{1b}[31m".to_owned();
        let text = status(&report, NOW);
        assert!(text.contains("directory     /etc\\nworker  other\\u{1b}[31m\n"), "{text}");
    }
}
