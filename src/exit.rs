//! Owns the exit codes of the commands: what each means to whoever reads it in a script or a pod's status.

use std::process::ExitCode;

use crate::error_kind::ErrorKind;

/// How a command ends. The numbers are those of sysexits(3) where one fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Exit {
    /// Done; for `health`: ready.
    Success = 0,
    /// `health`: the agent runs and is not ready.
    NotReady = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The CA cannot be reached or cannot answer; for `status`, `health` and `renew` also: no agent answers.
    Unavailable = 69,
    /// A defect, or a failure of the system that has no code of its own.
    Internal = 70,
    /// The certificate directory cannot be written.
    CannotWrite = 73,
    /// The CA refused, is not the one expected, or what it returned may not be installed.
    Refused = 77,
    /// The configuration is wrong.
    Configuration = 78,
}

impl Exit {
    /// Every code, in the order of the numbers.
    pub const ALL: [Self; 8] = [
        Self::Success,
        Self::NotReady,
        Self::Usage,
        Self::Unavailable,
        Self::Internal,
        Self::CannotWrite,
        Self::Refused,
        Self::Configuration,
    ];

    /// The number.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// What it means, in a few words.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Success => "done; health: ready",
            Self::NotReady => "health: the agent runs, but no usable certificate is on disk",
            Self::Usage => "wrong command line",
            Self::Unavailable => "CA unavailable; status, health, renew: no agent answers",
            Self::Internal => "internal error",
            Self::CannotWrite => "cannot write to the certificate directory",
            Self::Refused => "refused by the CA, or its certificate may not be installed",
            Self::Configuration => "wrong configuration",
        }
    }

    /// The code for an error that an event or a reply reports by its kind: see [`ERROR_KINDS`].
    ///
    /// [`ERROR_KINDS`]: crate::error_kind::ERROR_KINDS
    #[must_use]
    pub fn of_error_kind(kind: &str) -> Self {
        ErrorKind::find(kind).map_or(Self::Internal, |kind| kind.exit)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_numbers_stay() {
        assert_eq!(Exit::ALL.map(Exit::code), [0, 1, 2, 69, 70, 73, 77, 78]);
    }
}
