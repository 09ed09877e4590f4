//! The binary and its configuration file: what is wrong is said with file, line and column, and nothing
//! starts with it.

use crate::support::edge::{directory, free_port, program};
use std::path::Path;
use std::process::{Command, Output};

fn good(directory: &Path) -> String {
    format!(
        "[listen]\nhttp = [\"127.0.0.1:{}\"]\nadmin = \"127.0.0.1:{}\"\n\n[store]\npath = \"{}\"\nsize = \"64MiB\"\n\n\
         [origins.main]\nservers = [\"http://127.0.0.1:9\"]\n\n[[routes]]\norigin = \"main\"\n",
        free_port(),
        free_port(),
        directory.join("store").display()
    )
}

fn edge(arguments: &[&str], file: &Path) -> Output {
    Command::new(program()).args(arguments).arg(file).output().expect("the binary starts")
}

#[test]
fn a_good_file() {
    let directory = directory();
    let file = directory.join("edge.toml");
    std::fs::write(&file, good(&directory)).expect("written");
    let output = edge(&["check-config"], &file);
    assert!(output.status.success(), "{output:?}");
    let _ = std::fs::remove_dir_all(directory);
}

#[test]
fn bad_files() {
    let directory = directory();
    let good = good(&directory);
    let file = directory.join("edge.toml");
    // (what to replace, by what, the line the mistake is on)
    let cases = [
        ("[listen]", "[listen", 1),
        ("[store]", "[shop]", 5),
        ("size = \"64MiB\"", "size = \"64 mebi\"", 7),
        ("size = \"64MiB\"", "size = 64", 7),
        ("size = \"64MiB\"", "size = \"64MiB\"\nsise = 1", 8),
        ("http = [", "htpp = [", 2),
        ("servers = [\"http://127.0.0.1:9\"]", "servers = []", 10),
        ("servers = [\"http://127.0.0.1:9\"]", "servers = [\"ftp://127.0.0.1:9\"]", 10),
        ("origin = \"main\"", "origin = \"mian\"", 13),
        ("origin = \"main\"", "origin = \"main\"\nhost = \"a b\"", 14),
        ("[[routes]]", "[routes]", 12),
    ];
    for (from, to, line) in cases {
        assert!(good.contains(from));
        std::fs::write(&file, good.replacen(from, to, 1)).expect("written");
        for arguments in [&["check-config"][..], &["run", "--config"]] {
            let output = edge(arguments, &file);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success(), "{to}: {arguments:?} took it");
            let place = format!("{}:{line}:", file.display());
            let Some((_, rest)) = said.split_once(&place) else {
                panic!("{to}: no {place} in {said:?}");
            };
            let (column, what) = rest.split_once(": ").unwrap_or_else(|| panic!("{to}: {said}"));
            assert!(column.parse::<usize>().is_ok_and(|column| column >= 1), "{to}: {said}");
            assert!(what.len() > 10, "{to}: says too little: {said}");
        }
    }
    assert!(!directory.join("store").exists(), "a bad file made a store");
    let _ = std::fs::remove_dir_all(directory);
}

#[test]
fn no_file() {
    let directory = directory();
    for arguments in [&["check-config"][..], &["run", "--config"]] {
        let output = edge(arguments, &directory.join("none.toml"));
        assert!(!output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains("none.toml"), "{output:?}");
    }
    let _ = std::fs::remove_dir_all(directory);
}

#[test]
fn help_and_unknown_commands() {
    let help = Command::new(program()).arg("--help").output().expect("the binary starts");
    assert!(help.status.success());
    let text = String::from_utf8_lossy(&help.stdout);
    for command in ["run", "check-config", "status", "purge"] {
        assert!(text.contains(command), "no {command} in {text}");
    }
    assert!(!Command::new(program()).arg("frobnicate").output().expect("the binary starts").status.success());
}
