//! What a kubelet asks for, and gets: `PodCertificateRequest`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::between::Between;
use super::{Ca, P256, condition, csr, of_the_page, prepare, text};
use crate::cluster::Cluster;
use crate::node::until;
use crate::yaml;

/// Where pods are, with what kubelets do for them.
struct Kubelet<'a> {
    cluster: &'a Cluster,
    namespace: &'a str,
    signer: &'a str,
    node: Value,
    /// The version of the API in which it asks.
    version: &'a str,
}

impl<'a> Kubelet<'a> {
    fn new(cluster: &'a Cluster, namespace: &'a str, signer: &'a str, node: &str) -> Self {
        let name = format!("{namespace}-{node}");
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        let node = cluster.create(&node.to_string()).unwrap();
        Self { cluster, namespace, signer, node, version: "v1" }
    }

    /// The page's pod on the node.
    fn pod(&self, account: &str) -> Value {
        let mut pod = yaml::objects(&of_the_page("worker.yaml", self.namespace, self.signer)).remove(0);
        pod["metadata"]["namespace"] = json!(self.namespace);
        pod["metadata"]["name"] = json!(format!("{account}-0"));
        pod["spec"]["serviceAccountName"] = json!(account);
        pod["spec"]["nodeName"] = self.node["metadata"]["name"].clone();
        self.cluster.create(&pod.to_string()).unwrap()
    }

    /// Asks for a certificate of `pod` for the key of `stub`.
    fn ask(&self, pod: &Value, name: &str, stub: &[u8], annotations: &Value) -> Result<Value, String> {
        let account = text(&pod["spec"]["serviceAccountName"]);
        let account = self.cluster.object(&["get", "serviceaccount", account, "--namespace", self.namespace]);
        let metadata = |object: &Value, key: &str| object["metadata"][key].clone();
        let source = &pod["spec"]["volumes"][0]["projected"]["sources"][0]["podCertificate"];
        let request = json!({
            "apiVersion": format!("certificates.k8s.io/{}", self.version), "kind": "PodCertificateRequest",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {
                "signerName": source["signerName"], "podName": metadata(pod, "name"), "podUID": metadata(pod, "uid"),
                "serviceAccountName": metadata(&account, "name"), "serviceAccountUID": metadata(&account, "uid"),
                "nodeName": metadata(&self.node, "name"), "nodeUID": metadata(&self.node, "uid"),
                "maxExpirationSeconds": 7200, "stubPKCS10Request": STANDARD.encode(stub), "unverifiedUserAnnotations": annotations,
            },
        });
        let user = format!("system:node:{}", text(&metadata(&self.node, "name")));
        let arguments = ["create", "--as", &user, "--as-group", "system:nodes", "--output", "json"];
        let output = self.cluster.kubectl_with(&arguments, &request.to_string());
        if output.status.success() {
            return Ok(serde_json::from_slice(&output.stdout).unwrap());
        }
        Err(String::from_utf8(output.stderr).unwrap())
    }

    /// The request once it has been answered.
    fn answer(&self, name: &str) -> Value {
        let get = || self.cluster.object(&["get", "podcertificaterequest", name, "--namespace", self.namespace]);
        until(name, || get()["status"]["conditions"].is_array());
        get()
    }
}

#[test]
#[ignore = "needs kube-apiserver and etcd"]
fn a_pod_gets_its_certificate_as_the_kubelet_asks_for_it() {
    let cluster = Cluster::shared();
    let (namespace, signer) = ("projected", "projected.example/worker");
    prepare(&cluster, namespace, signer);
    let ca = Ca::start(&cluster, signer, &cluster.token(namespace, "cert-authority", None, None));
    let kubelet = Kubelet::new(&cluster, namespace, signer, "node");
    let (web, banned) = (kubelet.pod("web"), kubelet.pod("banned"));
    let none = json!({});
    let stub = csr(&P256, "", "DER");
    kubelet.ask(&web, "good", &stub, &none).unwrap();
    let good = kubelet.answer("good");
    let status = &good["status"];
    assert!(condition(&good, "Issued").is_some(), "{status:#}");
    let shown = ca.verified(text(&status["certificateChain"]));
    let id = "URI:spiffe://crank.local/worker/projected.web";
    for name in ["DNS:localhost", "DNS:projected.web", "DNS:web.projected.svc", id] {
        assert!(shown.contains(name), "{name}: {shown}");
    }
    assert_eq!(shown.matches("DNS:").count(), 3, "{shown}");
    let at = |key: &str| {
        let text = text(&status[key]).to_owned();
        OffsetDateTime::parse(&text, &Rfc3339).unwrap()
    };
    let (begins, ends, refresh) = (at("notBefore"), at("notAfter"), at("beginRefreshAt"));
    assert_eq!(ends - begins, time::Duration::hours(2), "maxExpirationSeconds is less than the policy allows");
    let share = (refresh - begins) / (ends - begins);
    assert!((0.5..0.72).contains(&share), "{share}");
    let listed = ca.list("projected.web");
    assert_eq!((listed.len(), text(&listed[0]["authentication"])), (1, "pod_certificate_request"));
    let line = ca.audit(text(&good["metadata"]["uid"]));
    assert!(text(&line["credential"]).contains(&format!("pod web-0 {}", text(&web["metadata"]["uid"]))), "{line}");

    let large = csr(&["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-521"], "", "DER");
    kubelet.ask(&web, "large", &large, &none).unwrap();
    kubelet.ask(&web, "annotated", &csr(&P256, "", "DER"), &json!({"other.example/ttl": "1h"})).unwrap();
    kubelet.ask(&banned, "banned", &csr(&P256, "", "DER"), &none).unwrap();
    // The key of one pod for the pod of another account.
    kubelet.ask(&banned, "stolen", &stub, &none).unwrap();
    for (name, reason, message) in [
        ("large", "UnsupportedKeyType", "expected ECDSA P-256 or P-384"),
        ("annotated", "InvalidUnverifiedUserAnnotations", "other.example/ttl"),
        ("banned", "PolicyDenied", "this one is banned"),
        ("stolen", "PolicyDenied", "this one is banned"),
    ] {
        let answer = kubelet.answer(name);
        let denied = condition(&answer, "Denied").unwrap_or_else(|| panic!("{answer:#}"));
        assert_eq!(denied["reason"], reason);
        assert!(text(&denied["message"]).contains(message), "{denied}");
        assert!(answer["status"]["certificateChain"].is_null());
        let line = ca.audit(text(&answer["metadata"]["uid"]));
        assert_eq!(line["decision"], "refused");
        if reason == "PolicyDenied" {
            let id = text(&line["decision_id"]);
            assert!(id.starts_with("dec_") && text(&denied["message"]).contains(id), "{denied}\n{line}");
        }
    }
    assert_eq!(ca.list("projected.*").len(), 1);

    // Whose pods are whose is the API server's to know.
    let other = Kubelet::new(&cluster, namespace, signer, "other");
    let refused = other.ask(&web, "foreign", &csr(&P256, "", "DER"), &none).unwrap_err();
    assert!(refused.contains("is not running on node"), "{refused}");
}

#[test]
#[ignore = "needs kube-apiserver and etcd"]
fn a_cluster_that_has_the_requests_in_beta_only_gets_them_signed_too() {
    // One without the newer version is an older one: this one shows less to the CA, and has both.
    let cluster = Cluster::shared();
    let (namespace, signer) = ("beta", "beta.example/worker");
    prepare(&cluster, namespace, signer);
    let between = Between::start(&cluster);
    between.hide("/apis/certificates.k8s.io/v1", "podcertificaterequests");
    let token = cluster.token(namespace, "cert-authority", None, None);
    let ca = Ca::start_at(&cluster, &between.url(), signer, &token);
    let mut kubelet = Kubelet::new(&cluster, namespace, signer, "node");
    let (web, banned) = (kubelet.pod("web"), kubelet.pod("banned"));
    let none = json!({});
    kubelet.version = "v1beta1";
    kubelet.ask(&web, "good", &csr(&P256, "", "DER"), &none).unwrap();
    kubelet.ask(&banned, "banned", &csr(&P256, "", "DER"), &none).unwrap();
    let good = kubelet.answer("good");
    assert!(condition(&good, "Issued").is_some(), "{good:#}");
    ca.verified(text(&good["status"]["certificateChain"]));
    let answer = kubelet.answer("banned");
    assert_eq!(condition(&answer, "Denied").unwrap_or_else(|| panic!("{answer:#}"))["reason"], "PolicyDenied");
    // Each kind where it is.
    for call in ["/v1beta1/podcertificaterequests?", "/v1/certificatesigningrequests?"] {
        let calls = between.calls(&[call]);
        assert!(!calls.is_empty() && calls.iter().all(|(_, code)| *code == 200), "{call}: {calls:?}");
    }
    assert_eq!(between.calls(&["/v1/", "podcertificaterequests"]), []);
}
