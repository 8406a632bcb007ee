//! What the signer does while the API server, or its own right to ask it, is away.

use std::fs;
use std::process::{Command, Stdio};

use super::{Ca, USAGES, create_as, prepare, signing_request};
use crate::cluster::{Cluster, succeeded};
use crate::node::{Process, until};

/// Ends the API server, and starts it again as it was.
fn restart(cluster: &Cluster, while_it_is_away: impl FnOnce()) -> Process {
    let own = cluster.path("").canonicalize().unwrap();
    let found = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let directory = entry.ok()?.path();
        let words = fs::read(directory.join("cmdline")).ok()?;
        let words = String::from_utf8(words).ok()?;
        let is_ours = fs::read_link(directory.join("cwd")).ok()? == own && words.contains("kube-apiserver");
        is_ours.then(|| (directory.file_name().unwrap().to_str().unwrap().to_owned(), words))
    });
    let found: Vec<(String, String)> = found.collect();
    assert_eq!(found.len(), 1, "{found:?}");
    let (pid, words) = &found[0];
    assert!(Command::new("kill").args(["-KILL", pid]).status().unwrap().success());
    while_it_is_away();
    let mut words = words.split_terminator('\0');
    let mut command = Command::new(words.next().unwrap());
    command.args(words).current_dir(&own).stdin(Stdio::null());
    let log = fs::File::create(own.join("kube-apiserver-again.log")).unwrap();
    let process = Process(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    until("the API server is back", || cluster.kubectl(&["get", "--raw", "/readyz"]).status.success());
    process
}

#[test]
#[ignore = "needs kube-apiserver and etcd"]
fn it_goes_on_after_a_restart_of_the_api_server_and_with_another_token() {
    let cluster = Cluster::start();
    let (namespace, signer) = ("restart", "restart.example/worker");
    prepare(&cluster, namespace, signer);
    let ca = Ca::start(&cluster, signer, "not-a-token");
    until("it tells that its token is not good", || ca.log().contains("the API server answered 401"));
    let web = cluster.token(namespace, "web", None, None);
    let sign = |name: &str| {
        let object = signing_request(name, signer, "", &USAGES);
        succeeded(name, &create_as(&cluster, &web, &object));
        cluster.must(&["certificate", "approve", name]);
    };
    let is_signed = |name: &str| cluster.object(&["get", "csr", name])["status"]["certificate"].is_string();
    sign("first");
    let token = cluster.token(namespace, "cert-authority", None, None);
    // By one rename, as volumes do.
    let next = ca.directory.path().join("token.next");
    fs::write(&next, token).unwrap();
    fs::rename(&next, ca.directory.path().join("token")).unwrap();
    until("it is signed with the new token", || is_signed("first"));
    let before = ca.log().matches("cannot follow the requests").count();
    let _again = restart(&cluster, || {
        until("it tells that the server is away", || {
            ca.log().matches("cannot follow the requests").count() >= before + 2
        });
    });
    sign("second");
    until("it goes on", || is_signed("second"));
    assert_eq!(ca.list("restart.web").len(), 2, "each was signed once");
    // Minutes of failure would be told as often as something changed, not as often as something was tried.
    let told = ca.log().matches("cannot follow the requests").count();
    assert!(told < 20, "{told}");
}
