//! Owns the answers that are not errors.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Serialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Problem;
use crate::ca::enrolment::IssuedCertificate;
use crate::ca::manager::CertificateAuthorityManager;
use crate::duration::format_duration;
use crate::identity::KeyType;
use crate::policy::default::{LONGEST_LIFETIME, SHORTEST_LIFETIME};
use crate::wire::{CsrReply, REQUEST_LIMIT, RootReply};

/// `GET /health`.
pub(super) async fn health(manager: &CertificateAuthorityManager) -> Result<Response, Problem> {
    let healthy = is_healthy(manager).await;
    let body = json!({
        "status": if healthy { "healthy" } else { "unhealthy" },
        "service": "certificate-authority",
        "provider": provider(),
    });
    json_answer(if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &body)
}

/// `GET /ca/certificate`.
pub(super) fn root(manager: &CertificateAuthorityManager) -> Result<Response, Problem> {
    let body = RootReply { ca_certificate: manager.certificate().roots_pem, provider: provider() };
    json_answer(StatusCode::OK, &body)
}

/// `POST /certificates/csr`, when all went well.
pub(super) fn issued(manager: &CertificateAuthorityManager, issued: IssuedCertificate) -> Result<Response, Problem> {
    let mut provider = provider();
    if let Some(object) = provider.as_object_mut() {
        object.insert("decision_id".to_owned(), issued.decision_id.into());
        object.insert("trust_domain".to_owned(), manager.trust_domain().as_str().into());
    }
    let body = CsrReply {
        status: "success".to_owned(),
        certificate: issued.certificate_pem,
        ca_certificate: issued.ca_certificate_pem,
        provider,
    };
    json_answer(StatusCode::OK, &body)
}

/// `GET /provider/status`.
pub(super) async fn status(manager: &CertificateAuthorityManager) -> Result<Response, Problem> {
    let policy = manager.policy_status();
    let body = json!({
        "provider": provider(),
        "status": if is_healthy(manager).await { "available" } else { "unavailable" },
        "capabilities": ["csr", "renewal-by-mtls", "revocation", "crl", "renewal-info", "est"],
        // What is wrong with the newest rules is for the log.
        "policy": { "engine": policy.engine, "revision": policy.revision, "current": policy.problem.is_none() },
        "root_not_after": text(manager.certificate().root_not_after),
        "issuer_not_after": text(manager.certificate().issuer_not_after),
    });
    json_answer(StatusCode::OK, &body)
}

/// `GET /provider/config`: what a client needs to know, no paths and no secrets.
pub(super) fn config(manager: &CertificateAuthorityManager) -> Result<Response, Problem> {
    let key_types: Vec<&str> = KeyType::ALL.iter().map(|key_type| key_type.name()).collect();
    let body = json!({
        "provider": provider(),
        "config": {
            "trust_domain": manager.trust_domain().as_str(),
            "root_fingerprint": manager.certificate().root_fingerprint,
            "key_types": key_types,
            "shortest_lifetime": format_duration(SHORTEST_LIFETIME),
            "longest_lifetime": format_duration(LONGEST_LIFETIME),
            "request_limit_bytes": REQUEST_LIMIT,
        },
    });
    json_answer(StatusCode::OK, &body)
}

/// Whether a certificate could be issued now.
async fn is_healthy(manager: &CertificateAuthorityManager) -> bool {
    let issuer_lives = manager.clock.now().wall + SHORTEST_LIFETIME < manager.authority().issuer_not_after();
    issuer_lives && manager.state.is_alive().await
}

pub(super) fn text(time: OffsetDateTime) -> String {
    time.format(&Rfc3339).unwrap_or_default()
}

fn provider() -> Value {
    json!({ "name": "crank-ca", "type": "internal", "version": env!("CARGO_PKG_VERSION") })
}

pub(super) fn json_answer(status: StatusCode, body: &impl Serialize) -> Result<Response, Problem> {
    let bytes = serde_json::to_vec(body)
        .map_err(|_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be written"))?;
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
