//! Proves the guarantees of the certificate directory: readers see whole generations, a crash leaves the last good one,
//! nobody else gets the key, nothing outside the directory is touched.

#![expect(clippy::unwrap_used, clippy::panic, reason = "what fails in a test fails the test")]

mod attacks;
mod crash;
mod further;
mod healing;
mod layout;
mod readers;
mod support;
mod volumes;
