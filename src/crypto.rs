//! Owns the choice of cryptography: one provider for everything.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// The crypto that every connection and every check uses: aws-lc, with X25519MLKEM768 preferred for key exchange.
#[must_use]
pub fn crypto_provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
