//! Owns the symbolic links: `..data`, which names the generation in force, and the stable links through it.

use super::directory::{Directory, Entry};
use super::error::StoreError;
use super::layout::{CERTIFICATE_FILE, DATA_LINK, DATA_TEMPORARY, is_generation_beside, link_target, link_temporary};

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

pub(super) fn stable_link(directory: &Directory, name: &str) -> Result<StableLink, StoreError> {
    Ok(match directory.entry(name)? {
        Entry::Missing => StableLink::Missing,
        Entry::Link(target) if target == link_target(name) => StableLink::Ours,
        Entry::Link(_) | Entry::Other => StableLink::Foreign,
        Entry::File => StableLink::PlainFile,
        Entry::Directory => StableLink::Directory,
    })
}

/// Whether every link of these names can be put in place: nothing in the way that a rename does not replace.
pub(super) fn check_obstructions(directory: &Directory, names: &[String]) -> Result<(), StoreError> {
    let obstructed = |name| Err(StoreError::obstructed(&directory.path().join(name), "a directory"));
    if data_link(directory)? == DataLink::Directory {
        return obstructed(DATA_LINK);
    }
    for name in names {
        if stable_link(directory, name)? == StableLink::Directory {
            return obstructed(name);
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

/// Puts the stable links of these names in place where they are not, each in one step, replacing files of the same names.
/// Those to files that there are no longer are removed.
pub(super) fn ensure_stable_links(directory: &Directory, names: &[String]) -> Result<(), StoreError> {
    let mut changed = false;
    for name in names {
        if stable_link(directory, name)? != StableLink::Ours {
            let temporary = link_temporary(name);
            directory.make_link(&temporary, &link_target(name))?;
            directory.rename(&temporary, name).inspect_err(|_| {
                let _ = directory.remove_file(&temporary);
            })?;
            changed = true;
        }
    }
    for name in stray_links(directory, names)? {
        directory.remove_file(&name)?;
        changed = true;
    }
    if changed { directory.sync() } else { Ok(()) }
}

/// The stable links, by their form, of other names than these.
pub(super) fn stray_links(directory: &Directory, names: &[String]) -> Result<Vec<String>, StoreError> {
    let mut others = Vec::new();
    directory.each_name(|name| {
        if !name.starts_with('.') && others.len() < STRAY_LIMIT && !names.iter().any(|known| known == name) {
            others.push(name.to_owned());
        }
    })?;
    let mut stray = Vec::new();
    for name in others {
        if stable_link(directory, &name)? == StableLink::Ours {
            stray.push(name);
        }
    }
    Ok(stray)
}

/// Whether plain files stand where the links belong.
pub(super) fn has_plain_certificate(directory: &Directory) -> Result<bool, StoreError> {
    Ok(stable_link(directory, CERTIFICATE_FILE)? == StableLink::PlainFile)
}

/// More names than a certificate directory has.
const STRAY_LIMIT: usize = 1000;
