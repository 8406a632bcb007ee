//! Owns `PodCertificateRequest`: what the API server attests by it, and the status that answers it.
//!
//! The admission of the API server lets a node create such a request only for a pod that is bound to it, with the pod's own
//! service account, and verifies that whoever made it has the private key.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::answer::{Answer, rfc3339};
use super::objects::{Object, PodSpec};
use super::settings::{KubernetesSigner, RequestKind, SHORTEST_POD_LIFE};
use crate::ca::enrolment::{Attestation, AttestationRefusal, Credential, EnrolmentError, IssuedCertificate, Terms};
use crate::ca::request::{self, CsrRefusal, KeyRequest};
use crate::printable::{FOREIGN_TEXT_LIMIT, printable};
use crate::schedule::{Jitter, RenewalRecord, Timing, Validity};

/// What `object` asks for.
pub(super) fn attestation(signer: &KubernetesSigner, object: &Object<PodSpec>) -> Attestation {
    let Object { metadata, spec, .. } = object;
    let id = format!(
        "{} {}/{} pod {} {} node {}",
        metadata.uid, metadata.namespace, metadata.name, spec.pod_name, spec.pod_uid, spec.node_name
    );
    let most = spec.max_expiration_seconds.map_or(DEFAULT_LONGEST, |seconds| Duration::from_secs(seconds.into()));
    Attestation {
        credential: Credential::Signed {
            kind: RequestKind::PodCertificateRequest.label(),
            id: printable(&id, super::answer::CREDENTIAL_LIMIT),
        },
        attested: signer.attested(&claims(&metadata.namespace, spec)),
        request: request_of(spec),
        // The API server takes no certificate that begins more than five minutes ago.
        terms: Terms { shortest: SHORTEST_POD_LIFE, longest: most, repeat_for: FRESH },
    }
}

/// In the form of the claims of a service-account token, so that the same templates fit.
fn claims(namespace: &str, spec: &PodSpec) -> Map<String, Value> {
    let claims = json!({
        "namespace": namespace,
        "serviceaccount": {"name": spec.service_account_name, "uid": spec.service_account_uid},
        "pod": {"name": spec.pod_name, "uid": spec.pod_uid},
        "node": {"name": spec.node_name, "uid": spec.node_uid},
    });
    Map::from_iter([("kubernetes.io".to_owned(), claims)])
}

fn request_of(spec: &PodSpec) -> Result<KeyRequest, EnrolmentError> {
    let unknown: Vec<&str> = spec.unverified_user_annotations.keys().map(String::as_str).collect();
    if !unknown.is_empty() {
        let unknown = printable(&unknown.join(", "), FOREIGN_TEXT_LIMIT);
        return Err(AttestationRefusal::Annotations(unknown).into());
    }
    if spec.stub_request.is_empty() {
        return Err(AttestationRefusal::NoRequest.into());
    }
    let der = STANDARD.decode(&spec.stub_request).map_err(|_| CsrRefusal::Malformed("expected base64"))?;
    Ok(request::parse_der(&der)?)
}

/// The status of a request that got its certificate.
pub(super) fn issued(issued: &IssuedCertificate, now: OffsetDateTime, jitter: Jitter) -> Value {
    let message = format!("serial {}, decision {}", issued.serial, issued.decision_id);
    json!({
        "conditions": [condition("Issued", "Issued", &message, now)],
        "certificateChain": issued.certificate_pem,
        "notBefore": rfc3339(issued.not_before),
        "notAfter": rfc3339(issued.not_after),
        "beginRefreshAt": rfc3339(refresh(issued, now, jitter)),
    })
}

/// The status of a request that got none.
pub(super) fn refused(answer: &Answer, now: OffsetDateTime) -> Value {
    let (kind, reason) = match answer.kind {
        "csr_key" => ("Denied", "UnsupportedKeyType".to_owned()),
        "annotations" => ("Denied", "InvalidUnverifiedUserAnnotations".to_owned()),
        // Nothing that whoever asked could change.
        "life_too_short" | "status_refused" => ("Failed", answer.reason()),
        _ => ("Denied", answer.reason()),
    };
    json!({ "conditions": [condition(kind, &reason, &answer.message, now)] })
}

/// When the kubelet is to ask anew: by the rule of the agent, within the bounds of the API server.
fn refresh(issued: &IssuedCertificate, now: OffsetDateTime, jitter: Jitter) -> OffsetDateTime {
    let validity = Validity { not_before: issued.not_before, not_after: issued.not_after };
    let own = Timing::default().own_renewal_instant(validity, RenewalRecord::new(jitter, now));
    own.clamp(issued.not_before + MARGIN, issued.not_after - MARGIN)
}

fn condition(kind: &str, reason: &str, message: &str, now: OffsetDateTime) -> Value {
    json!({"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": rfc3339(now)})
}

/// Where a request does not say. The API server puts this in itself.
const DEFAULT_LONGEST: Duration = Duration::from_hours(24);

/// A certificate begins a minute before it is signed, and may be five minutes old.
const FRESH: time::Duration = time::Duration::minutes(3);

/// Within this of either end, no refresh may begin.
const MARGIN: time::Duration = time::Duration::minutes(10);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};

    use super::*;
    use crate::ca::kubernetes::settings::KubernetesSettings;

    fn object() -> Value {
        let mut stub = CertificateParams::default();
        stub.distinguished_name = rcgen::DistinguishedName::new();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let der = stub.serialize_request(&key).unwrap().der().to_vec();
        json!({
            "metadata": {"name": "req", "namespace": "streaming", "uid": "u-1", "resourceVersion": "7"},
            "spec": {
                "signerName": "crank.local/worker", "podName": "web-0", "podUID": "p-1", "serviceAccountName": "web",
                "serviceAccountUID": "s-1", "nodeName": "node-a", "nodeUID": "n-1", "maxExpirationSeconds": 7200,
                "stubPKCS10Request": STANDARD.encode(der),
            },
        })
    }

    fn read(settings: &KubernetesSettings, object: &Value) -> Attestation {
        let signer = settings.resolve(Duration::from_hours(24)).unwrap();
        attestation(&signer, &serde_json::from_value(object.clone()).unwrap())
    }

    #[test]
    fn the_worker_is_the_pod_s_account_and_the_key_that_of_the_stub() {
        let settings = KubernetesSettings { names: vec!["{pod}.{namespace}.svc".to_owned()], ..Default::default() };
        let read = read(&settings, &object());
        let attested = read.attested.unwrap();
        assert_eq!(attested.worker_id.as_str(), "streaming.web");
        assert_eq!(attested.names, BTreeSet::from(["web-0.streaming.svc".parse().unwrap()]));
        let request = read.request.unwrap();
        assert_eq!((request.common_name, request.names), (None, None));
        assert_eq!(read.terms.longest, Duration::from_hours(2));
        let expected = Credential::Signed {
            kind: "pod_certificate_request",
            id: "u-1 streaming/req pod web-0 p-1 node node-a".to_owned(),
        };
        assert_eq!(read.credential, expected);
    }

    #[test]
    fn an_account_whose_name_would_run_into_the_namespace_s_gets_nothing() {
        let mut object = object();
        object["metadata"]["namespace"] = json!("a.b");
        let error = read(&KubernetesSettings::default(), &object).attested.unwrap_err();
        assert_eq!(error.kind(), "attested_name");
    }

    #[test]
    fn unknown_annotations_and_requests_without_pkcs10_are_refused() {
        let mut annotated = object();
        annotated["spec"]["unverifiedUserAnnotations"] = json!({"other.example/ttl": "1"});
        let error = read(&KubernetesSettings::default(), &annotated).request.unwrap_err();
        let now = OffsetDateTime::UNIX_EPOCH;
        let status = refused(&Answer::of(&error), now);
        assert_eq!(status["conditions"][0]["reason"], "InvalidUnverifiedUserAnnotations");
        let mut old = object();
        old["spec"].as_object_mut().unwrap().remove("stubPKCS10Request");
        assert_eq!(read(&KubernetesSettings::default(), &old).request.unwrap_err().kind(), "no_request");
        let mut broken = object();
        broken["spec"]["stubPKCS10Request"] = json!("MAA=");
        assert_eq!(read(&KubernetesSettings::default(), &broken).request.unwrap_err().kind(), "csr_malformed");
    }

    #[test]
    fn a_key_that_is_not_certified_is_told_as_the_kubelet_knows_it() {
        let status = refused(&Answer::of(&CsrRefusal::Key("expected others").into()), OffsetDateTime::UNIX_EPOCH);
        let condition = &status["conditions"][0];
        assert_eq!(
            (condition["type"].as_str(), condition["reason"].as_str()),
            (Some("Denied"), Some("UnsupportedKeyType"))
        );
        let short = AttestationRefusal::LifeTooShort { allowed: 60, needed: 3600 }.into();
        let status = refused(&Answer::of(&short), OffsetDateTime::UNIX_EPOCH);
        assert_eq!(status["conditions"][0]["type"], "Failed");
    }

    proptest! {
        #[test]
        fn a_refresh_lies_within_the_bounds_of_the_api_server(minutes in 60_i64..131_041, bits in any::<u32>()) {
            let not_before = OffsetDateTime::UNIX_EPOCH;
            let not_after = not_before + time::Duration::minutes(minutes);
            let issued = IssuedCertificate {
                certificate_pem: String::new(), ca_certificate_pem: String::new(), serial: String::new(),
                names: BTreeSet::new(), not_before, not_after, decision_id: String::new(),
            };
            let at = refresh(&issued, not_before + time::Duration::minutes(1), Jitter::from_bits(bits));
            prop_assert!(at >= not_before + MARGIN && at <= not_after - MARGIN);
        }
    }
}
