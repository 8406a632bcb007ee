//! Owns the names a certificate may carry: worker ids, DNS names, trust domains, SPIFFE ids, and the set of them that
//! is asked for.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::printable::printable;

/// A name that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{value}` is not valid: {reason}")]
pub struct NameError {
    /// The kind of name: `worker id`, `DNS name`, `trust domain`, `SPIFFE id`, `IP address`.
    pub what: &'static str,
    /// The name, made printable.
    pub value: String,
    /// What was expected.
    pub reason: &'static str,
}

impl NameError {
    fn new(what: &'static str, value: &str, reason: &'static str) -> Self {
        Self { what, value: printable(value, 80), reason }
    }
}

/// The name of one worker: lower-case RFC 1123 subdomain of at most 64 characters, the most that a subject's common
/// name holds (RFC 5280, appendix A.1). So it is a DNS name, a SPIFFE path segment and a file name at once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkerId(String);

impl WorkerId {
    /// Parses a worker id.
    ///
    /// # Errors
    /// When `text` is no lower-case RFC 1123 name of 1 to 64 characters.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let fail = |reason| Err(NameError::new("worker id", text, reason));
        if text.len() > 64 {
            return fail("expected at most 64 characters, the limit of a certificate's common name");
        }
        if let Err(reason) = check_dns_name(text) {
            return fail(reason);
        }
        Ok(Self(text.to_owned()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A lower-case DNS name (RFC 1123, section 2.1), without wildcard and without trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DnsName(String);

impl DnsName {
    /// Parses a DNS name; upper-case letters are folded, since DNS names compare without case.
    ///
    /// # Errors
    /// When `text` is no RFC 1123 host name, or is an IP address.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let lower = text.to_ascii_lowercase();
        match check_dns_name(&lower) {
            Ok(()) => Ok(Self(lower)),
            Err(reason) => Err(NameError::new("DNS name", text, reason)),
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A SPIFFE trust domain: 1 to 255 of lower-case letters, digits, `.`, `-`, `_` (SPIFFE-ID, section 2.1).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(String);

impl TrustDomain {
    /// Parses a trust domain.
    ///
    /// # Errors
    /// When a character is not allowed, or the length is not 1 to 255.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'-' | b'_');
        if text.is_empty() || text.len() > 255 || !text.bytes().all(allowed) {
            let reason = "expected 1 to 255 of lower-case letters, digits, `.`, `-` and `_` (without `spiffe://`)";
            return Err(NameError::new("trust domain", text, reason));
        }
        Ok(Self(text.to_owned()))
    }

    /// The domain as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The SPIFFE id of a worker in this domain: `spiffe://<trust domain>/worker/<worker id>`.
    #[must_use]
    pub fn worker(&self, worker: &WorkerId) -> SpiffeId {
        SpiffeId(format!("spiffe://{}/worker/{}", self.0, worker.0))
    }
}

/// A SPIFFE id (SPIFFE-ID, section 2): `spiffe://<trust domain>/<path>`, at most 2048 bytes, no empty or dot segments.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId(String);

impl SpiffeId {
    /// Parses a SPIFFE id.
    ///
    /// # Errors
    /// When scheme, trust domain or path break the SPIFFE-ID rules.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let fail = |reason| Err(NameError::new("SPIFFE id", text, reason));
        if text.len() > 2048 {
            return fail("expected at most 2048 bytes");
        }
        let Some(rest) = text.strip_prefix("spiffe://") else {
            return fail("expected it to begin with `spiffe://`");
        };
        let (domain, path) = rest.split_once('/').map_or((rest, None), |(domain, path)| (domain, Some(path)));
        if TrustDomain::new(domain).is_err() {
            return fail("expected a trust domain of lower-case letters, digits, `.`, `-` and `_`");
        }
        let segment_allowed = |segment: &str| {
            let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
            !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(allowed)
        };
        if !path.is_none_or(|path| path.split('/').all(segment_allowed)) {
            return fail("expected path segments of letters, digits, `.`, `-` and `_`, none empty, `.` or `..`");
        }
        Ok(Self(text.to_owned()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The trust domain, without scheme.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        let rest = self.0.strip_prefix("spiffe://").unwrap_or(&self.0);
        rest.split('/').next().unwrap_or(rest)
    }
}

/// One subject alternative name (RFC 5280, section 4.2.1.6) of the kinds this product issues.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SubjectAltName {
    /// `dNSName`.
    Dns(DnsName),
    /// `iPAddress`.
    Ip(IpAddr),
    /// `uniformResourceIdentifier`, a SPIFFE id.
    Uri(SpiffeId),
}

impl fmt::Display for SubjectAltName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => write!(f, "DNS:{name}"),
            Self::Ip(address) => write!(f, "IP:{address}"),
            Self::Uri(id) => write!(f, "URI:{id}"),
        }
    }
}

/// Everything that one worker's certificate says about who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedIdentity {
    /// The worker.
    pub worker_id: WorkerId,
    /// The worker's SPIFFE id, the one URI SAN; `None`: the authority knows it.
    pub spiffe_id: Option<SpiffeId>,
    /// All SANs, the worker's own and the further configured ones.
    pub names: BTreeSet<SubjectAltName>,
    /// Who says which others there may be.
    pub named_by: NamedBy,
}

/// Who decides on the names of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamedBy {
    /// Its worker: it has the names asked for and no others.
    Worker,
    /// The authority, by a register of its own: it has the names asked for, one SPIFFE id, and what else the register has.
    Authority,
}

impl RequestedIdentity {
    /// The names of `worker_id` in `trust_domain`: DNS worker id, DNS `localhost`, the SPIFFE id, and `further`.
    #[must_use]
    pub fn new(
        worker_id: WorkerId,
        trust_domain: &TrustDomain,
        further: impl IntoIterator<Item = SubjectAltName>,
    ) -> Self {
        let spiffe_id = trust_domain.worker(&worker_id);
        let mut names: BTreeSet<_> = further.into_iter().collect();
        names.insert(SubjectAltName::Dns(DnsName(worker_id.0.clone())));
        names.insert(SubjectAltName::Dns(DnsName("localhost".to_owned())));
        names.insert(SubjectAltName::Uri(spiffe_id.clone()));
        Self { worker_id, spiffe_id: Some(spiffe_id), names, named_by: NamedBy::Worker }
    }

    /// What an authority with a register of its own is to have for `worker_id`: this SPIFFE id, where it is known, and `names`.
    #[must_use]
    pub fn registered(
        worker_id: WorkerId,
        spiffe_id: Option<SpiffeId>,
        names: impl IntoIterator<Item = SubjectAltName>,
    ) -> Self {
        let names = names.into_iter().chain(spiffe_id.clone().map(SubjectAltName::Uri)).collect();
        Self { worker_id, spiffe_id, names, named_by: NamedBy::Authority }
    }
}

/// A further name as a user writes it: an IP address or else a DNS name.
impl FromStr for SubjectAltName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.parse::<IpAddr>() {
            Ok(address) => Ok(Self::Ip(address)),
            Err(_) => DnsName::new(text).map(Self::Dns),
        }
    }
}

macro_rules! text_name {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }
    };
}

text_name!(WorkerId);
text_name!(DnsName);
text_name!(TrustDomain);
text_name!(SpiffeId);

/// The RFC 1123 rules for a lower-case host name; the error is what was expected.
fn check_dns_name(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("expected a name, not an empty text");
    }
    if text.len() > 253 {
        return Err("expected at most 253 characters");
    }
    for label in text.split('.') {
        if label.is_empty() || label.len() > 63 {
            return Err("expected labels of 1 to 63 characters between the dots");
        }
        let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        if !label.bytes().all(allowed) {
            return Err("expected lower-case letters, digits and `-` (RFC 1123), for example `streaming-worker-1`");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err("expected no `-` at either end of a label");
        }
    }
    let last = text.rsplit('.').next().unwrap_or(text);
    if text.contains('.') && last.bytes().all(|c| c.is_ascii_digit()) {
        return Err("expected a name, not an IP address");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn worker_ids_are_rfc_1123_names() {
        for good in ["streaming", "streaming-worker-1", "ns.sa", "0", "a.b.c"] {
            assert!(WorkerId::new(good).is_ok(), "{good}");
        }
        let long = "a".repeat(65);
        for bad in [
            "",
            ".",
            "..",
            "../etc",
            "a/b",
            "a\r\nb",
            "Streaming",
            "a_b",
            "-a",
            "a-",
            "a..b",
            "*.a",
            "a b",
            "é",
            "a\0",
            "10.0.0.1",
            &long,
        ] {
            assert!(WorkerId::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn spiffe_ids_follow_the_spiffe_rules() {
        for good in ["spiffe://crank.local", "spiffe://a_b/worker/x", "spiffe://td/A.b-c_d"] {
            assert!(SpiffeId::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "spiffe://",
            "spiffe:///x",
            "https://td/x",
            "spiffe://TD/x",
            "spiffe://td/",
            "spiffe://td//x",
            "spiffe://td/../x",
            "spiffe://td/.",
            "spiffe://td/x?y",
            "spiffe://td/x#y",
            "spiffe://td:1/x",
            "spiffe://u@td/x",
            "spiffe://td/x\r\n",
            "spiffe://td/%41",
        ] {
            assert!(SpiffeId::new(bad).is_err(), "{bad:?}");
        }
        assert_eq!(SpiffeId::new("spiffe://td/worker/x").unwrap().trust_domain(), "td");
    }

    #[test]
    fn an_error_names_the_value_printably() {
        let error = WorkerId::new("a\r\nb").unwrap_err().to_string();
        assert!(error.starts_with("worker id `a\\r\\nb` is not valid: expected lower-case"), "{error}");
    }

    #[test]
    fn the_identity_has_the_contract_names() {
        let worker = WorkerId::new("streaming").unwrap();
        let domain = TrustDomain::new("crank.local").unwrap();
        let identity = RequestedIdentity::new(worker, &domain, ["10.0.0.7".parse().unwrap(), "a.b".parse().unwrap()]);
        let names: Vec<String> = identity.names.iter().map(ToString::to_string).collect();
        let expected =
            ["DNS:a.b", "DNS:localhost", "DNS:streaming", "IP:10.0.0.7", "URI:spiffe://crank.local/worker/streaming"];
        assert_eq!(names, expected);
    }

    proptest! {
        #[test]
        fn every_accepted_worker_id_makes_a_valid_spiffe_id(text in "[a-z0-9.-]{1,70}") {
            if let Ok(worker) = WorkerId::new(&text) {
                let id = TrustDomain::new("td").unwrap().worker(&worker);
                prop_assert!(SpiffeId::new(id.as_str()).is_ok());
                prop_assert!(!text.contains(".."));
            }
        }

        #[test]
        fn parsers_take_any_text_without_panic(text in any::<String>()) {
            let _ = (WorkerId::new(&text), DnsName::new(&text), SpiffeId::new(&text), TrustDomain::new(&text));
        }
    }
}
