//! Owns the ways in which the CA's keys and certificates cannot be made, loaded or changed.

use std::path::PathBuf;

/// An authority that cannot be made or loaded.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// There is one already.
    #[error("there is a CA under {} already; it is never overwritten", .0.display())]
    Exists(PathBuf),
    /// There is none.
    #[error("there is no CA under {}: make one with `crank-ca init --data-dir {}`", .0.display(), .0.display())]
    Missing(PathBuf),
    /// There is a key and a request, and no certificate for them yet.
    #[error(
        "the CA under {} waits for its certificate: have {} signed by the authority above, then run `crank-ca import \
         --data-dir {} --certificate FILE --root FILE`",
        data_dir.display(), request.display(), data_dir.display()
    )]
    AwaitsImport {
        /// The data directory.
        data_dir: PathBuf,
        /// The request, a PKCS#10 file.
        request: PathBuf,
    },
    /// A certificate that a CA of ours cannot issue below, with every reason.
    #[error("{} cannot be imported: {}", path.display(), problems.join("; "))]
    Unfit {
        /// The certificate.
        path: PathBuf,
        /// What is wrong with it.
        problems: Vec<String>,
    },
    /// An issuer that is named and is not there, or may not be changed so.
    #[error("issuer {id}: {reason}")]
    Issuer {
        /// Its id.
        id: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A root that is still needed.
    #[error(
        "issuer {id} has issued {count} certificates that have not expired: wait until they are renewed or expired, or \
         take its root away all the same with --force"
    )]
    StillNeeded {
        /// The issuer's id.
        id: String,
        /// How many certificates.
        count: u64,
    },
    /// A key that does not open.
    #[error("{}: {reason}", path.display())]
    Locked {
        /// The file of the key, or of the passphrase.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// Another process makes one at this moment.
    #[error("another process is working on {}; try again when it is done", .0.display())]
    Busy(PathBuf),
    /// An option that cannot be used.
    #[error("{what}: {reason}")]
    Option {
        /// The option.
        what: &'static str,
        /// What was expected.
        reason: &'static str,
    },
    /// A file that others than the owner can read or write.
    #[error("{} is open to other users (mode {mode:04o}): run `chmod {fix} {}`", path.display(), path.display())]
    Exposed {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The argument of chmod that mends it.
        fix: &'static str,
    },
    /// A file whose content is no good.
    #[error("{}: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file system failed.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried: `read`, `write`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The crypto library failed.
    #[error("cannot make the CA's {what}")]
    Generation {
        /// `key`, `root certificate`, `issuing certificate`.
        what: &'static str,
    },
}

impl AuthorityError {
    /// A fixed label for metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Exists(_) => "ca_exists",
            Self::Missing(_) => "ca_missing",
            Self::Busy(_) => "ca_busy",
            Self::AwaitsImport { .. } => "ca_awaits_import",
            Self::Unfit { .. } => "ca_unfit",
            Self::Issuer { .. } => "ca_issuer",
            Self::StillNeeded { .. } => "ca_still_needed",
            Self::Locked { .. } => "ca_locked",
            Self::Option { .. } => "ca_option",
            Self::Exposed { .. } => "ca_exposed",
            Self::Invalid { .. } => "ca_invalid",
            Self::File { .. } => "ca_file",
            Self::Generation { .. } => "ca_generation",
        }
    }
}
