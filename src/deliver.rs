//! Owns what comes after a publication: the worker is told to read its files again, and is watched until it serves the
//! new certificate.
//!
//! Deliveries are done in the order of the configuration, each with a deadline and attempts with back-off: a signal, a
//! program, a call, or nothing where the worker looks by itself. A probe connects to the worker's own TLS port and
//! compares the leaf that it presents with the published one. Until they match the delivery is repeated; then
//! `CERT_NOT_SERVED` is told. Between publications the probe goes on, so that a worker that falls back to an old
//! certificate is noticed.
//!
//! The decisions are those of a pure course of events (`deliver/course.rs`); `deliver/driver.rs` performs them.

mod action;
mod call;
mod course;
mod driver;
mod exec;
mod probe;
mod process;
mod settings;
mod signal;

pub(crate) use driver::{Deliveries, Progress, Tools};
pub use settings::{
    Action, Call, DeliveryConfig, HttpTarget, Method, ProofAddress, ProofConfig, ReloadSignal, StartTls, Target,
};
