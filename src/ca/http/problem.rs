//! Owns the form of every error: problem details (RFC 9457) with a detail that says what to do.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;

use crate::ca::enrolment::EnrolmentError;
use crate::ca::request::CsrRefusal;
use crate::wire::ErrorReply;

/// An error on its way to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    status: StatusCode,
    detail: String,
}

impl Problem {
    /// An error with what is wrong with this request.
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into() }
    }

    /// The answer.
    pub(super) fn answer(&self, correlation_id: &str) -> Response {
        let body = ErrorReply {
            title: self.status.canonical_reason().unwrap_or("Error").to_owned(),
            status: self.status.as_u16(),
            detail: self.detail.clone(),
            correlation_id: correlation_id.to_owned(),
        };
        let mut response = Response::new(Body::from(serde_json::to_vec(&body).unwrap_or_default()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"crank-ca\""));
        }
        response
    }
}

impl From<&EnrolmentError> for Problem {
    fn from(error: &EnrolmentError) -> Self {
        use EnrolmentError as E;
        let status = match error {
            E::NoCredential
            | E::MalformedCredential
            | E::TokenUnknown
            | E::TokenExpired
            | E::TokenUsed
            | E::TokenRevoked
            | E::CertificateUnknown
            | E::CertificateExpired => StatusCode::UNAUTHORIZED,
            E::Body | E::Csr(CsrRefusal::Malformed(_) | CsrRefusal::Proof(_) | CsrRefusal::Key(_)) => {
                StatusCode::BAD_REQUEST
            }
            E::OtherWorker { .. }
            | E::NamesNotPermitted { .. }
            | E::Csr(CsrRefusal::Asks(_))
            | E::KeyOfAnother
            | E::Denied(_) => StatusCode::FORBIDDEN,
            E::Policy(_) | E::IssuerEnding | E::State(_) => StatusCode::SERVICE_UNAVAILABLE,
            E::Key | E::Sign(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        // The texts of our own failures hold no causes; those are in the log.
        Self::new(status, error.to_string())
    }
}
