//! Owns how crank-ca ends when it fails: the message and the exit code.

use crank_agent::ca::{
    AuthorityError, BackupError, CaConfigReport, CaError, CrlError, OrderError, ProbeError, RevocationError,
    StateError, TokenError,
};
use crank_agent::printable::{error_chain, printable};

/// What ends the program, with the code it ends with.
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) message: String,
}

impl Failure {
    /// The error with its causes.
    pub(crate) fn new(code: u8, error: &dyn std::error::Error) -> Self {
        Self { code, message: error_chain(error) }
    }
}

impl From<CaConfigReport> for Failure {
    fn from(report: CaConfigReport) -> Self {
        let lines: Vec<String> = report.to_string().lines().map(|line| printable(line, LINE_LIMIT)).collect();
        Self { code: CONFIGURATION, message: lines.join("\n") }
    }
}

impl From<CaError> for Failure {
    fn from(error: CaError) -> Self {
        let code = match &error {
            CaError::Authority(error) => authority_code(error),
            CaError::State(error) | CaError::Crl(CrlError::State(error)) => state_code(error),
            CaError::Setting { .. } | CaError::Settings(_) | CaError::Policy(_) => CONFIGURATION,
            CaError::Listen { .. } => UNAVAILABLE,
            CaError::Crl(_) | CaError::ServerCertificate(_) | CaError::Tls(_) | CaError::Task(_) => INTERNAL,
        };
        Self::new(code, &error)
    }
}

impl From<TokenError> for Failure {
    fn from(error: TokenError) -> Self {
        let code = match &error {
            TokenError::TimeToLive | TokenError::TooManyNames => CONFIGURATION,
            TokenError::Random => INTERNAL,
            TokenError::Authority(error) => authority_code(error),
            TokenError::State(error) => state_code(error),
        };
        Self::new(code, &error)
    }
}

impl From<RevocationError> for Failure {
    fn from(error: RevocationError) -> Self {
        let code = match &error {
            RevocationError::Authority(error) => authority_code(error),
            RevocationError::State(error) => state_code(error),
            _ => CONFIGURATION,
        };
        Self::new(code, &error)
    }
}

impl From<OrderError> for Failure {
    fn from(error: OrderError) -> Self {
        let code = match &error {
            OrderError::Random => INTERNAL,
            OrderError::Authority(error) => authority_code(error),
            OrderError::State(error) => state_code(error),
            OrderError::Window | OrderError::NothingMatches(_) | OrderError::TooMany => CONFIGURATION,
        };
        Self::new(code, &error)
    }
}

impl From<ProbeError> for Failure {
    fn from(error: ProbeError) -> Self {
        let code = match &error {
            ProbeError::Authority(error) => authority_code(error),
            ProbeError::Unreachable { .. } => UNAVAILABLE,
            ProbeError::Unhealthy { .. } => UNHEALTHY,
            ProbeError::Tls(_) | ProbeError::Setting { .. } => CONFIGURATION,
        };
        Self::new(code, &error)
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        Self::new(state_code(&error), &error)
    }
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        let code = match &error {
            BackupError::Changed => UNAVAILABLE,
            BackupError::Damaged { .. } => DAMAGED,
            BackupError::File { action: "read", .. } => CONFIGURATION,
            BackupError::Exists(_) | BackupError::File { .. } => CANNOT_WRITE,
            BackupError::Authority(error) => authority_code(error),
            BackupError::State(error) => state_code(error),
        };
        Self::new(code, &error)
    }
}

fn authority_code(error: &AuthorityError) -> u8 {
    match error {
        AuthorityError::Exists(_) => CANNOT_WRITE,
        AuthorityError::File { action, .. } if *action != "read" => CANNOT_WRITE,
        AuthorityError::Busy(_) | AuthorityError::StillNeeded { .. } => UNAVAILABLE,
        AuthorityError::Generation { .. } => INTERNAL,
        _ => CONFIGURATION,
    }
}

fn state_code(error: &StateError) -> u8 {
    match error {
        StateError::File(error) => authority_code(error),
        StateError::Migration(_)
        | StateError::Newer { .. }
        | StateError::Corrupt { .. }
        | StateError::Setting { .. } => CONFIGURATION,
        StateError::Database { action: "open", .. } | StateError::Closed => UNAVAILABLE,
        StateError::Database { .. } => CANNOT_WRITE,
    }
}

const LINE_LIMIT: usize = 500;

pub(crate) const UNHEALTHY: u8 = 1;
pub(crate) const DAMAGED: u8 = 65;
pub(crate) const UNAVAILABLE: u8 = 69;
pub(crate) const INTERNAL: u8 = 70;
pub(crate) const CANNOT_WRITE: u8 = 73;
pub(crate) const CONFIGURATION: u8 = 78;
