//! Owns the choice of cryptography: one provider and one digest for everything.

use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};

use crate::printable::hex;

/// The crypto that every connection and every check uses: aws-lc, with X25519MLKEM768 preferred for key exchange.
#[must_use]
pub fn crypto_provider() -> Arc<CryptoProvider> {
    Arc::new(provider::default_provider())
}

/// SHA-256 of `bytes`.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut output = [0; 32];
    output.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    output
}

/// A SHA-256 digest, or the beginning of one, as it is written for people and settings: `sha256:` and hexadecimal digits.
pub(crate) fn sha256_text(digest: &[u8]) -> String {
    format!("sha256:{}", hex(digest))
}
