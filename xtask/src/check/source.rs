//! A Rust file as the rules see it: its code without comments and literals, its part before the tests, and
//! the paths it names. A light reader, not a parser: it knows strings, characters, comments and use trees.
#![forbid(unsafe_code)]

/// A file.
pub struct Source {
    /// From the workspace's directory, with `/`.
    pub path: String,
    /// As it stands.
    pub text: String,
    /// Up to the first `#[cfg(test)]` that opens a module, comments and literals blanked out.
    pub code: String,
}

impl Source {
    /// Reads what the rules ask for.
    pub fn new(path: &str, text: String) -> Self {
        let code = without_comments_and_literals(before_tests(&text));
        Source { path: path.into(), text, code }
    }

    /// Lines before the tests.
    pub fn lines(&self) -> usize {
        before_tests(&self.text).lines().count()
    }

    /// The words of the code (identifiers and keywords) with their line numbers.
    pub fn words(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.lines().enumerate().flat_map(|(line, text)| words(text).map(move |word| (line + 1, word)))
    }

    /// Every path that starts with `crate::`, use trees unfolded, as its segments.
    pub fn own_paths(&self) -> Vec<Vec<String>> {
        let tokens = tokens(&self.code);
        let mut paths = Vec::new();
        for (at, token) in tokens.iter().enumerate() {
            if *token == "crate" && tokens.get(at + 1) == Some(&"::") {
                unfold(&tokens, &mut (at + 2), &mut Vec::new(), &mut paths);
            }
        }
        paths
    }
}

fn before_tests(text: &str) -> &str {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let tests = lines.windows(2).position(|pair| {
        pair[0].trim_end() == "#[cfg(test)]"
            && (pair[1].starts_with("mod ") || pair[1].starts_with("pub(crate) mod "))
    });
    let bytes = lines.iter().take(tests.unwrap_or(lines.len())).map(|line| line.len()).sum();
    &text[..bytes]
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter| !is_word(letter)).filter(|word| !word.is_empty())
}

/// Words, `::`, braces, commas and all else as single characters.
fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = if is_word(first) {
            rest.find(|letter| !is_word(letter)).unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        tokens.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    tokens
}

/// Follows a path or use tree from `at`, which is left behind it.
fn unfold(tokens: &[&str], at: &mut usize, prefix: &mut Vec<String>, paths: &mut Vec<Vec<String>>) {
    let depth = prefix.len();
    loop {
        match tokens.get(*at) {
            Some(&"{") => {
                *at += 1;
                while tokens.get(*at).is_some_and(|token| *token != "}") {
                    let before = *at;
                    if tokens[*at] == "as" {
                        *at += 1;
                    } else {
                        unfold(tokens, at, prefix, paths);
                    }
                    // New names, commas, and anything that is no path: step over.
                    if *at == before || tokens[before] == "as" || tokens.get(*at) == Some(&",") {
                        *at += 1;
                    }
                }
                *at += 1;
                break;
            }
            Some(word) if word.starts_with(is_word) => {
                prefix.push((*word).to_owned());
                *at += 1;
                if tokens.get(*at) != Some(&"::") {
                    paths.push(prefix.clone());
                    break;
                }
                *at += 1;
            }
            _ => {
                // `crate::module::*` and the like.
                paths.push(prefix.clone());
                break;
            }
        }
    }
    prefix.truncate(depth);
}

/// Comments and the insides of strings and characters become spaces; lines stay where they are.
fn without_comments_and_literals(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = literal_length(rest, out.chars().next_back());
        match length {
            Some(length) => {
                out.extend(rest[..length].chars().map(|letter| if letter == '\n' { '\n' } else { ' ' }));
                rest = &rest[length..];
            }
            None => {
                out.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    out
}

/// The bytes of the comment or literal that starts here, if one does.
fn literal_length(rest: &str, before: Option<char>) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(block_comment_length(rest));
    }
    if rest.starts_with('"') {
        return Some(quoted_length(rest, '"'));
    }
    let inside_word = before.is_some_and(is_word);
    if !inside_word && let Some(raw) = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r')) {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let start = rest.len() - raw.len() + hashes + 1;
            return Some(rest[start..].find(&end).map_or(rest.len(), |found| start + found + end.len()));
        }
    }
    if let Some(inner) = rest.strip_prefix('\'') {
        // A lifetime has no closing quote after one character.
        let mut letters = inner.char_indices();
        let (_, first) = letters.next()?;
        let closes = letters.next().is_some_and(|(_, second)| second == '\'');
        if first == '\\' || closes {
            return Some(quoted_length(rest, '\''));
        }
    }
    None
}

fn block_comment_length(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

fn quoted_length(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, letter) in rest.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if letter == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_lines_kept() {
        let text = "a // unsafe\n/* unsafe /* in */ unsafe */ b \"unsafe \\\" \n\" c r#\"unsafe\"# 'x' '\\'' <'a> d\n";
        let code = without_comments_and_literals(text);
        assert_eq!(words(&code).collect::<Vec<_>>(), ["a", "b", "c", "a", "d"]);
        assert_eq!(code.lines().count(), text.lines().count());
    }

    #[test]
    fn use_trees_are_unfolded() {
        let text = "use crate::{limits, proto::{self, key::Key as K}, shard};\nfn f() { crate::clock::now() }\n\
                    use crate::worker::*;\nuse std::crate_like;\n";
        let source = Source::new("x.rs", text.into());
        let paths: Vec<String> = source.own_paths().iter().map(|path| path.join("::")).collect();
        assert_eq!(paths, ["limits", "proto::self", "proto::key::Key", "shard", "clock::now", "worker"]);
    }

    #[test]
    fn the_tests_of_a_file_do_not_count() {
        let source =
            Source::new("x.rs", "//! x\nfn a() {}\n#[cfg(test)]\nmod tests {\n unsafe {}\n}\n".into());
        assert_eq!(source.lines(), 2);
        assert!(source.words().all(|(_, word)| word != "unsafe"));
        let other = Source::new("x.rs", "//! x\n#[cfg(test)]\nfn a() {}\nfn b() {}\n".into());
        assert_eq!(other.lines(), 4);
    }
}
