//! Owns the TLS listener: probes for everyone, metrics for clients on a list, with the agent's own certificate.

use crate::identity::{DnsName, SpiffeId};

/// A client that may read metrics, by a name in its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedClient {
    /// A URI SAN equal to this SPIFFE id.
    Spiffe(SpiffeId),
    /// A DNS SAN equal to this name.
    Dns(DnsName),
}
