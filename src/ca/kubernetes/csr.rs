//! Owns `CertificateSigningRequest`: what the API server attests by it, and the status that answers it.
//!
//! The API server writes down who made the request, and lets nobody change it. Whether that one may ask is told by
//! the approval, which is somebody else's; what the certificate says is told by who asked.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::answer::{Answer, CREDENTIAL_LIMIT, rfc3339};
use super::objects::{CsrSpec, Object};
use super::settings::{KubernetesSigner, RequestKind};
use crate::ca::enrolment::{Attestation, AttestationRefusal, Credential, EnrolmentError, IssuedCertificate, Terms};
use crate::ca::oidc::Attested;
use crate::ca::request::{self, CsrRefusal, KeyRequest};
use crate::printable::{FOREIGN_TEXT_LIMIT, printable};

/// What `object` asks for.
pub(super) fn attestation(signer: &KubernetesSigner, object: &Object<CsrSpec>) -> Attestation {
    let Object { metadata, spec, .. } = object;
    let pod = extra(spec, "pod-name").map(|pod| format!(" pod {pod} {}", extra(spec, "pod-uid").unwrap_or_default()));
    let id = format!("{} {} by {}{}", metadata.uid, metadata.name, spec.username, pod.unwrap_or_default());
    let most = spec.expiration_seconds.map_or(Duration::MAX, |seconds| Duration::from_secs(seconds.into()));
    Attestation {
        credential: Credential::Signed {
            kind: RequestKind::CertificateSigningRequest.label(),
            id: printable(&id, CREDENTIAL_LIMIT),
        },
        attested: attested(signer, spec),
        request: request_of(spec),
        terms: Terms { longest: most, ..Terms::default() },
    }
}

fn attested(signer: &KubernetesSigner, spec: &CsrSpec) -> Result<Attested, EnrolmentError> {
    let refused = || AttestationRefusal::NoServiceAccount(printable(&spec.username, FOREIGN_TEXT_LIMIT));
    let account = spec.username.strip_prefix("system:serviceaccount:").ok_or_else(refused)?;
    let (namespace, name) = account.split_once(':').ok_or_else(refused)?;
    let mut claims = json!({"namespace": namespace, "serviceaccount": {"name": name, "uid": spec.uid}});
    for (key, what) in [("pod", "pod-name"), ("node", "node-name")] {
        if let Some(value) = extra(spec, what) {
            claims[key] = json!({ "name": value });
        }
    }
    signer.attested(&Map::from_iter([("kubernetes.io".to_owned(), claims)]))
}

/// What the API server knows of whoever asked beside the name; one value or none.
fn extra<'a>(spec: &'a CsrSpec, key: &str) -> Option<&'a str> {
    match spec.extra.get(&format!("authentication.kubernetes.io/{key}"))?.as_slice() {
        [value] => Some(value),
        _ => None,
    }
}

fn request_of(spec: &CsrSpec) -> Result<KeyRequest, EnrolmentError> {
    let other: Vec<&str> = spec.usages.iter().map(String::as_str).filter(|usage| !USAGES.contains(usage)).collect();
    if !other.is_empty() {
        return Err(AttestationRefusal::Usages(printable(&other.join(", "), FOREIGN_TEXT_LIMIT)).into());
    }
    let pem = STANDARD.decode(&spec.request).ok().and_then(|pem| String::from_utf8(pem).ok());
    Ok(request::parse(&pem.ok_or(CsrRefusal::Malformed("expected PEM in base64"))?)?)
}

/// `object` with its certificate.
pub(super) fn issued(status: &Value, issued: &IssuedCertificate) -> Value {
    let mut status = status.clone();
    status["certificate"] = json!(STANDARD.encode(&issued.certificate_pem));
    status
}

/// The status with the reason that there is none. Only who approves may deny; a signer fails.
pub(super) fn refused(status: &Value, answer: &Answer, now: OffsetDateTime) -> Value {
    let mut status = status.clone();
    let (reason, message, now) = (answer.reason(), &answer.message, rfc3339(now));
    let failed = json!({
        "type": "Failed", "status": "True", "reason": reason, "message": message, "lastUpdateTime": now,
        "lastTransitionTime": now,
    });
    match status["conditions"].as_array_mut() {
        Some(conditions) => conditions.push(failed),
        None => status["conditions"] = json!([failed]),
    }
    status
}

/// Those of a worker's certificate, which has both of the last two whichever is asked for; an RSA key also serves the second.
const USAGES: [&str; 4] = ["digital signature", "key encipherment", "server auth", "client auth"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::kubernetes::settings::KubernetesSettings;

    fn spec(username: &str) -> CsrSpec {
        let spec = json!({"request": "", "username": username, "uid": "s-1", "usages": ["client auth"]});
        serde_json::from_value(spec).unwrap()
    }

    fn worker(identity: &str, spec: &CsrSpec) -> Result<String, &'static str> {
        let settings = KubernetesSettings { identity: identity.to_owned(), ..Default::default() };
        let signer = settings.resolve(Duration::from_hours(24)).unwrap();
        attested(&signer, spec).map(|found| found.worker_id.to_string()).map_err(|error| error.kind())
    }

    #[test]
    fn only_service_accounts_are_workers() {
        let identity = "{namespace}.{serviceaccount}";
        assert_eq!(worker(identity, &spec("system:serviceaccount:streaming:web")), Ok("streaming.web".to_owned()));
        for other in ["", "admin", "system:node:a", "system:serviceaccount:web", "xsystem:serviceaccount:a:b"] {
            assert_eq!(worker(identity, &spec(other)), Err("no_service_account"), "{other}");
        }
        assert_eq!(worker(identity, &spec("system:serviceaccount::web")), Err("attested_name"));
        assert_eq!(worker(identity, &spec("system:serviceaccount:a:b:c")), Err("attested_name"));
    }

    #[test]
    fn the_pod_is_that_of_the_token_if_it_was_bound_to_one() {
        let mut bound = spec("system:serviceaccount:streaming:web");
        assert_eq!(worker("{pod}", &bound), Err("attested_name"));
        bound.extra.insert("authentication.kubernetes.io/pod-name".to_owned(), vec!["web-0".to_owned()]);
        assert_eq!(worker("{pod}", &bound), Ok("web-0".to_owned()));
        bound.extra.insert("authentication.kubernetes.io/pod-name".to_owned(), vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(worker("{pod}", &bound), Err("attested_name"));
    }

    #[test]
    fn usages_beyond_ours_are_refused() {
        let mut spec = spec("system:serviceaccount:streaming:web");
        spec.usages = ["digital signature", "cert sign", "any"].map(str::to_owned).to_vec();
        assert_eq!(
            request_of(&spec).unwrap_err().to_string(),
            "usages that no worker's certificate has: cert sign, any"
        );
        spec.usages = USAGES.map(str::to_owned).to_vec();
        assert_eq!(request_of(&spec).unwrap_err().kind(), "csr_malformed");
    }

    #[test]
    fn a_failure_is_one_more_condition() {
        let status = json!({"conditions": [{"type": "Approved", "status": "True"}]});
        let answer = Answer::of(&AttestationRefusal::NoServiceAccount("admin".to_owned()).into());
        let failed = refused(&status, &answer, OffsetDateTime::UNIX_EPOCH);
        assert_eq!(failed["conditions"][0], status["conditions"][0]);
        assert_eq!(failed["conditions"][1]["reason"], "NoServiceAccount");
        assert!(failed.get("certificate").is_none());
    }
}
