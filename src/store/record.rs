//! Owns what is kept beside a certificate in its generation, for the agent alone.

use serde::{Deserialize, Serialize};

use crate::issuer::roots::RootDigest;
use crate::schedule::RenewalRecord;

/// The content of `.renewal.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerationRecord {
    /// When the certificate is to be renewed.
    #[serde(flatten)]
    pub renewal: RenewalRecord,
    /// Which roots of `ca.crt` the CA has handed out over a verified connection.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub followed: Vec<RootDigest>,
}

impl From<RenewalRecord> for GenerationRecord {
    /// A record without roots that were handed out.
    fn from(renewal: RenewalRecord) -> Self {
        Self { renewal, followed: Vec::new() }
    }
}
