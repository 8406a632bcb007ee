//! Owns the reading of a policy directory: which files belong to the set, how large it may be, and its digest.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use super::RegoError;
use crate::bounded::read_file;
use crate::crypto::{sha256, sha256_text};
use crate::printable::printable;

/// The files of a set, as they were at one moment. A directory with `..data` in it, as the kubelet makes it, is read
/// through that link once, so that a swap in between does not mix two sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyFiles {
    /// `*.rego`, in the order of their names.
    pub policies: Vec<SourceFile>,
    /// `*_test.rego`: for tests alone, no part of the set in force.
    pub tests: Vec<SourceFile>,
    /// `*.json`, `*.yaml`, `*.yml`: merged into `data`.
    pub data: Vec<SourceFile>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Its name without the directory; printable.
    pub name: String,
    /// What is in it.
    pub text: String,
}

impl PolicyFiles {
    /// Reads the directory, not what is below it. Blocks on the file system.
    ///
    /// # Errors
    /// When it or a file cannot be read, has too much in it, is not UTF-8, or has directories in it.
    pub fn read(directory: &Path) -> Result<Self, RegoError> {
        let fail = |source| RegoError::Directory { path: directory.to_owned(), source };
        let generation = directory.join("..data");
        let directory =
            if generation.exists() { generation.canonicalize().map_err(fail)? } else { directory.to_owned() };
        let mut paths = Vec::new();
        for entry in fs::read_dir(&directory).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            let Some(part) = Part::of(&path) else { continue };
            paths.push((part, path));
            if paths.len() > FILES_LIMIT {
                return Err(RegoError::TooMany { path: directory, limit: FILES_LIMIT });
            }
        }
        paths.sort_by(|(_, one), (_, other)| one.cmp(other));
        let mut files = Self { policies: Vec::new(), tests: Vec::new(), data: Vec::new() };
        let mut left = SIZE_LIMIT;
        for (part, path) in paths {
            let file = read(&path, left)?;
            left -= file.text.len() as u64;
            match part {
                Part::Policy => files.policies.push(file),
                Part::Test => files.tests.push(file),
                Part::Data => files.data.push(file),
                Part::Directory => return Err(RegoError::Nested(path)),
            }
        }
        Ok(files)
    }

    /// SHA-256 over names and contents of what is in force: `sha256:` and 64 hexadecimal digits.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut bytes = Vec::new();
        for file in self.policies.iter().chain(&self.data) {
            for part in [&file.name, &file.text] {
                bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
                bytes.extend_from_slice(part.as_bytes());
            }
        }
        sha256_text(&sha256(&bytes))
    }
}

/// What a directory's entry is to a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Policy,
    Test,
    Data,
    /// Not read, and so not to be mistaken for a part.
    Directory,
}

impl Part {
    /// By name; `None` for what is hidden or none of ours.
    fn of(path: &Path) -> Option<Self> {
        let name = path.file_name().and_then(OsStr::to_str)?;
        if name.starts_with('.') {
            return None;
        }
        match path.extension().and_then(OsStr::to_str) {
            Some("rego") if name.ends_with("_test.rego") => Some(Self::Test),
            Some("rego") => Some(Self::Policy),
            Some("json" | "yaml" | "yml") => Some(Self::Data),
            _ => path.is_dir().then_some(Self::Directory),
        }
    }
}

fn read(path: &Path, left: u64) -> Result<SourceFile, RegoError> {
    if path.is_dir() {
        return Err(RegoError::Nested(path.to_owned()));
    }
    let content = read_file(path, left)?;
    let text = std::str::from_utf8(&content).map_err(|_| RegoError::NotUtf8(path.to_owned()))?.to_owned();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(SourceFile { name: printable(&name, 255), text })
}

/// The most files of a set.
const FILES_LIMIT: usize = 200;

/// The most bytes of all files of a set together.
const SIZE_LIMIT: u64 = 4 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn names(files: &[SourceFile]) -> Vec<&str> {
        files.iter().map(|file| file.name.as_str()).collect()
    }

    #[test]
    fn files_are_parted_by_their_names_and_others_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["b.rego", "a.rego", "a_test.rego", "data.json", "more.yaml", ".hidden.rego", "README.md"] {
            fs::write(directory.path().join(name), name).unwrap();
        }
        let files = PolicyFiles::read(directory.path()).unwrap();
        assert_eq!(names(&files.policies), ["a.rego", "b.rego"]);
        assert_eq!(names(&files.tests), ["a_test.rego"]);
        assert_eq!(names(&files.data), ["data.json", "more.yaml"]);
    }

    #[test]
    fn the_digest_tells_every_change_of_what_is_in_force_and_none_of_tests() {
        let file = |name: &str, text: &str| SourceFile { name: name.to_owned(), text: text.to_owned() };
        let set = |policies: Vec<SourceFile>, tests| PolicyFiles { policies, tests, data: Vec::new() }.digest();
        let one = set(vec![file("a", "bc")], Vec::new());
        assert_eq!(one, set(vec![file("a", "bc")], vec![file("t", "")]));
        let others = [vec![file("ab", "c")], vec![file("a", "b"), file("c", "")], vec![file("a", "bd")], Vec::new()];
        for other in others {
            assert_ne!(one, set(other, Vec::new()));
        }
    }

    #[test]
    fn a_set_of_the_kubelet_is_read_through_its_link() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("..1")).unwrap();
        fs::write(at("..1/a.rego"), "one").unwrap();
        std::os::unix::fs::symlink("..1", at("..data")).unwrap();
        std::os::unix::fs::symlink("..data/a.rego", at("a.rego")).unwrap();
        // Left over from an earlier generation.
        std::os::unix::fs::symlink("..data/b.rego", at("b.rego")).unwrap();
        assert_eq!(PolicyFiles::read(directory.path()).unwrap().policies[0].text, "one");
    }

    #[test]
    fn what_is_too_large_too_many_below_or_no_text_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.rego");
        fs::write(&path, vec![b'#'; 4 * 1024 * 1024 + 1]).unwrap();
        assert!(matches!(PolicyFiles::read(directory.path()), Err(RegoError::File(_))));
        fs::write(&path, [0xff]).unwrap();
        assert!(matches!(PolicyFiles::read(directory.path()), Err(RegoError::NotUtf8(_))));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(PolicyFiles::read(directory.path()), Err(RegoError::Nested(_))));
        fs::remove_dir(&path).unwrap();
        fs::create_dir(directory.path().join("more")).unwrap();
        assert!(matches!(PolicyFiles::read(directory.path()), Err(RegoError::Nested(_))));
        fs::remove_dir(directory.path().join("more")).unwrap();
        for number in 0..=200 {
            fs::write(directory.path().join(format!("{number}.rego")), "").unwrap();
        }
        assert!(matches!(PolicyFiles::read(directory.path()), Err(RegoError::TooMany { limit: 200, .. })));
        assert!(matches!(PolicyFiles::read(Path::new("/nowhere")), Err(RegoError::Directory { .. })));
    }
}
