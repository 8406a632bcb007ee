//! Owns the parts of the API server's objects that are read (`certificates.k8s.io`, `v1`); whatever else they hold stays as it
//! is when a status is written.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::settings::RequestKind;

/// What tells an object from all others, and one state of it from the next.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    pub(super) name: String,
    #[serde(default)]
    pub(super) namespace: String,
    pub(super) uid: String,
}

/// An object of either kind.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Object<S> {
    pub(super) metadata: Metadata,
    pub(super) spec: S,
    #[serde(default)]
    pub(super) status: Status,
}

/// What becomes of a request.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Status {
    #[serde(default)]
    conditions: Vec<Condition>,
    /// Of a `CertificateSigningRequest`, in base64.
    #[serde(default)]
    certificate: String,
}

#[derive(Debug, Clone, Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    status: String,
}

/// What every request says.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AnySpec {
    pub(super) signer_name: String,
}

/// The `spec` of a `PodCertificateRequest`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodSpec {
    pub(super) pod_name: String,
    #[serde(rename = "podUID")]
    pub(super) pod_uid: String,
    pub(super) service_account_name: String,
    #[serde(rename = "serviceAccountUID")]
    pub(super) service_account_uid: String,
    pub(super) node_name: String,
    #[serde(rename = "nodeUID")]
    pub(super) node_uid: String,
    pub(super) max_expiration_seconds: Option<u32>,
    /// In base64.
    #[serde(rename = "stubPKCS10Request", default)]
    pub(super) stub_request: String,
    #[serde(default)]
    pub(super) unverified_user_annotations: BTreeMap<String, String>,
}

/// The `spec` of a `CertificateSigningRequest`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CsrSpec {
    /// PEM, in base64.
    pub(super) request: String,
    pub(super) expiration_seconds: Option<u32>,
    #[serde(default)]
    pub(super) usages: Vec<String>,
    #[serde(default)]
    pub(super) username: String,
    #[serde(default)]
    pub(super) uid: String,
    #[serde(default)]
    pub(super) extra: BTreeMap<String, Vec<String>>,
}

/// The metadata of a request for `signer_name` that waits for its certificate, and for nobody else.
pub(super) fn waiting(kind: RequestKind, signer_name: &str, object: &Value) -> Option<Metadata> {
    let object: Object<AnySpec> = serde_json::from_value(object.clone()).ok()?;
    let has = |kind: &str| {
        object.status.conditions.iter().any(|condition| condition.kind == kind && condition.status == "True")
    };
    let is_over = ["Issued", "Denied", "Failed"].into_iter().any(has) || !object.status.certificate.is_empty();
    let is_ready = kind == RequestKind::PodCertificateRequest || has("Approved");
    (object.spec.signer_name == signer_name && is_ready && !is_over).then_some(object.metadata)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn waits(kind: RequestKind, status: &Value) -> bool {
        let object = json!({
            "metadata": {"name": "n", "uid": "u", "resourceVersion": "1"}, "spec": {"signerName": "a.b/c"}, "status": status,
        });
        assert!(waiting(kind, "a.b/d", &object).is_none(), "another's");
        waiting(kind, "a.b/c", &object).is_some()
    }

    fn conditions(kinds: &[(&str, &str)]) -> Value {
        let conditions: Vec<Value> =
            kinds.iter().map(|(kind, status)| json!({"type": kind, "status": status})).collect();
        json!({ "conditions": conditions })
    }

    #[test]
    fn a_pod_s_request_waits_until_it_is_answered() {
        let kind = RequestKind::PodCertificateRequest;
        assert!(waits(kind, &json!({})));
        for answer in ["Issued", "Denied", "Failed"] {
            assert!(!waits(kind, &conditions(&[(answer, "True")])), "{answer}");
        }
    }

    #[test]
    fn a_signing_request_waits_for_us_only_when_it_is_approved() {
        let kind = RequestKind::CertificateSigningRequest;
        assert!(!waits(kind, &json!({})));
        assert!(!waits(kind, &conditions(&[("Approved", "False")])));
        assert!(waits(kind, &conditions(&[("Approved", "True")])));
        assert!(!waits(kind, &conditions(&[("Approved", "True"), ("Denied", "True")])));
        assert!(!waits(kind, &conditions(&[("Approved", "True"), ("Failed", "True")])));
        let mut issued = conditions(&[("Approved", "True")]);
        issued["certificate"] = json!("LS0t");
        assert!(!waits(kind, &issued));
    }

    #[test]
    fn what_is_no_request_waits_for_nothing() {
        for object in [json!({}), json!([]), json!({"metadata": {"name": "n"}, "spec": {"signerName": "a.b/c"}})] {
            assert!(waiting(RequestKind::PodCertificateRequest, "a.b/c", &object).is_none());
        }
    }
}
