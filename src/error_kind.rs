//! Owns the closed list of error kinds: the fixed labels by which events, metrics and exit codes tell failures apart.

use crate::exit::Exit;

/// A kind of failure: `error.kind` in events, `type` of `crank_cert_errors_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorKind {
    /// The label.
    pub label: &'static str,
    /// How a command ends that fails with it.
    pub exit: Exit,
}

/// Every kind that an event can have, by whose side it is on: the CA's, the certificate's, the disk's, the worker's, ours.
pub const ERROR_KINDS: [ErrorKind; 36] = [
    kind("ca_unavailable", Exit::Unavailable),
    kind("rate_limited", Exit::Unavailable),
    kind("broken_reply", Exit::Unavailable),
    kind("untrusted_ca", Exit::Refused),
    kind("unauthenticated", Exit::Refused),
    kind("certificate_revoked", Exit::Refused),
    kind("refused", Exit::Refused),
    kind("credential", Exit::Refused),
    kind("not_registered", Exit::Refused),
    kind("key_mismatch", Exit::Refused),
    kind("unreadable_certificate", Exit::Refused),
    kind("untrusted_chain", Exit::Refused),
    kind("wrong_names", Exit::Refused),
    kind("not_yet_valid", Exit::Refused),
    kind("expired", Exit::Refused),
    kind("is_ca", Exit::Refused),
    kind("key_usage", Exit::Refused),
    kind("extended_key_usage", Exit::Refused),
    kind("extensions", Exit::Refused),
    kind("crl", Exit::Refused),
    kind("no_directory", Exit::CannotWrite),
    kind("locked", Exit::CannotWrite),
    kind("obstructed", Exit::CannotWrite),
    kind("unprotected", Exit::CannotWrite),
    kind("missing", Exit::CannotWrite),
    kind("corrupt", Exit::CannotWrite),
    kind("no_space", Exit::CannotWrite),
    kind("read_only", Exit::CannotWrite),
    kind("permission", Exit::CannotWrite),
    kind("io", Exit::CannotWrite),
    kind("password", Exit::CannotWrite),
    kind("delivery", Exit::Unavailable),
    kind("not_served", Exit::Unavailable),
    kind("configuration", Exit::Configuration),
    kind("key", Exit::Internal),
    kind("csr", Exit::Internal),
];

impl ErrorKind {
    /// The kind that has this label.
    #[must_use]
    pub fn find(label: &str) -> Option<Self> {
        ERROR_KINDS.into_iter().find(|kind| kind.label == label)
    }
}

const fn kind(label: &'static str, exit: Exit) -> ErrorKind {
    ErrorKind { label, exit }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rustix::io::Errno;
    use time::OffsetDateTime;

    use super::*;
    use crate::identity::{BundleError, CheckError};
    use crate::issuer::{IssueError, IssueErrorKind};
    use crate::store::StoreError;

    fn exit_of(label: &str) -> Exit {
        Exit::of_error_kind(label)
    }

    #[test]
    fn no_label_is_there_twice_and_each_can_be_one_of_prometheus() {
        let labels: BTreeSet<_> = ERROR_KINDS.iter().map(|kind| kind.label).collect();
        assert_eq!(labels.len(), ERROR_KINDS.len());
        assert!(labels.iter().all(|label| label.bytes().all(|c| c.is_ascii_lowercase() || c == b'_')));
    }

    #[test]
    fn the_ca_that_cannot_answer_gives_69_and_the_one_that_will_not_77() {
        for (kind, exit) in [
            (IssueErrorKind::Unavailable, Exit::Unavailable),
            (IssueErrorKind::RateLimited(None), Exit::Unavailable),
            (IssueErrorKind::BrokenReply, Exit::Unavailable),
            (IssueErrorKind::Untrusted, Exit::Refused),
            (IssueErrorKind::Unauthenticated, Exit::Refused),
            (IssueErrorKind::Refused, Exit::Refused),
            (IssueErrorKind::Revoked, Exit::Refused),
            (IssueErrorKind::Credential, Exit::Refused),
            (IssueErrorKind::NotRegistered, Exit::Refused),
        ] {
            assert_eq!(exit_of(IssueError::new(kind, "x").kind()), exit, "{kind:?}");
        }
    }

    #[test]
    fn a_certificate_that_fails_a_check_gives_77() {
        let now = OffsetDateTime::UNIX_EPOCH;
        for error in [
            CheckError::Bundle(BundleError::KeyMismatch),
            CheckError::Bundle(BundleError::TooMany { what: "roots", limit: 1 }),
            CheckError::Chain(String::new()),
            CheckError::Names { missing: String::new(), unexpected: String::new() },
            CheckError::CommonName { expected: String::new(), found: String::new() },
            CheckError::NotYetValid { not_before: now, now },
            CheckError::Expired { not_after: now, now },
            CheckError::IsCa,
            CheckError::KeyUsage(""),
            CheckError::ExtendedKeyUsage,
            CheckError::Extensions(""),
        ] {
            assert_eq!(exit_of(error.kind()), Exit::Refused, "{error:?}");
        }
    }

    #[test]
    fn a_directory_that_cannot_be_used_gives_73() {
        let path = || "/etc/certs".to_owned();
        let io = |source: Errno| StoreError::Io { action: "write", path: path(), source: source.into() };
        for error in [
            StoreError::NoDirectory { directory: path() },
            StoreError::Locked { directory: path(), holder: String::new() },
            StoreError::Obstructed { path: path(), found: "a file" },
            StoreError::Unprotected { path: path(), what: "file modes" },
            StoreError::Missing { path: path() },
            StoreError::TooLarge { path: path(), limit: 1 },
            StoreError::Content { path: path(), source: BundleError::KeyMismatch },
            StoreError::Publish { generation: path(), directory: path(), source: Box::new(io(Errno::NOSPC)) },
            io(Errno::ROFS),
            io(Errno::ACCESS),
            io(Errno::IO),
        ] {
            assert_eq!(exit_of(error.kind()), Exit::CannotWrite, "{error:?}");
        }
    }

    #[test]
    fn what_nobody_knows_is_internal() {
        assert_eq!(exit_of("surprise"), Exit::Internal);
        assert_eq!(exit_of("configuration"), Exit::Configuration);
    }
}
