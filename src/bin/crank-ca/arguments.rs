//! Owns the arguments of crank-ca.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use crank_agent::ca::{CaConfig, CaFile, Database, KeySettings, Text};
use crank_agent::config::Environment;
use crank_agent::duration::parse_duration;
use crank_agent::identity::{SubjectAltName, WorkerId};

use super::authority_arguments::{Import, Init, Root};
use super::backup::{Backup, Restore};
use super::failure::{CONFIGURATION, Failure};
use super::policy::Policy;
use super::record_arguments::{Export, List, Show};
use super::revocation_arguments::{Revoke, Rotate};

#[derive(Debug, Parser)]
#[command(name = "crank-ca", version, about = "The certificate authority of a Crank mesh", after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a root and an issuing intermediate; overwrites nothing
    Init(Init),
    /// Take over an issuing certificate that others signed, or a root with its key
    Import(Import),
    /// List, change and retire issuers and roots
    #[command(subcommand)]
    Root(Root),
    /// Serve the CA over HTTPS
    Serve(Serve),
    /// Tell by the exit code whether the CA that serves with these settings on this machine is healthy
    Health(ServeSettings),
    /// Check the settings of `serve` and print them, or every problem at once
    CheckConfig(ServeSettings),
    /// Make, list and revoke join tokens
    #[command(subcommand)]
    Token(Token),
    /// Revoke a certificate, or all of a worker's; a serving CA tells its agents within a second
    Revoke(Revoke),
    /// Order agents to renew before they would by themselves, spread over a time
    Rotate(Rotate),
    /// Try policy rules without a CA
    #[command(subcommand)]
    Policy(Policy),
    /// List certificates, workers, decisions or revocations; says who asked for what, and who is late
    List(Box<List>),
    /// Show everything known of one certificate or one worker
    Show(Show),
    /// Write the record, or a part of it, as JSON or CSV
    Export(Export),
    /// Examine the record: that its rows fit each other, and every certificate its row
    CheckRecord(Place),
    /// Put keys, certificates and a copy of the record into a new directory, while the CA serves
    Backup(Backup),
    /// Make the CA of a backup again, where no CA is
    Restore(Restore),
    /// Write manual pages into a directory
    #[command(hide = true)]
    ManPages {
        /// The directory, which must exist
        directory: PathBuf,
    },
    /// Print shell completions
    Completions {
        /// The shell to print for
        shell: Shell,
    },
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Place {
    /// Where the CA's keys, certificates and database are
    #[arg(long, env = "CRANK_CA_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// A file with settings (TOML); flags and environment go before it
    #[arg(long, env = "CRANK_CA_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[arg(help = "A PostgreSQL server for the record: postgres://user@host/database, without a password")]
    #[arg(long, env = "CRANK_CA_DATABASE_URL", value_name = "URL")]
    pub(crate) database_url: Option<String>,
}

impl Place {
    /// The settings file, with these arguments put over it.
    pub(crate) fn settings(self) -> Result<CaFile, Failure> {
        let mut file = match &self.config {
            Some(path) => CaFile::read(path)?,
            None => CaFile::default(),
        };
        file.data_dir = self.data_dir.or(file.data_dir);
        file.database.url = self.database_url.or(file.database.url);
        Ok(file)
    }

    /// Where the CA and its record are.
    pub(crate) fn resolve(self) -> Result<(PathBuf, Database), Failure> {
        let (data_dir, database, _) = self.resolve_with(Keys { passphrase_file: None })?;
        Ok((data_dir, database))
    }

    /// The same, and how its keys are opened.
    pub(crate) fn resolve_with(self, keys: Keys) -> Result<(PathBuf, Database, KeySettings), Failure> {
        let mut file = self.settings()?;
        file.keys.passphrase_file = keys.passphrase_file.or(file.keys.passphrase_file);
        let database = file.database()?;
        let Some(data_dir) = file.data_dir else {
            let message = "no data directory: give --data-dir, CRANK_CA_DATA_DIR, or data_dir in the file of --config";
            return Err(Failure { code: CONFIGURATION, message: message.to_owned() });
        };
        Ok((data_dir, database, file.keys))
    }
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Keys {
    /// A file with the passphrase of the CA's keys; keys that are made are encrypted with it
    #[arg(long, env = "CRANK_CA_PASSPHRASE_FILE", value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) settings: ServeSettings,
    /// What is logged, as `info` or `crank_agent=debug`; the audit trail always is
    #[arg(long, env = "CRANK_CA_LOG", default_value = "info", value_name = "FILTER")]
    pub(crate) log: String,
    /// The form of log lines
    #[arg(long, env = "CRANK_CA_LOG_FORMAT", default_value = "auto")]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ServeSettings {
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) keys: Keys,
    /// Where to listen [default: 0.0.0.0:9090]
    #[arg(long, env = "CRANK_CA_LISTEN", value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// A DNS name or IP address of this server; may be repeated [default: cert-authority]
    #[arg(long, env = "CRANK_CA_DNS", value_delimiter = ',', value_name = "NAME")]
    pub(crate) dns: Vec<SubjectAltName>,
    /// The life of a worker's certificate: 60s to 365d [default: 365d]
    #[arg(long, env = "CRANK_CA_LIFETIME", value_parser = parse_duration)]
    pub(crate) lifetime: Option<Duration>,
    /// The most connections at a time [default: 1024]
    #[arg(long, env = "CRANK_CA_MAX_CONNECTIONS")]
    pub(crate) max_connections: Option<usize>,
    /// Told to policies; security is the same in both [default: production]
    #[arg(long, env = "CRANK_ENVIRONMENT")]
    pub(crate) environment: Option<EnvironmentName>,
}

impl ServeSettings {
    /// The settings, from file, environment and flags; later ones win.
    pub(crate) fn resolve(self) -> Result<CaConfig, Failure> {
        let mut file = self.place.settings()?;
        file.keys.passphrase_file = self.keys.passphrase_file.or(file.keys.passphrase_file);
        file.listen = self.listen.map(Text).or(file.listen);
        if !self.dns.is_empty() {
            file.names = Some(self.dns.into_iter().map(Text).collect());
        }
        file.lifetime = self.lifetime.map(Text).or(file.lifetime);
        file.max_connections = self.max_connections.or(file.max_connections);
        file.environment = self.environment.map(Environment::from).or(file.environment);
        Ok(file.resolve()?)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make a token for one certificate of one worker; the token is shown this once
    Create {
        #[command(flatten)]
        place: Place,
        /// Whom it is for
        #[arg(long, value_name = "ID")]
        worker: WorkerId,
        /// How long it is good for: 1s to 30d
        #[arg(long, default_value = "10m", value_parser = parse_duration)]
        ttl: Duration,
        /// A DNS name or IP address permitted beside the worker's own names; may be repeated
        #[arg(long = "name", value_name = "NAME")]
        names: Vec<SubjectAltName>,
        /// Write the token to this file (mode 0600) and not to standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// List the newest 1,000 tokens
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Make an unused token useless
    Revoke {
        #[command(flatten)]
        place: Place,
        /// The token's id, as `list` shows it
        id: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EnvironmentName {
    Development,
    Production,
}

impl From<EnvironmentName> for Environment {
    fn from(name: EnvironmentName) -> Self {
        match name {
            EnvironmentName::Development => Self::Development,
            EnvironmentName::Production => Self::Production,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Auto,
    Json,
    Pretty,
}

const EXAMPLES: &str = "\
Examples:
  crank-ca init --data-dir /var/lib/crank-ca
  crank-ca init --data-dir /var/lib/crank-ca --if-missing --roots-out /shared/ca-certs/ca.crt
  crank-ca serve --data-dir /var/lib/crank-ca --dns cert-authority --lifetime 24h
  crank-ca health --data-dir /var/lib/crank-ca
  crank-ca init --data-dir /var/lib/crank-ca --csr-out issuing.csr
  crank-ca import --data-dir /var/lib/crank-ca --certificate issuing.crt --root corporate-root.crt
  crank-ca root rotate --data-dir /var/lib/crank-ca
  crank-ca root show --data-dir /var/lib/crank-ca > ca.crt
  crank-ca check-config --config /etc/crank-ca.toml
  crank-ca token create --data-dir /var/lib/crank-ca --worker streaming --ttl 10m --out streaming.token
  crank-ca revoke --data-dir /var/lib/crank-ca --worker streaming --reason keyCompromise
  crank-ca rotate --data-dir /var/lib/crank-ca --match worker=payments-* --within 1h --explanation maintenance
  crank-ca rotate --data-dir /var/lib/crank-ca --list
  crank-ca policy test --directory /etc/crank-ca/policy --cases cases.yaml
  crank-ca list --data-dir /var/lib/crank-ca --worker payments-* --status valid
  crank-ca show --data-dir /var/lib/crank-ca streaming
  crank-ca export --data-dir /var/lib/crank-ca --format csv --out certificates.csv
  crank-ca check-record --data-dir /var/lib/crank-ca
  crank-ca backup --data-dir /var/lib/crank-ca --out /backup/crank-ca-monday
  crank-ca restore --from /backup/crank-ca-monday --data-dir /var/lib/crank-ca
  crank-ca completions bash > /etc/bash_completion.d/crank-ca

Signals of `serve`: SIGTERM and SIGINT stop, SIGHUP reads settings, policies and keys anew.

Exit codes:
  0 done; 1 a test of a policy failed, or not healthy; 2 usage; 65 a damaged record or backup;
  69 unavailable (the port is in use); 70 internal; 73 cannot write; 78 configuration";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::backup::{BACKUP_EXAMPLES, RESTORE_EXAMPLES};
    use crate::record_arguments::{EXPORT_EXAMPLES, LIST_EXAMPLES, SHOW_EXAMPLES};

    #[test]
    fn every_example_is_taken() {
        Cli::command().debug_assert();
        let texts = [EXAMPLES, LIST_EXAMPLES, SHOW_EXAMPLES, EXPORT_EXAMPLES, BACKUP_EXAMPLES, RESTORE_EXAMPLES];
        let lines = texts.iter().flat_map(|text| text.lines().skip(1).map_while(|line| line.strip_prefix("  ")));
        let commands: Vec<_> = lines.map(|line| line.split(" > ").next().unwrap_or_default()).collect();
        assert!(commands.len() >= 15, "{commands:?}");
        for command in commands {
            let parsed = Cli::try_parse_from(command.split_whitespace());
            assert!(parsed.is_ok(), "{command}: {}", parsed.unwrap_err());
        }
    }
}
