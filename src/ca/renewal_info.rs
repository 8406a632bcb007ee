//! Owns renewal information: when a certificate should be renewed, why, and what else its worker must know, in the style
//! of RFC 9773.
//!
//! What it says is a function of the certificate and of what is known, not of the clock: so it has an entity tag, and
//! whoever waits for another one is told at once of a revocation, an order to renew, a new CRL or a new root.

mod order;
mod selector;
mod waiting;
mod window;

use serde::Serialize;
use time::OffsetDateTime;

use super::crl::etag_of;
use super::revocation::{Known, Revoked};
use super::state::IssuedRecord;
use crate::identity::WorkerId;
use crate::policy::RevocationReason;

pub(crate) use order::ORDERS_LIMIT;
pub use order::{OrderError, PlacedOrder, RenewalOrder, RenewalOrders};
pub use selector::{Selector, SelectorError};
pub(crate) use waiting::{Waiters, preferred_wait};
pub(crate) use window::Window;

/// What renewal information is about: a worker's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subject {
    /// The serial as `4a:3b:…`.
    pub(crate) serial: String,
    /// Whose it is.
    pub(crate) worker_id: WorkerId,
    /// SHA-256 of the certificate that signed it.
    pub(crate) issuer_digest: [u8; 32],
    /// Its `notBefore`.
    pub(crate) not_before: OffsetDateTime,
    /// Its `notAfter`.
    pub(crate) not_after: OffsetDateTime,
    /// When it was recorded.
    pub(crate) issued_at: OffsetDateTime,
}

impl Subject {
    /// The certificate of a record. `None` when it is the CA's own.
    pub(crate) fn of(record: IssuedRecord) -> Option<Self> {
        Some(Self {
            serial: record.serial,
            worker_id: record.worker_id?,
            issuer_digest: record.issuer_digest,
            not_before: record.not_before,
            not_after: record.not_after,
            issued_at: record.issued_at,
        })
    }

    /// How long to wait before asking again, in seconds.
    pub(crate) fn retry_after(&self) -> i64 {
        ((self.not_after - self.not_before).whole_seconds() / 24).clamp(60, 6 * 3600)
    }
}

/// Renewal information as it is sent, with its entity tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RenewalInfo {
    /// JSON.
    pub(crate) body: Vec<u8>,
    /// With its quotes.
    pub(crate) etag: String,
}

impl RenewalInfo {
    /// What is to be said about `subject`. `roots` are the fingerprints of the roots to trust, as `sha256:…`.
    pub(crate) fn new(subject: &Subject, known: &Known, roots: &[String], explanation_url: Option<&str>) -> Self {
        let revoked = known.revoked(&subject.serial);
        let (window, explanation) = advice(subject, revoked, &known.orders);
        let body = Body {
            suggested_window: window,
            explanation_url: explanation_url.filter(|_| explanation != NOTHING_SPECIAL),
            explanation: &explanation,
            serial: &subject.serial,
            revoked: revoked.map(|revoked| RevokedBody { at: revoked.at, reason: revoked.reason }),
            crl: known.crls.current().map(|crl| CrlBody { number: crl.number, etag: known.crls.etag() }),
            roots,
        };
        // No text of ours, times and numbers fail to be JSON.
        let body = serde_json::to_vec(&body).unwrap_or_default();
        Self { etag: etag_of(&body), body }
    }
}

/// The window and the reason for it: at once for what is revoked, else whatever comes first of the orders and the last
/// part of the certificate's life.
fn advice(subject: &Subject, revoked: Option<Revoked>, orders: &[RenewalOrder]) -> (Window, String) {
    if let Some(revoked) = revoked {
        // In the past: renew at once (RFC 9773, section 4.2).
        let end = revoked.at.saturating_sub(time::Duration::SECOND);
        let window = Window { start: end.saturating_sub(time::Duration::HOUR), end };
        return (window, "this certificate is revoked".to_owned());
    }
    let usual = (window::usual(subject.not_before, subject.not_after), NOTHING_SPECIAL.to_owned());
    let ordered = orders.iter().filter(|order| order.is_for(subject)).map(|order| {
        (window::share(Window { start: order.start, end: order.end }, &order.id, &subject.serial), &order.explanation)
    });
    match ordered.min_by_key(|(window, _)| (window.start, window.end)) {
        Some((window, explanation)) if window.start < usual.0.start => (window, explanation.clone()),
        _ => usual,
    }
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "suggestedWindow")]
    suggested_window: Window,
    explanation: &'a str,
    #[serde(rename = "explanationURL", skip_serializing_if = "Option::is_none")]
    explanation_url: Option<&'a str>,
    serial: &'a str,
    revoked: Option<RevokedBody>,
    crl: Option<CrlBody<'a>>,
    roots: &'a [String],
}

#[derive(Serialize)]
struct RevokedBody {
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    reason: RevocationReason,
}

#[derive(Serialize)]
struct CrlBody<'a> {
    number: i64,
    etag: &'a str,
}

const NOTHING_SPECIAL: &str = "the last part of the certificate's life";

#[cfg(test)]
mod tests;
