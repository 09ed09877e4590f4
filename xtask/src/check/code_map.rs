//! The README's code map against the tree: it names every module that exists and none that does not.
#![forbid(unsafe_code)]

use super::source::Source;
use std::collections::BTreeSet;

/// The heading under which the map stands, in lower case.
const HEADING: &str = "code map";
/// Folders whose modules the map must name.
const MAPPED: &[&str] = &["edge/src/", "edge-ebpf/src/", "xtask/src/", "benches/src/"];

/// Everything wrong with the map.
pub fn problems(readme: &str, sources: &[Source]) -> Vec<String> {
    let Some(map) = section(readme) else {
        return vec!["README.md: no heading `Code map`: it must name every module".into()];
    };
    let named = names(map);
    let exist: BTreeSet<String> = sources.iter().flat_map(|source| modules(&source.path)).collect();
    let missing = exist.iter().filter(|module| !named.iter().any(|name| is_of(name, module)));
    let mut problems: Vec<String> =
        missing.map(|module| format!("README.md: the code map does not name `{module}`")).collect();
    let gone = named.iter().filter(|name| {
        let is_file = name.ends_with(".rs") && !name.ends_with("/mod.rs");
        is_file
            && !sources
                .iter()
                .any(|source| source.path.ends_with(&format!("/{name}")) || source.path == **name)
    });
    problems.extend(gone.map(|name| format!("README.md: the code map names `{name}`, which does not exist")));
    problems
}

/// The lines under the heading up to the next of the same or a higher level.
fn section(readme: &str) -> Option<&str> {
    let mut start = None;
    let mut level = 0;
    let mut at = 0;
    let mut is_code = false;
    for line in readme.split_inclusive('\n') {
        is_code ^= line.starts_with("```");
        let hashes = line.len() - line.trim_start_matches('#').len();
        if hashes > 0 && !is_code {
            match start {
                Some(start) if hashes <= level => return readme.get(start..at),
                None if line[hashes..].trim().to_lowercase().contains(HEADING) => {
                    start = Some(at + line.len());
                    level = hashes;
                }
                _ => {}
            }
        }
        at += line.len();
    }
    readme.get(start?..)
}

/// Words that may be module names: letters, digits, `_`, `-`, `/` and `.`.
fn names(map: &str) -> BTreeSet<&str> {
    let is_name = |letter: char| letter.is_alphanumeric() || "_-/.".contains(letter);
    let words = map.split(|letter| !is_name(letter)).map(|word| word.trim_matches('.'));
    words.filter(|word| !word.is_empty()).collect()
}

/// Whether a name in the map means that module: `key`, `key.rs`, `key/`, or a path that ends so.
fn is_of(name: &str, module: &str) -> bool {
    let last = name.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    last.strip_suffix(".rs").unwrap_or(last) == module
}

/// The modules a path stands for: its folders and its file, without roots of crates and folders, and without
/// tests, which stand beside what they test.
fn modules(path: &str) -> Vec<String> {
    let Some(inner) = MAPPED.iter().find_map(|folder| path.strip_prefix(folder)) else { return Vec::new() };
    if inner.split('/').any(|part| part == "tests" || part == "tests.rs") {
        return Vec::new();
    }
    let parts = inner.trim_end_matches(".rs").split('/').filter(|part| !["mod", "lib"].contains(part));
    parts.map(String::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(map: &str) -> Vec<String> {
        let paths = [
            "edge/src/lib.rs",
            "edge/src/clock.rs",
            "edge/src/proto/mod.rs",
            "edge/src/proto/key.rs",
            "edge/src/proto/tests/long.rs",
        ];
        let sources: Vec<Source> = paths.map(|path| Source::new(path, "//! x\n".into())).into();
        problems(&format!("# edge\nclock.rs\n## Code map\n{map}\n## Next\nkey proto\n"), &sources)
    }

    #[test]
    fn the_map_names_what_exists_and_nothing_else() {
        assert_eq!(check("```\nclock.rs  time\nproto/    key\n```"), Vec::<String>::new());
        assert_eq!(check("```\n# edge\nclock.rs  proto/ (key)\n```"), Vec::<String>::new());
        assert_eq!(check("clock.rs proto/"), ["README.md: the code map does not name `key`"]);
        let gone = check("clock.rs proto/key.rs proto/ old.rs");
        assert_eq!(gone, ["README.md: the code map names `old.rs`, which does not exist"]);
        assert_eq!(problems("# edge\n", &[]).len(), 1);
    }
}
