//! Owns the answers of revocation: the revoking of a certificate, the CRL, and renewal information with its long poll.

use std::collections::BTreeMap;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequestParts, RawPathParams, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use serde_json::json;
use time::OffsetDateTime;

use super::answers::{json_answer, text};
use super::{Peer, PeerCertificate, Problem, read_limited};
use crate::ca::admin::Caller;
use crate::ca::crl::{CrlSet, etag_of, pem};
use crate::ca::enrolment::Context;
use crate::ca::manager::CertificateAuthorityManager;
use crate::ca::renewal_info::{RenewalInfo, Subject, preferred_wait};
use crate::ca::revocation::{REVOCATION_REASONS, RevocationError, parse_serial, reason_name, serial_bytes};
use crate::policy::RevocationReason;
use crate::printable::printable;

/// `DELETE /certificates/{serial}`.
pub(super) async fn revoke(manager: &CertificateAuthorityManager, request: Request) -> Result<Response, Problem> {
    let (mut parts, body) = request.into_parts();
    let actor = caller(manager, &parts).await?.actor().map_err(|error| Problem::from(&error))?;
    let serial = serial(&mut parts).await;
    let body = read_limited(&parts, body).await?;
    let reason = reason(parts.uri.query(), &body)?;
    let Some(context) = parts.extensions.get::<Context>() else {
        return Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the request lost its context"));
    };
    let revoked = manager.revoke(&actor, &serial, reason, context).await.map_err(|error| {
        if error.is_internal() {
            let causes: &dyn std::error::Error = &error;
            tracing::error!(error = causes, correlation_id = context.correlation_id, "cannot revoke a certificate");
        }
        Problem::from(&error)
    })?;
    let body = json!({
        "status": "success",
        "serial_number": revoked.serial,
        "revoked": true,
        "revoked_at": text(revoked.revoked_at),
        "reason": reason_name(revoked.reason),
    });
    json_answer(StatusCode::OK, &body)
}

/// `GET /ca/crl`.
pub(super) fn crl(manager: &CertificateAuthorityManager, request: &Request) -> Result<Response, Problem> {
    let crls = manager.standing.with(|known| known.crls.clone());
    let pem_type = pem_type(request.headers());
    let (body, etag, this_update, next_update) = representation(&crls, request.uri().query(), pem_type.is_some())?;
    let now = manager.clock.now().wall;
    // Nobody takes it for current any more; better to say whose fault it is.
    if next_update <= now {
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the CA cannot sign CRLs at present"));
    }
    let fresh = CRL_MAX_AGE.min((next_update - now).whole_seconds());
    let mut response = conditional(request.headers(), &etag, body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(pem_type.unwrap_or("application/pkix-crl")));
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    let modified = httpdate::fmt_http_date(this_update.into());
    insert(headers, header::LAST_MODIFIED, &modified);
    insert(headers, header::CACHE_CONTROL, &format!("max-age={fresh}"));
    Ok(response)
}

/// `GET /certificates/{serial}/renewal-info`. With `Prefer: wait` and the entity tag of the last answer, the answer waits
/// until there is another.
pub(super) async fn renewal_info(manager: &CertificateAuthorityManager, request: Request) -> Result<Response, Problem> {
    let (mut parts, _) = request.into_parts();
    let caller = caller(manager, &parts).await?;
    let subject = match parse_serial(&serial(&mut parts).await) {
        Some(serial) if serial == caller.subject.serial => caller.subject,
        other => {
            let admin = caller.is_admin() && caller.actor().is_ok();
            let record = match other {
                Some(serial) if admin => {
                    let found = manager.state.issued(&serial).await;
                    found.map_err(|error| Problem::from(&RevocationError::State(error)))?
                }
                _ if admin => None,
                _ => {
                    let detail = "a worker asks with the certificate that it asks about";
                    return Err(Problem::new(StatusCode::FORBIDDEN, detail));
                }
            };
            let subject = record.and_then(Subject::of);
            subject.ok_or_else(|| Problem::from(&RevocationError::UnknownSerial))?
        }
    };
    let headers = &parts.headers;
    // Subscribed first, so that nothing is missed between looking and waiting.
    let mut news = manager.standing.changes();
    let now = || manager.renewal_info(&subject);
    let mut info = now();
    let wait = preferred_wait(headers).filter(|_| matches(headers, &info.etag));
    let Some(wait) = wait else { return Ok(answer(headers, &info, subject.retry_after())) };
    let in_force = manager.in_force();
    let Some(_place) = in_force.waiters.take(&subject.serial) else {
        return Ok(answer(headers, &info, WHEN_CROWDED));
    };
    let closing = parts.extensions.get::<Peer>().map(|peer| peer.closing.clone()).unwrap_or_default();
    let mut deadline = std::pin::pin!(tokio::time::sleep(wait));
    loop {
        tokio::select! {
            () = closing.cancelled() => break,
            () = deadline.as_mut() => break,
            heard = news.changed() => {
                info = now();
                if heard.is_err() || !matches(headers, &info.etag) {
                    break;
                }
            }
        }
    }
    let mut response = answer(headers, &info, subject.retry_after());
    insert(response.headers_mut(), PREFERENCE_APPLIED, &format!("wait={}", wait.as_secs()));
    Ok(response)
}

fn answer(headers: &HeaderMap, info: &RenewalInfo, retry_after: i64) -> Response {
    let mut response = conditional(headers, &info.etag, info.body.clone().into());
    insert(response.headers_mut(), header::CONTENT_TYPE, "application/json");
    insert(response.headers_mut(), header::RETRY_AFTER, &retry_after.to_string());
    response
}

/// Who shows a client certificate; nothing else counts here.
async fn caller(manager: &CertificateAuthorityManager, parts: &Parts) -> Result<Caller, Problem> {
    let certificate = parts.extensions.get::<Peer>().map(|peer| &peer.certificate);
    let Some(PeerCertificate::Valid(certificate)) = certificate else {
        let detail = "this needs a client certificate of this CA in the TLS handshake; a token does not do";
        return Err(Problem::new(StatusCode::UNAUTHORIZED, detail));
    };
    manager.caller(certificate).await.map_err(|error| Problem::from(&error))
}

/// The serial in the path, decoded.
async fn serial(parts: &mut Parts) -> String {
    match RawPathParams::from_request_parts(parts, &()).await {
        Ok(params) => params.iter().next().map(|(_, value)| value.to_owned()).unwrap_or_default(),
        Err(_) => String::new(),
    }
}

/// From the body or the query, at most one of them.
fn reason(query: Option<&str>, body: &[u8]) -> Result<RevocationReason, Problem> {
    let bad = |detail: String| Problem::new(StatusCode::BAD_REQUEST, detail);
    let in_body = if body.is_empty() {
        None
    } else {
        let form = |_| bad("expected no body, or a JSON object with the text `reason`".to_owned());
        let mut fields: BTreeMap<String, String> = serde_json::from_slice(body).map_err(form)?;
        let reason = fields.remove("reason");
        if let Some(field) = fields.keys().next() {
            return Err(bad(format!("expected the field `reason` and no others, not `{}`", printable(field, 64))));
        }
        reason
    };
    let name = match (in_body, parameter(query, "reason")) {
        (Some(_), Some(_)) => return Err(bad("expected the reason once: in the body or in the query".to_owned())),
        (Some(name), None) => name,
        (None, Some(name)) => name.to_owned(),
        (None, None) => return Ok(RevocationReason::Unspecified),
    };
    let known = REVOCATION_REASONS.into_iter().find(|row| row.2 == name).map(|row| row.0);
    known.ok_or_else(|| bad(format!("expected as reason one of {}", REVOCATION_REASONS.map(|row| row.2).join(", "))))
}

/// Body, entity tag and times of what is asked for.
fn representation(
    crls: &CrlSet,
    query: Option<&str>,
    as_pem: bool,
) -> Result<(Bytes, String, OffsetDateTime, OffsetDateTime), Problem> {
    if let Some(issuer) = parameter(query, "issuer") {
        let digest = parse_digest(issuer);
        let crl = digest.and_then(|digest| crls.of(&digest)).ok_or_else(|| {
            Problem::new(StatusCode::NOT_FOUND, "no issuer of this CA has a certificate with this SHA-256")
        })?;
        let body = if as_pem { pem(crl).into() } else { crl.der.clone() };
        return Ok((body, etag_of(&crl.der), crl.this_update, crl.next_update));
    }
    let none = || Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the CA has no CRL yet");
    let current = crls.current().ok_or_else(none)?;
    let body = if as_pem { crls.pem() } else { current.der.clone() };
    let newest = crls.crls().iter().map(|crl| crl.this_update).max().unwrap_or(current.this_update);
    Ok((body, crls.etag().to_owned(), newest, current.next_update))
}

/// 64 hexadecimal digits.
fn parse_digest(text: &str) -> Option<[u8; 32]> {
    let text = text.strip_prefix("sha256:").unwrap_or(text);
    serial_bytes(text)?.try_into().ok()
}

/// The media type of PEM, where it is asked for before that of DER.
fn pem_type(headers: &HeaderMap) -> Option<&'static str> {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut types = values.flat_map(|value| value.split(',')).map(|range| range.split(';').next().unwrap_or("").trim());
    let known = ["application/x-pem-file", "application/pem-certificate-chain", "application/pkix-crl"];
    let asked = types.find_map(|asked| known.into_iter().find(|known| known.eq_ignore_ascii_case(asked)));
    asked.filter(|asked| *asked != "application/pkix-crl")
}

/// The value of a query parameter that needs no decoding.
fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    query?.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value))
}

/// 304 without the body where the client has it.
fn conditional(headers: &HeaderMap, etag: &str, body: Bytes) -> Response {
    let mut response = if matches(headers, etag) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        Response::new(Body::from(body))
    };
    insert(response.headers_mut(), header::ETAG, etag);
    response
}

/// Whether `If-None-Match` has the tag (RFC 9110, section 13.1.2: compared weakly).
fn matches(headers: &HeaderMap, etag: &str) -> bool {
    let values = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// How long a CRL may be taken from a cache, in seconds: whoever wants to know of a revocation at once waits for renewal
/// information.
const CRL_MAX_AGE: i64 = 60;

/// When to come back for whoever found no place to wait, in seconds.
const WHEN_CROWDED: i64 = 60;

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &HeaderName, values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn pem_is_given_to_whoever_names_it_first() {
        let asked = |values: &[&str]| pem_type(&headers(&header::ACCEPT, values));
        assert_eq!(asked(&["text/html, Application/X-PEM-File;q=0.5"]), Some("application/x-pem-file"));
        assert_eq!(asked(&["*/*", "application/pem-certificate-chain"]), Some("application/pem-certificate-chain"));
        for der in [&[][..], &["*/*"], &["application/pkix-crl, application/x-pem-file"], &["text/plain"]] {
            assert_eq!(asked(der), None, "{der:?}");
        }
    }

    #[test]
    fn tags_are_compared_whole_and_weakly() {
        let has = |values: &[&str]| matches(&headers(&header::IF_NONE_MATCH, values), "\"ab\"");
        assert!(has(&["\"ab\""]) && has(&["\"x\", W/\"ab\""]) && has(&["\"x\"", "\"ab\""]) && has(&["*"]));
        assert!(!has(&[]) && !has(&["ab"]) && !has(&["\"abc\""]) && !has(&["\"a\""]));
    }

    #[test]
    fn a_reason_comes_once_and_by_its_name() {
        let of = |query, body: &str| reason(query, body.as_bytes()).ok();
        assert_eq!(of(None, ""), Some(RevocationReason::Unspecified));
        assert_eq!(of(None, "{}"), Some(RevocationReason::Unspecified));
        assert_eq!(of(Some("reason=keyCompromise"), ""), Some(RevocationReason::KeyCompromise));
        assert_eq!(of(Some("a=b&reason=superseded"), ""), Some(RevocationReason::Superseded));
        assert_eq!(of(None, r#"{"reason":"cessationOfOperation"}"#), Some(RevocationReason::CessationOfOperation));
        assert_eq!(of(Some("reason=superseded"), r#"{"reason":"superseded"}"#), None);
        for bad in [r#"{"reason":"KeyCompromise"}"#, r#"{"reason":1}"#, r#"{"reasons":"superseded"}"#, "x", "[]"] {
            assert_eq!(of(None, bad), None, "{bad}");
        }
        assert_eq!(of(Some("reason="), ""), None);
    }
}
