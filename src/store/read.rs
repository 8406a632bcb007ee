//! Owns reading: the generation in force through one open of `..data`, or the plain files of the tools before this one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustls::pki_types::CertificateDer;

use super::content::{Rendered, render};
use super::directory::{Contents, Directory};
use super::error::{StoreError, shown};
use super::layout::{
    CERTIFICATE_FILE, CRL_FILE, CRL_FILE_LIMIT, DATA_LINK, FILE_LIMIT, GenerationName, KEY_FILE, PublishedFile,
    ROOTS_FILE, federated_domain, federated_name,
};
use super::links::{DataLink, StableLink, data_link, stable_link};
use super::record::GenerationRecord;
use super::verify::Baseline;
use crate::config::FilesConfig;
use crate::crypto::sha256;
use crate::identity::bundle::{CHAIN_LIMIT, ROOTS_LIMIT, certificates_from_pem};
use crate::identity::crl::crls_from_pem;
use crate::identity::{BundleError, CertificateBundle, Crl, PrivateKey, TrustDomain};
use crate::printable::error_chain;

/// A certificate found on disk. It is whole and its key fits; whether it is still good is for the caller to check.
#[derive(Debug)]
pub struct Published {
    /// Key, chain and roots.
    pub bundle: CertificateBundle,
    /// What was kept beside it; `None` when there is none that can be read.
    pub record: Option<GenerationRecord>,
    /// Where it was.
    pub origin: Origin,
    /// Whether all further files that are configured now, and no others, were published with it.
    pub complete: bool,
}

/// Where a certificate was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In the generation of this name, the one in force.
    Generation(String),
    /// In a generation that another program made. To be adopted by publishing it.
    ForeignGeneration,
    /// In plain `client.crt`, `client.key` and `ca.crt`, as the tools before this one wrote them. To be adopted by
    /// publishing it.
    PlainFiles,
}

/// Reads the certificate of `directory` as every reader should: `..data` is opened once and the files are opened
/// relative to it, so that key and certificate are of one generation. Where there is no `..data`, plain files are read,
/// again if they do not fit each other. Blocks for up to 0.2 s in that case.
///
/// # Errors
/// When there is no certificate, or it cannot be read, or is of no use; or there is a `ca.crl` that is of no use, since
/// nobody could be told to be not revoked.
pub fn read_bundle(directory: &Path) -> Result<CertificateBundle, StoreError> {
    let directory = Directory::open(directory)?;
    match read_current(&directory, None)? {
        Some(current) => Ok(current.published.bundle.with_crls(current.crls?)),
        None => Err(StoreError::Missing { path: shown(&directory.path().join(CERTIFICATE_FILE)) }),
    }
}

/// What [`read_current`] found, and what to compare the disk with later; plain files are not compared.
pub(super) struct Current {
    pub(super) published: Published,
    /// None: there is no file of them.
    pub(super) crls: Result<Vec<Crl>, StoreError>,
    pub(super) baseline: Option<Baseline>,
}

impl Current {
    fn plain(bundle: CertificateBundle, crls: Result<Vec<Crl>, StoreError>) -> Self {
        let published = Published { bundle, record: None, origin: Origin::PlainFiles, complete: false };
        Self { published, crls, baseline: None }
    }
}

/// The certificate in force; `None` where there is neither a generation nor a plain certificate or key. Without `config`
/// there is nothing to compare the disk with later.
pub(super) fn read_current(directory: &Directory, config: Option<&FilesConfig>) -> Result<Option<Current>, StoreError> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let data = data_link(directory)?;
        let result = match &data {
            DataLink::Generation(name) => read_generation(directory, name, config),
            DataLink::Missing => {
                let plain = |bundle| Current::plain(bundle, read_crls(directory).map(|(crls, _)| crls));
                read_plain_files(directory).map(|bundle| bundle.map(plain))
            }
            DataLink::Foreign => Err(obstructed_data(directory, "a file, or a link to another place")),
            DataLink::Directory => Err(obstructed_data(directory, "a directory")),
        };
        // Perhaps the generation was replaced, and is gone already, or plain files were adopted meanwhile.
        if matches!(result, Ok(Some(_))) || attempt == DATA_ATTEMPTS || data_link(directory)? == data {
            return result;
        }
    }
}

/// Plain files, read until they fit each other. `None`: there is neither a certificate nor a key.
pub(super) fn read_plain_files(directory: &Directory) -> Result<Option<CertificateBundle>, StoreError> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        if is_absent(directory, CERTIFICATE_FILE)? && is_absent(directory, KEY_FILE)? {
            return Ok(None);
        }
        let result = read_files(directory).and_then(|files| files.bundle(directory));
        match result {
            Ok(bundle) => return Ok(Some(bundle)),
            // Perhaps someone is writing it at this moment.
            Err(StoreError::Content { .. } | StoreError::Missing { .. }) if attempt < PLAIN_ATTEMPTS => {
                thread::sleep(PLAIN_PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
}

/// A stable link that is left without `..data` leads nowhere.
fn is_absent(directory: &Directory, name: &str) -> Result<bool, StoreError> {
    Ok(matches!(stable_link(directory, name)?, StableLink::Missing | StableLink::Ours))
}

/// `None`: its certificate was revoked and withdrawn.
fn read_generation(
    directory: &Directory,
    name: &str,
    config: Option<&FilesConfig>,
) -> Result<Option<Current>, StoreError> {
    let generation = directory.child(name)?;
    let record = read_record(&generation);
    let files = match read_files(&generation) {
        Err(StoreError::Missing { .. })
            if record.as_ref().is_some_and(|(record, _)| record.renewal.revoked.is_some()) =>
        {
            return Ok(None);
        }
        files => files?,
    };
    let crls = read_crls(&generation);
    let known = crls.as_ref().map(|(crls, _)| crls.clone()).unwrap_or_default();
    let bundle = files.bundle(&generation)?.with_federated(read_federated(&generation)?).with_crls(known);
    let ours = GenerationName::parse(name).is_some();
    let baseline = match config {
        Some(config) if ours => Some(baseline(&generation, name, &files, &bundle, &crls, record.as_ref(), config)?),
        _ => None,
    };
    let complete = match (&record, config) {
        (Some((record, _)), Some(config)) => record.is_of(&config.further),
        _ => false,
    };
    Ok(Some(Current {
        crls: crls.map(|(crls, _)| crls),
        published: Published {
            bundle,
            record: record.map(|(record, _)| record),
            origin: if ours { Origin::Generation(name.to_owned()) } else { Origin::ForeignGeneration },
            complete,
        },
        baseline,
    }))
}

/// What to compare the generation with later: its files as they were found where they are good, else as they should be.
fn baseline(
    generation: &Directory,
    name: &str,
    files: &Files,
    bundle: &CertificateBundle,
    crls: &Result<(Vec<Crl>, Option<[u8; 32]>), StoreError>,
    record: Option<&(GenerationRecord, Contents)>,
    config: &FilesConfig,
) -> Result<Baseline, StoreError> {
    let mut baseline = Baseline::new(name.to_owned(), bundle);
    let mut expect = |file, digest| baseline.expect(file, config, digest, None);
    expect(PublishedFile::Certificate, sha256(&files.certificate.bytes));
    expect(PublishedFile::Key, sha256(&files.key.bytes));
    expect(PublishedFile::Roots, sha256(&files.roots.bytes));
    if let Some((_, contents)) = record {
        expect(PublishedFile::Record, sha256(&contents.bytes));
    }
    if let Ok((_, Some(digest))) = crls {
        expect(PublishedFile::Crl, *digest);
    }
    let read_already = [
        PublishedFile::Certificate,
        PublishedFile::Key,
        PublishedFile::Roots,
        PublishedFile::Crl,
        PublishedFile::Record,
    ];
    for file in PublishedFile::linked(config, bundle).into_iter().filter(|file| !read_already.contains(file)) {
        match render(file, bundle) {
            Ok(Rendered { bytes, password }) => baseline.expect(file, config, sha256(&bytes), password),
            Err(error) if error.kind() == "password" => {
                tracing::warn!(error = %error_chain(&error), "a keystore stays as it was found");
                if let Ok(found) = generation.read(&file.name(), file.limit()) {
                    baseline.expect(file, config, sha256(&found.bytes), None);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(baseline)
}

/// The roots of other trust domains in a generation. A file that is of no use is as none: it is written anew.
fn read_federated(generation: &Directory) -> Result<BTreeMap<TrustDomain, Vec<CertificateDer<'static>>>, StoreError> {
    let mut domains = BTreeSet::new();
    generation.each_name(|name| {
        if domains.len() < FEDERATED_LIMIT {
            domains.extend(federated_domain(name));
        }
    })?;
    let mut federated = BTreeMap::new();
    for domain in domains {
        let Ok(contents) = generation.read(&federated_name(&domain), FILE_LIMIT) else { continue };
        if let Ok(roots) = certificates_from_pem("roots", &contents.bytes, ROOTS_LIMIT) {
            federated.insert(domain, roots);
        }
    }
    Ok(federated)
}

/// The CRLs beside a certificate, and the digest of their file; none where there is no file.
fn read_crls(directory: &Directory) -> Result<(Vec<Crl>, Option<[u8; 32]>), StoreError> {
    let contents = match directory.read(CRL_FILE, CRL_FILE_LIMIT) {
        Ok(contents) => contents,
        Err(StoreError::Missing { .. }) => return Ok((Vec::new(), None)),
        Err(error) => return Err(error),
    };
    let crls = crls_from_pem(&contents.bytes).map_err(|error| content(directory, CRL_FILE, BundleError::Crl(error)))?;
    Ok((crls, Some(sha256(&contents.bytes))))
}

/// A record that is missing or of no use is as none: the schedule draws anew.
fn read_record(generation: &Directory) -> Option<(GenerationRecord, Contents)> {
    let contents = generation.read(&PublishedFile::Record.name(), RECORD_LIMIT).ok()?;
    let record = serde_json::from_slice(&contents.bytes).ok()?;
    Some((record, contents))
}

struct Files {
    certificate: Contents,
    key: Contents,
    roots: Contents,
}

fn read_files(directory: &Directory) -> Result<Files, StoreError> {
    Ok(Files {
        certificate: directory.read(CERTIFICATE_FILE, FILE_LIMIT)?,
        key: directory.read(KEY_FILE, FILE_LIMIT)?,
        roots: directory.read(ROOTS_FILE, FILE_LIMIT)?,
    })
}

impl Files {
    fn bundle(&self, directory: &Directory) -> Result<CertificateBundle, StoreError> {
        let chain = certificates_from_pem("certificate chain", &self.certificate.bytes, CHAIN_LIMIT)
            .map_err(|error| content(directory, CERTIFICATE_FILE, error))?;
        let roots = certificates_from_pem("roots", &self.roots.bytes, ROOTS_LIMIT)
            .map_err(|error| content(directory, ROOTS_FILE, error))?;
        let key = PrivateKey::from_pem(&self.key.bytes)
            .map_err(|error| content(directory, KEY_FILE, BundleError::Key(error)))?;
        CertificateBundle::new(chain, key, roots).map_err(|error| content(directory, CERTIFICATE_FILE, error))
    }
}

fn content(directory: &Directory, file: &str, source: BundleError) -> StoreError {
    StoreError::Content { path: shown(&directory.path().join(file)), source }
}

fn obstructed_data(directory: &Directory, found: &'static str) -> StoreError {
    StoreError::obstructed(&directory.path().join(DATA_LINK), found)
}

/// Earlier generations stay for a time, so that one attempt is enough unless that time is set to nothing.
const DATA_ATTEMPTS: usize = 64;

const PLAIN_ATTEMPTS: usize = 5;

const PLAIN_PAUSE: Duration = Duration::from_millis(50);

const RECORD_LIMIT: u64 = 4096;

/// The most trust domains beside the own one.
const FEDERATED_LIMIT: usize = 1000;
