//! Owns the arguments of crank-ca.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use crank_agent::ca::DEFAULT_TRUST_DOMAIN;
use crank_agent::duration::parse_duration;
use crank_agent::identity::{KeyType, SubjectAltName, TrustDomain, WorkerId};

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
    /// Serve the CA over HTTPS
    Serve(Serve),
    /// Make, list and revoke join tokens
    #[command(subcommand)]
    Token(Token),
    /// Print shell completions
    Completions {
        /// The shell to print for
        shell: Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DataDir {
    /// Where the CA's keys, certificates and database are
    #[arg(long, env = "CRANK_CA_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    #[command(flatten)]
    pub(crate) data: DataDir,
    /// The kind of the CA's keys: ecdsa-p256 or ecdsa-p384
    #[arg(long, env = "CRANK_CA_KEY_TYPE", default_value = "ecdsa-p256")]
    pub(crate) key_type: KeyType,
    /// The trust domain of the SPIFFE ids the CA will issue
    #[arg(long, env = "CRANK_TRUST_DOMAIN", default_value = DEFAULT_TRUST_DOMAIN)]
    pub(crate) trust_domain: TrustDomain,
    /// Begins the names of root and intermediate
    #[arg(long, env = "CRANK_CA_NAME", default_value = "Crank")]
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) data: DataDir,
    /// Where to listen
    #[arg(long, env = "CRANK_CA_LISTEN", default_value = "0.0.0.0:9090", value_name = "ADDRESS:PORT")]
    pub(crate) listen: SocketAddr,
    /// A DNS name or IP address of this server; may be repeated
    #[arg(long, env = "CRANK_CA_DNS", default_value = "cert-authority", value_delimiter = ',', value_name = "NAME")]
    pub(crate) dns: Vec<SubjectAltName>,
    /// The life of a worker's certificate: 60s to 365d
    #[arg(long, env = "CRANK_CA_LIFETIME", default_value = "365d", value_parser = parse_duration)]
    pub(crate) lifetime: Duration,
    /// The most connections at a time
    #[arg(long, env = "CRANK_CA_MAX_CONNECTIONS", default_value_t = 1024)]
    pub(crate) max_connections: usize,
    /// Told to policies; security is the same in both
    #[arg(long, env = "CRANK_ENVIRONMENT", default_value = "production")]
    pub(crate) environment: EnvironmentName,
    /// What is logged, as `info` or `crank_agent=debug`; the audit trail always is
    #[arg(long, env = "CRANK_CA_LOG", default_value = "info", value_name = "FILTER")]
    pub(crate) log: String,
    /// The form of log lines
    #[arg(long, env = "CRANK_CA_LOG_FORMAT", default_value = "auto")]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make a token for one certificate of one worker; the token is shown this once
    Create {
        #[command(flatten)]
        data: DataDir,
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
        data: DataDir,
    },
    /// Make an unused token useless
    Revoke {
        #[command(flatten)]
        data: DataDir,
        /// The token's id, as `list` shows it
        id: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EnvironmentName {
    Development,
    Production,
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
  crank-ca serve --data-dir /var/lib/crank-ca --dns cert-authority --lifetime 24h
  crank-ca token create --data-dir /var/lib/crank-ca --worker streaming --ttl 10m --out streaming.token
  crank-ca completions bash > /etc/bash_completion.d/crank-ca

Exit codes:
  0 done; 2 usage; 69 unavailable (the port is in use); 70 internal; 73 cannot write; 78 configuration";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_example_is_taken() {
        Cli::command().debug_assert();
        let lines = EXAMPLES.lines().skip(1).map_while(|line| line.strip_prefix("  "));
        let commands: Vec<_> = lines.map(|line| line.split(" > ").next().unwrap_or_default()).collect();
        assert!(commands.len() >= 4, "{commands:?}");
        for command in commands {
            let parsed = Cli::try_parse_from(command.split_whitespace());
            assert!(parsed.is_ok(), "{command}: {}", parsed.unwrap_err());
        }
    }
}
