//! Owns what is served at present: encoded once, when it changes, for all streams. Whoever is slow to read finds the newest
//! state when he comes, and holds up nobody.

use std::sync::Arc;

use hyper::body::Bytes;
use tokio::sync::watch;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::grpc::frame;
use super::messages::{X509BundlesResponse, X509SvidResponse, crls_fit};
use crate::config::RevokedFiles;
use crate::identity::{CertificateBundle, SpiffeId};
use crate::status::AgentStatus;

/// Where what is served comes from.
#[derive(Debug)]
pub struct Sources {
    /// The certificate in force.
    pub published: watch::Receiver<Option<Arc<CertificateBundle>>>,
    /// Tells whether it is revoked.
    pub status: watch::Receiver<AgentStatus>,
    /// Whether a revoked certificate is still handed out.
    pub revoked: RevokedFiles,
    /// The hint beside the certificate: the worker's name.
    pub hint: String,
}

/// All that is served at one time.
pub(super) struct Snapshot {
    /// Key, certificate, roots and CRLs.
    pub(super) svid: Standing,
    /// Roots and CRLs.
    pub(super) bundles: Standing,
    /// Where both come from.
    pub(super) identity: Option<Identity>,
}

/// What one kind of stream is to be told.
pub(super) enum Standing {
    /// Nothing yet.
    Waiting,
    /// That there is none any more, and why.
    Refused(&'static str),
    /// This.
    Served(Served),
}

/// A message as it goes over the wire.
pub(super) struct Served {
    /// Another number for another content.
    pub(super) number: u64,
    pub(super) frame: Bytes,
}

/// A certificate and its SPIFFE id.
pub(super) struct Identity {
    pub(super) bundle: Arc<CertificateBundle>,
    pub(super) spiffe_id: SpiffeId,
}

impl Identity {
    fn of(bundle: Arc<CertificateBundle>) -> Option<Self> {
        let (_, leaf) = X509Certificate::from_der(bundle.chain().first()?).ok()?;
        let names = &leaf.subject_alternative_name().ok()??.value.general_names;
        let spiffe_id = names.iter().find_map(|name| match name {
            GeneralName::URI(uri) => SpiffeId::new(uri).ok(),
            _ => None,
        })?;
        Some(Self { bundle, spiffe_id })
    }

    pub(super) fn trust_domain(&self) -> &str {
        self.spiffe_id.trust_domain()
    }

    pub(super) fn trust_domain_id(&self) -> String {
        format!("spiffe://{}", self.trust_domain())
    }
}

/// Keeps the snapshot up to date.
pub(super) struct Feed {
    sources: Sources,
    snapshot: watch::Sender<Snapshot>,
    /// What the snapshot was made of.
    from: Option<(Arc<CertificateBundle>, bool)>,
    numbers: u64,
}

impl Feed {
    pub(super) fn new(sources: Sources) -> Self {
        let first = Snapshot { svid: Standing::Waiting, bundles: Standing::Waiting, identity: None };
        let mut feed = Self { sources, snapshot: watch::channel(first).0, from: None, numbers: 0 };
        feed.refresh();
        feed
    }

    pub(super) fn snapshots(&self) -> watch::Receiver<Snapshot> {
        self.snapshot.subscribe()
    }

    /// Follows the sources for as long as they are there. May be dropped at any time, and called again.
    pub(super) async fn follow(&mut self) {
        loop {
            let Sources { published, status, .. } = &mut self.sources;
            let changed = tokio::select! {
                changed = published.changed() => changed,
                changed = status.changed() => changed,
            };
            if changed.is_err() {
                return std::future::pending().await;
            }
            self.refresh();
        }
    }

    fn refresh(&mut self) {
        let revoked = self.sources.status.borrow_and_update().revoked.is_some();
        let withdrawn = revoked && self.sources.revoked == RevokedFiles::Withdraw;
        let Some(bundle) = self.sources.published.borrow_and_update().clone() else { return };
        let same = |(before, was_withdrawn): &(Arc<CertificateBundle>, bool)| {
            Arc::ptr_eq(before, &bundle) && *was_withdrawn == withdrawn
        };
        if self.from.as_ref().is_some_and(same) {
            return;
        }
        self.from = Some((Arc::clone(&bundle), withdrawn));
        let next = self.make(bundle, withdrawn);
        let changed = |before: &Snapshot| !(before.svid.says(&next.svid) && before.bundles.says(&next.bundles));
        let changed = changed(&self.snapshot.borrow());
        if changed {
            self.snapshot.send_replace(next);
        }
    }

    fn make(&mut self, bundle: Arc<CertificateBundle>, withdrawn: bool) -> Snapshot {
        if !crls_fit(&bundle) {
            tracing::warn!("the CRLs are too large for the Workload API, and are left out there");
        }
        let Some(identity) = Identity::of(bundle) else {
            tracing::warn!("the certificate has no SPIFFE id: the Workload API refuses its callers");
            let none = || Standing::Refused("no identity issued: the certificate has no SPIFFE id");
            return Snapshot { svid: none(), bundles: none(), identity: None };
        };
        let svid = if withdrawn {
            Standing::Refused("no identity issued: the certificate is revoked, and there is no other yet")
        } else {
            match X509SvidResponse::of(&identity.bundle, identity.spiffe_id.as_str(), &self.sources.hint) {
                Ok(message) => self.served(frame(&message)),
                Err(error) => {
                    tracing::error!(%error, "the private key cannot be encoded for the Workload API");
                    Standing::Refused("the private key cannot be encoded")
                }
            }
        };
        let bundles = X509BundlesResponse::of(&identity.bundle, &identity.trust_domain_id());
        let bundles = self.served(frame(&bundles));
        Snapshot { svid, bundles, identity: Some(identity) }
    }

    fn served(&mut self, frame: Bytes) -> Standing {
        let before = self.snapshot.borrow();
        let same = [&before.svid, &before.bundles].into_iter().find_map(|standing| match standing {
            Standing::Served(served) if served.frame == frame => Some(served.number),
            _ => None,
        });
        let number = same.unwrap_or(self.numbers + 1);
        self.numbers = self.numbers.max(number);
        Standing::Served(Served { number, frame })
    }
}

impl Standing {
    fn says(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Waiting, Self::Waiting) => true,
            (Self::Refused(reason), Self::Refused(other)) => reason == other,
            (Self::Served(served), Self::Served(other)) => served.number == other.number,
            _ => false,
        }
    }
}
