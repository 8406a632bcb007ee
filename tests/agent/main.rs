//! The agent as a process, against a real crank-ca as another, and against a CA that lies.

#![cfg(feature = "ca")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers fail and speak as tests do")]

mod adoption;
#[path = "../support/built.rs"]
mod built;
#[path = "../support/by_hand.rs"]
mod by_hand;
mod certificates;
mod deliveries;
mod files;
mod foreign;
mod initialization;
mod kills;
mod liar;
mod library;
mod limits;
mod lost_reply;
mod lying_ca;
#[path = "../support/polling.rs"]
mod polling;
#[path = "../support/postgres.rs"]
mod postgres;
mod processes;
mod reload;
mod replicas;
mod revocation;
mod roots;
mod rotations;
mod scenarios;
mod signals;
mod volumes;
