//! Who is answered, and who is refused: by user and group, and by what a call must say.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use crank_agent::store::read_bundle;
use rustix::process::{Gid, Uid};
use tokio::net::UnixStream;

use crate::caller::{BUNDLES, Caller, INVALID_ARGUMENT, METADATA, PERMISSION_DENIED, SVID, UNIMPLEMENTED};
use crate::processes::{Ca, Worker};
use crate::{running, socket};

const SECRETS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets";

/// A connection that a process of `user` and `group` made: the kernel looks at the thread that connects.
async fn connect_as(user: u32, group: u32, socket: &Path) -> Caller {
    let socket = socket.to_owned();
    let connect = move || {
        let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
        rustix::thread::set_thread_groups(&[]).unwrap();
        rustix::thread::set_thread_res_gid(group, group, group).unwrap();
        rustix::thread::set_thread_res_uid(user, user, user).unwrap();
        std::os::unix::net::UnixStream::connect(socket)
    };
    let stream = std::thread::spawn(connect).join().unwrap().unwrap();
    stream.set_nonblocking(true).unwrap();
    Caller::over(UnixStream::from_std(stream).unwrap(), 65_535).await
}

/// Directories that everyone may pass.
fn open(worker: &Worker) {
    let directory = socket(worker).parent().unwrap().to_owned();
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_must_carry_the_metadata_of_the_specification() {
    let ca = Ca::start("1h");
    let (worker, _agent) = running(&ca, |worker| worker);
    let mut caller = Caller::connect(&socket(&worker)).await;
    for headers in [&[][..], &[("workload.spiffe.io", "True")], &[("workload.spiffe.io", "false")]] {
        for path in [SVID, BUNDLES] {
            let (status, message) = caller.refusal(path, headers).await;
            assert_eq!(status, INVALID_ARGUMENT, "{path} {headers:?}");
            assert!(message.contains("workload.spiffe.io"), "{message}");
        }
    }
    let bundle = read_bundle(&worker.certificates()).unwrap();
    let before = caller.call(SVID, &[METADATA]).await.unwrap().message_with(&bundle).await;
    assert_eq!(before, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_no_tokens_and_nothing_but_grpc() {
    let ca = Ca::start("1h");
    let (worker, _agent) = running(&ca, |worker| worker);
    let mut caller = Caller::connect(&socket(&worker)).await;
    for path in [
        "/SpiffeWorkloadAPI/FetchJWTSVID",
        "/SpiffeWorkloadAPI/FetchJWTBundles",
        "/SpiffeWorkloadAPI/ValidateJWTSVID",
        "/SpiffeWorkloadAPI/FetchWITSVID",
        "/SpiffeWorkloadAPI/Another",
        "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets",
        "/",
    ] {
        let (status, _) = caller.refusal(path, &[METADATA]).await;
        assert_eq!(status, UNIMPLEMENTED, "{path}");
    }
    for kind in ["application/json", "application/grpcish", ""] {
        let answer = caller.call(SVID, &[METADATA, ("content-type", kind)]).await.unwrap();
        assert_eq!(answer.http_status(), 415, "{kind}");
    }
}

#[test]
fn the_socket_is_for_the_agent_s_user_until_others_are_named() {
    let ca = Ca::start("1h");
    let (worker, agent) = running(&ca, |worker| worker);
    let metadata = || std::fs::metadata(socket(&worker)).unwrap();
    let (mode, file) = (metadata().mode() & 0o777, metadata().ino());
    assert_eq!(mode, 0o600);
    std::fs::write(worker.config_file(), "[workload_api]\nallow = [\"gid:4242\"]\n").unwrap();
    agent.event("CONFIG_RELOADED", 1);
    assert_eq!((metadata().mode() & 0o777, metadata().ino()), (0o666, file), "the same socket, open to others");
    std::fs::write(worker.config_file(), "[workload_api]\nallow = [\"4242\"]\n").unwrap();
    let rejected = agent.event("CONFIG_REJECTED", 1);
    assert!(rejected["error"]["message"].as_str().unwrap().contains("`uid:` or `gid:`"), "{rejected}");
    std::fs::write(worker.config_file(), "").unwrap();
    agent.event("CONFIG_RELOADED", 2);
    assert_eq!((metadata().mode() & 0o777, metadata().ino()), (0o600, file));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn users_and_groups_that_are_named_are_answered_and_others_are_not() {
    let ca = Ca::start("1h");
    let (worker, agent) = running(&ca, |worker| worker.with("CRANK_WORKLOAD_API_ALLOW", "uid:4242,gid:5353"));
    open(&worker);
    let bundle = read_bundle(&worker.certificates()).unwrap();
    for (user, group) in [(0, 0), (4242, 1), (1, 5353)] {
        let mut caller = connect_as(user, group, &socket(&worker)).await;
        let before = caller.call(SVID, &[METADATA]).await.unwrap().message_with(&bundle).await;
        assert_eq!(before, 0, "{user}:{group}");
    }
    for (user, group) in [(4243, 4242), (5353, 1)] {
        let mut caller = connect_as(user, group, &socket(&worker)).await;
        for path in [SVID, BUNDLES, SECRETS] {
            let (status, message) = caller.refusal(path, &[METADATA]).await;
            assert_eq!(status, PERMISSION_DENIED, "{user}:{group} {path}");
            assert!(message.contains("workload_api.allow"), "{message}");
        }
    }
    let log = agent.log();
    for user in [4243, 5353] {
        assert_eq!(log.matches(&format!("\"uid\":{user}")).count(), 1, "{log}");
    }
    assert!(!log.contains("\"uid\":4242"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn those_who_are_refused_take_no_place_of_others() {
    let ca = Ca::start("1h");
    let (worker, _agent) = running(&ca, |worker| worker.with("CRANK_WORKLOAD_API_ALLOW", "uid:4242"));
    open(&worker);
    let mut crowd = Vec::new();
    for _ in 0..100 {
        let path = socket(&worker);
        crowd.push(tokio::spawn(async move { connect_as(4243, 4243, &path).await }));
    }
    let bundle = read_bundle(&worker.certificates()).unwrap();
    let mut caller = connect_as(4242, 4242, &socket(&worker)).await;
    caller.call(SVID, &[METADATA]).await.unwrap().message_with(&bundle).await;
}
