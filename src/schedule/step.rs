//! Owns what a schedule is told and what it says: steps, reasons, failures.

use std::time::Duration;

/// What is to be done now. Ask again after doing it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    /// The wall clock was set by this many seconds (positive: forward).
    ClockStepped(f64),
    /// The machine slept for about this long.
    Suspended(Duration),
    /// The certificate has expired: say so, once.
    ReportExpired,
    /// The certificate has little time left: say so, once.
    ReportExpiring,
    /// Compare the files with what was published; observe metrics.
    Check,
    /// Obtain a certificate.
    Renew(RenewReason),
    /// Nothing before this has passed. Sleep in slices of at most [`SLICE`](super::SLICE) and ask again after each, so that a clock
    /// step or a suspend is noticed.
    Wait(Duration),
}

/// Why a certificate is to be obtained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenewReason {
    /// There is none.
    Missing,
    /// It has expired.
    Expired,
    /// Its renewal instant has come.
    Due,
    /// An operator asked (`renew`, SIGUSR1).
    Operator,
    /// The CA revoked it.
    Revoked,
    /// The CA suggests to.
    Suggested,
    /// The certificate in force is not what the configuration asks for now.
    Changed,
    /// The issuer has something new, or is gone.
    Announced,
}

/// How an attempt failed, as far as the next one depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The CA did not answer, or the disk did not take the result: back-off.
    Transient,
    /// The CA asked to wait at least this long.
    RateLimited(Duration),
    /// The CA refused, its reply was not fit, or our credential is: slowly, until something changes.
    Refused,
}
