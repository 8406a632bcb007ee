//! Owns the arguments of `revoke` and `rotate`.

use std::time::Duration;

use clap::Args;
use crank_agent::ca::REVOCATION_REASONS;
use crank_agent::duration::parse_duration;
use crank_agent::identity::WorkerId;
use crank_agent::policy::RevocationReason;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::arguments::Place;

#[derive(Debug, Args)]
pub(crate) struct Revoke {
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) target: RevocationTarget,
    /// Why: unspecified, keyCompromise, affiliationChanged, superseded, cessationOfOperation or privilegeWithdrawn
    #[arg(long, default_value = "unspecified", value_parser = parse_reason)]
    pub(crate) reason: RevocationReason,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct RevocationTarget {
    /// The certificate with this serial number, as `4a:3b:2c:1d` or without colons
    #[arg(long)]
    pub(crate) serial: Option<String>,
    /// Every certificate of this worker that is in force
    #[arg(long, value_name = "ID")]
    pub(crate) worker: Option<WorkerId>,
}

#[derive(Debug, Args)]
pub(crate) struct Rotate {
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) task: RotationTask,
    /// The time over which renewals are spread: 1s to 90d
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) within: Option<Duration>,
    /// When it begins, as 2026-08-20T12:00:00Z; now, where it is not given
    #[arg(long, value_parser = parse_time, value_name = "TIME")]
    pub(crate) start: Option<OffsetDateTime>,
    /// Why; the agents tell it in their logs
    #[arg(long, value_name = "TEXT")]
    pub(crate) explanation: Option<String>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct RotationTask {
    /// What the certificates have in common: worker=GLOB, issuer=SHA256 or issued-before=TIME; of several, all must hold
    #[arg(long = "match", value_name = "CONDITION", requires = "within", requires = "explanation")]
    pub(crate) conditions: Vec<String>,
    /// Every certificate
    #[arg(long, requires = "within", requires = "explanation")]
    pub(crate) all: bool,
    /// List the newest 1,000 orders
    #[arg(long)]
    pub(crate) list: bool,
    /// Take an order back: whoever has not renewed yet goes on as before
    #[arg(long, value_name = "ORDER")]
    pub(crate) cancel: Option<String>,
}

fn parse_reason(text: &str) -> Result<RevocationReason, String> {
    let known = REVOCATION_REASONS.into_iter().find(|(_, _, name)| *name == text);
    known
        .map(|(reason, ..)| reason)
        .ok_or_else(|| format!("expected one of {}", REVOCATION_REASONS.map(|(_, _, name)| name).join(", ")))
}

fn parse_time(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|_| "expected a time as 2026-08-20T12:00:00Z".to_owned())
}
