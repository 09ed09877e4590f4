//! HTTP/2 over TLS with clients of other makers, each as it is used: a browser, Python's h2, openssl. curl, nghttp and
//! h2load are in `http2`.

use crate::support::{Answer, Edge, Origin, Setup, content, process};
use crate::support::{edge::HOST, tls::Site};
use std::process::Command;

fn start(origin: &Origin, site: &Site) -> Edge {
    Edge::start_with(origin.address(), Setup { listen_lines: site.section(), ..Default::default() })
}

/// A client on Python's h2: forty streams at once on one connection, every third with a body that comes back.
const PYTHON: &str = r#"
import hashlib, socket, ssl, sys
import h2.config, h2.connection, h2.events
address, port, name, certificate = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
context = ssl.create_default_context(cafile=certificate)
context.set_alpn_protocols(["h2"])
tls = context.wrap_socket(socket.create_connection((address, port), timeout=60), server_hostname=name)
assert tls.selected_alpn_protocol() == "h2"
connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
connection.initiate_connection()
upload = bytes(range(256)) * 40
bodies, statuses, ended = {}, {}, set()

def read():
    data = tls.recv(65536)
    if not data:
        sys.exit("closed")
    for event in connection.receive_data(data):
        if isinstance(event, h2.events.ResponseReceived):
            statuses[event.stream_id] = dict(event.headers)[":status"]
        elif isinstance(event, h2.events.DataReceived):
            bodies[event.stream_id].update(event.data)
            connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            ended.add(event.stream_id)
        elif isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated)):
            sys.exit(repr(event))
    tls.sendall(connection.data_to_send())

for number in range(40):
    stream = connection.get_next_available_stream_id()
    echo = number % 3 == 0
    fields = [(":method", "POST" if echo else "GET"), (":scheme", "https"), (":authority", f"{name}:{port}"),
              (":path", "/echo" if echo else "/object"), ("priority", "u=1, i")]
    bodies[stream] = hashlib.sha256()
    connection.send_headers(stream, fields, end_stream=not echo)
    tls.sendall(connection.data_to_send())
    if echo:
        while connection.local_flow_control_window(stream) < len(upload):
            read()
        connection.send_data(stream, upload, end_stream=True)
        tls.sendall(connection.data_to_send())
while len(ended) < len(bodies):
    read()
for number, stream in enumerate(bodies):
    expected = hashlib.sha256(upload).hexdigest() if number % 3 == 0 else sys.argv[5]
    assert statuses[stream] == "200" and bodies[stream].hexdigest() == expected, (number, statuses)
print("40 right")
"#;

#[test]
fn pythons_h2_gets_and_sends_forty_bodies() {
    let origin = Origin::start();
    let site = Site::new(&[HOST]);
    let edge = start(&origin, &site);
    origin.cacheable("/object", 300_000);
    origin.script("/echo", |exchange| {
        let body = exchange.body()?;
        exchange.answer(&Answer::new(200).body(body))
    });
    let file = site.file("object");
    std::fs::write(&file, content::part(content::seed("/object"), 0, 300_000)).expect("written");
    let sum = Command::new("sha256sum").arg(&file).output().expect("sha256sum").stdout;
    let sum = String::from_utf8_lossy(&sum).split(' ').next().expect("a sum").to_owned();
    let (ip, port) = (site.address.ip().to_string(), site.address.port().to_string());
    let output = Command::new("timeout")
        .args(["60", "/usr/bin/python3", "-c", PYTHON, &ip, &port, HOST])
        .arg(site.certificate())
        .arg(sum)
        .output()
        .expect("python3");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("40 right"), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(origin.count("/object"), 1);
    assert_eq!(edge.metric("edge_tls_connections_alpn_h2_total"), 1.0);
    assert_eq!(edge.metric("edge_http2_requests_total"), 40.0);
}

#[test]
fn openssl_agrees_on_http2_and_reads_its_settings() {
    let origin = Origin::start();
    let site = Site::new(&[HOST]);
    let edge = start(&origin, &site);
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0";
    for (version, connections) in [("-tls1_2", 1.0), ("-tls1_3", 2.0)] {
        let arguments = ["-servername", HOST, "-alpn", "h2", version];
        let said = site.s_client_until(&arguments, preface, || {
            edge.metric("edge_http2_connections_total") == connections
        });
        assert!(said.contains("ALPN protocol: h2") && said.contains("Verify return code: 0"), "{said}");
    }
    let said = site.s_client(&["-servername", HOST, "-alpn", "spdy/3"], "");
    assert!(said.contains("no application protocol"), "{said}");
    assert_eq!(edge.metric("edge_http2_connections_total"), 2.0);
}

/// A page with a style sheet, a script and pictures, loaded and run by a browser: all of it over one HTTP/2 connection.
#[test]
fn chromium_loads_a_page() {
    if !process::has_program("chromium_loads_a_page", "chromium") {
        return;
    }
    let origin = Origin::start();
    let site = Site::new(&[HOST]);
    let edge = start(&origin, &site);
    let text = |path: &str, kind: &'static str, body: String| {
        origin.script(path, move |exchange| {
            let answer = Answer::new(200).field("Cache-Control", "max-age=3600").field("Content-Type", kind);
            exchange.answer(&answer.body(body.clone().into_bytes()))
        });
    };
    let pictures: String = (0..12).map(|n| format!("<img src=/picture/{n}.svg>")).collect();
    let page = format!(
        "<!doctype html><link rel=stylesheet href=/style.css><body>{pictures}<script src=/script.js></script>"
    );
    text("/page", "text/html", page);
    text("/style.css", "text/css", "body { margin: 0 }".into());
    let script = "addEventListener('load', () => { const all = [...document.images]; document.body.append(\
                  'loaded ' + all.filter(i => i.complete && i.naturalWidth == 9).length + ' over ' + \
                  performance.getEntriesByType('navigation')[0].nextHopProtocol); });";
    text("/script.js", "text/javascript", script.into());
    for number in 0..12 {
        let picture = "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>";
        text(&format!("/picture/{number}.svg"), "image/svg+xml", picture.into());
    }
    let profile = site.file("profile");
    let output = Command::new("timeout")
        .args(["120", "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        .args(["--ignore-certificate-errors", "--disable-background-networking", "--no-first-run"])
        .args(["--virtual-time-budget=20000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("--host-resolver-rules=MAP {HOST} {}", site.address.ip()))
        .arg(format!("https://{HOST}:{}/page", site.address.port()))
        .output()
        .expect("chromium");
    let dom = String::from_utf8_lossy(&output.stdout);
    assert!(dom.contains("loaded 12 over h2"), "{dom}{}", String::from_utf8_lossy(&output.stderr));
    assert!(edge.metric("edge_tls_connections_alpn_h2_total") >= 1.0);
    assert!(edge.metric("edge_http2_requests_total") >= 15.0);
    assert_eq!(edge.metric("edge_http2_floods_total"), 0.0);
}
