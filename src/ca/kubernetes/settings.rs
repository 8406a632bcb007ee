//! Owns the settings of the signer for a Kubernetes cluster: as an operator writes them, and checked.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ca::config::CaProblem;
use crate::ca::oidc::{IssuerKind, Template};
use crate::ca::sign::BACKDATE;
use crate::config::HttpsUrl;
use crate::identity::DnsName;

/// `[kubernetes]` as written. That it is there turns the signer on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KubernetesSettings {
    /// `signer_name`: the requests for this signer are ours.
    pub signer_name: String,
    /// `requests`: the kinds of requests that are signed.
    pub requests: Vec<RequestKind>,
    /// `identity`: the template of the worker id.
    pub identity: String,
    /// `names`: templates of DNS names beside the worker's own.
    pub names: Vec<String>,
    /// `url`: the API server.
    pub url: String,
    /// `root_file`: the roots that the API server is verified against.
    pub root_file: PathBuf,
    /// `token_file`: the bearer token for it.
    pub token_file: PathBuf,
}

/// A kind of request, of the group `certificates.k8s.io`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RequestKind {
    /// A kubelet's, for the projected volume of a pod.
    PodCertificateRequest,
    /// Anybody's, approved by somebody else.
    CertificateSigningRequest,
}

impl RequestKind {
    /// The name of the resource.
    pub(super) fn resource(self) -> &'static str {
        match self {
            Self::PodCertificateRequest => "podcertificaterequests",
            Self::CertificateSigningRequest => "certificatesigningrequests",
        }
    }

    /// The kind of authentication, for policy, audit and record.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::PodCertificateRequest => "pod_certificate_request",
            Self::CertificateSigningRequest => "certificate_signing_request",
        }
    }
}

/// The signer, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubernetesSigner {
    written: KubernetesSettings,
    pub(super) signer_name: String,
    pub(super) requests: Vec<RequestKind>,
    pub(super) identity: Template,
    pub(super) names: Vec<Template>,
    pub(super) url: HttpsUrl,
    pub(super) root_file: PathBuf,
    pub(super) token_file: PathBuf,
}

impl Default for KubernetesSettings {
    /// Both kinds, and the API server of the cluster that this runs in.
    fn default() -> Self {
        Self {
            signer_name: "crank.local/worker".to_owned(),
            requests: vec![RequestKind::PodCertificateRequest, RequestKind::CertificateSigningRequest],
            identity: "{namespace}.{serviceaccount}".to_owned(),
            names: Vec::new(),
            url: "https://kubernetes.default.svc".to_owned(),
            root_file: "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt".into(),
            token_file: "/var/run/secrets/kubernetes.io/serviceaccount/token".into(),
        }
    }
}

impl KubernetesSigner {
    /// The settings as they were written.
    #[must_use]
    pub fn settings(&self) -> &KubernetesSettings {
        &self.written
    }
}

impl KubernetesSettings {
    /// The signer, checked against the life of certificates. No file is read.
    ///
    /// # Errors
    /// Every setting that cannot be used.
    pub fn resolve(&self, lifetime: Duration) -> Result<KubernetesSigner, Vec<CaProblem>> {
        let mut problems = Vec::new();
        if !is_signer_name(&self.signer_name) {
            let expected = "DOMAIN/NAME, as crank.local/worker, and not of kubernetes.io";
            problems.push(CaProblem::unfit("signer_name", &self.signer_name, expected));
        }
        if self.requests.is_empty() {
            problems
                .push(CaProblem::missing("requests", "PodCertificateRequest or CertificateSigningRequest, or both"));
        }
        if self.requests.contains(&RequestKind::PodCertificateRequest)
            && lifetime + BACKDATE.unsigned_abs() < SHORTEST_POD_LIFE
        {
            let expected = "PodCertificateRequest needs a lifetime of at least 1h: set that, or leave this kind out";
            problems.push(CaProblem::new("requests", None, expected));
        }
        let mut template = |key: &str, text: &str| {
            let parsed = Template::parse(text, IssuerKind::Kubernetes);
            parsed.map_err(|expected| problems.push(CaProblem::unfit(key, text, expected))).ok()
        };
        let identity = template("identity", &self.identity);
        let names = self.names.iter().filter_map(|text| template("names", text)).collect();
        let url = HttpsUrl::new(&self.url);
        let url = url.map_err(|expected| problems.push(CaProblem::new("url", Some(&self.url), expected))).ok();
        let (Some(identity), Some(url), true) = (identity, url, problems.is_empty()) else { return Err(problems) };
        let mut requests = self.requests.clone();
        requests.dedup();
        Ok(KubernetesSigner {
            written: self.clone(),
            signer_name: self.signer_name.clone(),
            requests,
            identity,
            names,
            url,
            root_file: self.root_file.clone(),
            token_file: self.token_file.clone(),
        })
    }
}

/// As the API server has it: a domain of two labels or more, one slash, and a lower-case name.
fn is_signer_name(text: &str) -> bool {
    let Some((domain, path)) = text.split_once('/') else { return false };
    // A name of a host is never folded here: what we ask for must be what is written.
    let is_name = |name: &str| DnsName::new(name).is_ok_and(|parsed| parsed.as_str() == name);
    let reserved = domain == "kubernetes.io" || domain.ends_with(".kubernetes.io");
    is_name(domain) && domain.contains('.') && is_name(path) && !reserved
}

/// From `notBefore` to `notAfter`, which the API server insists on.
pub(super) const SHORTEST_POD_LIFE: Duration = Duration::from_hours(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str, lifetime: Duration) -> Vec<String> {
        let settings: KubernetesSettings = toml::from_str(text).unwrap();
        match settings.resolve(lifetime) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.into_iter().map(|problem| problem.key).collect(),
        }
    }

    const DAY: Duration = Duration::from_hours(24);

    #[test]
    fn an_empty_section_is_enough_within_a_cluster() {
        assert!(keys("", DAY).is_empty());
        let signer = KubernetesSettings::default().resolve(DAY).unwrap();
        assert_eq!(signer.requests.len(), 2);
    }

    #[test]
    fn every_setting_that_does_not_fit_is_told_at_once() {
        let text =
            "signer_name = \"worker\"\nrequests = []\nidentity = \"{a}{b}\"\nnames = [\"*.{a}\"]\nurl = \"http://x\"";
        assert_eq!(keys(text, DAY), ["signer_name", "requests", "identity", "names", "url"]);
        assert!(toml::from_str::<KubernetesSettings>("signer = \"a.b/c\"").is_err());
        assert!(toml::from_str::<KubernetesSettings>("requests = [\"Pod\"]").is_err());
    }

    #[test]
    fn pods_need_certificates_of_an_hour() {
        assert!(keys("", Duration::from_mins(59)).is_empty(), "a minute of it lies in the past");
        assert_eq!(keys("", Duration::from_mins(58)), ["requests"]);
        assert!(keys("requests = [\"CertificateSigningRequest\"]", Duration::from_mins(2)).is_empty());
    }

    #[test]
    fn signer_names_are_those_that_the_api_server_takes() {
        for good in ["crank.local/worker", "a.b.example/ns.name", "a-b.c/d-e"] {
            assert!(is_signer_name(good), "{good}");
        }
        for bad in [
            "",
            "worker",
            "/worker",
            "crank.local/",
            "local/worker",
            "crank.local/a/b",
            "Crank.local/worker",
            "crank.local/W",
            "crank.local/a_b",
            "kubernetes.io/kubelet-serving",
            "x.kubernetes.io/y",
            "crank.local /w",
        ] {
            assert!(!is_signer_name(bad), "{bad}");
        }
    }
}
