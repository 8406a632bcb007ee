//! Owns what is kept beside a certificate in its generation, for the agent alone.

use serde::{Deserialize, Serialize};

use super::further::{FurtherFile, describe};
use crate::crypto::sha256;
use crate::issuer::roots::RootDigest;
use crate::printable::hex;
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
    /// The SHA-256 of the description of the further files that were published with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    further: Option<String>,
}

impl GenerationRecord {
    /// A record of a certificate some of whose roots were handed out.
    #[must_use]
    pub fn new(renewal: RenewalRecord, followed: Vec<RootDigest>) -> Self {
        Self { renewal, followed, further: None }
    }

    /// The record as bytes, for a generation with these further files.
    pub(super) fn encode(&self, further: &[FurtherFile]) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&Self { further: described(further), ..self.clone() })
    }

    /// Whether exactly these further files were published with it.
    pub(super) fn is_of(&self, further: &[FurtherFile]) -> bool {
        self.further == described(further)
    }
}

fn described(further: &[FurtherFile]) -> Option<String> {
    (!further.is_empty()).then(|| hex(&sha256(describe(further).as_bytes())))
}

impl From<RenewalRecord> for GenerationRecord {
    /// A record without roots that were handed out.
    fn from(renewal: RenewalRecord) -> Self {
        Self::new(renewal, Vec::new())
    }
}
