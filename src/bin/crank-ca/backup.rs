//! Owns the commands `backup` and `restore`.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use crank_agent::ca::{Counts, UnusedTokens};
use crank_agent::clock::SystemClock;
use time::format_description::well_known::Rfc3339;

use super::arguments::Place;
use super::failure::{CONFIGURATION, Failure};
use super::records::open;
use super::say;

#[derive(Debug, Args)]
#[command(after_help = BACKUP_EXAMPLES)]
pub(crate) struct Backup {
    #[command(flatten)]
    pub(crate) place: Place,
    /// A new directory (mode 0700), which appears whole; the CA's keys are in it
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = RESTORE_EXAMPLES)]
pub(crate) struct Restore {
    #[command(flatten)]
    pub(crate) place: Place,
    /// What `backup` made
    #[arg(long, value_name = "DIR")]
    pub(crate) from: PathBuf,
    /// Leave tokens good that the backup knows as unused, though they may have been used since
    #[arg(long)]
    pub(crate) keep_tokens: bool,
}

pub(crate) async fn backup(backup: Backup) -> Result<(), Failure> {
    let records = open(backup.place).await?;
    let made = records.back_up(&backup.out).await;
    records.close().await;
    let made = made?;
    let contents = match made.counts {
        Some(counts) => summary(counts),
        None => "keys and certificates only: the record is in PostgreSQL, save it with pg_dump at once".to_owned(),
    };
    say(&format!("backup written to {}: {contents}\n", backup.out.display()))
}

pub(crate) async fn restore(restore: Restore) -> Result<(), Failure> {
    let file = restore.place.settings()?;
    let Some(data_dir) = file.data_dir else {
        let message = "no data directory: give --data-dir, CRANK_CA_DATA_DIR, or data_dir in the file of --config";
        return Err(Failure { code: CONFIGURATION, message: message.to_owned() });
    };
    let unused = if restore.keep_tokens { UnusedTokens::Keep } else { UnusedTokens::Revoke };
    let restored = crank_agent::ca::restore(&restore.from, &data_dir, unused, Arc::new(SystemClock)).await?;
    let moment = restored.created_at.format(&Rfc3339).unwrap_or_default();
    let contents = match restored.counts {
        Some(counts) => summary(counts),
        None => "keys and certificates only: the record is in PostgreSQL".to_owned(),
    };
    let revoked = match restored.revoked_tokens {
        0 => String::new(),
        count => format!("{count} unused tokens are revoked: they may have been used since\n"),
    };
    say(&format!(
        "restored to {}, as it was at {moment}: {contents}\n{revoked}\
         certificates issued since are not known: their workers need a token to renew\n\
         certificates revoked since are good again: revoke them again before serving\n",
        data_dir.display(),
    ))
}

fn summary(counts: Counts) -> String {
    let Counts { certificates, identities, tokens, decisions, revocations } = counts;
    format!(
        "{certificates} certificates, {identities} workers, {tokens} tokens, {decisions} decisions, {revocations} revocations"
    )
}

pub(crate) const BACKUP_EXAMPLES: &str = "\
Examples:
  crank-ca backup --data-dir /var/lib/crank-ca --out /backup/crank-ca-monday";

pub(crate) const RESTORE_EXAMPLES: &str = "\
Examples:
  crank-ca restore --from /backup/crank-ca-monday --data-dir /var/lib/crank-ca";
