//! Owns what the agent trusts of a crank-ca: which roots verify the connection, and which an issued chain must reach.

use std::path::Path;

use rustls::pki_types::CertificateDer;

use super::CrankIssuer;
use crate::bounded::read_file;
use crate::config::CaTrust;
use crate::crypto::sha256;
use crate::identity::bundle::{ROOTS_LIMIT, certificates_from_pem};
use crate::issuer::roots::{KnownRoots, RootDigest, self_signed, union};
use crate::issuer::{FollowedRoots, IssueError, IssueErrorKind};
use crate::tls::ServerTrust;

impl CrankIssuer {
    /// What verifies the connection: the configured roots, and those handed out over verified connections before.
    pub(super) fn server_trust(&self, known: &KnownRoots) -> Result<ServerTrust, IssueError> {
        // Roots for issued certificates alone, where they are configured apart, vouch for no connection.
        let follows = self.config.follow_roots && self.config.issued_roots_file.is_none();
        let followed = known.followed_roots().filter(|_| follows);
        Ok(match &self.config.trust {
            CaTrust::RootFile(path) => ServerTrust::AuthorityRoots(union(read_roots(path)?, followed)),
            CaTrust::Fingerprint(fingerprint) => {
                ServerTrust::AuthorityPin { fingerprint: *fingerprint, roots: followed.cloned().collect() }
            }
        })
    }

    /// The certificates in `ca_certificate`. Where there is a root file, older CAs may put there what they like.
    pub(super) fn handed_out(&self, pem: &str) -> Result<Vec<CertificateDer<'static>>, IssueError> {
        match certificates_from_pem("ca_certificate", pem.as_bytes(), ROOTS_LIMIT) {
            Ok(certificates) => Ok(certificates),
            Err(error) if self.is_pinned() => Err(self.fail(IssueErrorKind::BrokenReply, error.to_string())),
            Err(_) => Ok(Vec::new()),
        }
    }

    /// What `ca.crt` is to hold when the CA hands out `handed_out`.
    pub(super) fn to_publish(&self, handed_out: &[CertificateDer<'static>]) -> Result<FollowedRoots, IssueError> {
        let configured = self.configured(handed_out)?;
        let followed = if self.config.follow_roots { self_signed(handed_out.to_vec()) } else { Vec::new() };
        let roots = union(configured, &followed);
        if roots.is_empty() {
            let message = "sent no root with the configured sha256 fingerprint in `ca_certificate`";
            return Err(self.fail(IssueErrorKind::BrokenReply, message));
        }
        Ok(FollowedRoots { roots, followed: followed.iter().map(RootDigest::of).collect() })
    }

    /// The roots of the configured file, or those of `at_hand` that the pin vouches for.
    pub(super) fn configured(
        &self,
        at_hand: &[CertificateDer<'static>],
    ) -> Result<Vec<CertificateDer<'static>>, IssueError> {
        match (&self.config.issued_roots_file, &self.config.trust) {
            (Some(path), _) | (None, CaTrust::RootFile(path)) => read_roots(path),
            (None, CaTrust::Fingerprint(pin)) => {
                Ok(at_hand.iter().filter(|root| sha256(root) == *pin).cloned().collect())
            }
        }
    }

    fn is_pinned(&self) -> bool {
        self.config.issued_roots_file.is_none() && matches!(self.config.trust, CaTrust::Fingerprint(_))
    }
}

fn read_roots(path: &Path) -> Result<Vec<CertificateDer<'static>>, IssueError> {
    let content = read_file(path, ROOT_FILE_LIMIT)
        .map_err(|error| IssueError::new(IssueErrorKind::Credential, format!("root file: {error}")))?;
    certificates_from_pem("roots", &content, ROOTS_LIMIT)
        .map_err(|error| IssueError::new(IssueErrorKind::Credential, format!("root file {}: {error}", path.display())))
}

/// The largest root file in bytes.
const ROOT_FILE_LIMIT: u64 = 1024 * 1024;
