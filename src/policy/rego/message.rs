//! Owns the translation of regorus's errors, which are drawings of several lines, into one line: file, line, column and
//! what is wrong.

use crate::printable::{FOREIGN_TEXT_LIMIT, printable};

/// `own.rego:3:12: could not find function nofunc`; where there are several places, the first.
pub(super) fn one_line(text: &str) -> String {
    let place = text.lines().find_map(|line| line.trim().strip_prefix("--> "));
    let what = text.lines().find_map(|line| line.trim().strip_prefix("error: "));
    let line = match (place, what) {
        (Some(place), Some(what)) => format!("{place}: {what}"),
        (None, Some(what)) => what.to_owned(),
        (_, None) => text.trim().to_owned(),
    };
    printable(&line, FOREIGN_TEXT_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawing_becomes_one_line_and_other_text_stays() {
        let drawing =
            "\n--> a.rego:3:12\n  |\n3 | x := nofunc(1)\n  |            ^\nerror: could not find function nofunc";
        assert_eq!(one_line(drawing), "a.rego:3:12: could not find function nofunc");
        assert_eq!(one_line("not a valid rule path"), "not a valid rule path");
        assert_eq!(one_line("error: a\u{1b}b"), "a\\u{1b}b");
    }
}
