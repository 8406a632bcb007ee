//! What the signer does while the API server, or its own right to ask it, is away.

use std::cell::Cell;
use std::fs;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use super::{Ca, USAGES, create_as, prepare, signing_request};
use crate::cluster::{Cluster, succeeded};
use crate::node::{Process, until};

/// Ends the API server, and starts it again with each word of its command as `change` makes it.
pub(super) fn restart(cluster: &Cluster, change: impl Fn(&str) -> String, while_it_is_away: impl FnOnce()) -> Process {
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
    until("it is gone", || TcpListener::bind(cluster.address).is_ok());
    while_it_is_away();
    let mut words = words.split_terminator('\0');
    let mut command = Command::new(words.next().unwrap());
    command.args(words.map(change)).current_dir(&own).stdin(Stdio::null());
    let log = fs::File::create(own.join("kube-apiserver-again.log")).unwrap();
    let mut process = Process(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    until("the API server is back", || {
        let ended = process.0.try_wait().unwrap();
        assert!(ended.is_none(), "{ended:?}: {}", fs::read_to_string(own.join("kube-apiserver-again.log")).unwrap());
        cluster.kubectl(&["get", "--raw", "/readyz"]).status.success()
    });
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
    let _again = restart(&cluster, str::to_owned, || {
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

#[test]
#[ignore = "needs kube-apiserver and etcd"]
fn it_follows_the_roots_of_the_api_server_in_their_file() {
    let cluster = Cluster::start();
    let (namespace, signer) = ("roots", "roots.example/worker");
    prepare(&cluster, namespace, signer);
    let ca = Ca::start(&cluster, signer, &cluster.token(namespace, "cert-authority", None, None));
    let web = cluster.token(namespace, "web", None, None);
    let sign = |name: &str| {
        succeeded(name, &create_as(&cluster, &web, &signing_request(name, signer, "", &USAGES)));
        cluster.must(&["certificate", "approve", name]);
    };
    let is_signed = |name: &str| cluster.object(&["get", "csr", name])["status"]["certificate"].is_string();
    sign("before");
    until("it is signed", || is_signed("before"));

    // A certificate of another authority, which administrators know already.
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "another");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    fs::write(cluster.path("another.crt"), leaf.pem()).unwrap();
    fs::write(cluster.path("another.key"), key.serialize_pem()).unwrap();
    let known = fs::read_to_string(cluster.path("ca.crt")).unwrap();
    fs::write(cluster.path("ca.crt"), known.clone() + &authority.pem()).unwrap();
    let other =
        |word: &str| if word.starts_with("server.") { word.replace("server", "another") } else { word.to_owned() };
    let of_the_client = Cell::new(false);
    let change = |word: &str| {
        // That for etcd stays.
        let keeps = of_the_client.replace(word.starts_with("--etcd-"));
        if keeps { word.to_owned() } else { other(word) }
    };
    let _again = restart(&cluster, change, || {});
    sign("meanwhile");
    until("it tells that it does not trust this one", || ca.log().contains("UnknownIssuer"));
    assert!(!is_signed("meanwhile"));
    // By one rename, as volumes do.
    let next = ca.directory.path().join("roots.next");
    fs::write(&next, authority.pem()).unwrap();
    fs::rename(&next, ca.directory.path().join("roots.pem")).unwrap();
    until("it is signed under the new root", || is_signed("meanwhile"));
    assert_eq!(ca.list("roots.web").len(), 2);
}
