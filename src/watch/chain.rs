//! Owns which names a path leads through: every symbolic link on the way, and the end.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// What stands at a path whose directory has no links in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    Missing,
    Link(PathBuf),
    Present,
}

/// Adds to `points` each symbolic link that the absolute `path` leads through, and its end, or else the first name that
/// is missing; without links in their directories. A change of what is behind `path` is a change at one of these.
pub(super) fn trace(path: &Path, look: &impl Fn(&Path) -> Seen, points: &mut BTreeSet<PathBuf>) {
    let mut ahead = Vec::new();
    push(&mut ahead, path);
    let mut at = PathBuf::from("/");
    let mut links = 0;
    while let Some(step) = ahead.pop() {
        let name = match step {
            Step::Root => {
                at = PathBuf::from("/");
                continue;
            }
            Step::Up => {
                at.pop();
                continue;
            }
            Step::Down(name) => name,
        };
        let next = at.join(name);
        match look(&next) {
            Seen::Missing => {
                points.insert(next);
                return;
            }
            Seen::Link(target) => {
                points.insert(next);
                links += 1;
                if links > LINK_LIMIT || ahead.len() > STEP_LIMIT {
                    return;
                }
                push(&mut ahead, &target);
            }
            Seen::Present => {
                at.clone_from(&next);
                if ahead.is_empty() {
                    points.insert(next);
                }
            }
        }
    }
}

/// What stands at `path` on disk. What cannot be examined is as missing: its coming is a change.
pub(super) fn look(path: &Path) -> Seen {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_symlink() => path.read_link().map_or(Seen::Missing, Seen::Link),
        Ok(_) => Seen::Present,
        Err(_) => Seen::Missing,
    }
}

enum Step {
    Root,
    Up,
    Down(OsString),
}

fn push(ahead: &mut Vec<Step>, path: &Path) {
    for component in path.components().rev() {
        match component {
            Component::RootDir => ahead.push(Step::Root),
            Component::ParentDir => ahead.push(Step::Up),
            Component::Normal(name) => ahead.push(Step::Down(name.to_owned())),
            Component::CurDir | Component::Prefix(_) => {}
        }
    }
}

/// As many as the kernel follows.
const LINK_LIMIT: usize = 40;

/// More than the longest path has.
const STEP_LIMIT: usize = 4096;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn points(path: &str, entries: &BTreeMap<PathBuf, Seen>) -> BTreeSet<PathBuf> {
        let mut points = BTreeSet::new();
        let look = |path: &Path| entries.get(path).cloned().unwrap_or(Seen::Missing);
        trace(Path::new(path), &look, &mut points);
        points
    }

    fn entries(list: &[(&str, &str)]) -> BTreeMap<PathBuf, Seen> {
        let seen = |target: &str| if target.is_empty() { Seen::Present } else { Seen::Link(target.into()) };
        list.iter().map(|(path, target)| (PathBuf::from(path), seen(target))).collect()
    }

    #[test]
    fn a_path_through_data_is_followed_to_the_generation() {
        let entries = entries(&[
            ("/etc", ""),
            ("/etc/certs", "../mnt"),
            ("/mnt", ""),
            ("/mnt/client.crt", "..data/client.crt"),
            ("/mnt/..data", "..2026"),
            ("/mnt/..2026", ""),
            ("/mnt/..2026/client.crt", ""),
        ]);
        let expected = ["/etc/certs", "/mnt/..2026/client.crt", "/mnt/..data", "/mnt/client.crt"];
        assert_eq!(points("/etc/certs/client.crt", &entries), expected.map(PathBuf::from).into());
    }

    #[test]
    fn the_first_missing_name_is_the_end() {
        let entries = entries(&[("/run", "")]);
        assert_eq!(points("/run/a/b", &entries), [PathBuf::from("/run/a")].into());
    }

    proptest! {
        #[test]
        fn ends_on_any_tangle_of_links(
            links in proptest::collection::btree_map("[ab]", "(/?(\\.\\./)?[ab](/[ab]){0,3})?", 0..3),
            path in "(/[ab]){1,5}",
        ) {
            let entries = links
                .into_iter()
                .map(|(name, target)| {
                    let seen = if target.is_empty() { Seen::Present } else { Seen::Link(target.into()) };
                    (PathBuf::from(format!("/{name}")), seen)
                })
                .collect();
            let points = points(&path, &entries);
            prop_assert!(!points.is_empty() && points.iter().all(|point| point.is_absolute()));
        }
    }
}
