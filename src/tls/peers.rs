//! Owns the verification of peers: chain and names as webpki does it, and revocation by the CRL of each one's issuer.

use std::fmt::Debug;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerified;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DistinguishedName};

use super::verifier::{ClientJudge, Presented, ServerJudge};
use super::{TlsError, root_store};
use crate::crypto::crypto_provider;
use crate::identity::Crl;

/// Judges servers. It never accepts more than webpki would with the same roots.
#[derive(Debug)]
pub(crate) struct PeerServers(Judges<WebPkiServerVerifier>);

/// Judges clients. It never accepts more than webpki would with the same roots.
#[derive(Debug)]
pub(crate) struct PeerClients {
    judges: Judges<dyn ClientCertVerifier>,
    demand: ClientDemand,
}

/// Whether a client has to present a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientDemand {
    /// It need not; one that it presents has to be good.
    Optional,
    /// It has to.
    Required,
}

/// One verifier for the certificates of each CRL's issuer. webpki finds a CRL by its issuer's name, and two issuers may
/// have the same while one takes over from the other.
#[derive(Debug)]
struct Judges<V: Debug + ?Sized> {
    by_crl: Vec<(Crl, Arc<V>)>,
    /// Looks at no CRL. With any CRL at hand, not enough to be accepted.
    chain_only: Arc<V>,
}

impl<V: Debug + ?Sized> Judges<V> {
    fn new(crls: &[Crl], build: impl Fn(Option<&Crl>) -> Result<Arc<V>, TlsError>) -> Result<Self, TlsError> {
        let by_crl = crls.iter().map(|crl| Ok((crl.clone(), build(Some(crl))?))).collect::<Result<_, TlsError>>()?;
        Ok(Self { by_crl, chain_only: build(None)? })
    }

    /// Has `verify` judge `leaf`. Whose revocation cannot be known is refused, unless there is no CRL of anybody.
    fn judge<T>(
        &self,
        leaf: &CertificateDer<'_>,
        verify: impl Fn(&V) -> Result<T, rustls::Error>,
    ) -> Result<T, rustls::Error> {
        let mut refusal = None;
        for (crl, judge) in &self.by_crl {
            if !crl.covers(leaf) {
                continue;
            }
            // Without key identifiers several may cover it. That of another key is refused for its signature.
            match verify(judge) {
                Ok(verified) => return Ok(verified),
                Err(error) if error == CertificateError::Revoked.into() => return Err(error),
                Err(error) => drop(refusal.get_or_insert(error)),
            }
        }
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        let verified = verify(&self.chain_only)?;
        if self.by_crl.is_empty() { Ok(verified) } else { Err(CertificateError::UnknownRevocationStatus.into()) }
    }
}

/// Has a builder of webpki's verifiers look at the CRL, where there is one. Their builders have no trait in common.
macro_rules! heeding {
    ($crl:expr, $builder:expr) => {
        match $crl {
            Some(crl) => $builder
                .with_crls([crl.der().clone()])
                .only_check_end_entity_revocation()
                .enforce_revocation_expiration(),
            None => $builder,
        }
    };
}

impl PeerServers {
    /// Servers whose chains reach `roots`.
    pub(crate) fn new(roots: &[CertificateDer<'static>], crls: &[Crl]) -> Result<Self, TlsError> {
        let roots = root_store(roots)?;
        let judges = Judges::new(crls, |crl| {
            let builder = WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), crypto_provider());
            heeding!(crl, builder).build().map_err(|error| TlsError::Crl(error.to_string()))
        })?;
        Ok(Self(judges))
    }
}

impl PeerClients {
    /// Clients whose chains reach `roots`.
    pub(crate) fn new(roots: &[CertificateDer<'static>], crls: &[Crl], demand: ClientDemand) -> Result<Self, TlsError> {
        let roots = root_store(roots)?;
        let judges = Judges::new(crls, |crl| {
            let builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), crypto_provider());
            heeding!(crl, builder).build().map_err(|error| TlsError::Crl(error.to_string()))
        })?;
        Ok(Self { judges, demand })
    }
}

impl ServerJudge for PeerServers {
    fn judge_server(&self, presented: &Presented<'_>) -> Result<ServerCertVerified, rustls::Error> {
        self.0.judge(presented.leaf, |judge| presented.verify(judge))
    }
}

impl ClientJudge for PeerClients {
    fn judge_client(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.judges.judge(end_entity, |judge| judge.verify_client_cert(end_entity, intermediates, now))
    }

    fn demand(&self) -> ClientDemand {
        self.demand
    }

    fn root_hints(&self) -> &[DistinguishedName] {
        self.judges.chain_only.root_hint_subjects()
    }
}
