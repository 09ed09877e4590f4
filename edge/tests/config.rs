//! The configuration contract from outside: what is accepted, and where and how every mistake is reported.

use edge::config::{Files, parse};
use proptest::prelude::*;
use std::path::Path;

/// Files under `/ok/` can be read.
struct Told;

impl Files for Told {
    fn readable(&self, path: &Path) -> Result<(), String> {
        if path.starts_with("/ok/") { Ok(()) } else { Err("no such file or directory".into()) }
    }
}

const SMALLEST: &str = r#"[listen]
http  = ["127.0.0.1:8080"]
admin = "127.0.0.1:9180"

[store]
path = "/var/cache/edge"
size = "1GiB"

[origins.main]
servers = ["http://127.0.0.1:8000"]

[[routes]]
origin = "main"
"#;

const CASES: &[(&str,&str,&[&str])] = &[
    ("[listen]
", "[listen
", &[]),
    (r#"path = "/var/cache/edge""#, "path = /var/cache/edge", &[]),
    (r#"path = "/var/cache/edge""#, r#"path = "/var/cache/edge"#, &[]),
    (r#"size = "1GiB""#, r#"size = "1GiB"
size = "2GiB""#, &[]),
    ("[store]", "[listen]", &[]),
    (r#"origin = "main""#, r#"origin = "main" host = "a""#, &[]),
    ("[store]", "[sotre]", &[]),
    ("[store]", "[cache]
[store]", &[]),
    ("http  =", "htttp =", &[]),
    (r#"http  = ["127.0.0.1:8080"]
"#, "", &[]),
    (r#"http  = ["127.0.0.1:8080"]"#, r#"http  = "127.0.0.1:8080""#, &[]),
    (r#"http  = ["127.0.0.1:8080"]"#, "http  = []", &[]),
    (r#"["127.0.0.1:8080"]"#, "[8080]", &[]),
    (r#"["127.0.0.1:8080"]"#, r#"["127.0.0.1"]"#, &[]),
    (r#"["127.0.0.1:8080"]"#, r#"["::1"]"#, &[]),
    (r#"["127.0.0.1:8080"]"#, r#"[":8080"]"#, &[]),
    (r#"["127.0.0.1:8080"]"#, r#"["localhost:8080"]"#, &[]),
    (r#"["127.0.0.1:8080"]"#, r#"["127.0.0.1:0"]"#, &[]),
    (r#"["127.0.0.1:8080"]"#, r#"["127.0.0.1:80800"]"#, &[]),
    (r#"["127.0.0.1:8080"]"#, r#"["127.0.0.1:8080", "[::1]:8080",
  "127.0.0.1:8080"]"#, &[]),
    (r#""127.0.0.1:9180""#, r#""0.0.0.0:9180""#, &[]),
    (r#""127.0.0.1:9180""#, r#""127.0.0.1:8080""#, &[]),
    (r#""127.0.0.1:9180""#, "9180", &[]),
    (r#""127.0.0.1:9180""#, r#""unix:/run/edge.sock""#, &[]),
    (r#"path = "/var/cache/edge"
"#, "", &[]),
    (r#""/var/cache/edge""#, r#""cache""#, &[]),
    (r#""/var/cache/edge""#, "true", &[]),
    (r#"size = "1GiB"
"#, "", &[]),
    (r#""1GiB""#, r#""1""#, &[]),
    (r#""1GiB""#, r#""1GB""#, &[]),
    (r#""1GiB""#, r#""1.5GiB""#, &[]),
    (r#""1GiB""#, r#""1 parsec""#, &[]),
    (r#""1GiB""#, r#""99999999TiB""#, &[]),
    (r#""1GiB""#, r#""16MiB""#, &[]),
    (r#""1GiB""#, "4096", &[]),
    (r#""1GiB""#, "-1", &[]),
    (r#""1GiB""#, "1.5", &[]),
    (r#"servers = ["http://127.0.0.1:8000"]"#, r#"server = ["http://127.0.0.1:8000"]"#, &[]),
    (r#"["http://127.0.0.1:8000"]"#, r#""http://127.0.0.1:8000""#, &[]),
    (r#"["http://127.0.0.1:8000"]"#, "[]", &[]),
    ("http://127.0.0.1:8000", "127.0.0.1:8000", &[]),
    ("http://127.0.0.1:8000", "ftp://127.0.0.1", &[]),
    ("http://127.0.0.1:8000", "http://127.0.0.1:8000/", &[]),
    ("http://127.0.0.1:8000", "http://a.example/files", &[]),
    ("http://127.0.0.1:8000", "http://user:pw@a.example", &[]),
    ("http://127.0.0.1:8000", "http://a.example:http", &[]),
    ("http://127.0.0.1:8000", "http://", &[]),
    ("http://127.0.0.1:8000", "http://a b", &[]),
    ("http://127.0.0.1:8000", "http://127.0.0.1:8080", &[]),
    (r#"["http://127.0.0.1:8000"]"#, r#"["http://a.example", "http://a.example:80"]"#, &[]),
    ("[origins.main]", r#"[origins."ma in"]"#, &[]),
    ("[origins.main]
", "[origins.main]
concurrency_max = 0
", &[]),
    ("[origins.main]
", "[origins.main]
connect_timeout = 5
", &[]),
    ("[origins.main]
", r#"[origins.main]
first_byte_timeout = "1ms"
"#, &[]),
    ("[origins.main]
", r#"[origins.main]
ca_file = "/no/ca.pem"
"#, &[]),
    (r#"[origins.main]
servers = ["http://127.0.0.1:8000"]
"#, "[origins]
", &[]),
    (r#"origin = "main""#, r#"origin = "mian""#, &[]),
    (r#"origin = "main""#, r#"origin = "images""#, &[]),
    (r#"origin = "main""#, r#"host = "a""#, &[]),
    ("[[routes]]", "[routes]", &[]),
    (r#"[[routes]]
origin = "main"
"#, "", &[]),
    ("[[routes]]
", r#"[[routes]]
host = "*.example.com"
"#, &[]),
    ("[[routes]]
", r#"[[routes]]
host = "a.example:80"
"#, &[]),
    ("[[routes]]
", r#"[[routes]]
host = "http://a.example"
"#, &[]),
    ("[[routes]]
", r#"[[routes]]
path = "images"
"#, &[]),
    ("[[routes]]
", r#"[[routes]]
path = "/a?b"
"#, &[]),
    ("[[routes]]
", r#"[[routes]]
header = "X-Service-Name"
"#, &[]),
    ("[[routes]]
", r#"[[routes]]
header = { name = "X Y", value = "a" }
"#, &[]),
    ("[[routes]]
", r#"[[routes]]
header = { name = "X-Y" }
"#, &[]),
    ("[[routes]]
", r#"[[routes]]
header = ["X-Y", "a"]
"#, &[]),
    ("[[routes]]
", r#"[[routes]]
origin = "main"

[[routes]]
path = "/a"
"#, &[]),
    ("[[routes]]
", "[[routes]]
weight = 3
", &[]),
    ("[store]", r#"[node]
cpus = "0-x"
[store]"#, &[]),
    ("[store]", r#"[node]
cpus = "3-0"
[store]"#, &[]),
    ("[store]", r#"[node]
cpus = "0,1,0-2"
[store]"#, &[]),
    ("[store]", "[node]
cpus = 4
[store]", &[]),
    ("[store]", r#"[node]
cpus = "4096"
[store]"#, &[]),
    ("[store]", "[xdp]
[store]", &[]),
    ("[store]", r#"[xdp]
interface = "eth0/1"
[store]"#, &[]),
    ("[store]", r#"[xdp]
interface = "eth0"
mode = "natve"
[store]"#, &[]),
    ("[store]", r#"[xdp]
interface = "eth0"
mode = "hw"
[store]"#, &[]),
    ("[store]", r#"[xdp]
interface = "eth0"
steering = true
[store]"#, &[]),
    ("[store]", r#"[xdp]
interface = "eth0"
mode = "off"
steering = "cpumap"
[store]"#, &[]),
    ("[store]", "[limits]
connections_max = 0
[store]", &[]),
    ("[store]", r#"[limits]
idle_timeout = "2h"
[store]"#, &[]),
    ("[store]", r#"[limits]
head_timeout = "10"
[store]"#, &[]),
    ("[store]", r#"[limits]
head_timeout = "10 sec"
[store]"#, &[]),
    ("[store]", r#"[[listen.https]]
address = "0.0.0.0:8443"
certificate = "/ok/a.crt"
key = "/ok/a.key"
[store]"#, &[]),
    ("[store]", r#"[[listen.https]]
address = "0.0.0.0"
certificate = "/no/a.crt"
[store]"#, &[]),
    ("[store]", "# é
[sötre]
[store]", &[]),
];
#[test]
fn explore() { for (a,b,_) in CASES { assert!(SMALLEST.contains(a)); let t = SMALLEST.replacen(a,b,1); println!("@@"); match parse("f",t.as_bytes(),&Told) { Ok(c)=>println!("OK {c:?}"), Err(e)=>println!("{e}")} } }
