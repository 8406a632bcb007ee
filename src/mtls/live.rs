//! Owns the published certificate as TLS uses it, read again when another generation is in force.

use std::fmt::Debug;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::client::ResolvesClientCert;
use rustls::client::danger::ServerCertVerified;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerified;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DistinguishedName, SignatureScheme};
use time::OffsetDateTime;

use super::MtlsError;
use crate::clock::{Clock, SystemClock};
use crate::identity::CertificateBundle;
use crate::identity::check::{Purpose, check_usable};
use crate::printable::{FOREIGN_TEXT_LIMIT, error_chain, printable};
use crate::store::{CERTIFICATE_FILE, DATA_LINK, read_bundle};
use crate::tls::{ClientDemand, ClientJudge, PeerClients, PeerServers, Presented, ServerJudge, TlsError};

/// The certificate in `directory`, and the judge of peers that its roots and CRLs make. Every handshake looks whether `..data`
/// leads elsewhere by then, which is one call to the system; what cannot be read, or is not valid, leaves the one before in use.
#[derive(Debug)]
pub(super) struct Live<V> {
    directory: PathBuf,
    purpose: Purpose,
    judge: Build<V>,
    loaded: Mutex<Loaded<V>>,
}

type Build<V> = fn(&CertificateBundle) -> Result<V, TlsError>;

#[derive(Debug)]
struct Loaded<V> {
    generation: Option<Generation>,
    in_force: InForce,
    certificate: Arc<CertifiedKey>,
    judge: Arc<V>,
    /// It was told that its successor cannot be used.
    told: bool,
}

/// What is in force of a directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct InForce {
    /// Another for each state that was taken over.
    pub(super) epoch: u64,
    /// When the certificate expires.
    pub(super) not_after: OffsetDateTime,
}

/// Tells one published state of a directory from another.
#[derive(Debug, PartialEq, Eq)]
enum Generation {
    Link(PathBuf),
    /// Of a plain `client.crt`: file, change of content, change of the rest.
    PlainFile(u64, (i64, i64), (i64, i64)),
}

impl<V> Live<V> {
    /// Reads `directory`.
    pub(super) fn open(directory: &Path, purpose: Purpose, judge: Build<V>) -> Result<Self, MtlsError> {
        let loaded = Mutex::new(load(directory, Generation::of(directory), purpose, judge, 0)?);
        Ok(Self { directory: directory.to_owned(), purpose, judge, loaded })
    }

    pub(super) fn in_force(&self) -> InForce {
        self.newest().in_force
    }

    /// The directory, as text for people.
    pub(super) fn directory(&self) -> String {
        shown(&self.directory)
    }

    fn certificate(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.newest().certificate)
    }

    fn judge(&self) -> Arc<V> {
        Arc::clone(&self.newest().judge)
    }

    fn newest(&self) -> MutexGuard<'_, Loaded<V>> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = Generation::of(&self.directory);
        if generation != loaded.generation {
            let epoch = loaded.in_force.epoch + 1;
            match load(&self.directory, generation, self.purpose, self.judge, epoch) {
                Ok(newer) => *loaded = newer,
                Err(error) if !loaded.told => {
                    loaded.told = true;
                    tracing::warn!(error = %error_chain(&error), "the certificate before the present one stays in use");
                }
                Err(_) => {}
            }
        }
        loaded
    }
}

fn load<V>(
    directory: &Path,
    generation: Option<Generation>,
    purpose: Purpose,
    judge: Build<V>,
    epoch: u64,
) -> Result<Loaded<V>, MtlsError> {
    let bundle =
        read_bundle(directory).map_err(|source| MtlsError::Certificates { directory: shown(directory), source })?;
    check_usable(&bundle, purpose, SystemClock.now().wall)
        .map_err(|source| MtlsError::Invalid { directory: shown(directory), source })?;
    Ok(Loaded {
        generation,
        in_force: InForce { epoch, not_after: bundle.not_after() },
        certificate: Arc::new(bundle.to_certified_key()?),
        judge: Arc::new(judge(&bundle)?),
        told: false,
    })
}

fn shown(directory: &Path) -> String {
    printable(&directory.display().to_string(), FOREIGN_TEXT_LIMIT)
}

impl Generation {
    /// `None`: there is nothing that could be read.
    fn of(directory: &Path) -> Option<Self> {
        if let Ok(target) = std::fs::read_link(directory.join(DATA_LINK)) {
            return Some(Self::Link(target));
        }
        let file = std::fs::metadata(directory.join(CERTIFICATE_FILE)).ok()?;
        Some(Self::PlainFile(file.ino(), (file.mtime(), file.mtime_nsec()), (file.ctime(), file.ctime_nsec())))
    }
}

impl<V: Debug + Send + Sync> ResolvesClientCert for Live<V> {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.certificate())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl<V: Debug + Send + Sync> ResolvesServerCert for Live<V> {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.certificate())
    }
}

impl ServerJudge for Live<PeerServers> {
    fn judge_server(&self, presented: &Presented<'_>) -> Result<ServerCertVerified, rustls::Error> {
        self.judge().judge_server(presented)
    }
}

impl ClientJudge for Live<PeerClients> {
    fn judge_client(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.judge().judge_client(end_entity, intermediates, now)
    }

    fn demand(&self) -> ClientDemand {
        self.judge().demand()
    }

    /// None: roots may change while the settings live, and a client without hints presents what it has.
    fn root_hints(&self) -> &[DistinguishedName] {
        &[]
    }
}
