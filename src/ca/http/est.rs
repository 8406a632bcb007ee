//! Owns EST over HTTP (RFC 7030): its media types, and the worker id and token of HTTP Basic.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use zeroize::Zeroizing;

use super::{PeerCertificate, Problem, bearer, certificate_issued, credentials, parts_of, read_limited};
use crate::ca::enrolment::{Credentials, Form};
use crate::ca::est::{EstOperation, certs_only};
use crate::ca::manager::CertificateAuthorityManager;

/// `GET /.well-known/est/cacerts`: the roots, and what leaves need below them; while one root replaces another also those
/// certified by each other (section 4.1.3).
pub(super) fn roots(manager: &CertificateAuthorityManager) -> Response {
    let authority = manager.authority();
    let certificates: Vec<_> = authority.roots().iter().chain(authority.chain()).cloned().collect();
    pkcs7(&certificates)
}

/// `GET /.well-known/est/csrattrs`: a CSR need not hold anything but its key (section 4.5.2).
pub(super) fn attributes() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// `POST /.well-known/est/simpleenroll` and `/simplereenroll`: the leaf, and nothing but the leaf (section 4.2.3).
pub(super) async fn enrol(
    manager: &Arc<CertificateAuthorityManager>,
    operation: EstOperation,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let (context, peer) = parts_of(&parts)?;
    check_media_type(&parts.headers)?;
    let body = read_limited(&parts, body).await?;
    let (credentials, claimed) = est_credentials(&parts.headers, &peer.certificate);
    let issued =
        manager.enrol(credentials, Form::Est { operation, claimed: claimed.as_deref(), body: &body }, context).await;
    let issued = certificate_issued(issued, context).map_err(Problem::with_basic)?;
    let leaf = CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes());
    let leaf = leaf.map_err(|_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be written"))?;
    Ok(pkcs7(&[leaf]))
}

fn pkcs7(certificates: &[CertificateDer<'_>]) -> Response {
    let mut response = Response::new(Body::from(certs_only(certificates)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/pkcs7-mime; smime-type=certs-only"));
    headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("base64"));
    response
}

/// Media types have parameters, and letters of either case. The transfer encoding is base64 whatever the header for it
/// says (RFC 8951, section 3.1).
fn check_media_type(headers: &HeaderMap) -> Result<(), Problem> {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = value.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/pkcs10") {
        return Ok(());
    }
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "expected a body of type application/pkcs10"))
}

/// The same credentials as everywhere, or the worker id and its token as HTTP Basic (RFC 7030, section 3.2.3).
fn est_credentials(headers: &HeaderMap, certificate: &PeerCertificate) -> (Credentials, Option<String>) {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let basic = values.next().and_then(|value| {
        let (scheme, value) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("basic").then(|| value.trim())
    });
    let Some(basic) = basic.filter(|_| values.next().is_none()) else {
        return (credentials(headers, certificate), None);
    };
    let decoded = STANDARD.decode(basic).map(Zeroizing::new).unwrap_or_default();
    match std::str::from_utf8(&decoded).ok().and_then(|text| text.split_once(':')) {
        Some((worker, token)) => (bearer(token), Some(worker.to_owned())),
        None => (Credentials::Malformed, None),
    }
}

const TRANSFER_ENCODING: HeaderName = HeaderName::from_static("content-transfer-encoding");

#[cfg(test)]
mod tests {
    use super::*;

    fn read(authorization: &[&str]) -> (Credentials, Option<String>) {
        let mut headers = HeaderMap::new();
        for value in authorization {
            headers.append(header::AUTHORIZATION, value.parse().unwrap());
        }
        est_credentials(&headers, &PeerCertificate::None)
    }

    #[test]
    fn the_password_is_the_token_and_the_name_the_worker() {
        let token = format!("crank_{}", "a".repeat(43));
        let basic = |text: &str| format!("bAsIc {}", STANDARD.encode(text));
        let (credentials, claimed) = read(&[&basic(&format!("streaming:{token}"))]);
        let Credentials::Token(secret) = credentials else { unreachable!("{credentials:?}") };
        assert_eq!((secret.expose(), claimed.as_deref()), (token.as_str(), Some("streaming")));
        assert!(matches!(read(&[&basic("streaming:a:b")]).0, Credentials::ForeignToken));
        for bad in [&basic("streaming"), "Basic !", "Basic", &basic("\u{0}")] {
            assert!(matches!(read(&[bad]), (Credentials::Malformed, None)), "{bad}");
        }
        // Two are none that counts.
        assert!(matches!(read(&[&basic("a:b"), &basic("c:d")]), (Credentials::Malformed, None)));
        assert!(matches!(read(&[]), (Credentials::None, None)));
    }

    #[test]
    fn a_body_of_another_type_is_refused() {
        let check = |value: &str| {
            check_media_type(&HeaderMap::from_iter([(header::CONTENT_TYPE, value.parse().unwrap())])).is_ok()
        };
        assert!(check("application/pkcs10") && check("Application/PKCS10; charset=x"));
        assert!(!check("application/pkcs10x") && !check("text/plain") && !check(""));
        assert!(check_media_type(&HeaderMap::new()).is_err());
    }
}
