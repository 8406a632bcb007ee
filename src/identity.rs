//! Owns who the worker is: its names, its key, its CSR, its certificate, and the checks on what a CA returns.

pub mod bundle;
pub mod check;
pub mod crl;
pub mod csr;
pub mod key;
pub mod metadata;
pub mod names;

pub use bundle::{BundleError, CertificateBundle};
pub use check::{CheckError, Checks, certificate_expiration, verify_certificate_chain};
pub use crl::{Crl, CrlError, CrlNumber};
pub use csr::generate_csr;
pub use key::{KeyError, KeyType, PrivateKey};
pub use metadata::CertificateMetadata;
pub use names::{DnsName, NameError, NamedBy, RequestedIdentity, SpiffeId, SubjectAltName, TrustDomain, WorkerId};
