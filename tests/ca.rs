//! Tests of crank-ca over real TLS, against the server in this process and against the binary.
#![cfg(feature = "ca")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say so")]

#[path = "ca/anonymous.rs"]
mod anonymous;
#[path = "support/by_hand.rs"]
mod by_hand;
#[path = "ca/credentials.rs"]
mod credentials;
#[path = "ca/crl.rs"]
mod crl;
#[path = "ca/durable.rs"]
mod durable;
#[path = "ca/est.rs"]
mod est;
#[path = "ca/foreign.rs"]
mod foreign;
#[path = "ca/grace.rs"]
mod grace;
#[path = "ca/harness.rs"]
mod harness;
#[path = "ca/hostile.rs"]
mod hostile;
#[path = "ca/issuer.rs"]
mod issuer;
#[path = "ca/key_server.rs"]
mod key_server;
#[path = "ca/limits.rs"]
mod limits;
#[path = "ca/lint.rs"]
mod lint;
#[path = "ca/lost_replies.rs"]
mod lost_replies;
#[cfg(feature = "pkcs11")]
#[path = "ca/pkcs11.rs"]
mod pkcs11;
#[path = "ca/policy.rs"]
mod policy;
#[path = "support/postgres.rs"]
mod postgres;
#[path = "ca/problems.rs"]
mod problems;
#[path = "ca/process.rs"]
mod process;
#[path = "ca/records.rs"]
mod records;
#[path = "ca/reload.rs"]
mod reload;
#[path = "ca/renewal.rs"]
mod renewal;
#[path = "ca/repeated.rs"]
mod repeated;
#[path = "ca/revocation.rs"]
mod revocation;
#[path = "ca/server.rs"]
mod server;
#[path = "ca/signed_tokens.rs"]
mod signed_tokens;
#[path = "ca/verifiers.rs"]
mod verifiers;
