//! The manager with a real store, a CA of the tests' own, and paused time.

mod adoption;
mod clock;
mod crls;
mod disk;
mod failures;
mod handover;
mod news;
mod orders;
mod roots;
mod source;
mod start;
mod world;

use std::sync::Mutex;

use time::macros::datetime;

use super::*;
use crate::clock::testing::TestClock;
use crate::events::CertificateEvent as Event;
use crate::issuer::{IssueErrorKind, RenewalInfo};
use crate::testing::{TestCa, config};

use world::{CrlOfNow, Shared, World};

const START: OffsetDateTime = datetime!(2026-01-01 00:00 UTC);
const HOUR: Duration = Duration::from_hours(1);
