//! The examples of `deploy/examples` as real servers, each under constant mTLS traffic over many renewals.

#![cfg(feature = "ca")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers fail and speak as tests do")]

#[path = "../support/built.rs"]
mod built;
mod connection;
mod load;
#[path = "../support/polling.rs"]
mod polling;
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../agent/processes.rs"]
#[allow(dead_code, reason = "shared with the tests of the agent")]
mod processes;
mod server;
mod trial;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;
use std::time::Duration;

use connection::Protocol;
use server::{Server, example, on_the_path};
use trial::{Side, Trial};

#[test]
#[ignore = "needs nginx"]
fn nginx_reloads_without_a_failed_request() {
    let trial = Trial::new("gateway", "nginx/crank-agent.toml", |side| {
        let mut server = Server::new(&on_the_path("nginx"));
        let conf = example("nginx/nginx.conf")
            .with("/etc/certs", side.files())
            .with("/run/nginx.pid", server.file("pid"))
            .with("listen 8443", format!("listen {}", side.address))
            // Of Debian's build they are below /var/lib.
            .with("access_log off;", format!("access_log off; {}", temporary_paths(&server)));
        fs::write(server.file("nginx.conf"), conf.text()).unwrap();
        let path = server.file("nginx.conf");
        server.command.args(["-c", &path, "-e", "stderr", "-g", "daemon off;"]);
        side.settings = side.settings.clone().with("/run/nginx.pid", server.file("pid"));
        server
    });
    let result = trial.run(Protocol::Http);
    result.assert_nothing_failed();
    // The processes of before accept for a moment, and then close their idle connections.
    result.assert_old_certificate_is_gone_within(Duration::from_secs(5));
}

#[test]
#[ignore = "needs haproxy"]
fn haproxy_reloads_without_a_request_sent_twice() {
    let trial = Trial::new("gateway", "haproxy/crank-agent.toml", |side| {
        let mut server = Server::new(&on_the_path("haproxy"));
        let conf = example("haproxy/haproxy.cfg")
            .with("/etc/certs", side.files())
            .with("/run/haproxy.sock", server.file("sock"))
            .with("bind :8443", format!("bind {}", side.address));
        fs::write(server.file("haproxy.cfg"), conf.text()).unwrap();
        let pid = server.file("pid");
        server.command.args(["-W", "-p", &pid, "-f", "haproxy.cfg"]);
        side.settings = side.settings.clone().with("/run/haproxy.pid", pid);
        server
    });
    let result = trial.run(Protocol::Http);
    result.assert_nothing_failed();
    result.assert_nothing_repeated();
    result.assert_old_certificate_is_gone_within(Duration::from_secs(5));
}

#[test]
#[ignore = "needs postgres"]
fn postgresql_reloads_unnoticed() {
    let trial = Trial::new("database", "postgresql/crank-agent.toml", |side| {
        let programs = postgres::programs();
        let mut server = Server::new(&programs.join("postgres"));
        let mut initdb = Command::new(programs.join("initdb"));
        initdb.args(["--no-sync", "--username=client", "--encoding=UTF8", "--locale=C", "--pgdata"]);
        initdb.arg(server.file("data"));
        if rustix::process::geteuid().is_root() {
            // Which PostgreSQL refuses to be.
            chown(server.directory(), Some(postgres::NOBODY), Some(postgres::NOBODY)).unwrap();
            let above = side.worker.certificates().parent().unwrap().to_owned();
            fs::set_permissions(above, fs::Permissions::from_mode(0o755)).unwrap();
            side.worker.set("CRANK_FILES_OWNER", &postgres::NOBODY.to_string());
            server.become_user(postgres::NOBODY, &mut initdb);
        }
        let made = initdb.current_dir(server.directory()).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let data = server.file("data");
        let conf = example("postgresql/postgresql.conf").with("/etc/certs", side.files());
        let own = format!("port = {}\nunix_socket_directories = '{data}'\n", side.address.port());
        fs::write(format!("{data}/postgresql.auto.conf"), own + conf.text()).unwrap();
        fs::write(format!("{data}/pg_hba.conf"), example("postgresql/pg_hba.conf").text()).unwrap();
        server.command.args(["-D", &data]);
        side.settings = side
            .settings
            .clone()
            .with("/var/lib/postgresql/15/main", data)
            .with("localhost:5432", format!("localhost:{}", side.address.port()));
        server
    });
    let result = trial.run(Protocol::Postgres);
    result.assert_nothing_failed();
    result.assert_nothing_noticed();
}

#[test]
#[ignore = "needs redis-server"]
fn redis_reloads_unnoticed() {
    let trial = Trial::new("cache", "redis/crank-agent.toml", |side| {
        let mut server = Server::new(&on_the_path("redis-server"));
        let port = side.address.port();
        let conf = example("redis/redis.conf")
            .with("/etc/certs", side.files())
            .with("/run/redis/redis.sock", server.file("sock"))
            .with("tls-port 6379", format!("tls-port {port}"))
            .with("bind * -::*", "bind 127.0.0.1");
        fs::write(server.file("redis.conf"), conf.text()).unwrap();
        server.command.arg("redis.conf");
        side.settings = side
            .settings
            .clone()
            .with("/usr/bin/redis-cli", on_the_path("redis-cli").display())
            .with("/run/redis/redis.sock", server.file("sock"))
            .with("localhost:6379", format!("localhost:{port}"));
        server
    });
    let result = trial.run(Protocol::Redis);
    result.assert_nothing_failed();
    result.assert_nothing_noticed();
}

#[test]
#[ignore = "needs uvicorn"]
fn uvicorn_with_the_helper_follows_unnoticed() {
    for workers in ["1", "2"] {
        let trial = Trial::new("api", "uvicorn/crank-agent.toml", |side| {
            let mut server = uvicorn_server(side);
            server.command.arg("main.py").env("WORKERS", workers).env("CERT_DIR", side.files());
            server
        });
        let result = trial.run(Protocol::Http);
        result.assert_nothing_failed();
        result.assert_nothing_noticed();
    }
}

#[test]
#[ignore = "needs uvicorn"]
fn uvicorn_replaces_its_processes_at_little_loss() {
    let trial = Trial::new("api", "uvicorn/restart.toml", |side| {
        let mut server = uvicorn_server(side);
        let files = side.files();
        let port = side.address.port().to_string();
        server.command.args(["-m", "uvicorn", "main:app", "--workers", "2", "--port", &port]);
        server.command.args(["--timeout-worker-healthcheck", "60"]);
        server.command.args(["--ssl-cert-reqs", "2", "--ssl-certfile", &format!("{files}/client.crt")]);
        server.command.args(["--ssl-keyfile", &format!("{files}/client.key")]);
        server.command.args(["--ssl-ca-certs", &format!("{files}/ca.crt")]);
        server.pid_file = Some(server.file("pid"));
        side.settings = side.settings.clone().with("/run/uvicorn.pid", server.file("pid"));
        server
    });
    let result = trial.run(Protocol::Http);
    // uvicorn does not promise to answer everything that a process has accepted when it is told to end.
    result.assert_little_failed();
    result.assert_old_certificate_is_gone_within(Duration::from_mins(1));
}

#[test]
fn a_server_of_the_library_follows_unnoticed() {
    let trial = Trial::new("greeter", "rust/crank-agent.toml", |side| {
        let mut server = Server::new(&built::example("mtls-server"));
        server.command.arg(side.files()).arg(side.address.to_string());
        server
    });
    let result = trial.run(Protocol::Http);
    result.assert_nothing_failed();
    result.assert_nothing_noticed();
}

/// Python with uvicorn, in a directory with the example beside it.
fn uvicorn_server(side: &Side) -> Server {
    let python = on_the_path("uvicorn").canonicalize().unwrap().with_file_name("python");
    let mut server = Server::new(&python);
    let port = format!("port={}", side.address.port());
    fs::write(server.file("main.py"), example("uvicorn/main.py").with("port=8443", port).text()).unwrap();
    fs::write(server.file("crank_tls.py"), example("uvicorn/crank_tls.py").text()).unwrap();
    server.command.env("HOST", "127.0.0.1");
    server
}

fn temporary_paths(server: &Server) -> String {
    let line = |name| format!("{name}_temp_path {};", server.file(name));
    ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(line).join(" ")
}
