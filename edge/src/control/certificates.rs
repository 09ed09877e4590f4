//! Certificates of the addresses that speak TLS: read at the start, on HUP, and when a file changed; handed to the
//! workers whole, so that a connection is met by the old set or by the new one. Which certificate a client
//! gets is in `proto::certificate`.
#![forbid(unsafe_code)]

use super::Node;
use super::mailbox::ToWorker;
use crate::config::{Config, Https};
use crate::proto::certificate::{Certificate, Wrong};
use crate::proto::policy::{self, Policy, Rules};
use crate::proto::staple::Staple;
use crate::proto::tickets::Secrets;
use crate::proto::tls::Policies;
use crate::stats::Counter;
use crate::{clock, limits};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What a file looked like: device, inode, bytes, seconds and nanoseconds of its last change.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// All certificates of the node, as they are served.
pub struct Certificates {
    /// Addresses with a listener, fixed at the start; policies are in the same order.
    addresses: Vec<SocketAddr>,
    loaded: Loaded,
    secrets: Secrets,
    rotated_ms: u64,
}

#[derive(Default)]
struct Loaded {
    policies: Arc<Policies>,
    /// What they were made of, in the same order.
    met: Vec<Met>,
    stamps: HashMap<PathBuf, Stamp>,
    shown: Vec<Shown>,
    /// Why certificates are served as they were, though their files have changed.
    refused: Vec<String>,
    /// Unix seconds, for what was left out of the policies because it was out of date.
    made_s: u64,
}

/// How clients of one address are met, but for the keys of tickets.
#[derive(Clone)]
struct Met {
    address: SocketAddr,
    certificates: Vec<Certificate>,
    client_ca: Option<Vec<u8>>,
    tls13_only: bool,
    ciphers: Vec<rustls::CipherSuite>,
}

impl Met {
    fn policy(&self, secrets: &Secrets, now_s: u64) -> Result<Arc<Policy>, String> {
        let rules = Rules {
            certificates: &self.certificates,
            tls13_only: self.tls13_only,
            ciphers: &self.ciphers,
            client_ca: self.client_ca.as_deref(),
            name: &self.address.to_string(),
            now_s,
            clock: Arc::new(clock::Wall),
        };
        Policy::new(&rules, secrets).map(Arc::new).map_err(|error| format!("{}: {error}", self.address))
    }
}

/// A certificate for the status.
struct Shown {
    address: SocketAddr,
    path: PathBuf,
    ocsp: Option<PathBuf>,
    certificate: Certificate,
}

impl Shown {
    /// Why its OCSP response is not stapled, as a line of the log.
    fn left_out(&self, now_s: u64) -> Option<String> {
        Some(format!("{} {}", self.ocsp.as_ref()?.display(), self.certificate.staple.left_out(now_s)?))
    }
}

impl Certificates {
    /// Reads everything that `config` names.
    ///
    /// # Errors
    /// The first file that cannot be used, and why.
    pub fn load(config: &Config) -> Result<Self, String> {
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for entry in &config.https {
            if !addresses.contains(&entry.address) {
                addresses.push(entry.address);
            }
        }
        let secrets = Secrets::new().ok_or("the system gives no random bytes for session tickets")?;
        let loaded = read(config, &addresses, &secrets, &Loaded::default(), false)?;
        Ok(Certificates { addresses, loaded, secrets, rotated_ms: clock::now().mono_ms })
    }

    /// Addresses to listen on.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What workers serve, one for each of the addresses.
    pub fn policies(&self) -> Arc<Policies> {
        self.loaded.policies.clone()
    }

    /// Reads everything again. On an error nothing has changed. `each`: a certificate whose files cannot be used stays as
    /// it was, and the others follow theirs; so one that is broken for long keeps no other from being renewed.
    pub(super) fn reload(&mut self, config: &Config, each: bool) -> Result<(), String> {
        self.loaded = read(config, &self.addresses, &self.secrets, &self.loaded, each)?;
        Ok(())
    }

    /// What the log is told of files that have changed.
    pub(super) fn told(&self, now_s: u64) -> Vec<String> {
        let kept = self.loaded.refused.iter().map(|why| format!("one is served as it was: {why}"));
        kept.chain(self.loaded.shown.iter().filter_map(|shown| shown.left_out(now_s))).collect()
    }

    /// Whether a file is not what it was when it was last looked at; it counts as looked at from then on.
    pub(super) fn changed(&mut self) -> bool {
        let mut changed = false;
        for (path, stamp) in &mut self.loaded.stamps {
            let now = stamp_of(path);
            changed |= *stamp != now;
            *stamp = now;
        }
        changed
    }

    /// Takes a new ticket key when the current one has served its time, whatever has become of the files meanwhile.
    pub(super) fn rotate(&mut self, now_ms: u64) -> bool {
        let due = now_ms.saturating_sub(self.rotated_ms) >= limits::TICKET_ROTATION_S * 1000;
        // Without randomness the key stays, and is tried again.
        if !due || self.secrets.rotate().is_none() {
            return false;
        }
        self.rotated_ms = now_ms;
        match self.made_again() {
            Ok(policies) => self.loaded.policies = policies,
            Err(error) => tracing::warn!("the key of session tickets stays as it was: {error}"),
        }
        true
    }

    /// Leaves out OCSP responses that have expired since the policies were made; their lines for the log.
    pub(super) fn lapse(&mut self, now_s: u64) -> Vec<String> {
        let made_s = self.loaded.made_s;
        let lapsed = |shown: &&Shown| {
            let staple = shown.certificate.staple;
            staple.is_good(made_s) && !staple.is_good(now_s)
        };
        let lines: Vec<String> =
            self.loaded.shown.iter().filter(lapsed).filter_map(|shown| shown.left_out(now_s)).collect();
        self.loaded.made_s = now_s;
        if !lines.is_empty() {
            match self.made_again() {
                Ok(policies) => self.loaded.policies = policies,
                Err(error) => tracing::warn!("OCSP responses are stapled as before: {error}"),
            }
        }
        lines
    }

    /// The policies of what is loaded, with the keys of now.
    fn made_again(&self) -> Result<Arc<Policies>, String> {
        let Loaded { met, policies: before, made_s, .. } = &self.loaded;
        policies(met, &self.secrets, before.handshakes_per_second, *made_s)
    }

    /// When the first certificate ends, Unix seconds; 0: there is none.
    pub(super) fn ends_s(&self) -> u64 {
        self.loaded.shown.iter().map(|shown| shown.certificate.until_s).min().unwrap_or(0)
    }

    /// One line for each certificate.
    pub(super) fn status(&self, now_s: u64) -> Value {
        let line = |shown: &Shown| {
            json!({
                "address": shown.address.to_string(),
                "names": shown.certificate.names,
                "expires_in_days": (shown.certificate.until_s as i64 - now_s as i64).div_euclid(86_400),
                "certificate": shown.path.display().to_string(),
                "ocsp": match shown.certificate.staple {
                    Staple::None => "none",
                    Staple::OfAnother => "of another certificate",
                    Staple::Until(_) if shown.certificate.staple.is_good(now_s) => "stapled",
                    Staple::Until(_) => "expired",
                },
            })
        };
        self.loaded.shown.iter().map(line).collect()
    }
}

/// Serves the files again as `config` names them, on every worker.
pub(super) fn reload(node: &Node, config: &Config) -> Result<(), String> {
    node.certificates.borrow_mut().reload(config, false)?;
    hand_over(node);
    Ok(())
}

fn hand_over(node: &Node) {
    let policies = node.certificates.borrow().policies();
    if !policies.addresses.is_empty() {
        node.outboxes.iter().for_each(|outbox| outbox.post(ToWorker::Policies(policies.clone())));
    }
}

/// Looks at the files now and then, and renews the key of tickets; runs as long as the thread.
pub(super) async fn watch(node: &Node) {
    loop {
        tokio::time::sleep(Duration::from_millis(limits::CERTIFICATE_WATCH_MS)).await;
        let now = clock::now();
        let (changed, rotated, lapsed) = {
            let mut certificates = node.certificates.borrow_mut();
            (certificates.changed(), certificates.rotate(now.mono_ms), certificates.lapse(now.unix_s))
        };
        let mut is_new = rotated || !lapsed.is_empty();
        lapsed.iter().for_each(|line| tracing::warn!("certificates: {line}"));
        if changed {
            let config = node.config.borrow().clone();
            let reloaded = node.certificates.borrow_mut().reload(&config, true);
            match reloaded {
                Ok(()) => {
                    is_new = true;
                    tracing::info!("certificates: files changed, and those that are right are in force");
                    let told = node.certificates.borrow().told(now.unix_s);
                    told.iter().for_each(|line| tracing::warn!("certificates: {line}"));
                }
                Err(error) => tracing::warn!("certificates: nothing was changed: {error}"),
            }
        }
        if is_new {
            hand_over(node);
        }
    }
}

/// Certificates, and what part of the connections agreed on what.
pub(super) fn status(node: &Node) -> Value {
    let sum = |counter| node.worker_cells.iter().map(|cells| cells.get(counter)).sum::<u64>();
    let done = sum(Counter::TlsFull) + sum(Counter::TlsResumed);
    let share = |counter| sum(counter) as f64 / done.max(1) as f64;
    json!({
        "handshakes": done,
        "resumed_share": share(Counter::TlsResumed),
        "tls_1_2_share": share(Counter::Tls12),
        "tls_1_3_share": share(Counter::Tls13),
        "alpn_h2_share": share(Counter::TlsAlpnHttp2),
        "aes_128_gcm_share": share(Counter::TlsAes128),
        "aes_256_gcm_share": share(Counter::TlsAes256),
        "chacha20_poly1305_share": share(Counter::TlsChacha20),
        "certificates": node.certificates.borrow().status(clock::now().unix_s),
    })
}

fn read(
    config: &Config,
    addresses: &[SocketAddr],
    secrets: &Secrets,
    before: &Loaded,
    each: bool,
) -> Result<Loaded, String> {
    let mut loaded = Loaded { made_s: clock::now().unix_s, ..Loaded::default() };
    for (number, address) in addresses.iter().enumerate() {
        let mut certificates = Vec::new();
        let mut client_ca = None;
        for entry in config.https.iter().filter(|entry| entry.address == *address) {
            let mut file = |path: &Path| {
                loaded.stamps.insert(path.to_owned(), stamp_of(path));
                contents(path)
            };
            client_ca = entry.client_ca.as_deref().map(&mut file).transpose()?;
            let was =
                before.shown.iter().find(|was| was.address == *address && was.path == entry.certificate);
            let certificate = match (certificate(entry, &mut file), was) {
                (Ok(certificate), _) => certificate,
                (Err(why), Some(was)) if each => {
                    loaded.refused.push(why);
                    was.certificate.clone()
                }
                (Err(why), _) => return Err(why),
            };
            loaded.shown.push(Shown {
                address: *address,
                path: entry.certificate.clone(),
                ocsp: entry.ocsp.clone(),
                certificate: certificate.clone(),
            });
            certificates.push(certificate);
        }
        if certificates.is_empty() {
            // The address was removed; until the restart that takes, it is served as it was.
            loaded.met.extend(before.met.get(number).cloned());
            continue;
        }
        loaded.met.push(Met {
            address: *address,
            certificates,
            client_ca,
            tls13_only: config.tls.tls13_only,
            ciphers: config.tls.ciphers.clone(),
        });
    }
    loaded.policies = policies(&loaded.met, secrets, config.tls.handshakes_per_second, loaded.made_s)?;
    Ok(loaded)
}

/// A certificate of its files. All of them are looked at, whichever is wrong.
fn certificate(
    entry: &Https,
    mut file: impl FnMut(&Path) -> Result<Vec<u8>, String>,
) -> Result<Certificate, String> {
    let (chain, key) = (file(&entry.certificate), file(&entry.key));
    let ocsp = entry.ocsp.as_deref().map(file).transpose()?;
    Certificate::parse(&chain?, &key?, ocsp, &policy::provider()).map_err(|wrong| {
        let (path, why) = match wrong {
            Wrong::Certificate(why) => (&entry.certificate, why),
            Wrong::Key(why) => (&entry.key, why),
            Wrong::Ocsp(why) => (entry.ocsp.as_ref().unwrap_or(&entry.certificate), why),
        };
        format!("{} {why}", path.display())
    })
}

fn policies(
    met: &[Met],
    secrets: &Secrets,
    handshakes_per_second: Option<u32>,
    now_s: u64,
) -> Result<Arc<Policies>, String> {
    let addresses = met.iter().map(|met| met.policy(secrets, now_s)).collect::<Result<_, _>>()?;
    Ok(Arc::new(Policies { addresses, handshakes_per_second }))
}

fn contents(path: &Path) -> Result<Vec<u8>, String> {
    crate::config::contents(path).map_err(|why| format!("{} cannot be read: {why}", path.display()))
}

fn stamp_of(path: &Path) -> Stamp {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
}
