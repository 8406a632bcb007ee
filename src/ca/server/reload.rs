//! Owns the change of a serving CA's settings: a good change as a whole, or none.

use std::fmt::Debug;
use std::sync::Arc;

use tokio::sync::Mutex;

use super::checked;
use crate::ca::config::CaProblem;
use crate::ca::in_force::{Before, InForce};
use crate::ca::manager::CertificateAuthorityManager;
use crate::ca::{CaConfig, CaConfigReport, CaError};

/// Changes the settings of a [`RunningCa`](super::RunningCa).
#[derive(Debug)]
pub struct Reloader {
    manager: Arc<CertificateAuthorityManager>,
    config: Mutex<CaConfig>,
}

impl Reloader {
    /// `config` is in force.
    pub(super) fn new(manager: Arc<CertificateAuthorityManager>, config: CaConfig) -> Self {
        Self { manager, config: Mutex::new(config) }
    }

    /// Puts `config` in force, and reads anew what the settings lead to: policies, the CA's own keys and certificates, and
    /// the keys of token issuers. Requests under way end as they began. Keys of token issuers that cannot be read leave
    /// the last good ones in force.
    ///
    /// # Errors
    /// When a setting does not fit, or is another and read at the start only; when the policy or the CA's own keys are
    /// not usable. Then everything is as before.
    pub async fn reload(&self, config: CaConfig) -> Result<(), CaError> {
        let mut before = self.config.lock().await;
        let core = checked(&config)?.policy;
        let problems = read_at_the_start_only(&before, &config);
        if !problems.is_empty() {
            return Err(CaConfigReport { problems }.into());
        }
        let clock = &self.manager.clock;
        let policy = config.policy.build(core, config.environment, Arc::clone(clock))?;
        let authority = self.manager.load_authority().await?;
        let in_force = self.manager.in_force();
        let old = Before { config: &before, in_force: &in_force };
        let next = Arc::new(InForce::of(&config, policy.into(), clock, Some(&old)));
        self.manager.put_in_force(Arc::clone(&next));
        self.manager.put_authority_in_force(authority);
        *before = config;
        next.admission.issuers.read_again().await;
        Ok(())
    }
}

/// What is not as it was at the start, and would have to be.
fn read_at_the_start_only(before: &CaConfig, now: &CaConfig) -> Vec<CaProblem> {
    let mut problems = Vec::new();
    let mut check = |key: &str, same: bool| {
        if !same {
            problems.push(CaProblem::new(key, None, "is read at the start only: restart the CA, or put it back"));
        }
    };
    check("data_dir", before.data_dir == now.data_dir);
    check("keys", before.keys == now.keys);
    check("database", before.database == now.database);
    check("listen", before.listen == now.listen);
    check("names", before.names == now.names);
    check("environment", before.environment == now.environment);
    check("max_connections", before.max_connections == now.max_connections);
    check("retention", before.retention == now.retention);
    check("server_lifetime", before.server_lifetime == now.server_lifetime);
    check("kubernetes", before.kubernetes == now.kubernetes);
    check("deadlines", before.deadlines == now.deadlines);
    problems
}
