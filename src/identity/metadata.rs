//! Owns the facts about a certificate that events, status and metrics carry.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;

use crate::printable::{FOREIGN_TEXT_LIMIT, hex_digit, printable};

/// What is said about a certificate wherever it is reported. All text is printable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateMetadata {
    /// `notAfter`.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    /// Whole days until [`expires_at`](Self::expires_at) when this was written; negative after expiry.
    pub days_remaining: i64,
    /// The serial number, lower-case hexadecimal pairs with colons: `4a:3b:2c:1d`.
    pub serial: String,
    /// The issuer's distinguished name.
    pub issuer: String,
    /// The subject's distinguished name.
    pub subject: String,
    /// `notBefore`.
    #[serde(with = "time::serde::rfc3339")]
    pub not_before: OffsetDateTime,
    /// Subject alternative names as `DNS:…`, `IP:…`, `URI:…`.
    pub names: Vec<String>,
}

impl CertificateMetadata {
    /// The facts of `certificate`, with the days that remain at `now`.
    #[must_use]
    pub fn of(certificate: &X509Certificate<'_>, now: OffsetDateTime) -> Self {
        let validity = certificate.validity();
        let expires_at = validity.not_after.to_datetime();
        Self {
            expires_at,
            days_remaining: days_between(now, expires_at),
            serial: serial_text(certificate.tbs_certificate.raw_serial()),
            issuer: printable(&certificate.issuer().to_string(), FOREIGN_TEXT_LIMIT),
            subject: printable(&certificate.subject().to_string(), FOREIGN_TEXT_LIMIT),
            not_before: validity.not_before.to_datetime(),
            names: super::check::names_of(certificate).unwrap_or_default(),
        }
    }

    /// The same facts with the days that remain at `now`.
    #[must_use]
    pub fn at(&self, now: OffsetDateTime) -> Self {
        Self { days_remaining: days_between(now, self.expires_at), ..self.clone() }
    }
}

/// A serial number as `4a:3b:2c:1d`; a leading zero octet of the DER form is dropped.
#[must_use]
pub fn serial_text(bytes: &[u8]) -> String {
    let significant = match bytes {
        [0, rest @ ..] if !rest.is_empty() => rest,
        all => all,
    };
    let mut text = String::with_capacity(3 * significant.len());
    for byte in significant.iter().take(64) {
        if !text.is_empty() {
            text.push(':');
        }
        text.extend([byte >> 4, byte & 0xf].map(hex_digit));
    }
    text
}

fn days_between(now: OffsetDateTime, then: OffsetDateTime) -> i64 {
    let days = (then - now).whole_nanoseconds().div_euclid(time::Duration::DAY.whole_nanoseconds());
    i64::try_from(days).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_are_colon_separated_pairs() {
        assert_eq!(serial_text(&[0x4a, 0x3b, 0x2c, 0x1d]), "4a:3b:2c:1d");
        assert_eq!(serial_text(&[0, 0xff]), "ff");
        assert_eq!(serial_text(&[0]), "00");
    }

    #[test]
    fn days_round_down_also_after_expiry() {
        let now = OffsetDateTime::UNIX_EPOCH;
        assert_eq!(days_between(now, now + time::Duration::hours(47)), 1);
        assert_eq!(days_between(now, now - time::Duration::hours(1)), -1);
        assert_eq!(days_between(now, now - time::Duration::nanoseconds(1)), -1);
    }
}
