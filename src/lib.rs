//! Keeps a worker in possession of a valid mTLS certificate: makes the key where the worker runs, has a certificate
//! authority sign a CSR, checks what comes back, publishes key, chain and roots as one generation, renews in time, and
//! tells everybody who must know.
//!
//! # The way of the data
//!
//! ```text
//! config ─▶ identity (names, key, CSR) ─▶ issuer (a CA, over verified TLS) ─▶ checks ─▶ store (one generation)
//!                  ▲                                                            │
//!             schedule (pure) ◀── status (watch) ◀── what happened ─────────────┤
//!                                                                               ▼
//!                                                       events │ metrics │ probes │ control socket
//! ```
//!
//! [`manager`] is the loop that drives it: it asks [`schedule`] what to do, does it, and tells. [`agent`] wires the
//! parts of one process. The authority is another program: its code is in `ca`, which the agent's release build does
//! not have.
//!
//! # What holds
//!
//! 1. Decisions are pure functions of (state, input, now, jitter); drivers perform the effects. A year of renewals is a
//!    test of milliseconds.
//! 2. Wall time comes from [`clock::Clock`]. Sleeping is in slices short enough that a clock step or a suspend is noticed
//!    within half a minute.
//! 3. State goes out on watch channels, facts on the [`events::EventBus`]; each mutable value has one owner.
//! 4. Key, chain and roots travel as one [`identity::CertificateBundle`]; nothing in it can be installed alone.
//! 5. A generation is a directory; publishing is one rename after everything below it is on disk ([`store`]).
//! 6. Jitter is drawn once for each certificate and kept with it. No state of the world makes the agent loop hot.
//! 7. Every wait also awaits cancellation, every remote call has a deadline and a size limit, every queue is bounded.
//! 8. Readiness means "a usable certificate is on disk now", by the clock, not "the last write succeeded".
//! 9. Before the first certificate the listener has nothing to present and refuses handshakes.
//! 10. There is no plain HTTP, and nothing that turns verification off ([`tls`]).
//!
//! # For workers written in Rust
//!
//! [`create_mtls_client`] makes an HTTP client from the published files; [`store::read_bundle`] reads them safely;
//! [`CertificateManager`] keeps a certificate within the worker's own process.

pub mod agent;
pub mod bounded;
#[cfg(feature = "ca")]
pub mod ca;
pub mod clock;
pub mod config;
pub mod control;
pub mod crypto;
#[cfg(feature = "ca")]
pub mod dev;
pub mod duration;
pub mod error_kind;
pub mod events;
pub mod exit;
pub mod identity;
pub mod initialization;
pub mod issuer;
pub mod manager;
pub mod metrics;
pub mod mtls;
pub mod policy;
pub mod printable;
pub mod schedule;
pub mod serve;
pub mod status;
pub mod store;
pub mod tasks;
pub mod tls;
pub mod watch;
pub mod wire;

#[cfg(test)]
mod testing;

pub use events::CertificateEvent;
pub use identity::{CertificateBundle, certificate_expiration, generate_csr, verify_certificate_chain};
pub use initialization::{initialize_worker_certificates, wait_for_ca_service};
pub use manager::{CertificateManager, CertificateUnavailableError};
pub use mtls::create_mtls_client;
