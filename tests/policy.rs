//! Tests of the policy engines: both on the same questions, and OPA over real connections.
#![cfg(feature = "ca")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say so")]

#[path = "policy/commands.rs"]
mod commands;
#[path = "policy/harness.rs"]
mod harness;
#[path = "policy/opa.rs"]
mod opa;
#[path = "policy/same_answers.rs"]
mod same_answers;
