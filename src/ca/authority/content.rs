//! Owns what is in a CA's directory as a whole, read and written as one: the issuer that signs, those that follow it and
//! those that went before.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use zeroize::Zeroizing;

use super::AuthorityError;
use super::files::{self, Settings, failed};

/// The root certificate.
pub(super) const ROOT: &str = "root.crt";

/// The root's key; may be moved to a safe once the CA is made.
pub(super) const ROOT_KEY: &str = "root.key";

/// The certificate that signs, and those between it and the root.
pub(super) const ISSUER: &str = "issuing.crt";

/// Its key.
pub(super) const ISSUER_KEY: &str = "issuing.key";

/// In place of its key: where in a hardware security module it is.
pub(super) const ISSUER_URI: &str = "issuing.uri";

/// Roots certified by other roots.
pub(super) const CROSS: &str = "cross.crt";

/// Issuers whose roots are handed out and which do not sign yet; a directory each.
pub(super) const NEXT: &str = "next";

/// Issuers whose roots are still handed out and which no longer sign; a directory each.
pub(super) const FORMER: &str = "former";

const CERTIFICATES: [&str; 2] = [ROOT, ISSUER];

const SECRETS: [&str; 3] = [ROOT_KEY, ISSUER_KEY, ISSUER_URI];

/// The files of one issuer, by name.
#[derive(Default)]
pub(super) struct IssuerFiles(BTreeMap<&'static str, Zeroizing<Vec<u8>>>);

impl IssuerFiles {
    /// Adds a file.
    pub(super) fn with(mut self, name: &'static str, content: &[u8]) -> Self {
        self.0.insert(name, Zeroizing::new(content.to_vec()));
        self
    }

    fn read(directory: &Path) -> Result<Self, AuthorityError> {
        let mut found = BTreeMap::new();
        for name in CERTIFICATES.into_iter().chain(SECRETS) {
            let path = directory.join(name);
            if path.exists() {
                found.insert(name, files::read_private(&path)?);
            }
        }
        Ok(Self(found))
    }

    fn write(&self, directory: &Path) -> Result<(), AuthorityError> {
        for (name, content) in &self.0 {
            let mode = if SECRETS.contains(name) { 0o600 } else { 0o644 };
            files::write(&directory.join(name), content, mode)?;
        }
        Ok(())
    }
}

/// All of it.
pub(super) struct Content {
    pub(super) settings: Settings,
    /// The issuer that signs.
    pub(super) current: IssuerFiles,
    /// By id.
    pub(super) next: BTreeMap<String, IssuerFiles>,
    /// By id.
    pub(super) former: BTreeMap<String, IssuerFiles>,
    /// PEM; may be empty.
    pub(super) cross: Vec<u8>,
}

impl Content {
    /// A CA with one issuer.
    pub(super) fn new(settings: Settings, current: IssuerFiles) -> Self {
        Self { settings, current, next: BTreeMap::new(), former: BTreeMap::new(), cross: Vec::new() }
    }

    pub(super) fn read(directory: &Path) -> Result<Self, AuthorityError> {
        let others = |name: &str| -> Result<_, AuthorityError> {
            let ids = issuer_ids(&directory.join(name))?;
            let read = |id: String| {
                let files = IssuerFiles::read(&directory.join(name).join(&id))?;
                Ok::<_, AuthorityError>((id, files))
            };
            ids.into_iter().map(read).collect::<Result<BTreeMap<_, _>, _>>()
        };
        let cross = directory.join(CROSS);
        Ok(Self {
            settings: files::read_settings(directory)?,
            current: IssuerFiles::read(directory)?,
            next: others(NEXT)?,
            former: others(FORMER)?,
            cross: if cross.exists() { files::read(&cross)? } else { Vec::new() },
        })
    }

    /// Writes all of it into `directory`, which is empty, and syncs it.
    pub(super) fn write(&self, directory: &Path) -> Result<(), AuthorityError> {
        files::write_settings(directory, &self.settings)?;
        self.current.write(directory)?;
        if !self.cross.is_empty() {
            files::write(&directory.join(CROSS), &self.cross, 0o644)?;
        }
        for (name, issuers) in [(NEXT, &self.next), (FORMER, &self.former)] {
            if issuers.is_empty() {
                continue;
            }
            let parent = directory.join(name);
            make_directory(&parent)?;
            for (id, issuer) in issuers {
                let directory = parent.join(id);
                make_directory(&directory)?;
                issuer.write(&directory)?;
                files::sync_directory(&directory)?;
            }
            files::sync_directory(&parent)?;
        }
        files::sync_directory(directory)
    }

    /// Whether `name` is one of the names that [`write`](Self::write) writes.
    pub(super) fn owns(name: &str) -> bool {
        CERTIFICATES.contains(&name)
            || SECRETS.contains(&name)
            || [CROSS, NEXT, FORMER, files::SETTINGS].contains(&name)
    }
}

/// The ids of the issuers below `directory`, in order; none where it is missing.
pub(super) fn issuer_ids(directory: &Path) -> Result<Vec<String>, AuthorityError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("read", directory)(error)),
    };
    let mut ids = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed("read", directory))?;
        let name = entry.file_name().to_str().unwrap_or_default().to_owned();
        if is_id(&name) {
            ids.push(name);
        }
    }
    ids.sort();
    Ok(ids)
}

/// Whether `text` has the form of an issuer's id: 12 hexadecimal digits.
pub(super) fn is_id(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn make_directory(path: &Path) -> Result<(), AuthorityError> {
    DirBuilder::new().mode(0o700).create(path).map_err(failed("create", path))
}
