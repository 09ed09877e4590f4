//! A real origin: nginx, over TLS with a certificate of its own authority, HTTP/1.1 and HTTP/2 by ALPN.

use super::*;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

struct Nginx {
    child: Child,
    scratch: Scratch,
    /// HTTP/2, HTTP/1.1 and plain.
    ports: [u16; 3],
}

impl Nginx {
    fn start(files: &[(&str, &[u8])]) -> Self {
        let scratch = Scratch::new();
        let directory = scratch.path().display().to_string();
        let authority_key = rcgen::KeyPair::generate().unwrap();
        let mut authority = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = rcgen::CertifiedIssuer::self_signed(authority, authority_key).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        let certificate = parameters.signed_by(&key, &authority).unwrap();
        std::fs::create_dir(scratch.path().join("www")).unwrap();
        for (name, content) in files {
            std::fs::write(scratch.path().join("www").join(name), content).unwrap();
        }
        for (name, content) in
            [("ca.pem", authority.pem()), ("cert.pem", certificate.pem()), ("key.pem", key.serialize_pem())]
        {
            std::fs::write(scratch.path().join(name), content).unwrap();
        }
        let ports = [(); 3].map(|()| crate::ports::free().unwrap());
        let server = |listen: String| {
            format!(
                "server {{ listen 127.0.0.1:{listen}; ssl_certificate {directory}/cert.pem; \
                 ssl_certificate_key {directory}/key.pem; root {directory}/www; \
                 add_header Cache-Control max-age=60; add_header X-Protocol $server_protocol; \
                 add_header X-Host $http_host$host; }}\n"
            )
        };
        let config = format!(
            "daemon off; master_process off; pid {directory}/pid; error_log {directory}/error.log;\n\
             events {{}}\nhttp {{ access_log off; client_body_temp_path {directory}/b; proxy_temp_path {directory}/p; \
             fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;\n{}{}{}}}\n",
            server(format!("{} ssl http2", ports[0])),
            server(format!("{} ssl", ports[1])),
            server(format!("{}", ports[2])),
        );
        let path = scratch.path().join("nginx.conf");
        std::fs::write(&path, config).unwrap();
        let child = Command::new("nginx")
            .arg("-c")
            .arg(&path)
            .args(["-e", &format!("{directory}/error.log")])
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("nginx: {e}: apt-get install nginx (cargo xtask setup does it)"));
        let nginx = Nginx { child, scratch, ports };
        let start = Instant::now();
        while ports.iter().any(|port| TcpStream::connect(("127.0.0.1", *port)).is_err()) {
            let log = || std::fs::read_to_string(nginx.scratch.path().join("error.log"));
            assert!(start.elapsed() < PATIENCE, "nginx does not listen: {:?}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn files_come_whole_over_every_protocol() {
    let large = pattern(5 << 20, 8);
    let nginx = Nginx::start(&[("large", &large), ("small", b"small")]);
    let directory = Arc::new(Scratch::new());
    let [http2, http1, plain] = nginx.ports;
    let mut config = config(directory.path(), &[format!("http://localhost:{plain}")]);
    let secure = |port: u16| crate::config::Origin {
        servers: vec![format!("https://localhost:{port}")],
        ca_file: Some(nginx.scratch.path().join("ca.pem")),
        ..config.origins[0].clone()
    };
    let untrusted = crate::config::Origin { ca_file: None, ..secure(http1) };
    let more = [secure(http1), secure(http2), untrusted];
    config.origins.extend(more);
    for (host, origin) in [("one.test", 1), ("two.test", 2), ("untrusted.test", 3)] {
        config.routes.insert(
            0,
            Route {
                pattern: Pattern { host: Some(host.into()), path: None, header: None },
                origin,
                transport: Default::default(),
                caching: Default::default(),
            },
        );
    }
    let (node, mut workers) = start_in(1, config, directory);
    let worker = &mut workers[0];
    for (host, protocol) in [("plain.test", "HTTP/1.1"), ("one.test", "HTTP/1.1"), ("two.test", "HTTP/2.0")] {
        let large_url = format!("http://{host}:8080/large");
        let small_url = format!("http://{host}:8080/small");
        let tickets = [worker.fill(&large_url), worker.fill(&small_url), worker.pass("HEAD", &small_url, "")];
        worker.run_until(|worker| tickets.iter().all(|ticket| worker.whole(*ticket)));
        assert_eq!(hash(worker.body(tickets[0])), hash(&large), "{host}");
        assert_eq!(hash(&worker.stored(&large_url, "").unwrap()), hash(&large));
        assert_eq!(worker.body(tickets[1]), b"small");
        assert_eq!(worker.head(tickets[2]).body_bytes, Some(5));
        let lines = String::from_utf8(worker.head(tickets[1]).lines.clone()).unwrap();
        assert_eq!(super::origin::field(&lines, "x-protocol"), Some(protocol));
        // nginx's $http_host holds what came in Host or :authority, $host the same without the port.
        assert!(lines.to_ascii_lowercase().contains(&format!("{host}\r\n")), "{lines}");
    }
    let distrusted = worker.fill("http://untrusted.test/small");
    worker.run_until(|worker| worker.refused(distrusted) == Some(502));
    node.handle.stop().unwrap();
}

#[test]
fn a_validation_by_date_and_entity_tag_works_against_nginx() {
    let nginx = Nginx::start(&[("file", b"content")]);
    let directory = Arc::new(Scratch::new());
    let config = config(directory.path(), &[format!("http://127.0.0.1:{}", nginx.ports[2])]);
    let (node, mut workers) = start_in(1, config, directory);
    let worker = &mut workers[0];
    let first = worker.fill("http://a/file");
    worker.run_until(|worker| worker.whole(first));
    node.await_count(Counter::FillsStored, 1);
    // As if it had become stale: the client asks for a validation.
    let again = worker.revalidate("http://a/file", "Cache-Control: no-cache\r\n");
    worker.run_until(|worker| worker.outcome(again).is_some());
    assert_eq!(
        worker.outcome(again),
        Some(super::worker::Outcome::Again(crate::proto::session::Again::Revalidated { collapsed: false }))
    );
    node.await_count(Counter::Revalidated, 1);
    std::fs::write(nginx.scratch.path().join("www/file"), b"other content").unwrap();
    let changed = worker.revalidate("http://a/file", "Cache-Control: no-cache\r\n");
    worker.run_until(|worker| worker.whole(changed));
    assert_eq!(worker.body(changed), b"other content");
    assert_eq!(worker.stored("http://a/file", "").as_deref(), Some(&b"other content"[..]));
    node.handle.stop().unwrap();
}
