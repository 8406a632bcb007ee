//! The Helm chart and the manifests: rendered by the real helm, admitted by a real API server, and enrolled with by a
//! real agent at a real crank-ca.

#![cfg(feature = "ca")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by them")]

mod admission;
mod chart;
mod cluster;
mod controllers;
mod enrolment;
mod injection;
mod live;
mod machine;
mod manifests;
mod monitoring;
mod node;
mod page;
#[path = "../support/polling.rs"]
mod polling;
#[path = "../support/postgres.rs"]
mod postgres;
mod release;
mod replicas;
mod roots;
mod signer;
mod traffic;
mod yaml;
