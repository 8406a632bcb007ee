//! Owns the configuration while it is being read: values that are good one by one, but not yet together.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::deliver::DeliveryDraft;
use super::further::{FederationDraft, FileDraft, Readers};
use super::{
    CaConfig, CaKind, CaTrust, Config, Environment, FilesConfig, HttpsUrl, LogConfig, LogFormat, RevokedFiles,
    ServerConfig, SvidSource, WorkloadApiConfig, parse,
};
use crate::crypto::sha256_text;
use crate::identity::{KeyType, RequestedIdentity, SpiffeId, SubjectAltName, TrustDomain, WorkerId};
use crate::schedule::{Fraction, RenewedBy, Timing};
use crate::serve::AllowedClient;
use crate::workload::AllowedCaller;

/// Each value that has been read, or could be computed. A field is empty while its setting has no valid value.
#[derive(Debug, Clone, Default)]
pub(super) struct Draft {
    pub(super) worker_id: Option<WorkerId>,
    pub(super) environment: Option<Environment>,
    pub(super) trust_domain: Option<TrustDomain>,
    pub(super) names: Option<Vec<SubjectAltName>>,
    pub(super) key_type: Option<KeyType>,
    pub(super) spiffe_id: Option<SpiffeId>,
    pub(super) hint: Option<String>,
    pub(super) ca_kind: Option<KindOfCa>,
    /// As it is written: it may stand in the environment for other programs.
    pub(super) ca_socket: Option<String>,
    pub(super) ca_url: Option<HttpsUrl>,
    pub(super) root_file: Option<PathBuf>,
    pub(super) root_fingerprint: Option<[u8; 32]>,
    pub(super) issued_roots_file: Option<PathBuf>,
    pub(super) follow_roots: Option<bool>,
    pub(super) token_file: Option<PathBuf>,
    pub(super) timeout: Option<Duration>,
    pub(super) startup_wait: Option<Duration>,
    pub(super) push: Option<bool>,
    pub(super) crl_enabled: Option<bool>,
    pub(super) crl_size_limit: Option<usize>,
    pub(super) revoked_files: Option<RevokedFiles>,
    pub(super) directory: Option<PathBuf>,
    pub(super) owner: Option<u32>,
    pub(super) group: Option<u32>,
    pub(super) key_mode: Option<u32>,
    pub(super) keep_generations: Option<Duration>,
    pub(super) check_interval: Option<Duration>,
    pub(super) warn_before: Option<Duration>,
    pub(super) renew_before: Option<Duration>,
    pub(super) renew_fraction: Option<(f64, f64, Fraction)>,
    pub(super) min_interval: Option<Duration>,
    pub(super) max_back_off: Option<Duration>,
    pub(super) refused_interval: Option<Duration>,
    pub(super) allowed_skew: Option<Duration>,
    pub(super) listen: Option<Listen>,
    pub(super) metrics_allow: Option<Vec<AllowedClient>>,
    pub(super) control_socket: Option<PathBuf>,
    pub(super) workload_socket: Option<PathBuf>,
    pub(super) workload_allow: Option<Vec<AllowedCaller>>,
    pub(super) log_format: Option<LogFormat>,
    pub(super) log_filter: Option<String>,
    /// By their numbers.
    pub(super) deliver: BTreeMap<usize, DeliveryDraft>,
    /// By their numbers.
    pub(super) files: BTreeMap<usize, FileDraft>,
    /// By their numbers.
    pub(super) federations: BTreeMap<usize, FederationDraft>,
    /// Of a further certificate.
    pub(super) certificate_name: Option<String>,
    /// Of the repeated table that is being read or shown.
    pub(super) number: usize,
}

/// The kind of authority, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KindOfCa {
    Crank,
    WorkloadApi,
}

/// Where the TLS listener listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listen {
    /// Nowhere.
    Off,
    /// There.
    At(SocketAddr),
}

impl Draft {
    /// The delivery that is being read.
    pub(super) fn delivery(&mut self) -> &mut DeliveryDraft {
        self.deliver.entry(self.number).or_default()
    }

    /// The delivery that is being shown.
    pub(super) fn shown_delivery(&self) -> Option<&DeliveryDraft> {
        self.deliver.get(&self.number)
    }

    /// The further file that is being read.
    pub(super) fn file(&mut self) -> &mut FileDraft {
        self.files.entry(self.number).or_default()
    }

    /// The further file that is being shown.
    pub(super) fn shown_file(&self) -> Option<&FileDraft> {
        self.files.get(&self.number)
    }

    /// The other trust domain that is being read.
    pub(super) fn federation(&mut self) -> &mut FederationDraft {
        self.federations.entry(self.number).or_default()
    }

    /// The other trust domain that is being shown.
    pub(super) fn shown_federation(&self) -> Option<&FederationDraft> {
        self.federations.get(&self.number)
    }

    /// The numbers of the tables of this name; 0 for one that comes once.
    pub(super) fn numbers(&self, table: &str) -> Vec<usize> {
        match table {
            "deliver" => self.deliver.keys().copied().collect(),
            "federate" => self.federations.keys().copied().collect(),
            "file" => self.files.keys().copied().collect(),
            _ => vec![0],
        }
    }

    /// The configuration, or the key of the first value that is missing.
    pub(super) fn assemble(self) -> Result<Config, String> {
        fn need<T>(value: Option<T>, key: &str) -> Result<T, String> {
            value.ok_or_else(|| key.to_owned())
        }
        let worker_id = need(self.worker_id, "worker_id")?;
        let deliveries = assemble_all("deliver", self.deliver, |delivery| delivery.assemble(&worker_id))?;
        let key_mode = need(self.key_mode, "files.key_mode")?;
        let readers = Readers { key_mode, owner: self.owner, group: self.group };
        let further = assemble_all("file", self.files, |file| file.assemble(&worker_id, readers))?;
        let federation = assemble_all("federate", self.federations, FederationDraft::assemble)?;
        let trust_domain = need(self.trust_domain, "identity.trust_domain")?;
        let trust = match self.root_fingerprint {
            Some(digest) => CaTrust::Fingerprint(digest),
            None => CaTrust::RootFile(need(self.root_file, "ca.root_file")?),
        };
        let names = need(self.names, "identity.names")?;
        let (identity, kind) = match need(self.ca_kind, "ca.kind")? {
            KindOfCa::Crank => (RequestedIdentity::new(worker_id, &trust_domain, names), CaKind::Crank),
            KindOfCa::WorkloadApi => {
                let socket = self.ca_socket.and_then(|text| parse::endpoint(&text).ok());
                let (socket, spiffe_id) = (need(socket, "ca.socket")?, self.spiffe_id);
                let identity = RequestedIdentity::registered(worker_id, spiffe_id.clone(), names);
                (identity, CaKind::WorkloadApi(SvidSource { socket, spiffe_id, hint: self.hint }))
            }
        };
        let asked = kind == CaKind::Crank;
        let renewed_by = if asked { RenewedBy::Agent } else { RenewedBy::Issuer };
        let crl_enabled = need(self.crl_enabled, "crl.enabled")?;
        let crl_size_limit = need(self.crl_size_limit, "crl.size_limit")?;
        let metrics_allow = need(self.metrics_allow, "server.metrics_allow")?;
        let workload_allow = need(self.workload_allow, "workload_api.allow")?;
        Ok(Config {
            identity,
            environment: need(self.environment, "environment")?,
            key_type: need(self.key_type, "identity.key_type")?,
            ca: CaConfig {
                kind,
                url: need(self.ca_url, "ca.url")?,
                trust,
                issued_roots_file: self.issued_roots_file,
                follow_roots: need(self.follow_roots, "ca.follow_roots")?,
                token_file: self.token_file,
                timeout: need(self.timeout, "ca.timeout")?,
                startup_wait: need(self.startup_wait, "ca.startup_wait")?,
                push: need(self.push, "ca.push")? && asked,
                crl_limit: (crl_enabled && asked).then_some(crl_size_limit),
            },
            files: FilesConfig {
                directory: need(self.directory, "files.directory")?,
                owner: self.owner,
                group: self.group,
                key_mode,
                keep_generations: need(self.keep_generations, "files.keep_generations")?,
                further,
            },
            federation,
            timing: Timing {
                check_interval: need(self.check_interval, "schedule.check_interval")?,
                warn_before: need(self.warn_before, "schedule.warn_before")?,
                renew_before: need(self.renew_before, "schedule.renew_before")?,
                renew_fraction: need(self.renew_fraction, "schedule.renew_fraction")?.2,
                min_interval: need(self.min_interval, "schedule.min_interval")?,
                max_back_off: need(self.max_back_off, "schedule.max_back_off")?,
                refused_interval: need(self.refused_interval, "schedule.refused_interval")?,
                renewed_by,
            },
            revoked_files: need(self.revoked_files, "revocation.files")?,
            allowed_skew: need(self.allowed_skew, "schedule.allowed_skew")?,
            server: match need(self.listen, "server.listen")? {
                Listen::Off => None,
                Listen::At(listen) => Some(ServerConfig { listen, metrics_allow }),
            },
            control_socket: need(self.control_socket, "control.socket")?,
            workload_api: self.workload_socket.map(|socket| WorkloadApiConfig { socket, allow: workload_allow }),
            log: LogConfig {
                format: need(self.log_format, "log.format")?,
                filter: need(self.log_filter, "log.filter")?,
            },
            deliveries,
            certificates: Vec::new(),
        })
    }

    /// The fingerprint as it is written in settings.
    pub(super) fn root_fingerprint_text(&self) -> Option<String> {
        self.root_fingerprint.as_ref().map(|digest| sha256_text(digest))
    }
}

/// Each table of this name, or the key of the first value that is missing.
fn assemble_all<D, T>(
    table: &str,
    drafts: BTreeMap<usize, D>,
    assemble: impl Fn(D) -> Result<T, &'static str>,
) -> Result<Vec<T>, String> {
    let one = |(number, draft)| assemble(draft).map_err(|name| format!("{table}.{number}.{name}"));
    drafts.into_iter().map(one).collect()
}
