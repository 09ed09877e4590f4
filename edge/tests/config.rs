//! The configuration contract from outside: what is accepted, and where and how every mistake is reported.

use edge::config::{Caching, Files, Route, Steering, Transport, Xdp, XdpMode, parse};
use edge::proto::forwarded::Style;
use edge::proto::query::{Arguments, Name, Rule};
use edge::proto::route::Pattern;
use proptest::prelude::*;
use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::sync::OnceLock;

/// Files under `/ok/` can be read.
struct Told;

impl Files for Told {
    fn readable(&self, path: &Path) -> Result<(), String> {
        if path.starts_with("/ok/") { Ok(()) } else { Err("no such file or directory".into()) }
    }

    /// A site's certificate and key, those of another, and what is neither.
    fn read(&self, path: &Path) -> Result<Vec<u8>, String> {
        static MADE: OnceLock<[(String, String); 2]> = OnceLock::new();
        let made = MADE.get_or_init(|| {
            ["a.test", "b.test"].map(|name| {
                let key = rcgen::KeyPair::generate().unwrap();
                let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
                params.not_before = rcgen::date_time_ymd(2020, 1, 1);
                params.not_after = rcgen::date_time_ymd(2030, 1, 1);
                (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
            })
        });
        let text = match path.to_str() {
            Some("/ok/a.crt") => &made[0].0,
            Some("/ok/a.key") => &made[0].1,
            Some("/ok/b.crt") => &made[1].0,
            Some("/ok/b.key") => &made[1].1,
            Some("/ok/text") => "text",
            Some("/ok/token") => "0123456789abcdef",
            _ => return Err("no such file or directory".into()),
        };
        Ok(text.as_bytes().to_vec())
    }

    fn unix_s(&self) -> u64 {
        NOW_S.get()
    }
}

thread_local! {
    /// The middle of 2025, unless a test goes elsewhere in time.
    static NOW_S: Cell<u64> = const { Cell::new(1_751_328_000) };
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

/// Each row changes one place of [`SMALLEST`] and says exactly what is reported.
#[rustfmt::skip]
const MALFORMED: &[(&str, &str, &[&str])] = &[
    ("[listen]
", "[listen
", &["1:8: not TOML: unclosed table, expected `]`"]),
    (r#"path = "/var/cache/edge""#, "path = /var/cache/edge", &["6:8: not TOML: string values must be quoted, expected literal string; put the value between double quotes"]),
    (r#"path = "/var/cache/edge""#, r#"path = "/var/cache/edge"#, &[r#"6:24: not TOML: invalid basic string, expected `"`"#]),
    (r#"size = "1GiB""#, r#"size = "1GiB"
size = "2GiB""#, &["8:1: not TOML: duplicate key; it stands earlier in the file, keep one of them"]),
    ("[store]", "[listen]", &["5:2: not TOML: duplicate key; it stands earlier in the file, keep one of them"]),
    (r#"origin = "main""#, r#"origin = "main" host = "a""#, &["13:17: not TOML: unexpected key or value, expected newline, `#`; give every key a line of its own"]),
    ("[store]", "[sotre]", &[r#"1:1: store is missing; write [store] with path = "/var/cache/edge" and size = "1GiB""#, r#"5:2: unknown key "sotre" at the top; did you mean "store"?"#]),
    ("[store]", "[cache]
[store]", &[r#"5:2: unknown key "cache" at the top; known here: node, listen, store, origins, routes, xdp, limits, tls"#]),
    ("http  =", "htttp =", &[r#"1:1: listen.http is missing; write http = ["0.0.0.0:8080"]"#, r#"2:1: unknown key "htttp" in listen; did you mean "http"?"#]),
    (r#"http  = ["127.0.0.1:8080"]
"#, "", &[r#"1:1: listen.http is missing; write http = ["0.0.0.0:8080"]"#]),
    (r#"http  = ["127.0.0.1:8080"]"#, r#"http  = "127.0.0.1:8080""#, &[r#"2:9: listen.http: this is a string; write a list of addresses, such as ["0.0.0.0:8080"]"#]),
    (r#"http  = ["127.0.0.1:8080"]"#, "http  = []", &[r#"2:9: listen.http: the list is empty; write a list of addresses, such as ["0.0.0.0:8080"]"#]),
    (r#"["127.0.0.1:8080"]"#, "[8080]", &[r#"2:10: listen.http[0]: this is an integer; write a list of addresses, such as ["0.0.0.0:8080"]"#]),
    (r#"["127.0.0.1:8080"]"#, r#"["127.0.0.1"]"#, &[r#"2:10: listen.http[0]: "127.0.0.1" has no port; write "127.0.0.1:8080""#]),
    (r#"["127.0.0.1:8080"]"#, r#"["::1"]"#, &[r#"2:10: listen.http[0]: "::1" has no port; write "[::1]:8080""#]),
    (r#"["127.0.0.1:8080"]"#, r#"[":8080"]"#, &[r#"2:10: listen.http[0]: ":8080" has no IP address; write "0.0.0.0:8080" for every IPv4 address"#]),
    (r#"["127.0.0.1:8080"]"#, r#"["localhost:8080"]"#, &[r#"2:10: listen.http[0]: "localhost:8080" is not an IP address with a port; write one such as "0.0.0.0:8080" or "[::1]:8080""#]),
    (r#"["127.0.0.1:8080"]"#, r#"["127.0.0.1:0"]"#, &[r#"2:10: listen.http[0]: port 0 of "127.0.0.1:0" is no fixed port; write a port from 1 to 65535"#]),
    (r#"["127.0.0.1:8080"]"#, r#"["127.0.0.1:80800"]"#, &[r#"2:10: listen.http[0]: "127.0.0.1:80800" is not an IP address with a port; write one such as "0.0.0.0:8080" or "[::1]:8080""#]),
    (r#"["127.0.0.1:8080"]"#, r#"["127.0.0.1:8080", "[::1]:8080",
  "127.0.0.1:8080"]"#, &["3:3: listen.http[2]: the same stands earlier in the list; remove one"]),
    (r#""127.0.0.1:9180""#, r#""0.0.0.0:9180""#, &[r#"3:9: listen.admin: 0.0.0.0:9180 can be reached from outside, and whoever asks may purge; write "127.0.0.1:9180", or also admin_token_file = "/etc/edge/admin.token""#]),
    (r#""127.0.0.1:9180""#, "\"[::]:9180\"\nadmin_token_file = \"/gone\"", &["4:20: listen.admin_token_file: /gone cannot be read: no such file or directory; write the path of a file with the token"]),
    (r#""127.0.0.1:9180""#, "\"0.0.0.0:9180\"\nadmin_token_file = \"/ok/text\"", &["4:20: listen.admin_token_file: /ok/text holds a token of 4 bytes, not 16 to 512; make one with `openssl rand -hex 32`"]),
    (r#""127.0.0.1:9180""#, "\"0.0.0.0:9180\"\nadmin_token_file = 5", &["4:20: listen.admin_token_file: this is an integer; write the path of a file that holds the token"]),
    (r#"admin = "127.0.0.1:9180""#, r#"admin_token_file = "/ok/token""#, &["3:20: listen.admin_token_file: there is no admin endpoint that would ask for it; write admin, or remove this"]),
    (r#""127.0.0.1:9180""#, r#""127.0.0.1:8080""#, &[r#"3:9: listen.admin: the node serves on this address already; write another port, such as "127.0.0.1:9180""#]),
    (r#""127.0.0.1:9180""#, "\"0.0.0.0:8080\"\nadmin_token_file = \"/ok/token\"", &[r#"3:9: listen.admin: the node serves on this address already; write another port, such as "127.0.0.1:9180""#]),
    (r#""127.0.0.1:9180""#, "9180", &[r#"3:9: listen.admin: this is an integer; write an address such as "127.0.0.1:9180", or "unix:/run/edge/admin.sock""#]),
    (r#""127.0.0.1:9180""#, r#""unix:edge.sock""#, &[r#"3:9: listen.admin: "unix:edge.sock" is not the absolute path of a socket; write one such as "unix:/run/edge/admin.sock""#]),
    (r#""127.0.0.1:9180""#, r#""/run/edge.sock""#, &[r#"3:9: listen.admin: "/run/edge.sock" is a path; write "unix:/run/edge.sock""#]),
    (r#"path = "/var/cache/edge"
"#, "", &[r#"5:1: store.path is missing; write path = "/var/cache/edge""#]),
    (r#""/var/cache/edge""#, r#""cache""#, &[r#"6:8: store.path: "cache" depends on where edge is started; write an absolute path"#]),
    (r#""/var/cache/edge""#, "true", &[r#"6:8: store.path: this is a boolean; write a directory, such as "/var/cache/edge""#]),
    (r#"size = "1GiB"
"#, "", &[r#"5:1: store.size is missing; write size = "1GiB""#]),
    (r#""1GiB""#, r#""1""#, &[r#"7:8: store.size: "1" has no unit; write a whole number with B, KiB, MiB, GiB or TiB, such as "1GiB""#]),
    (r#""1GiB""#, r#""1GB""#, &[r#"7:8: store.size: unit "GB" is not used here; write "1GiB" (powers of 1024)"#]),
    (r#""1GiB""#, r#""1.5GiB""#, &[r#"7:8: store.size: "1.5GiB" is not a whole number; write a whole number with B, KiB, MiB, GiB or TiB, such as "1GiB""#]),
    (r#""1GiB""#, r#""1 parsec""#, &[r#"7:8: store.size: unit "parsec" is not known; write a whole number with B, KiB, MiB, GiB or TiB, such as "1GiB""#]),
    (r#""1GiB""#, r#""99999999TiB""#, &[r#"7:8: store.size: "99999999TiB" is more than any disk; write a whole number with B, KiB, MiB, GiB or TiB, such as "1GiB""#]),
    (r#""1GiB""#, r#""16MiB""#, &[r#"7:8: store.size: 16777216 bytes hold too few segments to reclaim one; write at least "32MiB""#]),
    (r#""1GiB""#, r#""65TiB""#, &[r#"7:8: store.size: 71468255805440 bytes are more than one index can name; write at most "64TiB", and several [[store.shards]]"#]),
    (r#""1GiB""#, "4096", &[r#"7:8: store.size: 4096 bytes hold too few segments to reclaim one; write at least "32MiB""#]),
    (r#""1GiB""#, "-1", &["7:8: store.size: -1 is out of bounds; write a whole number from 0 to 9223372036854775807"]),
    (r#""1GiB""#, "1.5", &[r#"7:8: store.size: this is a float; write a size such as "1GiB", or bytes as a whole number"#]),
    (r#"size = "1GiB""#, "size = \"1GiB\"\nobject_size = \"100B\"", &[r#"8:15: store.object_size: no object with its key and header takes 100 bytes; write at least "128B""#]),
    (r#"size = "1GiB""#, "size = \"1GiB\"\nlock = \"yes\"", &["8:8: store.lock: this is a string; write true or false"]),
    (r#"size = "1GiB""#, "size = \"1GiB\"\nprefault = 1", &["8:12: store.prefault: this is an integer; write true or false"]),
    (r#"size = "1GiB""#, "size = \"1GiB\"\nstate = \"state\"", &[r#"8:9: store.state: "state" depends on where edge is started; write an absolute path"#]),
    (r#"size = "1GiB""#, "size = \"1GiB\"\nobject_size = \"4 pages\"", &[r#"8:15: store.object_size: unit "pages" is not known; write a whole number with B, KiB, MiB, GiB or TiB, such as "1GiB""#]),
    (r#"path = "/var/cache/edge"
size = "1GiB"
"#, "shards = []\n", &["6:10: store.shards: 0 shards; write 1 to 64 [[store.shards]]"]),
    (r#"path = "/var/cache/edge"
"#, "shards = [{path = \"/a\", size = \"1GiB\"}]\n", &["7:8: store.size: every shard has its own; move it into a [[store.shards]], or leave shards out"]),
    (r#"path = "/var/cache/edge"
size = "1GiB"
"#, r#"[[store.shards]]
path = "/a"
size = "1GiB"
[[store.shards]]
path = "/a/"
size = "1GiB"
"#, &["9:1: store.shards[1]: /a/ is the path of another shard; give each a directory of its own"]),
    (r#"path = "/var/cache/edge"
size = "1GiB"
"#, r#"[[store.shards]]
path = "/a"
size = "1GiB"
state = "/c"
[[store.shards]]
path = "/b"
size = "1GiB"
state = "/c"
lock = true
"#, &["10:1: store.shards[1]: /b shares a directory with another shard; give each its own path and state",
      r#"14:1: unknown key "lock" in store.shards[1]; known here: path, size, state"#]),
    (r#"path = "/var/cache/edge"
size = "1GiB"
"#, r#"[[store.shards]]
path = "a"
size = "1MiB"
"#, &[r#"7:8: store.shards[0].path: "a" depends on where edge is started; write an absolute path"#,
      r#"8:8: store.shards[0].size: 1048576 bytes hold too few segments to reclaim one; write at least "32MiB""#]),
    (r#"servers = ["http://127.0.0.1:8000"]"#, r#"server = ["http://127.0.0.1:8000"]"#, &[r#"9:1: origins.main.servers is missing; write servers = ["http://127.0.0.1:8000"]"#, r#"10:1: unknown key "server" in origins.main; did you mean "servers"?"#]),
    (r#"["http://127.0.0.1:8000"]"#, r#""http://127.0.0.1:8000""#, &[r#"10:11: origins.main.servers: this is a string; write a list of servers, such as ["http://127.0.0.1:8000"]"#]),
    (r#"["http://127.0.0.1:8000"]"#, "[]", &[r#"10:11: origins.main.servers: the list is empty; write a list of servers, such as ["http://127.0.0.1:8000"]"#]),
    ("http://127.0.0.1:8000", "127.0.0.1:8000", &[r#"10:12: origins.main.servers[0]: "127.0.0.1:8000" has no scheme; write "http://host:port" or "https://host:port""#]),
    ("http://127.0.0.1:8000", "ftp://127.0.0.1", &[r#"10:12: origins.main.servers[0]: scheme "ftp" is not spoken to origins; write "http://host:port" or "https://host:port""#]),
    ("http://127.0.0.1:8000", "http://127.0.0.1:8000/", &[r#"10:12: origins.main.servers[0]: "/" follows the host; write "http://127.0.0.1:8000", the request's own path is used"#]),
    ("http://127.0.0.1:8000", "http://a.example/files", &[r#"10:12: origins.main.servers[0]: "/files" follows the host; write "http://a.example", the request's own path is used"#]),
    ("http://127.0.0.1:8000", "http://user:pw@a.example", &[r#"10:12: origins.main.servers[0]: user names and passwords are not sent to origins; write "http://host:port" or "https://host:port""#]),
    ("http://127.0.0.1:8000", "http://a.example:http", &[r#"10:12: origins.main.servers[0]: "http" is not a port; write a number from 1 to 65535"#]),
    ("http://127.0.0.1:8000", "http://", &[r#"10:12: origins.main.servers[0]: "" is not a host name or IP address; write "http://host:port" or "https://host:port""#]),
    ("http://127.0.0.1:8000", "http://a b", &[r#"10:12: origins.main.servers[0]: "a b" is not a host name or IP address; write "http://host:port" or "https://host:port""#]),
    ("http://127.0.0.1:8000", "http://127.0.0.1:8080", &["10:12: origins.main.servers[0]: this is an address the node itself listens on, it would ask itself; write the origin's address"]),
    (r#"["http://127.0.0.1:8000"]"#, r#"["http://a.example", "http://a.example:80"]"#, &["10:32: origins.main.servers[1]: the same stands earlier in the list; remove one"]),
    ("[origins.main]", r#"[origins."ma in"]"#, &["9:10: origins.ma in: this is no origin name; use up to 64 letters, digits, '-', '_' and '.'", r#"13:10: routes[0].origin: no origin is called "main"; did you mean "ma in"?"#]),
    ("[origins.main]
", "[origins.main]
concurrency_max = 0
", &["10:19: origins.main.concurrency_max: 0 is out of bounds; write a whole number from 1 to 512"]),
    ("[origins.main]
", "[origins.main]
connect_timeout = 5
", &[r#"10:19: origins.main.connect_timeout: this is an integer; write a duration such as "10s""#]),
    ("[origins.main]
", r#"[origins.main]
first_byte_timeout = "1ms"
"#, &[r#"10:22: origins.main.first_byte_timeout: "1ms" is shorter than any exchange; write at least "100ms""#]),
    ("[origins.main]
", r#"[origins.main]
ca_file = "/no/ca.pem"
"#, &["10:11: origins.main.ca_file: no server of this origin speaks https; remove ca_file, or write https:// servers", "10:11: origins.main.ca_file: /no/ca.pem cannot be read: no such file or directory; write the path of a PEM file"]),
    ("[origins.main]\n", "[origins.main]\nforwarded = \"xff\"\n", &[r#"10:13: origins.main.forwarded: "xff" is not known; did you mean "off"? write one of "x-forwarded-for", "forwarded", "off""#]),
    ("[origins.main]\n", "[origins.main]\nforwarded = true\n", &[r#"10:13: origins.main.forwarded: this is a boolean; write one of "x-forwarded-for", "forwarded", "off""#]),
    ("[[routes]]\n", "[[routes]]\nupgrade = \"websocket\"\n", &[r#"13:11: routes[0].upgrade: this is a string; write ["websocket"]"#]),
    ("[[routes]]\n", "[[routes]]\nupgrade = [\"h2c\"]\n", &[r#"13:12: routes[0].upgrade[0]: connections cannot go over to "h2c" here; write ["websocket"], or remove the key"#]),
    ("[store]\n", "[limits]\ntunnel_timeout = \"1ms\"\n[store]\n", &[r#"6:18: limits.tunnel_timeout: "1ms" is shorter than any exchange; write at least "100ms""#]),
    ("[listen]\n", "[listen]\ntrusted_proxies = \"10.0.0.0/8\"\n", &[r#"2:19: listen.trusted_proxies: this is a string; write a list of networks, such as ["192.0.2.0/24"]"#]),
    ("[listen]\n", "[listen]\ntrusted_proxies = [\"10.0.0.1/8\"]\n", &[r#"2:20: listen.trusted_proxies[0]: "10.0.0.1/8" has bits set after those it counts, or too many; write an address and the number of its leading bits, such as "192.0.2.0/24""#]),
    (r#"[origins.main]
servers = ["http://127.0.0.1:8000"]
"#, "[origins]
", &[r#"9:1: origins: no origin is named; write [origins.main] with servers = ["http://127.0.0.1:8000"]"#, r#"12:10: routes[0].origin: no origin is called "main"; write [origins.main] with servers"#]),
    (r#"origin = "main""#, r#"origin = "mian""#, &[r#"13:10: routes[0].origin: no origin is called "mian"; did you mean "main"?"#]),
    (r#"origin = "main""#, r#"origin = "images""#, &[r#"13:10: routes[0].origin: no origin is called "images"; named are: main"#]),
    (r#"origin = "main""#, r#"host = "a""#, &[r#"12:1: routes[0].origin is missing; write origin = "main""#]),
    ("[[routes]]", "[routes]", &["12:1: routes: this is a table; write [[routes]], with two brackets"]),
    (r#"[[routes]]
origin = "main"
"#, "", &[r#"1:1: routes is missing; write [[routes]] with origin = "main""#]),
    ("[[routes]]
", r#"[[routes]]
host = "*.example.com"
"#, &[r#"13:8: routes[0].host: "*.example.com" holds a wildcard, hosts are compared whole; add a route for each host, or leave host out"#]),
    ("[[routes]]
", r#"[[routes]]
host = "a.example:80"
"#, &[r#"13:8: routes[0].host: port "80" takes no part in matching; write "a.example""#]),
    ("[[routes]]
", r#"[[routes]]
host = "http://a.example"
"#, &[r#"13:8: routes[0].host: "http://a.example" is a URL; write a host name such as "www.example.com""#]),
    ("[[routes]]
", r#"[[routes]]
path = "images"
"#, &[r#"13:8: routes[0].path: path "images" does not begin with a slash; write "/images""#]),
    ("[[routes]]
", r#"[[routes]]
path = "/a?b"
"#, &[r#"13:8: routes[0].path: '?' cannot stand in a path prefix; write the beginning of the path as it is sent, such as "/images/""#]),
    ("[[routes]]
", r#"[[routes]]
header = "X-Service-Name"
"#, &[r#"13:10: routes[0].header: "X-Service-Name" has no colon; write { name = "X-Service-Name", value = "a" }"#]),
    ("[[routes]]
", r#"[[routes]]
header = { name = "X Y", value = "a" }
"#, &[r#"13:19: routes[0].header.name: "X Y" is not a field name; write one such as "X-Service-Name""#]),
    (r#"origin = "main""#, "origin = \"main\"\nhttps_redirect = true\nclient_certificate = true", &["15:22: routes[0].client_certificate: whoever comes without TLS has shown no certificate and is refused, not redirected; remove https_redirect or this key"]),
    (r#"origin = "main""#, "origin = \"main\"\nclient_certificate = true", &["12:1: routes: client_certificate refuses everybody, for no address asks for one; give a [[listen.https]] its client_ca"]),
    ("[[routes]]
", r#"[[routes]]
header = { name = "X-Y" }
"#, &[r#"13:10: routes[0].header.value is missing; write value = "a""#]),
    ("[[routes]]
", r#"[[routes]]
header = ["X-Y", "a"]
"#, &["13:10: routes[0].header: this is an array; write a table of name, value"]),
    ("[[routes]]
", r#"[[routes]]
origin = "main"

[[routes]]
path = "/a"
"#, &["15:1: routes[1]: never taken, the route at line 12 matches all that this one does; put this one first or remove it"]),
    ("[[routes]]
", "[[routes]]
weight = 3
", &[r#"13:1: unknown key "weight" in routes[0]; known here: host, path, header, origin, hsts, https_redirect, client_certificate, upgrade, ttl, ttl_override, stale_max, strip_cookie, strip_set_cookie, query_ignore, query_only, query_sort"#]),
    ("[[routes]]
", "[[routes]]
query_ignore = [\"utm_*\", \"a=b\", \"utm_*\"]
query_sort = \"yes\"
", &[
        r#"13:26: routes[0].query_ignore[1]: "a=b" is not the name of an argument; write it as URLs have it, at most 128 bytes, perhaps with a * at its end"#,
        "13:33: routes[0].query_ignore[2]: the same stands earlier in the list; remove one",
        "14:14: routes[0].query_sort: this is a string; write true or false",
    ]),
    ("[[routes]]
", "[[routes]]
query_only = []
", &[r#"13:14: routes[0].query_only: the list is empty; write a list of arguments' names such as ["utm_*", "fbclid"]"#]),
    ("[[routes]]
", "[[routes]]
query_ignore = [\"a\"]
query_only = [\"b\"]
", &["13:16: routes[0].query_ignore: query_only says already what counts; remove one of them"]),
    ("[[routes]]
", "[[routes]]
ttl = \"5\"
stale_max = \"400d\"
strip_cookie = \"yes\"
", &[
        r#"13:7: routes[0].ttl: "5" has no unit; write a whole number with s, m, h or d, such as "5m""#,
        r#"14:13: routes[0].stale_max: "400d" is longer than a year; write at most "365d""#,
        r#"15:16: routes[0].strip_cookie: this is a string; write true or false"#,
    ]),
    ("[[routes]]
", "[[routes]]
ttl = \"5m\"
ttl_override = \"1h\"
", &["13:7: routes[0].ttl: has no effect beside ttl_override; remove one of them"]),
    ("[store]", r#"[node]
cpus = "0-x"
[store]"#, &[r#"6:8: node.cpus: "0-x" is not a CPU number or range; write CPU numbers and ranges, such as "0-3,6""#]),
    ("[store]", r#"[node]
cpus = "3-0"
[store]"#, &[r#"6:8: node.cpus: range "3-0" runs backwards; write "0-3""#]),
    ("[store]", r#"[node]
cpus = "0,1,0-2"
[store]"#, &["6:8: node.cpus: CPU 0 is named twice; name every CPU once"]),
    ("[store]", "[node]
cpus = 4
[store]", &[r#"6:8: node.cpus: this is an integer; write CPU numbers and ranges, such as "0-3,6""#]),
    ("[store]", r#"[node]
cpus = "4096"
[store]"#, &["6:8: node.cpus: CPU 4096 is out of range; write numbers below 1024"]),
    ("[store]", "[xdp]
[store]", &[r#"5:1: xdp.interface is missing; write interface = "eth0""#]),
    ("[store]", r#"[xdp]
interface = "eth0/1"
[store]"#, &[r#"6:13: xdp.interface: "eth0/1" is not an interface name; write one that `ip link` lists, such as "eth0""#]),
    ("[store]", r#"[xdp]
interface = "eth0"
mode = "natve"
[store]"#, &[r#"7:8: xdp.mode: "natve" is not known; did you mean "native"? write one of "auto", "native", "generic", "off""#]),
    ("[store]", r#"[xdp]
interface = "eth0"
mode = "hw"
[store]"#, &[r#"7:8: xdp.mode: "hw" is not known; write one of "auto", "native", "generic", "off""#]),
    ("[store]", r#"[xdp]
interface = "eth0"
steering = true
[store]"#, &[r#"7:12: xdp.steering: this is a boolean; write one of "auto", "rss", "cpumap", "rps", "off""#]),
    ("[store]", r#"[xdp]
interface = "eth0"
mode = "off"
steering = "cpumap"
[store]"#, &[r#"8:12: xdp.steering: cpumap steers from XDP, and xdp.mode is "off"; write steering = "auto", or mode = "auto""#]),
    ("[store]", "[limits]
connections_max = 0
[store]", &["6:19: limits.connections_max: 0 is out of bounds; write a whole number from 1 to 1048576"]),
    ("[store]", "[limits]
http2_connections_max = 0
[store]", &["6:25: limits.http2_connections_max: 0 is out of bounds; write a whole number from 1 to 1048576"]),
    ("[store]", "[limits]
tunnels_max = 1048577
[store]", &["6:15: limits.tunnels_max: 1048577 is out of bounds; write a whole number from 1 to 1048576"]),
    ("[store]", "[limits]
connections_per_client = 0
[store]", &["6:26: limits.connections_per_client: 0 is out of bounds; write a whole number from 1 to 1048575"]),
    ("[store]", r#"[limits]
unlimited_clients = ["10.0.0.1/8", "x"]
[store]"#, &[
        r#"6:22: limits.unlimited_clients[0]: "10.0.0.1/8" has bits set after those it counts, or too many; write an address and the number of its leading bits, such as "192.0.2.0/24""#,
        r#"6:36: limits.unlimited_clients[1]: "x" is no network; write an address and the number of its leading bits, such as "192.0.2.0/24""#,
    ]),
    ("[store]", r#"[limits]
body_rate_min = "0B"
send_rate_min = "2MiB"
[store]"#, &[
        r#"6:17: limits.body_rate_min: 0 bytes in a second; write "1B" to "1MiB""#,
        r#"7:17: limits.send_rate_min: 2097152 bytes in a second; write "1B" to "1MiB""#,
    ]),
    ("[store]", r#"[limits]
idle_timeout = "2h"
[store]"#, &[r#"6:16: limits.idle_timeout: "2h" holds resources too long; write at most "1h""#]),
    ("[store]", r#"[limits]
head_timeout = "10"
[store]"#, &[r#"6:16: limits.head_timeout: "10" has no unit; write a whole number with ms, s, m or h, such as "10s""#]),
    ("[store]", r#"[limits]
head_timeout = "10 sec"
[store]"#, &[r#"6:16: limits.head_timeout: unit "sec" is not known; write a whole number with ms, s, m or h, such as "10s""#]),
    ("[store]", r#"[[listen.https]]
address = "0.0.0.0:8443"
certificate = "/ok/a.crt"
key = "/ok/b.key"
[store]"#, &["8:7: listen.https[0].key: /ok/b.key is not the key of the certificate; name the key it was issued for"]),
    ("[store]", r#"[[listen.https]]
address = "0.0.0.0:8443"
certificate = "/ok/a.key"
key = "/ok/a.key"
[store]"#, &["7:15: listen.https[0].certificate: /ok/a.key holds no certificate in PEM; write the server's own first, then its chain"]),
    ("[store]", r#"[[listen.https]]
address = "127.0.0.1:8080"
certificate = "/ok/a.crt"
key = "/ok/a.key"
[store]"#, &["5:1: listen.https: listen.http takes 127.0.0.1:8080 already; write another address for TLS"]),
    ("[store]", r#"[[listen.https]]
address = "0.0.0.0:8443"
certificate = "/ok/a.crt"
key = "/ok/a.key"
ocsp = "/ok/text"
[store]"#, &["9:8: listen.https[0].ocsp: /ok/text is no OCSP response; write what `openssl ocsp -respout FILE` gets, which is DER"]),
    ("[store]", r#"[[listen.https]]
address = "0.0.0.0:8443"
certificate = "/ok/a.crt"
key = "/ok/a.key"
ocsp = "/no/ocsp"
[store]"#, &["9:8: listen.https[0].ocsp: /no/ocsp cannot be read: no such file or directory; write the path of an OCSP response in DER, or remove the key"]),
    ("[store]", r#"[[listen.https]]
address = "0.0.0.0:8443"
certificate = "/ok/a.crt"
key = "/ok/a.key"
client_ca = "/ok/text"
[store]"#, &["9:13: listen.https[0].client_ca: /ok/text holds no certificate; write the path of a PEM file with the certificates of authorities"]),
    ("[store]", r#"[[listen.https]]
address = "0.0.0.0:8443"
certificate = "/ok/a.crt"
key = "/ok/a.key"
[[listen.https]]
address = "0.0.0.0:8443"
certificate = "/ok/b.crt"
key = "/ok/b.key"
client_ca = "/ok/a.crt"
[store]"#, &["9:1: listen.https[1]: another certificate of this address has another client_ca, and who may connect would depend on a name the client chooses; write the same for both, or another address"]),
    (r#"origin = "main""#, "origin = \"main\"\nhsts = \"forever\"", &[r#"14:8: routes[0].hsts: "forever" is no such policy; write max-age= with seconds, then perhaps includeSubDomains and preload, such as "max-age=31536000; includeSubDomains""#]),
    (r#"origin = "main""#, "origin = \"main\"\nhttps_redirect = 1", &["14:18: routes[0].https_redirect: this is an integer; write true or false"]),
    ("[store]", "[tls]\nmin_version = \"1.1\"\n[store]", &[r#"6:15: tls.min_version: "1.1" is not known; did you mean "1.2"? write one of "1.2", "1.3""#]),
    ("[store]", "[tls]\nhandshakes_per_second = 0\n[store]", &["6:25: tls.handshakes_per_second: 0 is out of bounds; write a whole number from 1 to 4294967295"]),
    ("[store]", "[tls]\nkernel = \"on\"\n[store]", &[r#"6:10: tls.kernel: "on" is not known; write one of "auto", "off""#]),
    ("[store]", "[tls]\nmin_version = \"1.3\"\nciphers = [\"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\"]\n[store]", &["7:11: tls.ciphers: none of these can be used with min_version; add TLS_AES_128_GCM_SHA256"]),
    ("[store]", r#"[[listen.https]]
address = "0.0.0.0"
certificate = "/no/a.crt"
[store]"#, &[r#"5:1: listen.https[0].key is missing; write key = "/etc/edge/site.key""#, r#"6:11: listen.https[0].address: "0.0.0.0" has no port; write "0.0.0.0:8080""#, "7:15: listen.https[0].certificate: /no/a.crt cannot be read: no such file or directory; write the path of a PEM file"]),
    ("[store]", "# é
[sötre]
[store]", &["6:3: not TOML: invalid unquoted key, expected letters, numbers, `-`, `_`"]),
];

#[test]
fn every_mistake_is_reported_at_its_place_with_its_remedy() {
    assert!(MALFORMED.len() >= 40);
    for (from, to, expected) in MALFORMED {
        assert!(SMALLEST.contains(from), "row {from:?} changes nothing");
        let text = SMALLEST.replacen(from, to, 1);
        let problems = parse("f", text.as_bytes(), &Told).expect_err(&text);
        let reported: Vec<String> =
            problems.list.iter().map(|p| format!("{}:{}: {}", p.line, p.col, p.message)).collect();
        assert_eq!(reported, *expected, "in\n{text}");
        assert!(problems.to_string().starts_with("f:"));
        assert_eq!(problems.to_string().lines().count(), expected.len());
    }
}

#[test]
fn a_store_may_have_several_shards() {
    let shards = "[store]\nobject_size = \"2KiB\"\n[[store.shards]]\npath = \"/a\"\nsize = \"1GiB\"\n[[store.shards]]\npath = \"/b\"\nsize = \"64MiB\"\n";
    let text = SMALLEST.replacen("[store]\npath = \"/var/cache/edge\"\nsize = \"1GiB\"\n", shards, 1);
    let config = parse("f", text.as_bytes(), &Told).unwrap();
    let shards: Vec<_> = config.store.iter().map(|s| (s.path.to_str().unwrap(), s.size_bytes)).collect();
    assert_eq!(shards, [("/a", 1 << 30), ("/b", 64 << 20)]);
    assert_eq!(config.store_bytes(), (1 << 30) + (64 << 20));
    assert!(config.store.iter().all(|shard| shard.object_bytes == 2048), "one figure for all");
}

#[test]
fn the_smallest_file_serves_with_documented_defaults() {
    let config = parse("f", SMALLEST.as_bytes(), &Told).unwrap();
    assert_eq!(config.http, ["127.0.0.1:8080".parse().unwrap()]);
    let admin = config.admin.unwrap();
    assert_eq!((admin.address, admin.token), ("127.0.0.1:9180".parse().unwrap(), None));
    assert_eq!(
        (config.store[0].path.as_path(), config.store[0].size_bytes),
        (Path::new("/var/cache/edge"), 1 << 30)
    );
    assert_eq!(config.store[0].object_bytes, edge::limits::OBJECT_BYTES);
    assert_eq!(config.clients.connections_max, edge::limits::CONNECTIONS_PER_WORKER);
    assert_eq!(config.clients.tunnels_max, edge::limits::TUNNELS);
    assert_eq!(config.clients.http2_connections_max, edge::limits::CONNECTIONS_PER_WORKER);
    assert_eq!(config.clients, edge::config::Clients::default());
    assert_eq!((config.cpus, config.xdp), (None, None));
    let origin = &config.origins[0];
    assert_eq!((origin.name.as_str(), origin.servers[0].as_str()), ("main", "http://127.0.0.1:8000"));
    assert_eq!(origin.connect_timeout_ms, edge::limits::CONNECT_TIMEOUT_MS);
    assert_eq!(
        config.routes,
        [Route {
            pattern: Pattern::default(),
            origin: 0,
            transport: Default::default(),
            caching: Default::default()
        }]
    );
}

#[test]
fn every_key_arrives() {
    let text = r#"
[node]
cpus = "6,0-2"
[listen]
http = ["0.0.0.0:80", "[::]:80"]
trusted_proxies = ["192.0.2.0/24"]
[store]
path = "/ok/cache"
size = 67108864
object_size = "1KiB"
[limits]
connections_max = 0x100
head_timeout = "1s"
idle_timeout = "2m"
body_timeout = "300ms"
send_timeout = "4 s"
tunnel_timeout = "1h"
connections_per_client = 7
tunnels_max = 20_000
http2_connections_max = 99
unlimited_clients = ["10.0.0.0/8", "2001:db8::1"]
body_rate_min = 1
send_rate_min = "1MiB"
[origins.b]
servers = ["HTTPS://B.example", "http://[::1]:9"]
[origins.a]
servers = ["http://a.example"]
concurrency_max = 7
forwarded = "forwarded"
connect_timeout = "1500ms"
first_byte_timeout = "9s"
[origins.c]
servers = ["https://c.example"]
ca_file = "/ok/ca.pem"
[[routes]]
host = "WWW.Example.com"
path = "/images/"
header = { name = "X-Service-Name", value = "Blue" }
origin = "b"
[[routes]]
header = "X-Service-Name: green"
origin = "a"
upgrade = ["websocket"]
ttl = "90s"
stale_max = "0s"
strip_set_cookie = true
query_only = ["id", "page_*"]
query_sort = true
[xdp]
interface = "eth0"
mode = "generic"
steering = "rps"
"#;
    let refused = parse("f", text.as_bytes(), &Told).unwrap_err();
    assert_eq!(refused.list.len(), 1, "schemes are lower case: {refused}");
    let config = parse("f", text.replace("HTTPS", "https").as_bytes(), &Told).unwrap();
    assert_eq!(config.cpus, Some(vec![0, 1, 2, 6]));
    assert_eq!((config.http.len(), config.admin), (2, None));
    assert_eq!((config.store[0].size_bytes, config.clients.connections_max), (64 << 20, 256));
    assert_eq!(config.store[0].object_bytes, 1024);
    assert_eq!((config.clients.connections_per_client, config.clients.tunnels_max), (7, 20_000));
    assert_eq!(config.clients.http2_connections_max, 99);
    let unlimited = &config.clients.unlimited_clients;
    assert!(unlimited.len() == 2 && unlimited[0].contains("10.9.8.7".parse().unwrap()));
    assert!(unlimited[1].contains("2001:db8::1".parse().unwrap()));
    let t = config.clients.timeouts;
    assert_eq!((t.body_rate_min, t.send_rate_min), (1, 1 << 20));
    assert_eq!((t.head_ms, t.idle_ms, t.body_ms, t.send_ms), (1000, 120_000, 300, 4000));
    let counted = ["id", "page_*"].map(|name| Name::parse(name).unwrap()).to_vec();
    let rules = Caching {
        ttl_s: Some(90),
        ttl_override_s: None,
        stale_max_s: Some(0),
        strip_cookie: false,
        strip_set_cookie: true,
        query: Some(Arc::new(Rule::new(Arguments::Only(counted), true))),
    };
    let names: Vec<&str> = config.origins.iter().map(|o| o.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(config.origins[1].servers, ["https://b.example:443", "http://[::1]:9"]);
    let a = &config.origins[0];
    assert_eq!((a.concurrency_max, a.connect_timeout_ms, a.first_byte_timeout_ms), (7, 1500, 9000));
    assert_eq!(config.origins[2].ca_file.as_deref(), Some(Path::new("/ok/ca.pem")));
    let styles: Vec<Style> = config.origins.iter().map(|origin| origin.forwarded).collect();
    assert_eq!(styles, [Style::Forwarded, Style::XForwarded, Style::XForwarded]);
    let trusted = &config.trusted_proxies;
    assert!(trusted.len() == 1 && trusted[0].contains("192.0.2.1".parse().unwrap()));
    let header = |value: &str| Some(("x-service-name".into(), value.into()));
    let host = Some("www.example.com".into());
    assert_eq!(
        config.routes,
        [
            Route {
                pattern: Pattern { host, path: Some("/images/".into()), header: header("Blue") },
                origin: 1,
                transport: Default::default(),
                caching: Caching::default()
            },
            Route {
                pattern: Pattern { header: header("green"), ..Pattern::default() },
                origin: 0,
                transport: Transport { websocket: true, ..Default::default() },
                caching: rules
            },
        ]
    );
    let xdp = Xdp { interface: "eth0".into(), mode: XdpMode::Generic, steering: Steering::Rps };
    assert_eq!(config.xdp, Some(xdp));
}

#[test]
fn bytes_that_are_not_text_and_files_that_are_not_there() {
    let report = |bytes: &[u8]| parse("f", bytes, &Told).unwrap_err().to_string();
    assert_eq!(report(b"# ok\n# \xff"), "f:2:3: this is not UTF-8; save the file as UTF-8");
    assert!(
        report(&vec![b'#'; edge::limits::CONFIG_BYTES_MAX + 1]).starts_with("f:1:1: the file is larger than")
    );
    let missing = edge::config::load(Path::new("/nowhere/edge.toml")).unwrap_err().to_string();
    assert_eq!(
        missing,
        "/nowhere/edge.toml:1:1: the file cannot be read: no such file or directory; name a file that this account may read"
    );
    assert!(edge::config::load(Path::new("/")).unwrap_err().to_string().contains("is a directory"));
}

#[test]
fn a_file_full_of_mistakes_is_cut_off() {
    let text: String = (0..1000).map(|i| format!("key{i} = 1\n")).collect();
    let problems = parse("f", text.as_bytes(), &Told).unwrap_err();
    assert_eq!(problems.list.len(), edge::config::PROBLEMS_MAX);
}

#[test]
fn a_reload_names_the_sections_that_need_a_restart() {
    let old = parse("f", SMALLEST.as_bytes(), &Told).unwrap();
    let changed = |from: &str, to: &str| {
        let new = parse("f", SMALLEST.replace(from, to).as_bytes(), &Told).unwrap();
        old.needs_restart(&new)
    };
    assert!(changed("8000", "8001").is_empty(), "origins follow a reload");
    assert!(changed("[[routes]]", "[[routes]]\npath = \"/a\"").is_empty(), "routes follow a reload");
    assert_eq!(changed("8080", "8081"), ["listen"]);
    assert_eq!(changed("[listen]", "[listen]\nhttp2_cleartext = true"), ["listen"]);
    assert!(changed("[listen]", "[listen]\nhttp2_cleartext = false").is_empty(), "that is the default");
    assert_eq!(changed("1GiB", "2GiB"), ["store"]);
    assert_eq!(
        changed("[store]", "[node]\ncpus = \"0\"\n[limits]\nidle_timeout = \"1s\"\n[store]"),
        ["node", "limits"]
    );
    assert_eq!(changed("[store]", "[xdp]\ninterface = \"eth0\"\n[store]"), ["xdp"]);
}

/// Words of the format, so that random texts get further than the first line.
const WORDS: &[&str] = &[
    "[listen]",
    "[store]",
    "[origins.a]",
    "[[routes]]",
    "[[listen.https]]",
    "[xdp]",
    "[node]",
    "[limits]",
    "http",
    "admin",
    "servers",
    "size",
    "path",
    "host",
    "header",
    "origin",
    "cpus",
    "mode",
    " = ",
    "\n",
    "\"",
    "[",
    "]",
    "{",
    "}",
    ",",
    ".",
    "\"1GiB\"",
    "\"0-9\"",
    "\"127.0.0.1:80\"",
    "\"http://a:1\"",
    "-1",
    "1e9",
    "true",
    "é",
    "\u{0}",
    "\"[\"",
    "\":\"",
    "a",
    "#",
];

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse("f", &bytes, &Told);
    }

    #[test]
    fn arbitrary_words_never_panic_and_problems_lie_in_the_text(
        words in proptest::collection::vec(proptest::sample::select(WORDS), 0..60)
    ) {
        let text = words.concat();
        if let Err(problems) = parse("f", text.as_bytes(), &Told) {
            prop_assert!(!problems.list.is_empty());
            for p in &problems.list {
                let line = text.split('\n').nth(p.line - 1).expect("line exists");
                prop_assert!(p.col >= 1 && p.col <= line.chars().count() + 1, "{p:?}");
            }
        }
    }

    #[test]
    fn one_mangled_byte_never_panics(at in 0..SMALLEST.len(), byte in any::<u8>()) {
        let mut bytes = SMALLEST.as_bytes().to_vec();
        bytes[at] = byte;
        let _ = parse("f", &bytes, &Told);
    }

    #[test]
    fn any_string_as_any_value_never_panics(value in "\\PC{0,40}") {
        let quoted: String = value.chars().filter(|c| !matches!(c, '"' | '\\')).collect();
        for (from, at) in [("127.0.0.1:8080", "http"), ("1GiB", "size"), ("http://127.0.0.1:8000", "servers")] {
            let text = SMALLEST.replace(from, &quoted);
            if let Err(problems) = parse("f", text.as_bytes(), &Told) {
                prop_assert!(problems.to_string().contains(at) || problems.to_string().contains("TOML"));
            }
        }
    }
}

#[test]
fn addresses_that_speak_tls_and_warnings_of_certificates_that_end() {
    let text = SMALLEST.replace(
        "[store]",
        r#"[[listen.https]]
address = "0.0.0.0:8443"
certificate = "/ok/a.crt"
key = "/ok/a.key"
client_ca = "/ok/a.crt"
[[listen.https]]
address = "0.0.0.0:8443"
certificate = "/ok/b.crt"
key = "/ok/b.key"
client_ca = "/ok/a.crt"
[tls]
min_version = "1.3"
ciphers = ["TLS_AES_128_GCM_SHA256"]
kernel = "auto"
[store]"#,
    );
    let parsed = |text: &str| parse("f", text.as_bytes(), &Told).unwrap();
    let config = parsed(&text);
    assert_eq!(config.https.len(), 2);
    assert_eq!(config.https[1].key, Path::new("/ok/b.key"));
    assert!(config.tls.tls13_only && config.tls.ciphers.len() == 1 && config.tls.kernel);
    assert_eq!(config.warnings, [""; 0]);
    let only_tls = text.replace("http  = [\"127.0.0.1:8080\"]\n", "");
    assert_ne!(only_tls, text);
    assert!(parsed(&only_tls).http.is_empty(), "plain addresses are not needed then");
    assert_eq!(config.needs_restart(&parsed(SMALLEST)), ["listen", "tls.kernel"]);
    assert!(config.needs_restart(&parsed(&text.replace("/ok/b.", "/ok/a."))).is_empty(), "files may change");
    // 2030-01-01 is 1893456000.
    for (now_s, warning) in [
        (1_893_456_000 - 86_400, "expires in 1 days; renew it"),
        (1_893_456_000 + 3 * 86_400, "expired 3 days ago, clients will refuse it; renew it"),
        (1_577_836_800 - 2 * 86_400, "is not valid for another 2 days; see whether the clock is right"),
    ] {
        NOW_S.set(now_s);
        let place = "f:7:15: listen.https[0].certificate: /ok/a.crt";
        assert_eq!(parsed(&text).warnings[0], format!("{place} {warning}"));
    }
}
