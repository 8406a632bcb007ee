//! Owns what makes an API server and a node a cluster: controllers, scheduler, the routing of Services, and their names.

use std::fs::{self, File};
use std::process::Stdio;

use serde_json::json;

use crate::cluster::Cluster;
use crate::machine::NAME;
use crate::node::{Process, until};

/// Ended when this is dropped.
pub(crate) struct Controllers {
    processes: Vec<Process>,
}

impl Controllers {
    /// Starts them, and waits until there is an account for pods, which shows that controllers work.
    pub(crate) fn start(cluster: &Cluster) -> Self {
        let kubeconfig = cluster.path("kubeconfig").display().to_string();
        let proxy = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
            "mode": "iptables", "hostnameOverride": NAME, "clusterCIDR": "10.88.0.0/16",
            "clientConnection": {"kubeconfig": kubeconfig},
            // Answers between pods of one bridge come back this way only when they have to.
            "iptables": {"masqueradeAll": true},
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
            "healthzBindAddress": "127.0.0.1:10256", "metricsBindAddress": "127.0.0.1:10249",
        });
        fs::write(cluster.path("kube-proxy.json"), proxy.to_string()).unwrap();
        let names = format!(
            "cluster.local {{\n  errors\n  kubernetes cluster.local {{\n    kubeconfig {kubeconfig}\n  }}\n}}\n"
        );
        fs::write(cluster.path("Corefile"), names).unwrap();
        let manager = [
            "--kubeconfig=kubeconfig",
            "--secure-port=0",
            "--leader-elect=false",
            "--root-ca-file=ca.crt",
            "--service-account-private-key-file=tokens.key",
        ];
        let processes = vec![
            start(cluster, "kube-controller-manager", &manager),
            start(cluster, "kube-scheduler", &["--kubeconfig=kubeconfig", "--secure-port=0", "--leader-elect=false"]),
            start(cluster, "kube-proxy", &["--config=kube-proxy.json"]),
            start(cluster, "coredns", &["-conf", "Corefile"]),
        ];
        let mut started = Self { processes };
        until("the controllers are at work", || {
            for process in &mut started.processes {
                let ended = process.0.try_wait().unwrap();
                assert!(ended.is_none(), "{ended:?}: {}", logs(cluster));
            }
            cluster.kubectl(&["get", "serviceaccount", "default"]).status.success()
        });
        started
    }
}

fn start(cluster: &Cluster, program: &str, arguments: &[&str]) -> Process {
    let log = File::create(cluster.path(&format!("{program}.log"))).unwrap();
    let mut command = cluster.command(program);
    command.args(arguments).current_dir(cluster.path("")).stdin(Stdio::null());
    Process(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap())
}

/// The last of what they have logged, for a test that fails.
pub(crate) fn logs(cluster: &Cluster) -> String {
    let tail = |program: &str| {
        let text = fs::read_to_string(cluster.path(&format!("{program}.log"))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(8).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    };
    ["kube-controller-manager", "kube-scheduler", "kube-proxy", "coredns"].map(tail).join("\n")
}
