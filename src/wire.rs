//! Owns the JSON that agent and CA exchange over HTTPS, and its limits.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The largest request body the CA reads, in bytes. Checked before anything is decoded.
pub const REQUEST_LIMIT: usize = 64 * 1024;

/// The largest reply body the agent reads, in bytes.
pub const REPLY_LIMIT: usize = 256 * 1024;

/// The header that carries the correlation id of a request, both ways.
pub const CORRELATION_HEADER: &str = "x-correlation-id";

/// The header that carries the trace of a request (W3C Trace Context, level 1).
pub const TRACE_HEADER: &str = "traceparent";

/// The path that signs.
pub const CSR_PATH: &str = "/certificates/csr";

/// The path that tells the CA's root.
pub const ROOT_PATH: &str = "/ca/certificate";

/// The path of the CRLs.
pub const CRL_PATH: &str = "/ca/crl";

/// The kind of the problem that answers a request by a certificate which is revoked.
pub const REVOKED_KIND: &str = "certificate_revoked";

/// The path of what the CA says of the certificate with this serial (`4a:3b:…`).
#[must_use]
pub fn renewal_info_path(serial: &str) -> String {
    format!("/certificates/{}/renewal-info", serial.replace(':', ""))
}

/// Answer to `GET /certificates/{serial}/renewal-info`, in the style of RFC 9773. Each part is taken by itself: one that
/// makes no sense does not spoil the others.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RenewalInfoReply {
    /// `{"start":…,"end":…}` (RFC 3339).
    pub suggested_window: Value,
    /// Why, for people.
    pub explanation: Value,
    /// Where more is said.
    #[serde(rename = "explanationURL")]
    pub explanation_url: Value,
    /// `null`, or `{"at":…,"reason":…}`.
    pub revoked: Value,
    /// `{"number":…,"etag":…}`.
    pub crl: Value,
}

/// Body of `POST /certificates/csr`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CsrRequest {
    /// The CSR as PEM (PKCS#10, RFC 2986).
    pub csr: String,
    /// The worker id.
    pub service_name: String,
}

/// Answer to `POST /certificates/csr`. Fields that we do not know are ignored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CsrReply {
    /// `success`.
    pub status: String,
    /// Leaf and intermediates as PEM.
    pub certificate: String,
    /// The root or roots as PEM.
    pub ca_certificate: String,
    /// Which provider signed. An object with `name`, a text from older CAs.
    #[serde(default)]
    pub provider: Value,
}

/// Answer to `GET /ca/certificate`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RootReply {
    /// The root or roots as PEM.
    pub ca_certificate: String,
    /// Which provider.
    #[serde(default)]
    pub provider: Value,
}

/// Body of every error: RFC 9457 problem details, of which older CAs send `detail` only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReply {
    /// The kind of error, as a URI.
    #[serde(rename = "type", default, skip_serializing_if = "String::is_empty")]
    pub problem_type: String,
    /// A short title, the same for every error of the kind.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub title: String,
    /// The HTTP status.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub status: u16,
    /// What is wrong with this request.
    #[serde(default)]
    pub detail: String,
    /// This one occurrence, as a URI.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instance: String,
    /// The correlation id of the request.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub correlation_id: String,
    /// The policy's decision, where it was the policy that refused.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub decision_id: String,
}

impl CsrReply {
    /// The policy's decision that allowed it, where the CA tells.
    #[must_use]
    pub fn decision_id(&self) -> Option<String> {
        sound_decision_id(self.provider.get("decision_id")?.as_str()?)
    }
}

/// The id of a decision, if it is fit for logs and events: 1 to 64 letters, digits, `_`, `-` and `.`.
#[must_use]
pub fn sound_decision_id(id: &str) -> Option<String> {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.');
    ((1..=64).contains(&id.len()) && id.bytes().all(allowed)).then(|| id.to_owned())
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(status: &u16) -> bool {
    *status == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_id_is_taken_only_when_it_is_harmless() {
        let reply = |provider: Value| CsrReply {
            status: String::new(),
            certificate: String::new(),
            ca_certificate: String::new(),
            provider,
        };
        let id = |id: &str| reply(serde_json::json!({ "decision_id": id })).decision_id();
        assert_eq!(id("dec_0a"), Some("dec_0a".to_owned()));
        for bad in ["", "a\nb", "\u{202e}", "a b", &"a".repeat(65)] {
            assert_eq!(id(bad), None, "{bad:?}");
        }
        assert_eq!(reply(Value::from("old")).decision_id(), None);
        assert_eq!(reply(serde_json::json!({ "decision_id": 7 })).decision_id(), None);
    }
}
