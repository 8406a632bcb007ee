//! Owns the change of issuers and roots: a next one beside the one that signs, the turn, and the end of the former.

use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;

use super::content::{ISSUER, ROOT, ROOT_KEY};
use super::files;
use super::generate::{self, Generation};
use super::issuing::{IssuerState, Issuing, issuer_id, parse};
use super::key::KeySettings;
use super::{Authority, AuthorityError, Lineup, fingerprint, issuing_key};
use crate::identity::bundle::certificates_to_pem;
use crate::identity::{KeyType, PrivateKey};

/// What a new root is to be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RotateOptions {
    /// The kind of both keys: ECDSA P-256 or P-384.
    pub key_type: KeyType,
    /// Begins the names of root and intermediate; `None`: as those before.
    pub name: Option<String>,
    /// How the keys are opened and protected.
    pub keys: KeySettings,
    /// Where the issuing key is made instead of in a file: a `pkcs11:` URI (RFC 7512).
    pub key_uri: Option<String>,
    /// The key of the root in force, where it is not in the data directory: certifies the new root.
    pub root_key: Option<PathBuf>,
}

/// An issuer of this CA, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerFacts {
    /// The first 12 digits of the SHA-256 of its certificate.
    pub id: String,
    /// What it is for now.
    pub state: IssuerState,
    /// Its subject; printable.
    pub subject: String,
    /// SHA-256 of its root's DER, as `sha256:` and 64 hexadecimal digits.
    pub root_fingerprint: String,
    /// When the first of it and those above it ends.
    pub not_after: OffsetDateTime,
    /// SHA-256 of its certificate: how the record tells issuers apart.
    pub digest: [u8; 32],
}

/// A new root was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotated {
    /// The new issuer's id.
    pub id: String,
    /// SHA-256 of the new root's DER, as `sha256:` and 64 hexadecimal digits.
    pub root_fingerprint: String,
    /// Whether the root in force has certified the new one, so that those who know only the former can follow.
    pub cross_certified: bool,
}

impl Authority {
    /// Every issuer of the CA under `data_dir`, the one that signs first.
    pub(crate) fn issuers(data_dir: &Path) -> Result<Vec<IssuerFacts>, AuthorityError> {
        Ok(Lineup::load(data_dir)?.issuers.iter().map(facts).collect())
    }

    /// Makes a root and an issuer below it, whose root is handed out from now on beside the one in force.
    pub(crate) fn rotate(
        data_dir: &Path,
        options: &RotateOptions,
        now: OffsetDateTime,
    ) -> Result<Rotated, AuthorityError> {
        Lineup::load(data_dir)?;
        files::change(data_dir, |content| {
            let directory = data_dir.join(files::DIRECTORY);
            let lineup = Lineup::read(&directory)?;
            let current = &lineup.issuers[0];
            let name = match options.name.clone().or_else(|| content.settings.name.clone()) {
                Some(name) => name,
                None => name_of(current)?,
            };
            let generation = content.settings.generation.saturating_add(1);
            let root_key = generate::key(options.key_type)?;
            let root = generate::root(&name, Generation(generation), &root_key, now)?;
            let (key, files) = issuing_key(options.key_type, options.key_uri.as_deref(), &options.keys)?;
            let issuer = generate::issuing(&name, Generation(generation), &key, &root, &root_key, now)?;
            let old_key = options.root_key.as_deref();
            let crosses = crosses(&directory, &root, Some(&root_key), old_key, &options.keys, now)?;
            let rotated = Rotated {
                id: issuer_id(&issuer),
                root_fingerprint: fingerprint(&root),
                cross_certified: crosses.iter().any(|cross| is_of(cross, &root)),
            };
            let files = files
                .with(ROOT, certificates_to_pem(&[root]).as_bytes())
                .with(ROOT_KEY, options.keys.encode(&root_key)?.as_bytes())
                .with(ISSUER, certificates_to_pem(&[issuer]).as_bytes());
            content.settings.generation = generation;
            content.settings.name = Some(name);
            content.cross.extend_from_slice(certificates_to_pem(&crosses).as_bytes());
            content.next.insert(rotated.id.clone(), files);
            Ok(rotated)
        })
    }

    /// Lets another issuer sign; the one before becomes a former one, and can be activated again. `None`: the only one
    /// that is next. Returns its id.
    pub(crate) fn activate(data_dir: &Path, id: Option<&str>, keys: &KeySettings) -> Result<String, AuthorityError> {
        Lineup::load(data_dir)?;
        files::change(data_dir, |content| {
            let lineup = Lineup::read(&data_dir.join(files::DIRECTORY))?;
            let issuer = lineup.chosen(id, IssuerState::Next)?;
            let refused = |reason| AuthorityError::Issuer { id: issuer.id.clone(), reason };
            if issuer.state == IssuerState::Issuing {
                return Err(refused("signs already"));
            }
            if issuer.key(keys)?.is_none() {
                return Err(refused("has no key here"));
            }
            let files = content.next.remove(&issuer.id).or_else(|| content.former.remove(&issuer.id));
            let files = files.ok_or_else(|| refused("is not there any longer"))?;
            let before = std::mem::replace(&mut content.current, files);
            content.former.insert(lineup.issuers[0].id.clone(), before);
            Ok(issuer.id.clone())
        })
    }

    /// The issuer that [`retire`](Self::retire) would take away. `None`: the only former one.
    pub(crate) fn retirable(data_dir: &Path, id: Option<&str>) -> Result<IssuerFacts, AuthorityError> {
        let lineup = Lineup::load(data_dir)?;
        let issuer = lineup.chosen(id, IssuerState::Former)?;
        if issuer.state == IssuerState::Issuing {
            return Err(AuthorityError::Issuer { id: issuer.id.clone(), reason: "signs: activate another one first" });
        }
        Ok(facts(issuer))
    }

    /// Takes an issuer away with its key; its root is no longer handed out unless another issuer is below it.
    pub(crate) fn retire(data_dir: &Path, id: &str) -> Result<(), AuthorityError> {
        files::change(data_dir, |content| {
            let removed = content.next.remove(id).or_else(|| content.former.remove(id));
            let reason = "is neither a next nor a former one of this CA";
            removed.map(drop).ok_or_else(|| AuthorityError::Issuer { id: id.to_owned(), reason })?;
            let mut lineup = Lineup::read(&data_dir.join(files::DIRECTORY))?;
            lineup.issuers.retain(|issuer| issuer.id != id);
            let roots = lineup.roots();
            lineup.cross.retain(|cross| roots.iter().any(|root| is_of(cross, root)));
            content.cross = certificates_to_pem(&lineup.cross).into_bytes();
            Ok(())
        })
    }
}

impl Lineup {
    /// The issuer with this id, or the only one in `state`.
    fn chosen(&self, id: Option<&str>, state: IssuerState) -> Result<&Issuing, AuthorityError> {
        let fail = |reason| AuthorityError::Issuer { id: id.unwrap_or(state.name()).to_owned(), reason };
        if let Some(id) = id {
            let found = self.issuers.iter().find(|issuer| issuer.id == id);
            return found.ok_or_else(|| fail("is none of this CA: see `crank-ca root list`"));
        }
        let mut of_state = self.issuers.iter().filter(|issuer| issuer.state == state);
        match (of_state.next(), of_state.next()) {
            (Some(only), None) => Ok(only),
            (None, _) => Err(fail("there is none: see `crank-ca root list`")),
            (Some(_), Some(_)) => Err(fail("there are several: give an id from `crank-ca root list`")),
        }
    }
}

/// `root` certified by each other root whose key is at hand, and each other root certified by it.
pub(super) fn crosses(
    directory: &Path,
    root: &CertificateDer<'static>,
    root_key: Option<&PrivateKey>,
    current_root_key: Option<&Path>,
    keys: &KeySettings,
    now: OffsetDateTime,
) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
    let lineup = Lineup::read(directory)?;
    let mut made = Vec::new();
    let mut done: Vec<&CertificateDer<'static>> = vec![root];
    for issuer in &lineup.issuers {
        if done.contains(&&issuer.root) {
            continue;
        }
        done.push(&issuer.root);
        let at_home = issuer.directory.join(ROOT_KEY);
        let path = current_root_key.filter(|_| issuer.state == IssuerState::Issuing).unwrap_or(&at_home);
        if path != at_home || path.exists() {
            files::check_private(path, "600")?;
            let key = keys.decode(path, &files::read_private(path)?)?;
            if parse(path, &issuer.root)?.public_key().raw != key.public_key_der() {
                let reason = "is not the key of the root in force".to_owned();
                return Err(AuthorityError::Invalid { path: path.to_owned(), reason });
            }
            made.extend(generate::cross(root, &issuer.root, &key, now));
        }
        if let Some(root_key) = root_key {
            made.extend(generate::cross(&issuer.root, root, root_key, now));
        }
    }
    Ok(made)
}

/// Whether `cross` certifies the key of `root`.
fn is_of(cross: &CertificateDer<'_>, root: &CertificateDer<'_>) -> bool {
    let path = Path::new(super::content::CROSS);
    matches!((parse(path, cross), parse(path, root)), (Ok(cross), Ok(root)) if cross.public_key() == root.public_key())
}

pub(super) fn facts(issuer: &Issuing) -> IssuerFacts {
    IssuerFacts {
        id: issuer.id.clone(),
        state: issuer.state,
        subject: issuer.subject(),
        root_fingerprint: fingerprint(&issuer.root),
        not_after: issuer.not_after,
        digest: issuer.digest(),
    }
}

/// What the names of a CA begin with that was made before that was kept.
fn name_of(issuer: &Issuing) -> Result<String, AuthorityError> {
    let root = parse(&issuer.directory.join(ROOT), &issuer.root)?;
    let common_name = root.subject().iter_common_name().find_map(|name| name.as_str().ok());
    Ok(common_name.and_then(|name| name.strip_suffix(" Root CA")).unwrap_or("Crank").to_owned())
}
