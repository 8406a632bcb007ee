//! Keeps a worker in possession of a valid mTLS certificate.

pub mod bounded;
pub mod clock;
pub mod config;
pub mod control;
pub mod duration;
pub mod events;
pub mod exit;
pub mod identity;
pub mod issuer;
pub mod metrics;
pub mod printable;
pub mod schedule;
pub mod serve;
pub mod status;
pub mod tls;
pub mod tasks;
pub mod store;
pub mod watch;
pub mod wire;
