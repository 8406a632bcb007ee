//! Owns the arguments of the commands that look into the record.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use crank_agent::ca::{CertificateQuery, CertificateStatus, Order, SerialPrefix, WorkerPattern};
use crank_agent::duration::parse_duration;
use crank_agent::identity::{SpiffeId, SubjectAltName};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::arguments::Place;
use super::records::Since;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, after_help = LIST_EXAMPLES)]
pub(crate) struct List {
    #[command(subcommand)]
    pub(crate) what: Option<Listed>,
    #[command(flatten)]
    pub(crate) certificates: Certificates,
}

#[derive(Debug, Args)]
pub(crate) struct Certificates {
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) filter: Filter,
    #[command(flatten)]
    pub(crate) view: View,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Listed {
    /// The workers: first and newest certificate, how many, and who is late with a renewal
    Identities {
        #[command(flatten)]
        place: Place,
        /// Workers that match; `*` stands for any characters, `?` for one
        #[arg(long, value_name = "GLOB")]
        worker: Option<WorkerPattern>,
        /// Only workers whose renewal is overdue, or whose newest certificate has expired or is revoked
        #[arg(long)]
        late: bool,
        #[command(flatten)]
        view: View,
    },
    /// What the policy decided, the newest first
    Decisions {
        #[command(flatten)]
        place: Place,
        /// About workers that match; `*` stands for any characters, `?` for one
        #[arg(long, value_name = "GLOB")]
        worker: Option<WorkerPattern>,
        /// Only denials
        #[arg(long)]
        denied: bool,
        /// Made since: a length of time as 24h, or a time as 2026-08-20T12:00:00Z
        #[arg(long, value_name = "WHEN", value_parser = since)]
        since: Option<Since>,
        #[command(flatten)]
        view: View,
    },
    /// Revoked certificates, the newest revocation first
    Revocations {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        view: View,
    },
}

#[derive(Debug, Args)]
pub(crate) struct View {
    /// The most lines; 0 for all
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) limit: usize,
    /// One JSON object a line instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Filter {
    /// Of workers that match; `*` stands for any characters, `?` for one
    #[arg(long, value_name = "GLOB")]
    worker: Option<WorkerPattern>,
    /// With exactly this name: a DNS name, an IP address or a SPIFFE id
    #[arg(long, value_parser = name)]
    name: Option<SubjectAltName>,
    /// Whose serial begins so, as 4a:3b or 4a3b
    #[arg(long, value_name = "PREFIX")]
    serial: Option<SerialPrefix>,
    /// What became of them; a reserved serial was never sent to anybody
    #[arg(long, default_value = "all")]
    status: Status,
    /// Valid ones that end within this time, as 7d
    #[arg(long, value_name = "TIME", value_parser = parse_duration, conflicts_with = "status")]
    expiring_within: Option<Duration>,
    /// Issued since: a length of time as 24h, or a time as 2026-08-20T12:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = since)]
    issued_since: Option<Since>,
    /// Asked for with the token of this id
    #[arg(long, value_name = "ID", conflicts_with = "credential")]
    by_token: Option<String>,
    /// Asked for with this credential: a token id, the serial of a certificate, or what the record has of another
    #[arg(long, value_name = "TEXT")]
    credential: Option<String>,
    /// Which come first
    #[arg(long, default_value = "issued")]
    sort: Sort,
}

impl Filter {
    pub(crate) fn query(self, now: OffsetDateTime) -> CertificateQuery {
        let status = match self.status {
            _ if self.expiring_within.is_some() => Some(CertificateStatus::Valid),
            Status::All => None,
            Status::Valid => Some(CertificateStatus::Valid),
            Status::Expired => Some(CertificateStatus::Expired),
            Status::Revoked => Some(CertificateStatus::Revoked),
            Status::Reserved => Some(CertificateStatus::Reserved),
        };
        let end = |within: Duration| now.checked_add(within.try_into().unwrap_or(time::Duration::MAX));
        CertificateQuery {
            worker: self.worker,
            name: self.name,
            serial: self.serial,
            status,
            ending_before: self.expiring_within.and_then(end),
            issued_since: self.issued_since.map(|since| since.before(now)),
            authentication: self.by_token.as_ref().map(|_| "token".to_owned()),
            credential: self.by_token.or(self.credential),
            order: match self.sort {
                Sort::Issued => Order::NewestFirst,
                Sort::Expires => Order::EndingFirst,
            },
            pem: false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Status {
    All,
    Valid,
    Expired,
    Revoked,
    Reserved,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sort {
    /// The newest first
    Issued,
    /// Those that end first
    Expires,
}

#[derive(Debug, Args)]
#[command(after_help = SHOW_EXAMPLES)]
pub(crate) struct Show {
    #[command(flatten)]
    pub(crate) place: Place,
    /// A whole serial, as 4a:3b:… or 4a3b…, or a worker id
    #[arg(value_name = "SERIAL|WORKER")]
    pub(crate) what: String,
    /// The certificate too
    #[arg(long)]
    pub(crate) pem: bool,
    /// JSON instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = EXPORT_EXAMPLES)]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) place: Place,
    /// One JSON object a line, or CSV with a line of headings
    #[arg(long)]
    pub(crate) format: Format,
    /// What to export
    #[arg(long, default_value = "certificates")]
    pub(crate) what: What,
    /// The certificates themselves too
    #[arg(long)]
    pub(crate) pem: bool,
    /// Write to this file (mode 0600), which appears whole, and not to standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Json,
    Csv,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    Certificates,
    Identities,
    Tokens,
    Decisions,
    Revocations,
}

fn name(text: &str) -> Result<SubjectAltName, String> {
    let text = ["DNS:", "IP:", "URI:"].iter().find_map(|kind| text.strip_prefix(kind)).unwrap_or(text);
    let name = if text.contains("://") {
        SpiffeId::new(text).map(SubjectAltName::Uri)
    } else {
        SubjectAltName::from_str(text)
    };
    name.map_err(|error| error.to_string())
}

fn since(text: &str) -> Result<Since, &'static str> {
    match OffsetDateTime::parse(text, &Rfc3339) {
        Ok(at) => Ok(Since::At(at)),
        Err(_) => parse_duration(text)
            .map(Since::Ago)
            .map_err(|_| "expected a length of time, as 24h or 7d, or a time, as 2026-08-20T12:00:00Z"),
    }
}

pub(crate) const LIST_EXAMPLES: &str = "\
Examples:
  crank-ca list --data-dir /var/lib/crank-ca --worker payments-* --status valid
  crank-ca list --data-dir /var/lib/crank-ca --name api.example.org --json
  crank-ca list --data-dir /var/lib/crank-ca --expiring-within 7d --sort expires
  crank-ca list identities --data-dir /var/lib/crank-ca --late
  crank-ca list decisions --data-dir /var/lib/crank-ca --denied --since 24h";

pub(crate) const SHOW_EXAMPLES: &str = "\
Examples:
  crank-ca show --data-dir /var/lib/crank-ca streaming
  crank-ca show --data-dir /var/lib/crank-ca 4a:3b:2c:1d --pem";

pub(crate) const EXPORT_EXAMPLES: &str = "\
Examples:
  crank-ca export --data-dir /var/lib/crank-ca --format csv --out certificates.csv
  crank-ca export --data-dir /var/lib/crank-ca --format json --what decisions > decisions.jsonl";
