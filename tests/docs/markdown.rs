//! Owns the reading of Markdown: documents, their code blocks, tables and sections.

use std::fs;
use std::path::{Path, PathBuf};

/// One page of the documentation.
pub(crate) struct Document {
    /// Relative to the repository.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// A fenced block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    /// `sh`, `toml`, …; empty where none is given.
    pub(crate) language: String,
    pub(crate) text: String,
}

impl Document {
    /// The page at `path`.
    pub(crate) fn read(path: &str) -> Self {
        let text = fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        Self { path: path.into(), text }
    }

    /// Every page.
    pub(crate) fn all() -> Vec<Self> {
        let mut paths: Vec<PathBuf> =
            ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"].map(PathBuf::from).to_vec();
        paths.extend(["docs", "deploy", "helm"].iter().flat_map(|directory| files_below(directory, &["md"])));
        paths.sort();
        paths.iter().map(|path| Self::read(path.to_str().unwrap())).collect()
    }

    /// Its blocks, in order.
    pub(crate) fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut open: Option<Block> = None;
        for line in self.text.lines() {
            match (line.strip_prefix("```"), &mut open) {
                (Some(language), None) => {
                    open = Some(Block { language: language.to_owned(), text: String::new() });
                }
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (None, Some(block)) => {
                    block.text.push_str(line);
                    block.text.push('\n');
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a block without end", self.path.display());
        blocks
    }

    /// The texts of its blocks in `language`.
    pub(crate) fn blocks_in(&self, language: &str) -> Vec<String> {
        self.blocks().into_iter().filter(|block| block.language == language).map(|block| block.text).collect()
    }

    /// The text outside of blocks.
    pub(crate) fn prose(&self) -> String {
        let mut inside = false;
        let lines = self.text.lines().filter(|line| {
            let fence = line.starts_with("```");
            inside ^= fence;
            !inside && !fence
        });
        lines.fold(String::new(), |text, line| text + line + "\n")
    }

    /// The text from the heading `title` to the next of its level.
    pub(crate) fn section(&self, title: &str) -> String {
        let heading = format!("\n## {title}\n");
        let (_, rest) = self.text.split_once(&heading).unwrap_or_else(|| panic!("no section {title}"));
        rest.split("\n## ").next().unwrap_or_default().to_owned()
    }

    /// The rows of the table whose first header cell is `first`, as cells.
    pub(crate) fn table(&self, first: &str) -> Vec<Vec<String>> {
        let start = format!("| {first} |");
        let mut lines = self.text.lines().skip_while(|line| !line.starts_with(&start));
        assert!(lines.next().is_some(), "{}: no table {start}", self.path.display());
        lines.skip(1).take_while(|line| line.starts_with('|')).map(cells).collect()
    }

    /// What headings are linked by.
    pub(crate) fn anchors(&self) -> Vec<String> {
        let prose = self.prose();
        let titles = prose.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
        titles
            .map(|title| {
                let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
                kept.collect::<String>().to_lowercase().replace(' ', "-")
            })
            .collect()
    }

    /// The texts between single backticks.
    pub(crate) fn code_spans(&self) -> Vec<String> {
        code_spans(&self.prose())
    }
}

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files below `directory` with one of `extensions`, relative to the repository. None where there is no directory.
pub(crate) fn files_below(directory: &str, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![PathBuf::from(directory)];
    while let Some(directory) = directories.pop() {
        let Ok(entries) = fs::read_dir(root().join(&directory)) else { continue };
        for entry in entries.map(Result::unwrap) {
            let path = directory.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|end| extensions.iter().any(|extension| end == *extension)) {
                found.push(path);
            }
        }
    }
    found
}

/// The texts between single backticks.
pub(crate) fn code_spans(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn cells(line: &str) -> Vec<String> {
    let inner = line.trim().trim_start_matches('|').trim_end_matches('|').replace("\\|", "\u{0}");
    inner.split('|').map(|cell| cell.trim().replace('\u{0}', "|")).collect()
}

#[test]
fn blocks_tables_and_anchors_are_found() {
    let text =
        "# A b: `c`\n\n```sh\none\n```\n| x | y |\n| --- | --- |\n| 1 | a \\| b |\n\n## Next\ntext `d`\n".to_owned();
    let document = Document { path: "x.md".into(), text };
    assert_eq!(document.blocks(), [Block { language: "sh".to_owned(), text: "one\n".to_owned() }]);
    assert_eq!(document.table("x"), [["1", "a | b"]]);
    assert_eq!(document.anchors(), ["a-b-c", "next"]);
    assert_eq!(document.section("Next"), "text `d`\n");
    assert_eq!(document.code_spans(), ["c", "d"]);
    assert!(!document.prose().contains("one"));
}
