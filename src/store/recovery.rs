//! Owns what is put right when a directory is taken over: remains of a write that was cut short, a lost `..data`.

use rustix::fs::FileType;
use time::OffsetDateTime;

use super::directory::Directory;
use super::error::StoreError;
use super::generation::remove_generation;
use super::layout::{CRL_FILE, DATA_TEMPORARY, GenerationName, PublishedFile, federated_domain, is_link_temporary};
use super::links::{DataLink, data_link, ensure_stable_links, prepare_swap, swap};
use crate::config::FilesConfig;

/// A generation of this program in the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) name: GenerationName,
    /// Whether all of it was on disk once; one that was not has never been in force.
    pub(super) finished: bool,
    /// When it was superseded, by the wall clock of that time; for one in force, when it was made.
    pub(super) modified: OffsetDateTime,
}

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Recovery {
    /// Generations that were never in force.
    pub(super) remove: Vec<GenerationName>,
    /// The generation that `..data` is to name again.
    pub(super) relink: Option<GenerationName>,
}

/// Decides on `found`, given `..data`. The generation in force is never removed. When `..data` is lost, the latest
/// finished generation by name takes its place.
pub(super) fn plan(found: &[Found], data: &DataLink) -> Recovery {
    let in_force = |name: &GenerationName| matches!(data, DataLink::Generation(target) if target == name.as_str());
    let lost = match data {
        DataLink::Missing | DataLink::Foreign => true,
        // A link to nothing; one to a directory that is not of this program is as it should be.
        DataLink::Generation(target) => {
            GenerationName::parse(target).is_some_and(|target| !found.iter().any(|found| found.name == target))
        }
        DataLink::Directory => false,
    };
    let latest = || found.iter().filter(|found| found.finished).map(|found| &found.name).max().cloned();
    Recovery {
        remove: found
            .iter()
            .filter(|found| !found.finished && !in_force(&found.name))
            .map(|found| found.name.clone())
            .collect(),
        relink: if lost { latest() } else { None },
    }
}

/// Puts the directory right. What cannot be removed now is tried again with the next sweep.
pub(super) fn recover(directory: &Directory, config: &FilesConfig) -> Result<(), StoreError> {
    let mut temporaries = vec![DATA_TEMPORARY.to_owned()];
    directory.each_name(|name| {
        if is_link_temporary(name) && temporaries.len() < LIST_LIMIT {
            temporaries.push(name.to_owned());
        }
    })?;
    for temporary in temporaries {
        let _ = directory.remove_file(&temporary);
    }
    let recovery = plan(&list_generations(directory)?, &data_link(directory)?);
    for name in &recovery.remove {
        let _ = remove_generation(directory, name);
    }
    if let Some(name) = &recovery.relink {
        prepare_swap(directory, name.as_str())?;
        swap(directory)?;
        directory.sync()?;
    }
    match data_link(directory)? {
        DataLink::Generation(name) => match directory.child(&name) {
            Ok(generation) => ensure_stable_links(directory, &linked_names(&generation, config)?),
            Err(_) => Ok(()),
        },
        _ => Ok(()),
    }
}

/// The names that have a stable link where this generation is in force.
fn linked_names(generation: &Directory, config: &FilesConfig) -> Result<Vec<String>, StoreError> {
    let further: Vec<&str> = config.further.iter().map(|file| file.name.as_str()).chain([CRL_FILE]).collect();
    let mut names: Vec<String> = PublishedFile::ALWAYS.iter().map(|file| file.name().into_owned()).collect();
    generation.each_name(|name| {
        if (further.contains(&name) || federated_domain(name).is_some()) && names.len() < LIST_LIMIT {
            names.push(name.to_owned());
        }
    })?;
    Ok(names)
}

/// The generations of this program; real directories only.
pub(super) fn list_generations(directory: &Directory) -> Result<Vec<Found>, StoreError> {
    let mut names = Vec::new();
    directory.each_name(|name| {
        if let (Some(name), true) = (GenerationName::parse(name), names.len() < LIST_LIMIT) {
            names.push(name);
        }
    })?;
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        if let Some(stat) = directory.stat(name.as_str())?
            && FileType::from_raw_mode(stat.st_mode) == FileType::Directory
        {
            let modified = OffsetDateTime::from_unix_timestamp(stat.st_mtime).unwrap_or(OffsetDateTime::UNIX_EPOCH);
            found.push(Found { name, finished: stat.st_mode & 0o077 != 0, modified });
        }
    }
    Ok(found)
}

/// More than are made in a day; the rest is seen once these are gone.
const LIST_LIMIT: usize = 10_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(number: u64) -> GenerationName {
        GenerationName::new(OffsetDateTime::UNIX_EPOCH, number)
    }

    fn found(number: u64, finished: bool) -> Found {
        Found { name: name(number), finished, modified: OffsetDateTime::UNIX_EPOCH }
    }

    fn any_data() -> impl Strategy<Value = DataLink> {
        prop_oneof![
            Just(DataLink::Missing),
            Just(DataLink::Foreign),
            Just(DataLink::Directory),
            (0_u64..12).prop_map(|number| DataLink::Generation(name(number).as_str().to_owned())),
            Just(DataLink::Generation("..2026_01_01_00_00_00.123".to_owned())),
        ]
    }

    proptest! {
        #[test]
        fn only_what_was_never_in_force_is_removed(
            generations in proptest::collection::btree_map(0_u64..10, any::<bool>(), 0..10),
            data in any_data(),
        ) {
            let found: Vec<Found> =
                generations.into_iter().map(|(number, finished)| found(number, finished)).collect();
            let recovery = plan(&found, &data);
            for removed in &recovery.remove {
                let found = found.iter().find(|found| found.name == *removed).unwrap();
                prop_assert!(!found.finished);
                prop_assert_ne!(&data, &DataLink::Generation(removed.as_str().to_owned()));
            }
            if let Some(relinked) = &recovery.relink {
                prop_assert!(found.iter().any(|found| found.name == *relinked && found.finished));
                if let DataLink::Generation(target) = &data {
                    prop_assert!(!found.iter().any(|found| found.name.as_str() == target));
                }
            }
            let any_finished = found.iter().any(|found| found.finished);
            if matches!(data, DataLink::Missing | DataLink::Foreign) {
                prop_assert_eq!(recovery.relink.is_some(), any_finished);
            }
        }
    }

    #[test]
    fn the_latest_takes_the_place_of_a_lost_link() {
        let found = [3, 7, 5].map(|number| found(number, number != 7));
        let recovery = plan(&found, &DataLink::Missing);
        assert_eq!(recovery, Recovery { remove: vec![name(7)], relink: Some(name(5)) });
    }
}
