//! Owns what is served at present: encoded once, when it changes, for all streams. Whoever is slow to read finds the newest
//! state when he comes, and holds up nobody.

use std::collections::BTreeMap;
use std::future::Future as _;
use std::sync::Arc;
use std::task::Poll;

use hyper::body::Bytes;
use rustls::pki_types::CertificateDer;
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
    /// The hint beside the certificate: the worker's name, or that of a further certificate.
    pub hint: String,
}

/// All that is served at one time.
pub(super) struct Snapshot {
    /// Keys, certificates, roots and CRLs.
    pub(super) svid: Standing,
    /// Roots and CRLs.
    pub(super) bundles: Standing,
    /// Where both come from, the first certificate first.
    pub(super) identities: Vec<Identity>,
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
    pub(super) hint: String,
    /// It is revoked, and no longer handed out.
    pub(super) withdrawn: bool,
}

impl Identity {
    fn of(bundle: Arc<CertificateBundle>, hint: &str, withdrawn: bool) -> Option<Self> {
        let (_, leaf) = X509Certificate::from_der(bundle.chain().first()?).ok()?;
        let names = &leaf.subject_alternative_name().ok()??.value.general_names;
        let spiffe_id = names.iter().find_map(|name| match name {
            GeneralName::URI(uri) => SpiffeId::new(uri).ok(),
            _ => None,
        })?;
        Some(Self { bundle, spiffe_id, hint: hint.to_owned(), withdrawn })
    }

    pub(super) fn trust_domain(&self) -> &str {
        self.spiffe_id.trust_domain()
    }

    pub(super) fn trust_domain_id(&self) -> String {
        format!("spiffe://{}", self.trust_domain())
    }
}

/// Roots by trust domain.
pub(super) type Trust<'a> = BTreeMap<&'a str, Vec<CertificateDer<'a>>>;

/// The roots by trust domain: those of a domain that an identity is of are its own, those of others what it federates with.
pub(super) fn trust<'a>(identities: &[&'a Identity]) -> Trust<'a> {
    let mut own = Trust::new();
    for identity in identities {
        add(own.entry(identity.trust_domain()).or_default(), identity.bundle.roots());
    }
    let mut others = Trust::new();
    for (domain, roots) in identities.iter().flat_map(|identity| identity.bundle.federated()) {
        add(others.entry(domain.as_str()).or_default(), roots);
    }
    others.extend(own);
    others
}

fn add<'a>(known: &mut Vec<CertificateDer<'a>>, roots: &'a [CertificateDer<'static>]) {
    for root in roots {
        if !known.contains(root) {
            known.push(CertificateDer::from(&**root));
        }
    }
}

/// Keeps the snapshot up to date.
pub(super) struct Feed {
    /// One for each certificate of the agent.
    sources: Vec<Sources>,
    snapshot: watch::Sender<Snapshot>,
    /// What the snapshot was made of.
    from: Vec<Option<(Arc<CertificateBundle>, bool)>>,
    numbers: u64,
}

impl Feed {
    pub(super) fn new(sources: Vec<Sources>) -> Self {
        let first = Snapshot { svid: Standing::Waiting, bundles: Standing::Waiting, identities: Vec::new() };
        let mut feed = Self { sources, snapshot: watch::channel(first).0, from: Vec::new(), numbers: 0 };
        feed.refresh();
        feed
    }

    pub(super) fn snapshots(&self) -> watch::Receiver<Snapshot> {
        self.snapshot.subscribe()
    }

    /// Follows the sources for as long as they are there. May be dropped at any time, and called again.
    pub(super) async fn follow(&mut self) {
        loop {
            let changes = self.sources.iter_mut().map(|Sources { published, status, .. }| {
                Box::pin(async move {
                    tokio::select! {
                        changed = published.changed() => changed,
                        changed = status.changed() => changed,
                    }
                })
            });
            let mut changes: Vec<_> = changes.collect();
            let first = std::future::poll_fn(|context| {
                let mut done = changes.iter_mut().map(|change| change.as_mut().poll(context));
                done.find(Poll::is_ready).unwrap_or(Poll::Pending)
            });
            if first.await.is_err() {
                return std::future::pending().await;
            }
            drop(changes);
            self.refresh();
        }
    }

    fn refresh(&mut self) {
        let state = |source: &mut Sources| {
            let revoked = source.status.borrow_and_update().revoked.is_some();
            let withdrawn = revoked && source.revoked == RevokedFiles::Withdraw;
            source.published.borrow_and_update().clone().map(|bundle| (bundle, withdrawn))
        };
        let from: Vec<_> = self.sources.iter_mut().map(state).collect();
        let same = from.len() == self.from.len()
            && from.iter().zip(&self.from).all(|pair| match pair {
                (Some((bundle, withdrawn)), Some((before, was_withdrawn))) => {
                    Arc::ptr_eq(bundle, before) && withdrawn == was_withdrawn
                }
                (None, None) => true,
                _ => false,
            });
        if same {
            return;
        }
        self.from = from;
        let next = self.make();
        let changed = |before: &Snapshot| !(before.svid.says(&next.svid) && before.bundles.says(&next.bundles));
        let changed = changed(&self.snapshot.borrow());
        if changed {
            self.snapshot.send_replace(next);
        }
    }

    fn make(&mut self) -> Snapshot {
        let mut identities = Vec::new();
        let mut any = false;
        for (source, from) in self.sources.iter().zip(&self.from) {
            let Some((bundle, withdrawn)) = from else { continue };
            any = true;
            if !crls_fit(bundle) {
                tracing::warn!("the CRLs are too large for the Workload API, and are left out there");
            }
            let identity = Identity::of(Arc::clone(bundle), &source.hint, *withdrawn);
            if identity.is_none() {
                tracing::warn!("a certificate has no SPIFFE id: the Workload API does not hand it out");
            }
            identities.extend(identity);
        }
        if identities.is_empty() {
            let reason = any.then_some("no identity issued: the certificate has no SPIFFE id");
            let none = || reason.map_or(Standing::Waiting, Standing::Refused);
            return Snapshot { svid: none(), bundles: none(), identities };
        }
        let all: Vec<&Identity> = identities.iter().collect();
        let handed_out: Vec<&Identity> = identities.iter().filter(|identity| !identity.withdrawn).collect();
        let svid = if handed_out.is_empty() {
            Standing::Refused("no identity issued: the certificate is revoked, and there is no other yet")
        } else {
            match X509SvidResponse::of(&handed_out) {
                Ok(message) => self.served(frame(&message)),
                Err(error) => {
                    tracing::error!(%error, "the private key cannot be encoded for the Workload API");
                    Standing::Refused("the private key cannot be encoded")
                }
            }
        };
        let bundles = X509BundlesResponse::of(&all);
        let bundles = self.served(frame(&bundles));
        Snapshot { svid, bundles, identities }
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
