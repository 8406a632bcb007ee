//! Owns a control plane: etcd and kube-apiserver, with certificates of their own. By itself it has no nodes and no
//! controllers: what is created stays as it was admitted.

use std::fs::{self, File};
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::yaml;

/// The issuer of its service-account tokens, as in most clusters.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// How long anything may take. Generous, as the machine may be busy; nothing waits it out.
pub(crate) const PATIENCE: Duration = Duration::from_mins(3);

pub(crate) struct Cluster {
    // Ended in this order.
    api_server: Child,
    etcd: Child,
    directory: TempDir,
    network: Option<String>,
    /// Where etcd listens, on loopback.
    pub(crate) etcd_port: u16,
    /// Where the API server listens.
    pub(crate) address: SocketAddr,
}

impl Cluster {
    /// The one that the tests of this process share while any of them is at it.
    pub(crate) fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cluster) = shared.upgrade() {
            return cluster;
        }
        let cluster = Arc::new(Self::start());
        *shared = Arc::downgrade(&cluster);
        cluster
    }

    /// One of its own.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// One whose API server has these flags too, of which the last of a name counts.
    pub(crate) fn start_with(flags: &[&str]) -> Self {
        let [port] = free_ports();
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], port)), None, flags)
    }

    /// One that listens at `address`, in the network namespace of that name.
    pub(crate) fn start_at(address: SocketAddr, network: Option<&str>, flags: &[&str]) -> Self {
        let directory = TempDir::new().unwrap();
        write_certificates(directory.path(), address.ip());
        let [clients, peers] = free_ports();
        let start = |program: &str, arguments: &[String]| {
            let log = File::create(directory.path().join(format!("{program}.log"))).unwrap();
            let mut command = inside(network, program);
            command.args(arguments).env_clear().current_dir(directory.path());
            command.env("PATH", std::env::var("PATH").unwrap()).env("HOME", directory.path());
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
            command.spawn().unwrap_or_else(|error| panic!("{program}: {error}"))
        };
        let list = |text: String| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        // Pods reach it by its Service, which loopback addresses cannot be behind.
        let reconciler = if network.is_some() { "lease" } else { "none" };
        let etcd = start(
            "etcd",
            &list(format!(
                "--data-dir etcd --unsafe-no-fsync \
                 --listen-client-urls https://127.0.0.1:{clients} --advertise-client-urls https://127.0.0.1:{clients} \
                 --listen-peer-urls https://127.0.0.1:{peers} --initial-advertise-peer-urls https://127.0.0.1:{peers} \
                 --initial-cluster default=https://127.0.0.1:{peers} --client-cert-auth --peer-client-cert-auth \
                 --cert-file server.crt --key-file server.key --trusted-ca-file ca.crt \
                 --peer-cert-file server.crt --peer-key-file server.key --peer-trusted-ca-file ca.crt"
            )),
        );
        let api_server = start(
            "kube-apiserver",
            &list(format!(
                "--etcd-servers https://127.0.0.1:{clients} --etcd-cafile ca.crt --etcd-certfile server.crt \
                 --etcd-keyfile server.key --secure-port {} --bind-address {} --advertise-address {} \
                 --tls-cert-file server.crt --tls-private-key-file server.key --client-ca-file ca.crt --cert-dir run \
                 --service-account-issuer {ISSUER} --service-account-key-file tokens.key \
                 --service-account-signing-key-file tokens.key --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction \
                 --service-cluster-ip-range 10.96.0.0/16 --endpoint-reconciler-type {reconciler} \
                 --feature-gates ClusterTrustBundle=true,ClusterTrustBundleProjection=true,PodCertificateRequest=true \
                 --runtime-config certificates.k8s.io/v1beta1=true \
                 --kubelet-preferred-address-types InternalIP --kubelet-certificate-authority ca.crt \
                 --kubelet-client-certificate admin.crt --kubelet-client-key admin.key {}",
                address.port(),
                address.ip(),
                address.ip(),
                flags.join(" ")
            )),
        );
        let network = network.map(str::to_owned);
        let mut cluster = Self { api_server, etcd, directory, network, etcd_port: clients, address };
        cluster.write_kubeconfig("kubeconfig", "admin");
        cluster.write_kubeconfig("node.kubeconfig", "node");
        let deadline = Instant::now() + PATIENCE;
        while !cluster.kubectl(&["get", "--raw", "/readyz"]).status.success() {
            let ended = [&mut cluster.api_server, &mut cluster.etcd].map(|child| child.try_wait().unwrap());
            let log = |program: &str| {
                let text = fs::read_to_string(cluster.directory.path().join(format!("{program}.log"))).unwrap();
                text[text.len().saturating_sub(3000)..].to_owned()
            };
            let alive = ended.iter().all(Option::is_none) && Instant::now() < deadline;
            assert!(alive, "no control plane: {ended:?}\n{}\n{}", log("etcd"), log("kube-apiserver"));
            // Polling a condition, with a deadline.
            std::thread::park_timeout(Duration::from_millis(100));
        }
        // As in clusters that let nobody read their keys unasked.
        cluster.must(&["delete", "clusterrolebinding", "system:service-account-issuer-discovery"]);
        cluster
    }

    fn write_kubeconfig(&self, file: &str, user: &str) {
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: lab\n\
             clusters: [{{name: lab, cluster: {{server: \"https://{}\", certificate-authority: ca.crt}}}}]\n\
             users: [{{name: user, user: {{client-certificate: {user}.crt, client-key: {user}.key}}}}]\n\
             contexts: [{{name: lab, context: {{cluster: lab, user: user}}}}]\n",
            self.address
        );
        fs::write(self.path(file), text).unwrap();
    }

    /// A file of the control plane: `ca.crt`, which verifies the API server, or `kubeconfig`.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A program that speaks to this cluster and to no other.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = inside(self.network.as_deref(), program);
        command.env_clear().env("PATH", std::env::var("PATH").unwrap()).env("HOME", self.directory.path());
        command.env("KUBECONFIG", self.path("kubeconfig"));
        command
    }

    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Output {
        self.command("kubectl").args(arguments).output().unwrap()
    }

    /// The standard output of kubectl, which must succeed.
    pub(crate) fn must(&self, arguments: &[&str]) -> String {
        succeeded(&format!("kubectl {}", arguments.join(" ")), &self.kubectl(arguments))
    }

    /// The standard output of helm, which must succeed.
    pub(crate) fn helm(&self, arguments: &[&str]) -> String {
        let output = self.command("helm").args(arguments).output().unwrap();
        succeeded(&format!("helm {}", arguments.join(" ")), &output)
    }

    /// kubectl with `objects` on its standard input.
    pub(crate) fn kubectl_with(&self, arguments: &[&str], objects: &str) -> Output {
        let mut command = self.command("kubectl");
        command.args(arguments).args(["--filename", "-"]);
        with_input(command, objects)
    }

    /// The object as the API server gives it back.
    pub(crate) fn object(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.must(&[arguments, &["--output", "json"]].concat())).unwrap()
    }

    /// Creates `object` and returns it as it was admitted.
    pub(crate) fn create(&self, object: &str) -> Result<Value, String> {
        let output = self.kubectl_with(&["create", "--validate=strict", "--output", "json"], object);
        if output.status.success() {
            Ok(serde_json::from_slice(&output.stdout).unwrap())
        } else {
            Err(String::from_utf8(output.stderr).unwrap())
        }
    }

    /// A namespace in which only pods of the restricted profile are admitted, with a service account for each name.
    pub(crate) fn restricted_namespace(&self, name: &str, accounts: &[&str]) {
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let namespaces =
            [json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})];
        let account = |account| json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": name}});
        let objects: Vec<Value> = namespaces.into_iter().chain(accounts.iter().map(account)).collect();
        let output = self.kubectl_with(&["create"], &yaml::join(&objects));
        succeeded(&format!("the namespace {name}"), &output);
    }

    /// A token of a service account, as kubelet projects it: for `audience`, bound to the pod.
    pub(crate) fn token(&self, namespace: &str, account: &str, audience: Option<&str>, pod: Option<&Value>) -> String {
        let mut arguments = vec!["create", "token", account, "--namespace", namespace, "--duration", "1h"];
        if let Some(audience) = audience {
            arguments.extend(["--audience", audience]);
        }
        if let Some(pod) = pod {
            let metadata = &pod["metadata"];
            let of = |key: &str| metadata[key].as_str().unwrap();
            arguments.extend(["--bound-object-kind", "Pod", "--bound-object-name", of("name")]);
            arguments.extend(["--bound-object-uid", of("uid")]);
        }
        self.must(&arguments).trim().to_owned()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in [&mut self.api_server, &mut self.etcd] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A program in a network namespace, or in that of the tests.
fn inside(network: Option<&str>, program: &str) -> Command {
    let Some(network) = network else { return Command::new(program) };
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{network}")).arg(program);
    command
}

/// The standard output of `what`, which must have succeeded.
pub(crate) fn succeeded(what: &str, output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{what}:\n{out}\n{err}");
    out.into_owned()
}

/// Runs `command` with `text` on its standard input.
pub(crate) fn with_input(mut command: Command, text: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    // All at once, so that none is given twice.
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// One authority for all: the server certificate of both servers, and the administrator's.
fn write_certificates(directory: &Path, address: IpAddr) {
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "lab");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let leaf = |file: &str, names: &[&str], subject: &[(DnType, &str)]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        fs::write(directory.join(format!("{file}.crt")), certificate.pem()).unwrap();
        fs::write(directory.join(format!("{file}.key")), key.serialize_pem()).unwrap();
    };
    fs::write(directory.join("ca.crt"), authority.pem()).unwrap();
    let address = address.to_string();
    let server = ["localhost", "127.0.0.1", address.as_str(), "kubernetes.default.svc"];
    leaf("server", &server, &[(DnType::CommonName, "server")]);
    let node = [(DnType::CommonName, "system:node:lab"), (DnType::OrganizationName, "system:nodes")];
    leaf("node", &[], &node);
    leaf("admin", &[], &[(DnType::CommonName, "admin"), (DnType::OrganizationName, "system:masters")]);
    // RSA, as clusters have it by default.
    let key = Command::new("openssl").args(["genrsa", "2048"]).output().unwrap();
    assert!(key.status.success());
    fs::write(directory.join("tokens.key"), key.stdout).unwrap();
}
