//! The crate `spiffe`, a client of the Workload API that others wrote.

use std::time::Duration;

use crank_agent::store::read_bundle;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use spiffe::{TrustDomain, WorkloadApiClient, X509Source};

use crate::processes::{Ca, PATIENCE};
use crate::{renew, running, socket};

const ID: &str = "spiffe://crank.local/worker/streaming";

/// A handshake of the source's certificate with itself. Tells the leaf that was presented.
async fn mutual_tls(source: &X509Source) -> Vec<u8> {
    let der = |certificates: &[spiffe::cert::Certificate]| {
        certificates.iter().map(|one| CertificateDer::from(one.as_bytes().to_vec())).collect::<Vec<_>>()
    };
    let svid = source.svid().unwrap();
    let bundles = source.bundle_set().unwrap();
    let roots = bundles.get(&TrustDomain::new("crank.local").unwrap()).unwrap();
    let key = PrivatePkcs8KeyDer::from(svid.private_key().as_bytes().to_vec());
    crate::mutual_tls(der(svid.cert_chain()), &key.into(), der(roots.authorities())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rust_program_has_its_certificate_follows_rotations_and_speaks_mutual_tls() {
    let ca = Ca::start("1h");
    let (worker, _agent) = running(&ca, |worker| worker);
    let endpoint = format!("unix://{}", socket(&worker).display());
    let source = X509Source::builder().endpoint(&endpoint).initial_sync_timeout(PATIENCE).build().await.unwrap();
    let mut updates = source.updated();
    for _ in 0..3 {
        let published = read_bundle(&worker.certificates()).unwrap();
        let has_it = || source.svid().is_ok_and(|svid| svid.leaf().as_bytes() == published.chain()[0].as_ref());
        while !has_it() {
            tokio::time::timeout(PATIENCE, updates.changed()).await.unwrap().unwrap();
        }
        let svid = source.svid().unwrap();
        assert_eq!((svid.spiffe_id().to_string().as_str(), svid.hint()), (ID, Some("streaming")));
        assert_eq!(mutual_tls(&source).await, published.chain()[0].to_vec());
        renew(&worker);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn its_calls_for_one_answer_have_theirs() {
    let ca = Ca::start("1h");
    let (worker, _agent) = running(&ca, |worker| worker);
    let endpoint = format!("unix://{}", socket(&worker).display());
    let client = WorkloadApiClient::connect_to(&endpoint).await.unwrap();
    let published = read_bundle(&worker.certificates()).unwrap();
    assert_eq!(client.fetch_x509_svid().await.unwrap().leaf().as_bytes(), published.chain()[0].as_ref());
    let bundles = client.fetch_x509_bundles().await.unwrap();
    let bundle = bundles.get(&TrustDomain::new("crank.local").unwrap()).unwrap();
    let roots: Vec<&[u8]> = bundle.authorities().iter().map(spiffe::cert::Certificate::as_bytes).collect();
    assert_eq!(roots, published.roots().iter().map(AsRef::as_ref).collect::<Vec<&[u8]>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_when_the_agent_comes_back() {
    let ca = Ca::start("1h");
    let (worker, mut agent) = running(&ca, |worker| worker);
    let endpoint = format!("unix://{}", socket(&worker).display());
    let (least, most) = (Duration::from_millis(10), Duration::from_millis(50));
    let builder = X509Source::builder().endpoint(&endpoint).reconnect_backoff(least, most);
    let source = builder.build().await.unwrap();
    let mut updates = source.updated();
    let leaf = source.svid().unwrap().leaf().as_bytes().to_vec();
    agent.kill();
    assert_eq!(source.svid().unwrap().leaf().as_bytes(), leaf, "what it has is good without the agent");
    let agent = worker.start();
    agent.event("CERT_ADOPTED", 1);
    renew(&worker);
    let published = read_bundle(&worker.certificates()).unwrap();
    while source.svid().unwrap().leaf().as_bytes() != published.chain()[0].as_ref() {
        tokio::time::timeout(PATIENCE, updates.changed()).await.unwrap().unwrap();
    }
}
