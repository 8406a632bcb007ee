//! Owns a complete question of each kind, to start from.

use std::net::IpAddr;

use time::OffsetDateTime;

use super::{ActorName, Certificate, Hook, Identity, Input, Names, Request, Revocation};
use crate::config::Environment;
use crate::identity::{KeyType, WorkerId};
use crate::policy::RevocationReason;

impl Input {
    /// A complete question of this kind, from which cases and trials start: worker `streaming` in production, at noon of
    /// 1 January 2030.
    #[must_use]
    pub fn sample(hook: Hook) -> Self {
        let now = SAMPLE_TIME;
        let names = Names {
            dns: vec!["localhost".to_owned(), SAMPLE_WORKER.to_owned()],
            ip: Vec::new(),
            uri: vec![format!("spiffe://crank.local/worker/{SAMPLE_WORKER}")],
        };
        let mut input = Self::empty(hook, Environment::Production, now);
        match hook {
            Hook::CanIssueCertificate | Hook::CertificateValidityPeriod => {
                input.identity = Some(Identity {
                    worker_id: sample_worker(),
                    spiffe_id: names.uri[0].clone(),
                    authentication: "token".to_owned(),
                    credential: "tok_0123456789abcdef".to_owned(),
                    permitted_names: names.clone(),
                    source: Some(IpAddr::from([10, 0, 0, 7])),
                });
                let key_type = KeyType::EcdsaP256.name().to_owned();
                input.request = Some(Request { names, key_type, correlation_id: "req_1".to_owned(), trace: None });
            }
            Hook::ShouldRenewCertificate => {
                input.certificate = Some(Certificate {
                    serial: "4a:3b:2c:1d".to_owned(),
                    subject: format!("CN={SAMPLE_WORKER}, O=Crank Platform, OU=Worker Services"),
                    issuer: "CN=Crank Issuing CA".to_owned(),
                    names,
                    not_before: now - time::Duration::days(9),
                    not_after: now + time::Duration::DAY,
                    lifetime_seconds: time::Duration::days(10).whole_seconds(),
                    remaining_seconds: time::Duration::DAY.whole_seconds(),
                });
            }
            Hook::RevokeCertificate => {
                input.revocation = Some(Revocation {
                    worker_id: sample_worker(),
                    reason: RevocationReason::KeyCompromise,
                    actor: ActorName { kind: "admin".to_owned(), name: "alice".to_owned() },
                });
            }
        }
        input
    }
}

fn sample_worker() -> WorkerId {
    WorkerId::new(SAMPLE_WORKER).expect("the constant is a worker id")
}

const SAMPLE_WORKER: &str = "streaming";

const SAMPLE_TIME: OffsetDateTime = time::macros::datetime!(2030-01-01 12:00 UTC);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_whole() {
        for hook in Hook::ALL {
            let text = serde_json::to_string(&Input::sample(hook)).unwrap();
            assert_eq!(serde_json::from_str::<Input>(&text).unwrap(), Input::sample(hook));
        }
    }
}
