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
//!                                                       deliver: reload and proof │ events │ metrics │ probes │ control socket │ Workload API
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
//! [`create_mtls_client`] makes an HTTP client from the published files, [`create_mtls_server_config`] a server; both
//! follow renewals and CRLs, and neither can be had without a valid certificate, for plain HTTP, or with less
//! verification: see [`mtls`], and `docs/rust-library.md` with its examples. [`store::read_bundle`] reads the files safely;
//! [`CertificateManager`] keeps a certificate within the worker's own process:
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use crank_agent::clock::SystemClock;
//! use crank_agent::config::{Arguments, load};
//! use crank_agent::events::EventBus;
//! use crank_agent::{CertificateEvent, CertificateManager};
//!
//! # async fn worker() -> Result<(), Box<dyn std::error::Error>> {
//! let config = load(&Arguments::of_process().with_default("worker_id", "streaming"))?;
//! let (mut manager, handle) = CertificateManager::open(&config, Arc::new(SystemClock), EventBus::default())?;
//! manager.on_event(CertificateEvent::ExpiringSoon, |record| eprintln!("{record:?}"));
//! let bundle = manager.ensure_certificates().await?;
//! println!("{} until {}", bundle.serial(), bundle.not_after());
//! // `handle.published()` has each successor.
//! tokio::spawn(manager.run(Default::default()));
//! # drop(handle);
//! # Ok(())
//! # }
//! ```
//!
//! # For those who come from the Python module
//!
//! What `crank.security` named is here under its name, where it still exists:
//!
//! | there | here |
//! | --- | --- |
//! | `CertificateManager` | [`CertificateManager`] |
//! | `ensure_certificates` | [`CertificateManager::ensure_certificates`] |
//! | `on_event` | [`CertificateManager::on_event`], or [`events::EventBus::subscribe`] for every event |
//! | `CertificateBundle`, `CertificateEvent` | [`CertificateBundle`], [`CertificateEvent`] |
//! | `CertificateUnavailableError` | [`CertificateUnavailableError`] |
//! | `CertificateBundle.to_uvicorn_config` | [`CertificateBundle::to_uvicorn_config`] |
//! | `CertificateInitializer` | [`initialize_worker_certificates`], under its own name too |
//! | `wait_for_ca_service`, `generate_csr` | [`wait_for_ca_service`], [`generate_csr`] |
//! | `create_mtls_client`, `verify_certificate_chain` | [`create_mtls_client`], [`verify_certificate_chain`] |
//! | `get_cert_expiration` | [`certificate_expiration`] |
//! | `SecurityConfig`, `get_security_config` | [`config::Config`], [`config::load`]; no global one |
//! | `CertificatePaths` | [`config::FilesConfig`], and the file names in [`store`] |
//! | `CAServiceConfig` | [`config::CaConfig`] |
//! | `SecurityLevel` | [`config::Environment`]; security is the same in both |
#![cfg_attr(
    feature = "ca",
    doc = "| `CertificateAuthorityManager`, `initialize_controller_certificates` | [`CertificateAuthorityManager`], \
           [`initialize_controller_certificates`] |"
)]
#![cfg_attr(
    not(feature = "ca"),
    doc = "| `CertificateAuthorityManager`, `initialize_controller_certificates` | in `ca`, left out of this build |"
)]
//! | policy hooks | [`policy::Policy`] |
//! | `AdaptiveSecurityConfig`, `ResilientCertificateManager` | nothing: there is one way, and it verifies |

pub mod agent;
pub mod bounded;
#[cfg(feature = "ca")]
pub mod ca;
pub mod clock;
pub mod config;
pub mod control;
pub mod crypto;
pub mod deliver;
#[cfg(feature = "ca")]
pub mod dev;
pub mod duration;
pub mod error_kind;
pub mod events;
pub mod exit;
mod https;
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
pub mod service_manager;
mod slots;
pub mod status;
pub mod store;
pub mod tasks;
pub mod tls;
pub mod trace_context;
pub mod unix_socket;
pub mod watch;
pub mod wire;
pub mod workload;

#[cfg(test)]
mod testing;

#[cfg(feature = "ca")]
pub use ca::{CertificateAuthorityManager, initialize_controller_certificates};
pub use events::CertificateEvent;
pub use identity::{CertificateBundle, certificate_expiration, generate_csr, verify_certificate_chain};
pub use initialization::{initialize_worker_certificates, wait_for_ca_service};
pub use manager::{CertificateManager, CertificateUnavailableError};
pub use mtls::{MtlsClient, create_mtls_client, create_mtls_server_config};
// Their types are part of this interface.
pub use {reqwest, rustls};

/// The examples in Rust of the documentation, compiled as tests.
#[cfg(doctest)]
#[doc = include_str!("../docs/reading-the-files.md")]
struct ReadingTheFiles;

#[cfg(doctest)]
#[doc = include_str!("../docs/rust-library.md")]
struct RustLibrary;

/// The example in Rust of the page on the Workload API, compiled as a test.
#[cfg(doctest)]
#[doc = include_str!("../docs/workload-api.md")]
struct WorkloadApi;
