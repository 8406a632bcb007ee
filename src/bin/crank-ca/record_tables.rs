//! Owns the tables in which people read the record: plain text, aligned, the same on a terminal and in a file.

use std::fmt::Write;

use crank_agent::ca::{
    CertificateHistory, CertificateRecord, DecisionRecord, IdentityRecord, Record, RevocationRecord, WorkerHistory,
};
use crank_agent::duration::format_duration;
use crank_agent::policy::Outcome;
use crank_agent::printable::printable;
use time::OffsetDateTime;
use time::macros::format_description;

/// What has a line in a table.
pub(crate) trait Row: Record {
    /// The headings, as a line.
    const HEAD: &'static str;

    fn line(&self, now: OffsetDateTime) -> String;
}

impl Row for CertificateRecord {
    const HEAD: &'static str = "STATUS    ISSUED               ENDS                 SERIAL                                              WORKER\n";

    fn line(&self, _: OffsetDateTime) -> String {
        let status = self.status.name();
        let (issued, ends) = (moment(self.reserved_at), moment(self.not_after));
        format!("{status:<10}{issued:<21}{ends:<21}{:<52}{}\n", self.serial, worker_of(self))
    }
}

impl Row for IdentityRecord {
    const HEAD: &'static str =
        "STATE    FIRST ISSUED         LAST ISSUED          ENDS                 CERTIFICATES  WORKER\n";

    fn line(&self, _: OffsetDateTime) -> String {
        let [first, last, ends] = [self.first_issued_at, self.last_issued_at, self.last_not_after].map(moment);
        let state = self.state.name();
        format!("{state:<9}{first:<21}{last:<21}{ends:<21}{:<14}{}\n", self.certificates, self.worker_id)
    }
}

impl Row for DecisionRecord {
    const HEAD: &'static str =
        "OUTCOME  DECIDED              HOOK                         WORKER: REASON (CORRELATION ID)\n";

    fn line(&self, _: OffsetDateTime) -> String {
        let (outcome, decided) = (outcome(self), moment(self.decided_at));
        let reason = printable(&self.reason, TEXT);
        let correlation_id = printable(&self.correlation_id, TEXT);
        format!("{outcome:<9}{decided:<21}{:<29}{}: {reason} ({correlation_id})\n", self.hook, self.worker_id)
    }
}

impl Row for RevocationRecord {
    const HEAD: &'static str =
        "REVOKED              REASON                SERIAL                                              WORKER (BY)\n";

    fn line(&self, _: OffsetDateTime) -> String {
        let worker = self.worker_id.as_ref().map_or("no longer known", |id| id.as_str());
        let actor = printable(&self.actor, TEXT);
        format!("{:<21}{:<22}{:<52}{worker} ({actor})\n", moment(self.revoked_at), self.reason, self.serial)
    }
}

/// Everything about one certificate, a line for each fact.
pub(crate) fn history(history: &CertificateHistory, now: OffsetDateTime) -> String {
    let mut table = Table::default();
    let certificate = &history.certificate;
    table.row("serial", &certificate.serial);
    table.row("status", certificate.status.name());
    table.row("worker", worker_of(certificate));
    for (index, name) in certificate.names.iter().enumerate() {
        table.row(if index == 0 { "names" } else { "" }, &name.to_string());
    }
    table.row("valid from", &instant(certificate.not_before, now));
    table.row("valid until", &instant(certificate.not_after, now));
    match certificate.issued_at {
        Some(at) => table.row("issued", &instant(at, now)),
        None => table.row("issued", &format!("never; its serial was taken {}", instant(certificate.reserved_at, now))),
    }
    table.row("asked with", &format!("{} {}", certificate.authentication, certificate.credential));
    let from = if certificate.source.is_empty() { "the CA's own process" } else { &certificate.source };
    table.row("asked from", from);
    table.row("request", &certificate.correlation_id);
    match &history.decision {
        Some(decision) => {
            table.row("decision", &format!("{}: {} ({})", outcome(decision), decision.reason, decision.id));
            if let Some(basis) = &decision.basis {
                table.row("", basis);
            }
        }
        None => table.row("decision", "none is recorded"),
    }
    table.row("key", &format!("sha256:{}", certificate.key_sha256));
    table.row("issuer", &format!("sha256:{}", certificate.issuer_sha256));
    if let Some(revocation) = &history.revocation {
        let RevocationRecord { reason, actor, correlation_id, .. } = revocation;
        let at = instant(revocation.revoked_at, now);
        table.row("revoked", &format!("{at}: {reason}, by {actor} ({correlation_id})"));
    }
    table.list("renews", &history.renewed_from, now);
    table.list("renewed by", &history.renewed_to, now);
    table.text
}

/// What is known of one worker.
pub(crate) fn worker(history: &WorkerHistory, now: OffsetDateTime) -> String {
    let mut table = Table::default();
    let identity = &history.identity;
    table.row("worker", identity.worker_id.as_str());
    table.row("state", identity.state.name());
    table.row("first issued", &instant(identity.first_issued_at, now));
    table.row("last issued", &instant(identity.last_issued_at, now));
    table.row("valid until", &instant(identity.last_not_after, now));
    table.row("certificates", &identity.certificates.to_string());
    table.list("newest", &history.newest, now);
    table.text
}

fn worker_of(certificate: &CertificateRecord) -> &str {
    certificate.worker_id.as_ref().map_or("(this CA)", |id| id.as_str())
}

fn outcome(decision: &DecisionRecord) -> &'static str {
    match decision.outcome {
        Outcome::Allow => "allow",
        Outcome::Deny => "deny",
    }
}

/// UTC, to the second.
fn moment(at: OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    at.to_offset(time::UtcOffset::UTC).format(format).unwrap_or_else(|_| "out of range".to_owned())
}

/// An instant and how far away it is.
fn instant(at: OffsetDateTime, now: OffsetDateTime) -> String {
    let seconds = (at - now).whole_seconds().unsigned_abs();
    let coarse = match seconds {
        0..3_600 => seconds,
        3_600..86_400 => seconds - seconds % 60,
        _ => seconds - seconds % 3_600,
    };
    let length = format_duration(std::time::Duration::from_secs(coarse));
    if at > now { format!("{} (in {length})", moment(at)) } else { format!("{} ({length} ago)", moment(at)) }
}

/// Labels on the left, values on the right.
#[derive(Default)]
struct Table {
    text: String,
}

impl Table {
    /// A row; what a request brought along is foreign text.
    fn row(&mut self, label: &str, value: &str) {
        let line = format!("{label:<WIDTH$}  {}", printable(value, TEXT));
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    fn list(&mut self, label: &str, certificates: &[CertificateRecord], now: OffsetDateTime) {
        for (index, certificate) in certificates.iter().enumerate() {
            let mut text = String::new();
            let ends = instant(certificate.not_after, now);
            let _ = write!(text, "{}  {} until {ends}", certificate.serial, certificate.status.name());
            self.row(if index == 0 { label } else { "" }, &text);
        }
    }
}

/// The width of the longest label.
const WIDTH: usize = 12;

/// The most characters of one value.
const TEXT: usize = 400;
