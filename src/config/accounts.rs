//! Owns the look-up of user and group names, in the system's plain files; directory services are not asked.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The number of the user or group that `text` names: the number itself, or a name looked up in `file`, which has the
/// form of passwd(5) or group(5).
///
/// # Errors
/// The text says what was expected.
pub(super) fn account(text: &str, file: &Path) -> Result<u32, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // The highest number means "leave as it is" to chown(2).
        let number = text.parse().ok().filter(|number| *number != u32::MAX);
        return number.ok_or_else(|| format!("a number below {}", u32::MAX));
    }
    let mut table = String::new();
    let read = File::open(file).and_then(|opened| opened.take(SIZE_LIMIT).read_to_string(&mut table));
    if read.is_err() {
        return Err(format!("a number, since {} cannot be read here", file.display()));
    }
    let number = table.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next()? == text;
        fields.next().filter(|_| found)?;
        fields.next()?.parse().ok()
    });
    number.ok_or_else(|| format!("a number, or a name in {}", file.display()))
}

/// The most of an account file that is read, in bytes.
const SIZE_LIMIT: u64 = 4 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_up_and_numbers_taken() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("passwd");
        std::fs::write(&file, "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/:/bin/sh\nbroken\n").unwrap();
        assert_eq!(account("app", &file), Ok(1000));
        assert_eq!(account("root", &file), Ok(0));
        assert_eq!(account("4242", &file), Ok(4242));
        for bad in ["broken", "nobody", "", "app:x", "-1", "4294967295", "99999999999"] {
            assert!(account(bad, &file).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_missing_file_asks_for_a_number() {
        let error = account("app", Path::new("/nonexistent/passwd")).unwrap_err();
        assert_eq!(error, "a number, since /nonexistent/passwd cannot be read here");
    }
}
