//! Owns the names of the questions.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The four questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hook {
    /// May this worker have this certificate?
    CanIssueCertificate,
    /// How long may it live?
    CertificateValidityPeriod,
    /// Should this certificate be renewed now?
    ShouldRenewCertificate,
    /// May this certificate be revoked by this actor?
    RevokeCertificate,
}

impl Hook {
    /// Every hook, in the order of the documentation.
    pub const ALL: [Self; 4] = [
        Self::CanIssueCertificate,
        Self::CertificateValidityPeriod,
        Self::ShouldRenewCertificate,
        Self::RevokeCertificate,
    ];

    /// The hook's name, the rule's name in package `crank` too.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::CanIssueCertificate => "can_issue_certificate",
            Self::CertificateValidityPeriod => "certificate_validity_period",
            Self::ShouldRenewCertificate => "should_renew_certificate",
            Self::RevokeCertificate => "revoke_certificate",
        }
    }

    /// The rule that answers it: `data.crank.` and the name. It is fixed: no request chooses what is evaluated.
    #[must_use]
    pub fn query(self) -> &'static str {
        match self {
            Self::CanIssueCertificate => "data.crank.can_issue_certificate",
            Self::CertificateValidityPeriod => "data.crank.certificate_validity_period",
            Self::ShouldRenewCertificate => "data.crank.should_renew_certificate",
            Self::RevokeCertificate => "data.crank.revoke_certificate",
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_hooks_are_those_of_rules() {
        for hook in Hook::ALL {
            assert_eq!(serde_json::to_value(hook).unwrap(), hook.name());
            assert_eq!(hook.query(), format!("data.crank.{hook}"));
        }
    }
}
