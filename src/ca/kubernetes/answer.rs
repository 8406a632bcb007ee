//! Owns what both kinds of request share: the names that templates give, and refusals in the words of the API server.

use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::settings::KubernetesSigner;
use crate::ca::enrolment::{AttestationRefusal, EnrolmentError};
use crate::ca::oidc::{Attested, Template, TokenRefusal};
use crate::identity::{SubjectAltName, WorkerId};
use crate::printable::printable;

/// A refusal on its way into a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) kind: &'static str,
    pub(super) message: String,
}

impl Answer {
    /// What is said of an error that is not the CA's.
    pub(super) fn of(error: &EnrolmentError) -> Self {
        Self { kind: error.kind(), message: printable(&error.to_string(), MESSAGE_LIMIT) }
    }

    /// The kind as conditions have it: `policy_denied` is `PolicyDenied`.
    pub(super) fn reason(&self) -> String {
        let capital = |word: &str| word[..1].to_uppercase() + &word[1..];
        self.kind.split('_').filter(|word| !word.is_empty()).map(capital).collect()
    }
}

impl KubernetesSigner {
    /// Whom `claims` name, by the templates.
    pub(super) fn attested(&self, claims: &Map<String, Value>) -> Result<Attested, EnrolmentError> {
        let worker_id = WorkerId::new(&rendered(&self.identity, claims)?).map_err(|error| unfit(&error))?;
        let names = self
            .names
            .iter()
            .map(|name| Ok(rendered(name, claims)?.parse::<SubjectAltName>().map_err(|error| unfit(&error))?));
        Ok(Attested { worker_id, names: names.collect::<Result<_, EnrolmentError>>()? })
    }
}

fn rendered(template: &Template, claims: &Map<String, Value>) -> Result<String, AttestationRefusal> {
    template.render(claims).map_err(|refusal| match refusal {
        TokenRefusal::Claim(path) => unfit(&format!("`{path}` is missing, or does not fit the template")),
        other => unfit(&other),
    })
}

fn unfit(reason: &(impl ToString + ?Sized)) -> AttestationRefusal {
    AttestationRefusal::Name(reason.to_string())
}

/// A time as the API server has it: whole seconds.
pub(super) fn rfc3339(at: OffsetDateTime) -> String {
    // A time without a fraction, and of a year that has four digits, can be written.
    at.replace_nanosecond(0).unwrap_or(at).format(&Rfc3339).unwrap_or_default()
}

/// The longest text about a request, in characters.
pub(super) const CREDENTIAL_LIMIT: usize = 1024;

/// The API server takes 32 KiB.
const MESSAGE_LIMIT: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Decision;

    #[test]
    fn a_denial_tells_reason_and_decision() {
        let decision = Decision::deny("not on Sundays");
        let id = decision.id.clone();
        let answer = Answer::of(&EnrolmentError::Denied(decision));
        assert_eq!(answer.reason(), "PolicyDenied");
        assert_eq!(answer.message, format!("denied by policy: not on Sundays (decision {id})"));
    }
}
