//! Owns the order of a publication: everything on disk first, then one rename.

use std::path::Path;

use rustix::fs::{Timespec, Timestamps, UTIME_OMIT, futimens};
use time::OffsetDateTime;

use super::content::{Rendered, render};
use super::directory::Directory;
use super::error::StoreError;
use super::generation::{Staging, new_name, write_file};
use super::layout::{GenerationName, PublishedFile, RECORD_TEMPORARY};
use super::links::{self, DataLink, data_link};
use super::read;
use super::record::GenerationRecord;
use super::verify::Baseline;
use super::{Store, Writer};
use crate::clock::Now;
use crate::config::FilesConfig;
use crate::identity::CertificateBundle;

impl Store {
    /// Makes plain files a generation, unless they are `bundle` already.
    pub(super) fn adopt_plain_files(
        &self,
        writer: &mut Writer,
        directory: &Directory,
        bundle: &CertificateBundle,
        now: Now,
    ) -> Result<(), StoreError> {
        if data_link(directory)? != DataLink::Missing || !links::has_plain_certificate(directory)? {
            return Ok(());
        }
        // Files that do not fit each other have nothing to preserve.
        let Ok(Some(plain)) = read::read_plain_files(directory) else { return Ok(()) };
        if plain.leaf_digest() == bundle.leaf_digest() {
            return Ok(());
        }
        self.write_generation(writer, directory, new_name(now.wall), &plain, None, now)
    }

    /// Writes a generation out of sight, swaps `..data` to it, and sees to the stable links.
    pub(super) fn write_generation(
        &self,
        writer: &mut Writer,
        directory: &Directory,
        name: GenerationName,
        bundle: &CertificateBundle,
        record: Option<&GenerationRecord>,
        now: Now,
    ) -> Result<(), StoreError> {
        let previous = match data_link(directory)? {
            DataLink::Generation(previous) => Some(previous),
            _ => None,
        };
        let staging = Staging::begin(directory, name)?;
        let baseline = self.write_files(&staging, bundle, record)?;
        staging.finish()?;
        if let Some(previous) = &previous {
            stamp(directory, previous, now.wall);
        }
        links::prepare_swap(directory, staging.name().as_str())?;
        self.expected().next = Some(baseline);
        let swapped = links::swap(directory);
        {
            let mut expected = self.expected();
            let next = expected.next.take();
            if swapped.is_ok() {
                expected.current = next;
            }
        }
        swapped?;
        staging.keep();
        if let Some(previous) = previous.as_deref().and_then(GenerationName::parse) {
            writer.superseded.supersede(previous, now);
        }
        directory.sync()?;
        links::ensure_stable_links(directory, &names(&self.config, bundle))
    }

    /// Writes the record of the generation in force anew, without another generation: readers of the certificate have
    /// nothing to see of it.
    pub(super) fn write_record(
        &self,
        directory: &Directory,
        generation: &str,
        record: &GenerationRecord,
    ) -> Result<(), StoreError> {
        let file = PublishedFile::Record;
        let generation_directory = directory.child(generation)?;
        generation_directory.remove_file(RECORD_TEMPORARY)?;
        let bytes = encode(record, &self.config)?;
        let digest = write_file(&generation_directory, RECORD_TEMPORARY, &bytes, file.protection(&self.config))
            .inspect_err(|_| {
                let _ = generation_directory.remove_file(RECORD_TEMPORARY);
            })?;
        generation_directory.rename(RECORD_TEMPORARY, &file.name())?;
        let mut expected = self.expected();
        if let Some(current) = expected.current.as_mut().filter(|current| current.generation == generation) {
            current.expect(file, &self.config, digest, None);
        }
        drop(expected);
        generation_directory.sync()
    }

    /// Puts a generation in force that has roots, CRLs and a record, and neither key nor certificate.
    pub(super) fn write_withdrawal(
        &self,
        writer: &mut Writer,
        directory: &Directory,
        bundle: &CertificateBundle,
        record: &GenerationRecord,
        now: Now,
    ) -> Result<(), StoreError> {
        let previous = match data_link(directory)? {
            DataLink::Generation(previous) => Some(previous),
            _ => None,
        };
        let staging = Staging::begin(directory, new_name(now.wall))?;
        for file in PublishedFile::linked(&self.config, bundle).into_iter().filter(|file| file.is_of_peers()) {
            staging.write(file, &render(file, bundle)?.bytes, file.protection(&self.config))?;
        }
        let file = PublishedFile::Record;
        staging.write(file, &encode(record, &self.config)?, file.protection(&self.config))?;
        staging.finish()?;
        if let Some(previous) = &previous {
            stamp(directory, previous, now.wall);
        }
        links::prepare_swap(directory, staging.name().as_str())?;
        links::swap(directory)?;
        // Nothing to compare with: what is not there cannot be put back.
        *self.expected() = super::Expected::default();
        staging.keep();
        if let Some(previous) = previous.as_deref().and_then(GenerationName::parse) {
            writer.superseded.supersede(previous, now);
        }
        directory.sync()
    }

    fn write_files(
        &self,
        staging: &Staging<'_>,
        bundle: &CertificateBundle,
        record: Option<&GenerationRecord>,
    ) -> Result<Baseline, StoreError> {
        let mut baseline = Baseline::new(staging.name().to_string(), bundle);
        for file in PublishedFile::linked(&self.config, bundle) {
            let Rendered { bytes, password } = render(file, bundle)?;
            let digest = staging.write(file, &bytes, file.protection(&self.config))?;
            baseline.expect(file, &self.config, digest, password);
        }
        if let Some(record) = record {
            let file = PublishedFile::Record;
            let digest = staging.write(file, &encode(record, &self.config)?, file.protection(&self.config))?;
            baseline.expect(file, &self.config, digest, None);
        }
        Ok(baseline)
    }
}

/// The names that have a stable link when `bundle` is published.
pub(super) fn names(config: &FilesConfig, bundle: &CertificateBundle) -> Vec<String> {
    PublishedFile::linked(config, bundle).into_iter().map(|file| file.name().into_owned()).collect()
}

fn encode(record: &GenerationRecord, config: &FilesConfig) -> Result<Vec<u8>, StoreError> {
    let name = PublishedFile::Record.name();
    record.encode(&config.further).map_err(|error| StoreError::io("encode", Path::new(&*name), error))
}

/// Leaves the time on a generation that is about to be superseded, for a process after this one. Where that fails, the
/// time of its making stands.
fn stamp(directory: &Directory, generation: &str, now: OffsetDateTime) {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: now.unix_timestamp(), tv_nsec: 0 },
    };
    if let Ok(generation) = directory.child(generation) {
        let _ = futimens(generation.fd(), &times);
    }
}
