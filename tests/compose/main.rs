//! The images and the Compose example, on a container engine of the tests' own (`tests/lab/docker`).

#![cfg(feature = "ca")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by them")]

mod engine;
mod images;
mod mesh;
mod page;
#[path = "../support/polling.rs"]
mod polling;
