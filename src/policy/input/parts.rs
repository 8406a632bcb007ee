//! Owns the parts of the document: who asks, for what, about which certificate.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::config::Environment;
use crate::identity::{SubjectAltName, WorkerId};
use crate::policy::RevocationReason;
use crate::trace_context::TraceContext;

/// [`Environment`] as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EnvironmentName {
    /// A developer's machine.
    Development,
    /// Everywhere else.
    Production,
}

impl From<Environment> for EnvironmentName {
    fn from(environment: Environment) -> Self {
        match environment {
            Environment::Development => Self::Development,
            Environment::Production => Self::Production,
        }
    }
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

impl Names {
    pub(super) fn of(names: &BTreeSet<SubjectAltName>) -> Self {
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
    pub(super) fn of_texts(names: &[String]) -> Self {
        let of_kind = |kind: &str| {
            let mut names: Vec<String> =
                names.iter().filter_map(|name| name.strip_prefix(kind)).map(str::to_owned).collect();
            names.sort();
            names
        };
        Self { dns: of_kind("DNS:"), ip: of_kind("IP:"), uri: of_kind("URI:") }
    }
}
