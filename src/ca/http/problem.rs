//! Owns the form of every error: problem details (RFC 9457) with a detail that says what to do.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;

use crate::ca::enrolment::EnrolmentError;
use crate::ca::oidc::TokenRefusal;
use crate::ca::request::CsrRefusal;
use crate::ca::revocation::RevocationError;
use crate::wire::ErrorReply;

/// A type of problem: what `type`, `status` and `title` say, the same for every error of the kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProblemType {
    /// The last part of the `type`, after [`PROBLEM_PREFIX`]; also the `kind` of the audit trail.
    pub kind: &'static str,
    /// The HTTP status it comes with.
    pub status: u16,
    /// The `title`.
    pub title: &'static str,
}

/// Every problem that the CA answers with: first those that tell no more than their status, then those of a request
/// for a certificate, then those of a revocation.
pub const PROBLEM_TYPES: [ProblemType; 48] = [
    problem("malformed", 400, "The request is malformed"),
    problem("unauthenticated", 401, "The request needs a credential"),
    problem("forbidden", 403, "The credential does not permit it"),
    problem("not_found", 404, "There is no such resource"),
    problem("method_not_allowed", 405, "The resource takes another method"),
    problem("request_timeout", 408, "The request took too long"),
    problem("gone", 410, "This is no longer offered"),
    problem("too_large", 413, "The request is too large"),
    problem("unsupported_media_type", 415, "The body is of another media type"),
    problem("rate_limited", 429, "There were too many requests"),
    problem("internal", 500, "The CA failed"),
    problem("not_implemented", 501, "The CA does not offer this"),
    problem("unavailable", 503, "The CA cannot do this now"),
    problem("no_credential", 401, "There is no credential"),
    problem("malformed_credential", 401, "The credential is malformed"),
    problem("token_unknown", 401, "The token is not known"),
    problem("token_expired", 401, "The token has expired"),
    problem("token_used", 401, "The token has been used"),
    problem("token_revoked", 401, "The token has been revoked"),
    problem("jwt_malformed", 401, "The token is malformed"),
    problem("jwt_issuer", 401, "The token's issuer is not trusted"),
    problem("jwt_algorithm", 401, "The token's algorithm is not accepted"),
    problem("jwt_key", 401, "The token's key is not known"),
    problem("jwt_signature", 401, "The token's signature is not valid"),
    problem("jwt_audience", 401, "The token is for somebody else"),
    problem("jwt_expired", 401, "The token has expired"),
    problem("jwt_not_yet_valid", 401, "The token is not yet valid"),
    problem("jwt_too_long", 401, "The token lives too long"),
    problem("jwt_no_pod", 403, "The token is bound to no pod"),
    problem("jwt_claim", 403, "The token lacks a claim"),
    problem("jwt_requirement", 403, "The token has another claim than required"),
    problem("jwt_name", 403, "The token gives no usable name"),
    problem("certificate_unknown", 401, "The client certificate is not known"),
    problem("certificate_expired", 401, "The client certificate has expired"),
    problem("certificate_revoked", 401, "The client certificate has been revoked"),
    problem("body", 400, "The body is not what is expected"),
    problem("csr_malformed", 400, "The CSR is malformed"),
    problem("csr_proof", 400, "The CSR proves no possession of its key"),
    problem("csr_key", 400, "The key is not accepted"),
    problem("csr_asks", 403, "The CSR asks for what no worker may have"),
    problem("other_worker", 403, "The credential is for another worker"),
    problem("names_not_permitted", 403, "The credential does not permit these names"),
    problem("names_missing", 403, "A re-enrolment keeps all names"),
    problem("outside_constraints", 403, "The CA's own certificate does not permit these names"),
    problem("key_of_another", 403, "The key belongs to somebody else"),
    problem("policy_denied", 403, "The policy denies it"),
    problem("unknown_serial", 404, "There is no such certificate"),
    problem("not_permitted", 403, "The certificate is another worker's"),
];

/// Begins the `type` of every problem.
pub const PROBLEM_PREFIX: &str = "urn:crank-ca:problem:";

/// An error on its way to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    status: StatusCode,
    /// `None` where there is none in the table: `about:blank`, by RFC 9457.
    known: Option<ProblemType>,
    detail: String,
    decision_id: String,
    /// Whether a client may come back with HTTP Basic.
    basic: bool,
    /// When to ask again, in seconds.
    retry_after: Option<u64>,
}

impl Problem {
    /// An error that its status tells enough of, with what is wrong with this request.
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let known = PROBLEM_TYPES.into_iter().find(|problem| problem.status == status.as_u16());
        Self { status, known, detail: detail.into(), decision_id: String::new(), basic: false, retry_after: None }
    }

    /// Too many requests: come back in `seconds`.
    pub(super) fn too_many(seconds: u64, detail: impl Into<String>) -> Self {
        Self { retry_after: Some(seconds), ..Self::new(StatusCode::TOO_MANY_REQUESTS, detail) }
    }

    /// The same, to a client that knows HTTP Basic rather than bearer tokens.
    pub(super) fn with_basic(self) -> Self {
        Self { basic: true, ..self }
    }

    /// The same, of a kind of its own where there is one in the table.
    fn of_kind(self, kind: &str) -> Self {
        let own = PROBLEM_TYPES.into_iter().find(|problem| problem.kind == kind);
        Self { known: own.or(self.known), ..self }
    }

    /// The answer.
    pub(super) fn answer(&self, correlation_id: &str) -> Response {
        let (problem_type, title) = match &self.known {
            Some(known) => (format!("{PROBLEM_PREFIX}{}", known.kind), known.title),
            None => ("about:blank".to_owned(), self.status.canonical_reason().unwrap_or("Error")),
        };
        let body = ErrorReply {
            problem_type,
            title: title.to_owned(),
            status: self.status.as_u16(),
            detail: self.detail.clone(),
            instance: format!("{INSTANCE_PREFIX}{correlation_id}"),
            correlation_id: correlation_id.to_owned(),
            decision_id: self.decision_id.clone(),
        };
        let mut response = Response::new(Body::from(serde_json::to_vec(&body).unwrap_or_default()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"crank-ca\""));
            if self.basic {
                headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"crank-ca\""));
            }
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<&EnrolmentError> for Problem {
    fn from(error: &EnrolmentError) -> Self {
        use EnrolmentError as E;
        let status = match error {
            E::TooMany { seconds } => return Self::too_many(*seconds, error.to_string()),
            E::Signed(TokenRefusal::KeysUnavailable) | E::Policy(_) | E::IssuerEnding | E::State(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            E::Signed(refusal) if refusal.is_about_permission() => StatusCode::FORBIDDEN,
            E::NoCredential
            | E::MalformedCredential
            | E::TokenUnknown
            | E::TokenExpired
            | E::TokenUsed
            | E::TokenRevoked
            | E::Signed(_)
            | E::CertificateUnknown
            | E::CertificateRevoked
            | E::CertificateExpired => StatusCode::UNAUTHORIZED,
            E::Body | E::Csr(CsrRefusal::Malformed(_) | CsrRefusal::Proof(_) | CsrRefusal::Key(_)) => {
                StatusCode::BAD_REQUEST
            }
            E::Attested(_)
            | E::OtherWorker { .. }
            | E::NamesNotPermitted { .. }
            | E::NamesMissing { .. }
            | E::OutsideConstraints { .. }
            | E::Csr(CsrRefusal::Asks(_))
            | E::KeyOfAnother
            | E::Denied(_) => StatusCode::FORBIDDEN,
            E::Key | E::Sign(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        // The texts of our own failures hold no causes, and their kinds are nobody's business; both are in the log.
        let general = Self::new(status, error.to_string());
        let general = if error.is_internal() { general } else { general.of_kind(error.kind()) };
        match error {
            E::Denied(decision) => Self { decision_id: decision.id.clone(), ..general },
            _ => general,
        }
    }
}

impl From<&RevocationError> for Problem {
    fn from(error: &RevocationError) -> Self {
        use RevocationError as E;
        let status = match error {
            E::UnknownSerial | E::NoneInForce => StatusCode::NOT_FOUND,
            E::NotPermitted | E::Denied(_) => StatusCode::FORBIDDEN,
            E::Policy(_) | E::Authority(_) | E::State(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        let general = Self::new(status, error.to_string());
        let general = if error.is_internal() { general } else { general.of_kind(error.kind()) };
        match error {
            E::Denied(decision) => Self { decision_id: decision.id.clone(), ..general },
            _ => general,
        }
    }
}

/// Begins the `instance` of every error: this one request, as the audit trail has it.
const INSTANCE_PREFIX: &str = "urn:crank-ca:request:";

const fn problem(kind: &'static str, status: u16, title: &'static str) -> ProblemType {
    ProblemType { kind, status, title }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::policy::Decision;

    async fn body(problem: &Problem) -> serde_json::Value {
        let bytes = axum::body::to_bytes(problem.answer("req_1").into_body(), 10_000).await.unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[test]
    fn no_kind_is_there_twice() {
        let kinds: BTreeSet<_> = PROBLEM_TYPES.iter().map(|problem| problem.kind).collect();
        assert_eq!(kinds.len(), PROBLEM_TYPES.len());
    }

    #[test]
    fn a_status_stands_for_its_own_kind_and_an_unknown_one_for_none() {
        let kind = |status: u16| {
            let problem = Problem::new(StatusCode::from_u16(status).unwrap(), "");
            problem.known.map(|problem| problem.kind)
        };
        assert_eq!(kind(400), Some("malformed"));
        assert_eq!(kind(401), Some("unauthenticated"));
        assert_eq!(kind(403), Some("forbidden"));
        assert_eq!(kind(418), None);
    }

    #[tokio::test]
    async fn a_refusal_by_policy_tells_the_decision() {
        let decision = Decision::deny("not on Sundays");
        let value = body(&Problem::from(&EnrolmentError::Denied(decision.clone()))).await;
        assert_eq!(value["type"], "urn:crank-ca:problem:policy_denied");
        assert_eq!(value["decision_id"], decision.id);
        assert_eq!(
            (value["status"].as_u64(), value["instance"].as_str()),
            (Some(403), Some("urn:crank-ca:request:req_1"))
        );
    }

    #[tokio::test]
    async fn a_fault_of_ours_tells_neither_its_kind_nor_its_cause() {
        let error = EnrolmentError::State(crate::ca::state::StateError::Corrupt { what: "a secret" });
        let value = body(&Problem::from(&error)).await;
        assert_eq!(value["type"], "urn:crank-ca:problem:unavailable");
        assert!(!value.to_string().contains("secret") && value.get("decision_id").is_none(), "{value}");
    }
}
