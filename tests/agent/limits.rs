//! A CA that asks to slow down: the agent comes back when it was told, and not before.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use crank_agent::ca::{Budget, CaConfig, RequestLimits, Server, initialize_controller_certificates};
use crank_agent::clock::Clock;
use crank_agent::config::Environment;
use crank_agent::identity::WorkerId;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_util::sync::CancellationToken;

use crate::by_hand::ByHand;
use crate::processes::{PATIENCE, Worker};

#[test]
fn an_agent_that_is_asked_to_slow_down_waits_as_told() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("ca");
    initialize_controller_certificates(&data, Environment::Development).unwrap();
    let mut config = CaConfig::new(data, "127.0.0.1:0".parse().unwrap(), vec!["localhost".parse().unwrap()]);
    config.limits = RequestLimits { source: Budget { rate: 1, burst: 22 }, ..RequestLimits::default() };
    let clock = Arc::new(ByHand::default());
    let started = Server::start(config, Arc::clone(&clock) as Arc<dyn Clock>, CancellationToken::new());
    let ca = runtime.block_on(started).unwrap();
    let created = ca.tokens();
    let created = created.create(WorkerId::new("streaming").unwrap(), PATIENCE, []);
    let token = runtime.block_on(created).unwrap();

    let worker = Worker::at("streaming", &format!("https://localhost:{}", ca.address().port()), &ca.root_path());
    worker.write_token(token.secret.expose());
    fail_a_handshake(ca.address());
    fail_a_handshake(ca.address());
    let agent = worker.start();
    let refused = agent.event("CA_UNAVAILABLE", 1);
    assert_eq!(refused["error"]["kind"], "rate_limited", "{refused}");
    let told = refused["error"]["message"].as_str().unwrap();
    let seconds: u32 = told.rsplit("come back in ").next().unwrap().trim_end_matches(" s").parse().unwrap();
    assert!(seconds >= 2, "{told}");
    // The CA would let it in again at once: it is the agent that waits.
    clock.advance(60);
    agent.event("CERT_ISSUED", 1);
    let waited = at(&agent.event("CSR_SUBMITTED", 2)) - at(&refused);
    // The wait begins with the answer, and the event comes a little later.
    assert!(
        waited >= time::Duration::seconds(seconds.into()) - time::Duration::milliseconds(100),
        "{waited} of {seconds} s"
    );
    assert_eq!((agent.count("CSR_SUBMITTED"), agent.count("CA_UNAVAILABLE")), (2, 1));
}

/// Speaks no TLS, and waits to be told so.
fn fail_a_handshake(address: SocketAddr) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let _ = stream.read_to_end(&mut Vec::new());
}

fn at(event: &Value) -> OffsetDateTime {
    OffsetDateTime::parse(event["timestamp"].as_str().unwrap(), &Rfc3339).unwrap()
}
