//! Owns the certificate authority: who may have a certificate, with what names, and the record of every one.
//!
//! Requests come as JSON or as EST (`est`). The way of one request: `http` reads it under limits and deadlines,
//! `enrolment` finds out who asks (a join token, a token of a trusted issuer, or the certificate of an earlier
//! enrolment) and what that one may have, `request` takes the public key
//! and the names asked for out of the CSR, [`policy`](crate::policy) decides, `state` records the serial, `sign`
//! signs, reads back and compares, `state` records the certificate and uses up the token in one transaction, and
//! only then it is sent.
//!
//! A reply may get lost. So whoever asks again with the same credential and for the same key and names gets the same
//! certificate again: with a token until that expires, with a certificate for ten minutes. This holds for requests at
//! once too, which take turns, and after a crash at any instant. Nothing is signed for it, and any other request with a
//! used token is refused.
//!
//! A certificate is revoked by the record (`revocation`): from then on it renews nothing. `crl` signs the list for those
//! who verify without asking, and `renewal_info` tells each worker when to renew, and whoever waits what is new.
//!
//! What holds whatever comes: the names in a certificate come from the credential, the CSR can only choose among
//! them; a renewed certificate never names more than the one it was renewed with; no error is answered with a
//! certificate; the root's key signs nothing but intermediates; several CAs can run in one process.

mod admin;
mod admission;
mod anonymous;
mod audit;
mod authority;
mod config;
mod crl;
mod enrolment;
mod est;
mod glob;
mod http;
mod in_force;
mod issuers;
mod kubernetes;
mod limits;
mod manager;
mod oidc;
mod probe;
mod records;
mod renewal_info;
mod request;
mod retention;
mod revocation;
mod server;
mod sign;
mod state;
mod token;

use std::net::SocketAddr;

use crate::policy::PolicySetupError;
use crate::tls::TlsError;

pub use admin::Admins;
pub use anonymous::{AnonymousRule, AnonymousSettings};
pub use authority::{
    AuthorityError, CaCertificate, ImportKey, ImportOptions, Imported, InitOptions, IssuerFacts, IssuerState,
    KeySettings, RotateOptions, Rotated,
};
pub use config::{CaConfig, CaConfigReport, CaFile, CaProblem, DEFAULT_RETENTION, Deadlines, SHORTEST_RETENTION, Text};
pub use crl::{CrlError, DEFAULT_CRL_LIFETIME, LONGEST_CRL_LIFETIME, SHORTEST_CRL_LIFETIME};
pub use enrolment::{AttestationRefusal, EnrolmentError, IssuedCertificate};
pub use http::{PROBLEM_PREFIX, PROBLEM_TYPES, ProblemType, ROUTES, Route};
pub use issuers::Unexpired;
pub use kubernetes::{KubernetesSettings, KubernetesSigner, RequestKind};
pub use limits::{Budget, LimitSettings, RequestLimits};
pub use manager::{CertificateAuthorityManager, DEFAULT_TRUST_DOMAIN, initialize_controller_certificates};
pub use oidc::{IssuerKind, IssuerSettings, TokenIssuer, TokenRefusal};
pub use probe::{ProbeError, probe};
pub use records::{
    BackupError, BackupReport, CertificateHistory, CertificateQuery, CertificateRecord, CertificateStatus, CheckReport,
    DecisionQuery, IdentityQuery, IdentityRecord, IdentityState, Order, Page, Position, Record, Records, RestoreReport,
    RevocationRecord, SerialPrefix, UnusedTokens, WorkerHistory, WorkerPattern, csv_cells, restore, write_json_line,
};
pub use renewal_info::{OrderError, PlacedOrder, RenewalOrder, RenewalOrders, Selector, SelectorError};
pub use request::CsrRefusal;
#[doc(hidden)]
pub use request::read_csr_body;
pub use revocation::{
    AdminSection, CrlSection, REVOCATION_REASONS, RenewalSection, RevocationConfig, RevocationError, Revocations,
    RevokedCertificate, reason_name,
};
pub use server::{DRAIN_DEADLINE, Reloader, RunningCa, Server};
pub use sign::SignError;
pub use state::{Counts, Database, DecisionRecord, PostgresServer, StateError, TokenRecord};
pub use token::{CreatedToken, TokenError, TokenSecret, Tokens};

/// A CA that cannot be made, started or kept running.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Its keys and certificates.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Its database.
    #[error(transparent)]
    State(#[from] StateError),
    /// Its certificate revocation list.
    #[error(transparent)]
    Crl(#[from] CrlError),
    /// A setting that cannot be used.
    #[error("{setting}: {reason}")]
    Setting {
        /// Which.
        setting: &'static str,
        /// What was expected.
        reason: &'static str,
    },
    /// Settings that cannot be used.
    #[error(transparent)]
    Settings(#[from] CaConfigReport),
    /// Its own server certificate.
    #[error("cannot issue the CA's own server certificate")]
    ServerCertificate(#[source] EnrolmentError),
    /// What narrows the default rules.
    #[error(transparent)]
    Policy(#[from] PolicySetupError),
    /// The TLS library refuses keys or certificates.
    #[error("cannot set up TLS")]
    Tls(#[source] TlsError),
    /// The address is in use, or not ours.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A part of the server panicked.
    #[error("the {0} task failed")]
    Task(&'static str),
}

impl CaError {
    /// A fixed label for metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Authority(error) => error.kind(),
            Self::State(error) => error.kind(),
            Self::Crl(error) => error.kind(),
            Self::Setting { .. } | Self::Settings(_) => "ca_setting",
            Self::ServerCertificate(_) => "ca_server_certificate",
            Self::Policy(error) => error.kind(),
            Self::Tls(_) => "ca_tls",
            Self::Listen { .. } => "ca_listen",
            Self::Task(_) => "ca_task",
        }
    }
}
