//! The agent as a process, against a real crank-ca as another, and against a CA that lies.

#![cfg(feature = "ca")]
#![expect(clippy::unwrap_used, reason = "a test's helpers fail the test")]

mod liar;
mod lying_ca;
mod processes;
mod scenarios;
