//! Owns the one document that every engine is asked with: its version, its fields, and how it is made from what a hook
//! is told.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{Actor, Capabilities, RevocationReason};
use crate::config::Environment;
use crate::identity::{CertificateMetadata, KeyType, SubjectAltName, WorkerId};
use crate::printable::{FOREIGN_TEXT_LIMIT, printable};
use crate::trace_context::TraceContext;

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

/// The four questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hook {
    /// May this worker have this certificate?
    CanIssueCertificate,
    /// How long may it live?
    CertificateValidityPeriod,
    /// Should this certificate be renewed now?
    ShouldRenewCertificate,
    /// May this certificate be revoked by this actor?
    RevokeCertificate,
}

impl Hook {
    /// Every hook, in the order of the documentation.
    pub const ALL: [Self; 4] = [
        Self::CanIssueCertificate,
        Self::CertificateValidityPeriod,
        Self::ShouldRenewCertificate,
        Self::RevokeCertificate,
    ];

    /// The hook's name, the rule's name in package `crank` too.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::CanIssueCertificate => "can_issue_certificate",
            Self::CertificateValidityPeriod => "certificate_validity_period",
            Self::ShouldRenewCertificate => "should_renew_certificate",
            Self::RevokeCertificate => "revoke_certificate",
        }
    }

    /// The rule that answers it: `data.crank.` and the name. It is fixed: no request chooses what is evaluated.
    #[must_use]
    pub fn query(self) -> &'static str {
        match self {
            Self::CanIssueCertificate => "data.crank.can_issue_certificate",
            Self::CertificateValidityPeriod => "data.crank.certificate_validity_period",
            Self::ShouldRenewCertificate => "data.crank.should_renew_certificate",
            Self::RevokeCertificate => "data.crank.revoke_certificate",
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// [`Environment`] as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EnvironmentName {
    /// A developer's machine.
    Development,
    /// Everywhere else.
    Production,
}

/// Who asks, as the CA has proven it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The worker.
    pub worker_id: WorkerId,
    /// Its SPIFFE id.
    pub spiffe_id: String,
    /// How it proved that: `token`, `certificate` (a renewal), `caller` (a program that has the CA in it).
    pub authentication: String,
    /// Which credential: a token's id, a certificate's serial.
    pub credential: String,
    /// All names that the credential permits.
    pub permitted_names: Names,
    /// Where the request came from; absent for a caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The names that the certificate will carry.
    pub names: Names,
    /// The kind of key, as `ecdsa-p256`.
    pub key_type: String,
    /// The correlation id of the request.
    pub correlation_id: String,
    /// The trace that the request belongs to, for the headers of questions about it; no part of the document.
    #[serde(skip)]
    pub trace: Option<TraceContext>,
}

/// Names by kind, each sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Names {
    /// DNS names.
    #[serde(default)]
    pub dns: Vec<String>,
    /// IP addresses.
    #[serde(default)]
    pub ip: Vec<String>,
    /// SPIFFE ids.
    #[serde(default)]
    pub uri: Vec<String>,
}

/// A certificate in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The serial number, as `4a:3b:2c:1d`.
    pub serial: String,
    /// The subject's distinguished name.
    pub subject: String,
    /// The issuer's distinguished name.
    pub issuer: String,
    /// Its names.
    pub names: Names,
    /// `notBefore`.
    #[serde(with = "time::serde::rfc3339")]
    pub not_before: OffsetDateTime,
    /// `notAfter`.
    #[serde(with = "time::serde::rfc3339")]
    pub not_after: OffsetDateTime,
    /// Its whole life in seconds.
    pub lifetime_seconds: i64,
    /// What is left of it in seconds; negative after its end.
    pub remaining_seconds: i64,
}

/// A revocation that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// Whose certificate.
    pub worker_id: WorkerId,
    /// Why, as `keyCompromise`.
    pub reason: RevocationReason,
    /// Who asks.
    pub actor: ActorName,
}

/// Who asks for a revocation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActorName {
    /// `worker`, `admin` or `operator`.
    pub kind: String,
    /// The worker id or the administrator's name; empty for the operator.
    pub name: String,
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
            environment: match environment {
                Environment::Development => EnvironmentName::Development,
                Environment::Production => EnvironmentName::Production,
            },
            identity: None,
            request: None,
            certificate: None,
            revocation: None,
        }
    }

    /// A complete question of this kind, from which cases and trials start: worker `streaming` in production, at noon of
    /// 1 January 2030.
    #[must_use]
    pub fn sample(hook: Hook) -> Self {
        let now = SAMPLE_TIME;
        let names = Names {
            dns: vec!["localhost".to_owned(), SAMPLE_WORKER.to_owned()],
            ip: Vec::new(),
            uri: vec![format!("spiffe://crank.local/worker/{SAMPLE_WORKER}")],
        };
        let mut input = Self::empty(hook, Environment::Production, now);
        match hook {
            Hook::CanIssueCertificate | Hook::CertificateValidityPeriod => {
                input.identity = Some(Identity {
                    worker_id: sample_worker(),
                    spiffe_id: names.uri[0].clone(),
                    authentication: "token".to_owned(),
                    credential: "tok_0123456789abcdef".to_owned(),
                    permitted_names: names.clone(),
                    source: Some(IpAddr::from([10, 0, 0, 7])),
                });
                let key_type = KeyType::EcdsaP256.name().to_owned();
                input.request = Some(Request { names, key_type, correlation_id: "req_1".to_owned(), trace: None });
            }
            Hook::ShouldRenewCertificate => {
                input.certificate = Some(Certificate {
                    serial: "4a:3b:2c:1d".to_owned(),
                    subject: format!("CN={SAMPLE_WORKER}, O=Crank Platform, OU=Worker Services"),
                    issuer: "CN=Crank Issuing CA".to_owned(),
                    names,
                    not_before: now - time::Duration::days(9),
                    not_after: now + time::Duration::DAY,
                    lifetime_seconds: time::Duration::days(10).whole_seconds(),
                    remaining_seconds: time::Duration::DAY.whole_seconds(),
                });
            }
            Hook::RevokeCertificate => {
                input.revocation = Some(Revocation {
                    worker_id: sample_worker(),
                    reason: RevocationReason::KeyCompromise,
                    actor: ActorName { kind: "admin".to_owned(), name: "alice".to_owned() },
                });
            }
        }
        input
    }
}

impl Names {
    fn of(names: &BTreeSet<SubjectAltName>) -> Self {
        let mut sorted = Self::default();
        for name in names {
            match name {
                SubjectAltName::Dns(name) => sorted.dns.push(name.to_string()),
                SubjectAltName::Ip(address) => sorted.ip.push(address.to_string()),
                SubjectAltName::Uri(id) => sorted.uri.push(id.to_string()),
            }
        }
        sorted
    }

    /// From `DNS:…`, `IP:…`, `URI:…`, as metadata has them.
    fn of_texts(names: &[String]) -> Self {
        let of_kind = |kind: &str| {
            let mut names: Vec<String> =
                names.iter().filter_map(|name| name.strip_prefix(kind)).map(str::to_owned).collect();
            names.sort();
            names
        };
        Self { dns: of_kind("DNS:"), ip: of_kind("IP:"), uri: of_kind("URI:") }
    }
}

fn sample_worker() -> WorkerId {
    WorkerId::new(SAMPLE_WORKER).expect("the constant is a worker id")
}

/// The version of the document.
pub const VERSION: u32 = 1;

const SAMPLE_WORKER: &str = "streaming";

const SAMPLE_TIME: OffsetDateTime = time::macros::datetime!(2030-01-01 12:00 UTC);

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

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

    #[test]
    fn samples_are_whole_and_names_of_hooks_are_those_of_rules() {
        for hook in Hook::ALL {
            let text = serde_json::to_string(&Input::sample(hook)).unwrap();
            assert_eq!(serde_json::from_str::<Input>(&text).unwrap(), Input::sample(hook));
            assert_eq!(serde_json::to_value(hook).unwrap(), hook.name());
            assert_eq!(hook.query(), format!("data.crank.{hook}"));
        }
    }
}
