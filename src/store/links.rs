//! Owns the symbolic links: `..data`, which names the generation in force, and the stable links through it.

use super::directory::{Directory, Entry};
use super::error::StoreError;
use super::layout::{CrlFile, DATA_LINK, DATA_TEMPORARY, PublishedFile, is_generation_beside};

/// What `..data` is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DataLink {
    Missing,
    /// A link to a generation beside it.
    Generation(String),
    /// Something else that a rename replaces: a file, or a link that leads elsewhere. Never followed.
    Foreign,
    /// A directory, which a rename does not replace.
    Directory,
}

/// What a stable link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StableLink {
    Ours,
    Missing,
    /// A file, as the tools before this one wrote it.
    PlainFile,
    /// A link that leads elsewhere, or a special file.
    Foreign,
    Directory,
}

pub(super) fn data_link(directory: &Directory) -> Result<DataLink, StoreError> {
    Ok(match directory.entry(DATA_LINK)? {
        Entry::Missing => DataLink::Missing,
        Entry::Link(target) if is_generation_beside(&target) => DataLink::Generation(target),
        Entry::Link(_) | Entry::File | Entry::Other => DataLink::Foreign,
        Entry::Directory => DataLink::Directory,
    })
}

pub(super) fn stable_link(directory: &Directory, file: PublishedFile) -> Result<StableLink, StoreError> {
    Ok(match directory.entry(file.name())? {
        Entry::Missing => StableLink::Missing,
        Entry::Link(target) if target == file.link_target() => StableLink::Ours,
        Entry::Link(_) | Entry::Other => StableLink::Foreign,
        Entry::File => StableLink::PlainFile,
        Entry::Directory => StableLink::Directory,
    })
}

/// Whether every link can be put in place: nothing in the way that a rename does not replace.
pub(super) fn check_obstructions(directory: &Directory, crl: CrlFile) -> Result<(), StoreError> {
    let obstructed = |name| Err(StoreError::obstructed(&directory.path().join(name), "a directory"));
    if data_link(directory)? == DataLink::Directory {
        return obstructed(DATA_LINK);
    }
    for file in PublishedFile::LINKED.into_iter().filter(|file| file.belongs(crl)) {
        if stable_link(directory, file)? == StableLink::Directory {
            return obstructed(file.name());
        }
    }
    Ok(())
}

/// Makes `..data` in readiness to be swapped, and waits until the directory is on disk: the generation's name too.
pub(super) fn prepare_swap(directory: &Directory, generation: &str) -> Result<(), StoreError> {
    directory.make_link(DATA_TEMPORARY, generation)?;
    directory.sync()
}

/// The one step by which readers pass from one generation to the next.
pub(super) fn swap(directory: &Directory) -> Result<(), StoreError> {
    directory.rename(DATA_TEMPORARY, DATA_LINK).inspect_err(|_| {
        let _ = directory.remove_file(DATA_TEMPORARY);
    })
}

/// Puts the stable links in place where they are not, each in one step, replacing files of the same names. One to a CRL
/// that there is no longer is removed.
pub(super) fn ensure_stable_links(directory: &Directory, crl: CrlFile) -> Result<(), StoreError> {
    let mut changed = false;
    for file in PublishedFile::LINKED {
        if !file.belongs(crl) {
            if stable_link(directory, file)? == StableLink::Ours {
                directory.remove_file(file.name())?;
                changed = true;
            }
        } else if stable_link(directory, file)? != StableLink::Ours {
            directory.make_link(file.link_temporary(), &file.link_target())?;
            directory.rename(file.link_temporary(), file.name()).inspect_err(|_| {
                let _ = directory.remove_file(file.link_temporary());
            })?;
            changed = true;
        }
    }
    if changed { directory.sync() } else { Ok(()) }
}
