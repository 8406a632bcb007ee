//! On a host, under systemd: what the programs tell the service manager, the units, the packages, and what they meet
//! when they are upgraded or replace older tools.

#![cfg(feature = "ca")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers fail and speak as tests do")]

mod booted;
mod migration;
mod notification;
mod packages;
mod pages;
#[path = "../support/polling.rs"]
mod polling;
#[path = "../agent/processes.rs"]
#[allow(dead_code, reason = "shared with the tests of the agent")]
mod processes;
mod services;
mod traced;
mod units;
mod upgrades;
