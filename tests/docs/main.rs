//! The documentation as it is read: its tables say what the code says, its examples are run.

#![cfg(feature = "ca")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by them")]

#[path = "../support/built.rs"]
mod built;
mod commands;
mod examples;
mod languages;
mod markdown;
mod names;
#[path = "../support/polling.rs"]
mod polling;
mod session;
mod tables;
