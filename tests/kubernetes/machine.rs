//! Owns a node: containerd and kubelet in namespaces of their own, so that nothing of them outlives the test. Needs root.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cluster::{Cluster, succeeded};
use crate::controllers::Controllers;
use crate::node::until;

/// The address of the API server and of the node.
pub(crate) const ADDRESS: [u8; 4] = [10, 99, 0, 1];

/// The node's name.
pub(crate) const NAME: &str = "lab";

pub(crate) struct Machine {
    // In this order: what runs goes before what it runs in.
    controllers: Option<Controllers>,
    runtime: Child,
    pub(crate) cluster: Cluster,
    directory: TempDir,
    network: Network,
    /// There is one at a time: addresses and cgroups are the same for all.
    _turn: MutexGuard<'static, ()>,
}

/// A network namespace.
struct Network(String);

impl Network {
    fn new() -> Self {
        let network = Self(format!("crank-kubelet-{}", std::process::id()));
        let [a, b, c, d] = ADDRESS;
        let address = format!("{a}.{b}.{c}.{d}/32");
        ip(&["netns", "add", &network.0]);
        ip(&["-n", &network.0, "link", "set", "lo", "up"]);
        ip(&["-n", &network.0, "address", "add", &address, "dev", "lo"]);
        network
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn ip(arguments: &[&str]) {
    succeeded(&format!("ip {}", arguments.join(" ")), &Command::new("ip").args(arguments).output().unwrap());
}

impl Machine {
    /// A node that is ready, with a control plane, and the images `crank-agent`, `crank-ca` and `worker` (openssl), also as
    /// from the registry of the documentation.
    pub(crate) fn start() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let network = Network::new();
        let cluster = Cluster::start_at(SocketAddr::from((ADDRESS, 443)), Some(&network.0), &[]);
        let directory = TempDir::new().unwrap();
        let here = directory.path();
        write_settings(here, &cluster);
        // With process and mount namespaces: when the first process goes, containers and mounts go with it.
        // The kubelet gives up when it finds no containerd.
        let script = "containerd --config containerd.toml > containerd.log 2>&1 & \
                      until ctr --address containerd.sock version > /dev/null 2>&1; do kill -0 $! || exit; sleep 0.1; done; \
                      kubelet --config kubelet.json --kubeconfig \"$NODE_KUBECONFIG\" --hostname-override lab \
                      --node-ip 10.99.0.1 --root-dir \"$PWD/kubelet\" --cert-dir pki > kubelet.log 2>&1";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "nsenter"]);
        command.arg(format!("--net=/run/netns/{}", network.0)).args(["sh", "-c", script]);
        command.env_clear().env("PATH", std::env::var("PATH").unwrap()).env("HOME", here);
        command.env("NODE_KUBECONFIG", cluster.path("node.kubeconfig")).current_dir(here).stdin(Stdio::null());
        let mut machine =
            Self { controllers: None, runtime: command.spawn().unwrap(), cluster, directory, network, _turn: turn };
        machine.import_images();
        until("the node is ready", || {
            let ended = machine.ended();
            assert!(ended.is_none(), "{ended:?}:\n{}", machine.logs());
            let path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
            let output = machine.cluster.kubectl(&["get", "node", NAME, "--output", path]);
            output.stdout == b"True"
        });
        machine
    }

    /// The same with all that makes a cluster of it: controllers, scheduler, Services and their names.
    pub(crate) fn with_controllers() -> Self {
        let mut machine = Self::start();
        machine.controllers = Some(Controllers::start(&machine.cluster));
        machine
    }

    /// The name of its network namespace.
    pub(crate) fn network(&self) -> &str {
        &self.network.0
    }

    /// A volume of this name on the node, for a claim of the class.
    pub(crate) fn volume(&self, name: &str, class: &str) {
        let path = self.directory.path().join("volumes").join(name);
        fs::create_dir_all(&path).unwrap();
        let here =
            json!([{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [NAME]}]}]);
        let spec = json!({
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": class,
            "persistentVolumeReclaimPolicy": "Retain", "local": {"path": path},
            "nodeAffinity": {"required": {"nodeSelectorTerms": here}},
        });
        let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec});
        self.cluster.create(&volume.to_string()).unwrap();
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.runtime.try_wait().unwrap()
    }

    fn import_images(&self) {
        let here = self.directory.path();
        let version = env!("CARGO_PKG_VERSION");
        let serve: Vec<&str> = ["openssl"].into_iter().chain(crate::live::SERVER).collect();
        let programs = [
            ("pause", version, "sleep", vec!["/usr/local/bin/sleep", "infinity"]),
            ("crank-agent", version, env!("CARGO_BIN_EXE_crank-agent"), vec!["crank-agent"]),
            ("crank-ca", version, env!("CARGO_BIN_EXE_crank-ca"), vec!["crank-ca"]),
            ("worker", version, "openssl", vec!["openssl"]),
            ("streaming", "1", "openssl", serve.clone()),
            ("worker", "1", "openssl", serve),
        ];
        let socket = here.join("containerd.sock").display().to_string();
        until("containerd answers", || {
            let output = Command::new("ctr").args(["--address", &socket, "version"]).output().unwrap();
            output.status.success()
        });
        for (name, tag, program, entry_point) in programs {
            let archive = archive(here, (name, tag), program, &entry_point);
            let mut command = Command::new("ctr");
            command.args(["--address", &socket, "--namespace", "k8s.io", "images", "import"]).arg(archive);
            succeeded(name, &command.output().unwrap());
        }
    }

    /// The last of the logs, for a test that fails.
    pub(crate) fn logs(&self) -> String {
        let tail = |name: &str| {
            let text = fs::read_to_string(self.directory.path().join(name)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(15).collect();
            lines.into_iter().rev().collect::<Vec<_>>().join("\n")
        };
        format!("{}\n{}", tail("containerd.log"), tail("kubelet.log"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The child of unshare is the first process of its namespace, and is killed with it.
        let _ = self.runtime.kill();
        let _ = self.runtime.wait();
        let _ = Command::new("find")
            .args(["/sys/fs/cgroup", "-depth", "-type", "d", "-path"])
            .arg(format!("*{CGROUP}*"))
            .args(["-exec", "rmdir", "{}", ";"])
            .stderr(Stdio::null())
            .status();
    }
}

/// Below which the containers' cgroups are.
const CGROUP: &str = "crank-kubelet-test";

fn write_settings(here: &Path, cluster: &Cluster) {
    let at = |name: &str| here.join(name).display().to_string();
    let found = |program: &str| {
        let path = std::env::var("PATH").unwrap();
        let found = path.split(':').map(|directory| Path::new(directory).join(program)).find(|path| path.exists());
        found.unwrap_or_else(|| panic!("{program}: not on the PATH")).canonicalize().unwrap()
    };
    // Beside the program, as the Debian package has them.
    let plugins = found("containerd").parent().unwrap().join("../lib/cni").canonicalize().unwrap();
    let containerd = format!(
        r#"version = 2
root = "{root}"
state = "{state}"
[grpc]
address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "docker.io/library/pause:{version}"
restrict_oom_score_adj = true
disable_apparmor = true
disable_hugetlb_controller = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{cni}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "{runc}"
"#,
        root = at("containerd"),
        state = at("state"),
        socket = at("containerd.sock"),
        version = env!("CARGO_PKG_VERSION"),
        plugins = plugins.display(),
        cni = at("cni"),
        runc = found("runc").display(),
    );
    fs::write(here.join("containerd.toml"), containerd).unwrap();
    fs::create_dir(here.join("cni")).unwrap();
    let ipam = json!({
        "type": "host-local", "dataDir": at("addresses"), "ranges": [[{"subnet": "10.88.0.0/16"}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    });
    let bridge = json!({"type": "bridge", "bridge": "pods0", "isGateway": true, "ipam": ipam});
    let network = json!({"cniVersion": "1.0.0", "name": NAME, "plugins": [bridge]});
    fs::write(here.join("cni/10-lab.conflist"), network.to_string()).unwrap();
    let kubelet = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": format!("unix://{}", at("containerd.sock")),
        "authentication": {
            "anonymous": {"enabled": false}, "webhook": {"enabled": false},
            "x509": {"clientCAFile": cluster.path("ca.crt")},
        },
        // Whoever has a certificate of this cluster: the API server.
        "authorization": {"mode": "AlwaysAllow"},
        "tlsCertFile": cluster.path("server.crt"), "tlsPrivateKeyFile": cluster.path("server.key"),
        // On any machine with root, in containers too.
        "failCgroupV1": false, "cgroupDriver": "cgroupfs", "cgroupsPerQOS": false, "enforceNodeAllocatable": [],
        "failSwapOn": false, "oomScoreAdj": 0, "localStorageCapacityIsolation": false, "evictionHard": {"memory.available": "0%"},
        "makeIPTablesUtilChains": false, "resolvConf": "", "healthzPort": 0,
        "clusterDNS": [format!("{}", std::net::Ipv4Addr::from(ADDRESS))], "clusterDomain": "cluster.local",
        "podLogsDir": at("pods"), "volumePluginDir": at("plugins"),
    });
    fs::write(here.join("kubelet.json"), kubelet.to_string()).unwrap();
}

/// An image of one program and the libraries it needs, as an archive that containerd imports.
fn archive(here: &Path, (name, tag): (&str, &str), program: &str, entry_point: &[&str]) -> PathBuf {
    let directory = here.join("images").join(format!("{name}-{tag}"));
    let files = directory.join("files");
    let program = PathBuf::from(succeeded(program, &Command::new("which").arg(program).output().unwrap()).trim());
    let needed = Command::new("ldd").arg(&program).output().unwrap();
    let needed = String::from_utf8(needed.stdout).unwrap();
    let libraries = needed.split_whitespace().filter(|word| word.starts_with('/'));
    let place = format!("/usr/local/bin/{}", program.file_name().unwrap().to_str().unwrap());
    for (from, to) in libraries.map(|path| (Path::new(path), path)).chain([(program.as_path(), place.as_str())]) {
        let to = files.join(&to[1..]);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, &to).unwrap();
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).unwrap();
    }
    // Builds for tests are a hundred megabytes of what only a debugger reads.
    let packed = files.join(&place[1..]);
    succeeded("strip", &Command::new("strip").arg(&packed).output().unwrap());
    let layer = directory.join("layer.tar");
    let pack = |from: &Path, to: &Path, what: &[&str]| {
        let mut command = Command::new("tar");
        command.arg("--create").arg("--file").arg(to).arg("--directory").arg(from).args(what);
        succeeded("tar", &command.output().unwrap());
    };
    pack(&files, &layer, &["."]);
    let digest = succeeded("sha256sum", &Command::new("sha256sum").arg(&layer).output().unwrap());
    let digest = format!("sha256:{}", digest.split(' ').next().unwrap());
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
        "config": {"Entrypoint": entry_point, "Env": ["PATH=/usr/local/bin"], "User": "65532:65532"},
        "rootfs": {"type": "layers", "diff_ids": [digest]}, "history": [{"created_by": "test"}],
    });
    write_json(&directory.join("config.json"), &config);
    let tags = ["docker.io/library", "registry.example.org"].map(|registry| format!("{registry}/{name}:{tag}"));
    write_json(
        &directory.join("manifest.json"),
        &json!([{"Config": "config.json", "RepoTags": tags, "Layers": ["layer.tar"]}]),
    );
    let archive = here.join("images").join(format!("{name}-{tag}.tar"));
    pack(&directory, &archive, &["config.json", "manifest.json", "layer.tar"]);
    archive
}

fn write_json(path: &Path, value: &Value) {
    serde_json::to_writer(File::create(path).unwrap(), value).unwrap();
}
