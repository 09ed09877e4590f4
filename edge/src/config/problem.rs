//! What is wrong with a configuration file and where: `file:line:col: what; what would be right`.
//! Never decides what is right; that is in `read` and `value`.
#![forbid(unsafe_code)]

use std::fmt;
use std::ops::Range;

/// Problems listed for one file; a file with more is cut off here.
pub const PROBLEMS_MAX: usize = 20;

/// One mistake and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub col: usize,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// Everything that is wrong with one file, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    /// The file as the operator named it.
    pub file: String,
    /// At least one.
    pub list: Vec<Problem>,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, p) in self.list.iter().enumerate() {
            let newline = if i == 0 { "" } else { "\n" };
            write!(f, "{newline}{}:{}:{}: {}", self.file, p.line, p.col, p.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl Problems {
    /// A file with a single problem.
    pub(super) fn one(file: &str, (line, col): (usize, usize), message: String) -> Self {
        Problems { file: file.into(), list: vec![Problem { line, col, message }] }
    }
}

/// Line and column of a byte offset. Offsets past the end count as the end.
pub(super) fn position(text: &str, offset: usize) -> (usize, usize) {
    let end = text.floor_char_boundary(offset.min(text.len()));
    let before = &text[..end];
    let line_start = before.rfind('\n').map_or(0, |i| i + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// Collects problems by byte range while a text is read.
pub(super) struct Sink {
    text: Box<str>,
    list: Vec<(usize, String)>,
    warnings: Vec<(usize, String)>,
}

impl Sink {
    pub(super) fn new(text: &str) -> Self {
        Sink { text: text.into(), list: Vec::new(), warnings: Vec::new() }
    }

    pub(super) fn report(&mut self, span: &Range<usize>, message: String) {
        self.list.push((span.start, message));
    }

    /// What is no mistake, and should be known all the same.
    pub(super) fn warn(&mut self, span: &Range<usize>, message: String) {
        self.warnings.push((span.start, message));
    }

    /// `file:line:col: what; what would be right`, one each.
    pub(super) fn warnings(&self, file: &str) -> Vec<String> {
        let line = |(start, message): &(usize, String)| {
            let (line, col) = position(&self.text, *start);
            format!("{file}:{line}:{col}: {message}")
        };
        self.warnings.iter().map(line).collect()
    }

    pub(super) fn line(&self, offset: usize) -> usize {
        position(&self.text, offset).0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn into_problems(mut self, file: &str) -> Problems {
        self.list.sort_by_key(|(start, _)| *start);
        self.list.truncate(PROBLEMS_MAX);
        let problem = |(start, message)| {
            let (line, col) = position(&self.text, start);
            Problem { line, col, message }
        };
        Problems { file: file.into(), list: self.list.into_iter().map(problem).collect() }
    }
}

/// The candidate that was probably meant, if one is close enough to be worth saying.
pub(super) fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    // Distance is quadratic in the lengths, and a word this long is no typing mistake.
    if word.chars().count() > 64 {
        return None;
    }
    let scored = candidates.into_iter().map(|c| (distance(word, c), c));
    let (distance, candidate) = scored.min()?;
    (distance <= 1 + candidate.chars().count() / 4).then_some(candidate)
}

/// Levenshtein distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters_not_bytes() {
        assert_eq!(position("", 0), (1, 1));
        assert_eq!(position("ab\ncd", 4), (2, 2));
        assert_eq!(position("é = x", "é = ".len()), (1, 5));
        assert_eq!(position("é", 1), (1, 1), "inside a character counts as its start");
        assert_eq!(position("a\n", 99), (2, 1));
    }

    #[test]
    fn nearest_suggests_only_what_is_near() {
        assert_eq!(nearest("mian", ["main", "images"]), Some("main"));
        assert_eq!(nearest("sotre", ["store", "routes"]), Some("store"));
        assert_eq!(nearest("zzzz", ["main", "images"]), None);
        assert_eq!(nearest("x", []), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
