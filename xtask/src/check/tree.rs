//! The rules of a single file. Each is a function from a file to its problems; which files it binds stands
//! in its first lines.
#![forbid(unsafe_code)]

use super::source::Source;

/// Lines of a file without its tests.
const LINES_MAX: usize = 500;
/// Names that say nothing about what is inside.
const BANNED_NAMES: &[&str] = &["core", "utils", "util", "common", "helpers", "helper", "misc"];
/// Modules that touch no memory but by safe Rust.
const PURE: &[&str] = &["proto", "control", "config", "limits", "stats", "clock"];
/// Where `unsafe` may stand, each with its SAFETY sentence (clippy sees to that).
const UNSAFE_ALLOWED: &[&str] = &["edge/src/sys/", "edge-ebpf/", "benches/"];

/// Everything wrong with a file.
pub fn problems(source: &Source) -> Vec<String> {
    let rules =
        [header, length, forbids_unsafe, no_unsafe, proto_is_pure, worker_and_control, no_tokio, names];
    rules.iter().flat_map(|rule| rule(source)).collect()
}

fn is_test(source: &Source) -> bool {
    source.path.contains("/tests/") || source.path.contains("/fuzz/")
}

/// Whether the file belongs to that module of edge.
fn belongs(source: &Source, module: &str) -> bool {
    let path = source.path.strip_prefix("edge/src/").unwrap_or_default();
    path == format!("{module}.rs") || path.starts_with(&format!("{module}/"))
}

fn header(source: &Source) -> Vec<String> {
    let says = source.text.starts_with("//! ");
    problem(!says, source, 1, "starts without `//!`: say what lives here and what never does")
}

fn length(source: &Source) -> Vec<String> {
    let lines = source.lines();
    let long = lines > LINES_MAX && !is_test(source);
    problem(long, source, lines, &format!("{lines} lines, more than {LINES_MAX}: split it by what it knows"))
}

fn forbids_unsafe(source: &Source) -> Vec<String> {
    let bound = PURE.iter().any(|module| belongs(source, module)) || source.path.starts_with("xtask/");
    let forbids = source.code.contains("#![forbid(unsafe_code)]");
    problem(
        bound && !forbids && !is_test(source),
        source,
        1,
        "add `#![forbid(unsafe_code)]`: this module is pure",
    )
}

fn no_unsafe(source: &Source) -> Vec<String> {
    if is_test(source) || UNSAFE_ALLOWED.iter().any(|allowed| source.path.starts_with(allowed)) {
        return Vec::new();
    }
    let found = source.words().find(|(_, word)| *word == "unsafe");
    let line = found.map_or(0, |(line, _)| line);
    problem(
        found.is_some(),
        source,
        line,
        "`unsafe` outside edge/src/sys: put it there behind a safe function",
    )
}

fn proto_is_pure(source: &Source) -> Vec<String> {
    if !belongs(source, "proto") {
        return Vec::new();
    }
    let foreign = source.own_paths().into_iter().filter(|path| {
        let module = path.first().map_or("", String::as_str);
        module != "proto" && module != "limits"
    });
    let told = foreign.map(|path| {
        format!(
            "{}: names crate::{}: proto may use limits only; pass the value in",
            source.path,
            path.join("::")
        )
    });
    told.collect()
}

fn worker_and_control(source: &Source) -> Vec<String> {
    if !belongs(source, "worker") {
        return Vec::new();
    }
    let foreign = source.own_paths().into_iter().filter(|path| {
        path.first().is_some_and(|module| module == "control")
            && path.get(1).is_none_or(|part| part != "mailbox")
    });
    let told = foreign.map(|path| {
        format!(
            "{}: names crate::{}: worker reaches control by control::mailbox only",
            source.path,
            path.join("::")
        )
    });
    told.collect()
}

fn no_tokio(source: &Source) -> Vec<String> {
    if !belongs(source, "worker") && !belongs(source, "proto") {
        return Vec::new();
    }
    // The `h2` crate reads and writes through two traits of tokio; it needs no runtime.
    let is_pipe = source.path == "edge/src/proto/http2/pipe.rs";
    let found = source.words().find(|(_, word)| word.starts_with("tokio") && !is_pipe);
    let line = found.map_or(0, |(line, _)| line);
    problem(found.is_some(), source, line, "tokio is of the control thread: a worker knows its ring only")
}

fn names(source: &Source) -> Vec<String> {
    let mut parts = source.path.trim_end_matches(".rs").split('/');
    let by_path = parts.find(|part| BANNED_NAMES.contains(part)).map(|part| (1, part));
    let words: Vec<(usize, &str)> = source.words().collect();
    let inline = words.windows(2).find_map(|pair| {
        let declares = pair[0].1 == "mod" && BANNED_NAMES.contains(&pair[1].1);
        declares.then_some(pair[1])
    });
    let found = by_path.or(inline);
    let (line, name) = found.unwrap_or_default();
    problem(found.is_some(), source, line, &format!("a module named `{name}`: name it by what it knows"))
}

fn problem(broken: bool, source: &Source, line: usize, text: &str) -> Vec<String> {
    if broken { vec![format!("{}:{line}: {text}", source.path)] } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PURE_HEAD: &str = "//! A file.\n#![forbid(unsafe_code)]\n";

    fn check(path: &str, text: &str) -> Vec<String> {
        problems(&Source::new(path, text.into()))
    }

    #[test]
    fn good_files_pass() {
        for (path, text) in [
            ("edge/src/proto/key.rs", format!("{PURE_HEAD}use crate::{{limits, proto::range}};\n")),
            ("edge/src/worker/mod.rs", "//! W.\nuse crate::control::mailbox::{Queue, Ticket};\n".into()),
            ("edge/src/sys/ring.rs", "//! Ring.\nfn f() { unsafe { g() } }\n".into()),
            ("edge/src/worker/a.rs", "//! No unsafe and no tokio here.\nconst A: &str = \"tokio\";\n".into()),
            ("edge/tests/e2e/main.rs", format!("//! Long.\n{}", "fn a() {}\n".repeat(600))),
            (
                "edge/src/cli.rs",
                format!("//! C.\n#[cfg(test)]\nmod tests {{\n{}}}\n", "fn a() {}\n".repeat(600)),
            ),
        ] {
            assert_eq!(check(path, &text), Vec::<String>::new(), "{path}");
        }
    }

    #[test]
    fn every_rule_finds_its_breach() {
        for (path, text, expected) in [
            ("edge/src/cli.rs", "// no\n".to_owned(), "starts without"),
            ("edge/src/cli.rs", format!("//! C.\n{}", "fn a() {}\n".repeat(500)), "501 lines"),
            ("edge/src/stats.rs", "//! S.\n".into(), "add `#![forbid"),
            ("edge/src/config/value.rs", "//! S.\n".into(), "add `#![forbid"),
            ("edge/src/worker/mod.rs", "//! W.\n\nfn f() { unsafe { g() } }\n".into(), "mod.rs:3: `unsafe`"),
            ("edge/src/proto/key.rs", format!("{PURE_HEAD}use crate::clock;\n"), "crate::clock"),
            (
                "edge/src/proto/key.rs",
                format!("{PURE_HEAD}use crate::{{limits, shard::Key}};\n"),
                "crate::shard::Key",
            ),
            ("edge/src/worker/a.rs", "//! W.\nuse crate::control::fill;\n".into(), "crate::control::fill"),
            ("edge/src/worker/a.rs", "//! W.\nuse crate::control;\n".into(), "crate::control:"),
            ("edge/src/worker/a.rs", "//! W.\nuse tokio_uring::fs;\n".into(), "tokio is"),
            ("edge/src/utils.rs", "//! U.\n".into(), "named `utils`"),
            ("edge/src/common/a.rs", "//! U.\n".into(), "named `common`"),
            ("edge/src/cli.rs", "//! U.\nmod helpers {}\n".into(), "cli.rs:2: a module named `helpers`"),
        ] {
            let found = check(path, &text);
            assert_eq!(found.len(), 1, "{path}: {found:?}");
            assert!(found[0].contains(expected), "{expected}: {found:?}");
        }
    }
}
