//! An agent beside another one: the Workload API that one serves is where the other's certificates come from.

use crank_agent::store::read_bundle;

use crate::processes::{Ca, Worker, until};
use crate::{renew, running, socket};

#[test]
fn an_agent_has_its_certificates_of_the_workload_api_of_another() {
    let ca = Ca::start("1h");
    let (first, mut agent) = running(&ca, |worker| worker);
    let second = Worker::at("second", &ca.url(), &ca.root_file())
        .with("CRANK_CA_KIND", "spiffe-workload-api")
        .with("CRANK_CA_SOCKET", socket(&first).to_str().unwrap())
        .with("CRANK_SCHEDULE_MIN_INTERVAL", "1s");
    let beside = second.start();
    beside.event("CERT_ISSUED", 1);
    for renewal in 1..=3 {
        let serial = renew(&first);
        assert_eq!(beside.event("CERT_RENEWED", renewal)["cert_metadata"]["serial"], serial);
        let [one, other] = [&first, &second].map(|worker| read_bundle(&worker.certificates()).unwrap());
        assert_eq!((one.chain(), one.roots()), (other.chain(), other.roots()));
        assert_eq!(one.key_pem().unwrap(), other.key_pem().unwrap());
    }

    agent.kill();
    beside.event("CA_UNAVAILABLE", 1);
    let agent = first.start();
    agent.event("CERT_ADOPTED", 1);
    until("it is back", || {
        let status = second.run_once(&["status", "--json"]).stdout;
        let status: serde_json::Value = serde_json::from_slice(&status).ok()?;
        status["back_off"].is_null().then_some(())
    });
    // The certificate is the same, and the next is known at once.
    let serial = renew(&first);
    assert_eq!(beside.event("CERT_RENEWED", 4)["cert_metadata"]["serial"], serial);
    assert_eq!(beside.count("CERT_RENEWED") + beside.count("CERT_ISSUED"), 5);
}
