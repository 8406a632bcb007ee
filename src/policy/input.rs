//! Owns the one document that every engine is asked with, and how it is made from what a hook is told.

mod hook;
mod parts;
mod sample;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{Actor, Capabilities, RevocationReason};
use crate::config::Environment;
use crate::identity::{CertificateMetadata, WorkerId};
use crate::printable::{FOREIGN_TEXT_LIMIT, printable};

pub use hook::Hook;
pub use parts::{ActorName, Certificate, EnvironmentName, Identity, Names, Request, Revocation};

/// What an engine is asked. A field that does not apply to the hook is absent. Fields may be added; none changes its
/// meaning within a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// [`VERSION`].
    pub version: u32,
    /// Which question it is.
    pub hook: Hook,
    /// The CA's time (RFC 3339, UTC).
    #[serde(with = "time::serde::rfc3339")]
    pub time: OffsetDateTime,
    /// The same in nanoseconds since 1970, as the time functions of Rego take it.
    pub time_ns: i64,
    /// Where the CA serves: `development` or `production`.
    pub environment: EnvironmentName,
    /// Who asks for a certificate, proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// What is asked for, after the core has checked it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Request>,
    /// The certificate that may be due for renewal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Certificate>,
    /// The revocation that is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revocation: Option<Revocation>,
}

impl Input {
    /// The question whether, or for how long, `worker_id` may have what it asks for.
    #[must_use]
    pub fn issuance(hook: Hook, worker_id: &WorkerId, asked: &Capabilities, now: OffsetDateTime) -> Self {
        let identity = Identity {
            worker_id: worker_id.clone(),
            spiffe_id: asked.spiffe_id.to_string(),
            authentication: asked.authentication.to_owned(),
            credential: asked.credential.clone(),
            permitted_names: Names::of(&asked.permitted),
            source: asked.source,
        };
        let request = Request {
            names: Names::of(&asked.names),
            key_type: asked.key_type.name().to_owned(),
            correlation_id: asked.correlation_id.clone(),
            trace: Some(asked.trace),
        };
        Self { identity: Some(identity), request: Some(request), ..Self::empty(hook, asked.environment, now) }
    }

    /// The question whether a certificate should be renewed now.
    #[must_use]
    pub fn renewal(metadata: &CertificateMetadata, environment: Environment, now: OffsetDateTime) -> Self {
        let certificate = Certificate {
            serial: metadata.serial.clone(),
            subject: metadata.subject.clone(),
            issuer: metadata.issuer.clone(),
            names: Names::of_texts(&metadata.names),
            not_before: metadata.not_before,
            not_after: metadata.expires_at,
            lifetime_seconds: (metadata.expires_at - metadata.not_before).whole_seconds(),
            remaining_seconds: (metadata.expires_at - now).whole_seconds(),
        };
        let hook = Hook::ShouldRenewCertificate;
        Self { certificate: Some(certificate), ..Self::empty(hook, environment, now) }
    }

    /// The question whether `actor` may revoke the certificate of `worker_id`.
    #[must_use]
    pub fn revocation(
        worker_id: &WorkerId,
        reason: RevocationReason,
        actor: &Actor,
        environment: Environment,
        now: OffsetDateTime,
    ) -> Self {
        let name = printable(actor.name(), FOREIGN_TEXT_LIMIT);
        let actor = ActorName { kind: actor.kind().to_owned(), name };
        let revocation = Revocation { worker_id: worker_id.clone(), reason, actor };
        Self { revocation: Some(revocation), ..Self::empty(Hook::RevokeCertificate, environment, now) }
    }

    fn empty(hook: Hook, environment: Environment, now: OffsetDateTime) -> Self {
        let time = now.replace_nanosecond(0).unwrap_or(now);
        Self {
            version: VERSION,
            hook,
            time,
            // Until 2262, as far as Rego's own functions reach.
            time_ns: i64::try_from(time.unix_timestamp_nanos()).unwrap_or(i64::MAX),
            environment: environment.into(),
            identity: None,
            request: None,
            certificate: None,
            revocation: None,
        }
    }
}

/// The version of the document.
pub const VERSION: u32 = 1;

#[cfg(test)]
pub(crate) mod testing {
    use std::net::IpAddr;

    use super::*;
    use crate::identity::{KeyType, SubjectAltName};
    use crate::trace_context::TraceContext;

    /// What worker `streaming` asks for.
    pub(crate) fn capabilities(names: &[&str], permitted: &[&str]) -> Capabilities {
        let set = |names: &[&str]| names.iter().map(|name| name.parse::<SubjectAltName>().unwrap()).collect();
        Capabilities {
            names: set(names),
            permitted: set(permitted),
            key_type: KeyType::EcdsaP256,
            spiffe_id: "spiffe://crank.local/worker/streaming".parse().unwrap(),
            authentication: "token",
            credential: "tok_0123456789abcdef".to_owned(),
            environment: Environment::Production,
            source: Some(IpAddr::from([10, 0, 0, 7])),
            correlation_id: "req_1".to_owned(),
            trace: TraceContext::of_request("req_1"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::testing::capabilities;
    use super::*;

    #[test]
    fn the_document_has_the_fields_that_are_documented() {
        let worker = WorkerId::new("streaming").unwrap();
        let asked = capabilities(&["streaming", "10.0.0.9"], &["streaming", "localhost", "10.0.0.9"]);
        let now = time::macros::datetime!(2030-01-01 12:00:00.5 UTC);
        let input = Input::issuance(Hook::CanIssueCertificate, &worker, &asked, now);
        assert_eq!(
            serde_json::to_value(input).unwrap(),
            json!({
                "version": 1,
                "hook": "can_issue_certificate",
                "time": "2030-01-01T12:00:00Z",
                "time_ns": 1_893_499_200_000_000_000_i64,
                "environment": "production",
                "identity": {
                    "worker_id": "streaming",
                    "spiffe_id": "spiffe://crank.local/worker/streaming",
                    "authentication": "token",
                    "credential": "tok_0123456789abcdef",
                    "permitted_names": { "dns": ["localhost", "streaming"], "ip": ["10.0.0.9"], "uri": [] },
                    "source": "10.0.0.7",
                },
                "request": {
                    "names": { "dns": ["streaming"], "ip": ["10.0.0.9"], "uri": [] },
                    "key_type": "ecdsa-p256",
                    "correlation_id": "req_1",
                },
            })
        );
    }

    #[test]
    fn a_renewal_is_told_what_is_left_and_a_revocation_who_asks() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let metadata = CertificateMetadata {
            expires_at: now - time::Duration::seconds(5),
            days_remaining: -1,
            serial: "01".to_owned(),
            issuer: "CN=ca".to_owned(),
            subject: "CN=streaming".to_owned(),
            not_before: now - time::Duration::seconds(65),
            names: vec!["URI:spiffe://a/b".to_owned(), "IP:::1".to_owned(), "DNS:b".to_owned(), "DNS:a".to_owned()],
        };
        let certificate = Input::renewal(&metadata, Environment::Development, now).certificate.unwrap();
        assert_eq!((certificate.lifetime_seconds, certificate.remaining_seconds), (60, -5));
        let names = json!({ "dns": ["a", "b"], "ip": ["::1"], "uri": ["spiffe://a/b"] });
        assert_eq!(serde_json::to_value(certificate.names).unwrap(), names);
        let worker = WorkerId::new("streaming").unwrap();
        let actor = Actor::Admin("al\nice".to_owned());
        let reason = RevocationReason::CessationOfOperation;
        let input = Input::revocation(&worker, reason, &actor, Environment::Production, now);
        let expected = json!({
            "worker_id": "streaming",
            "reason": "cessationOfOperation",
            "actor": { "kind": "admin", "name": "al\\nice" },
        });
        assert_eq!(serde_json::to_value(input.revocation).unwrap(), expected);
    }
}
