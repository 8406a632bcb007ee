//! Owns the SPIFFE Workload API on a Unix socket: by it any program that knows SPIFFE has its certificate, roots and CRLs of the
//! agent, in memory, and each change of them; Envoy has the same by its secret discovery (SDS).
//!
//! The kernel tells who calls. What is sent is encoded once for all callers, and wiped when the last of them has it. hyper and
//! h2 send it from where it lies, but for pieces of less than 256 bytes at the end of an HTTP/2 frame, which they copy; the
//! kernel's buffer of the socket is not wiped either. Of secrets for Envoy, which are encoded for each call, the same holds.

mod access;
mod connection;
mod envoy;
mod grpc;
pub(crate) mod messages;
mod methods;
mod server;
mod state;

pub use access::AllowedCaller;
pub use server::{CALL_LIMIT, CONNECTION_LIMIT, WorkloadServer, WorkloadSocket};
pub use state::Sources;

#[cfg(test)]
mod tests;
