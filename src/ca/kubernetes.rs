//! Owns the signer of a Kubernetes cluster: it follows the requests for certificates that the API server has for our signer
//! name, enrols what they attest, and writes the answer into their status.
//!
//! Two kinds: `PodCertificateRequest`, which a node's kubelet makes for a pod's projected volume, and
//! `CertificateSigningRequest`, which anybody may make and somebody else must approve; nothing is approved here. What a
//! request says of itself is attested by the API server: it lets a node ask for its own pods only, and puts the name of
//! the account that asked into the other kind. From there everything is as for requests over the network: identity
//! template, limits, policy, record, audit trail.
//!
//! The flow: `follow` lists and watches one kind, `work` attends to one request until it is answered or gone, `pod` and
//! `csr` read requests and write answers, `client` speaks to the API server. Several replicas may do so at once: each
//! waits for a random moment before it looks into the record, where it finds the certificate that another has made; who
//! writes second meets a conflict, looks again, and sees the answer.
//!
//! The client is one of our own, and no crate for Kubernetes: there are five calls on two kinds, and what the crates have
//! beside that (generated types of all kinds, a second stack of HTTP and TLS settings) is some hundred crates that would
//! be in the CA.

mod answer;
mod client;
mod csr;
mod follow;
mod objects;
mod pod;
mod settings;
mod work;

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::manager::CertificateAuthorityManager;
use client::Client;
use follow::Follower;
pub use settings::{KubernetesSettings, KubernetesSigner, RequestKind};

/// Signs the requests of a cluster until cancelled.
pub(super) async fn sign_requests(
    manager: Arc<CertificateAuthorityManager>,
    signer: KubernetesSigner,
    cancel: CancellationToken,
) {
    let client = Arc::new(Client::new(&signer, Arc::clone(&manager.clock)));
    let signer = Arc::new(signer);
    let mut followers = JoinSet::new();
    for kind in &signer.requests {
        let parts = (Arc::clone(&manager), Arc::clone(&signer), Arc::clone(&client));
        followers.spawn(Arc::new(Follower::new(*kind, parts)).run(cancel.clone()));
    }
    while let Some(ended) = followers.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "the signer for Kubernetes has ended");
        }
    }
}
