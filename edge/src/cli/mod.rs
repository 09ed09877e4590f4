//! Commands, their help, and what they print. `run` is handed on; every other command is done here, and
//! none of them touches the cache but through the admin endpoint.
#![forbid(unsafe_code)]

mod admin;
mod status;
mod tune;

use crate::config::{self, AdminAddress, Config, Token};
use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// A cache node: XDP steering, io_uring workers, memory-mapped shards.
#[derive(Debug, Parser)]
#[command(name = "edge", version, subcommand_required = true, arg_required_else_help = true)]
#[command(
    after_help = "Example:\n  edge check-config /etc/edge/edge.toml\n  edge run --config /etc/edge/edge.toml\n  \
                  edge status\n\n`edge COMMAND --help` has an example of each."
)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

/// What the operator asks for.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve until TERM; HUP reloads the file
    #[command(after_help = "Example:\n  edge run --config /etc/edge/edge.toml")]
    Run {
        /// The configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Say whether a configuration file is right, and where it is not
    #[command(after_help = "Example:\n  edge check-config /etc/edge/edge.toml\n\n\
                      Exit status 0: the file is right. Otherwise each mistake stands on a line of its own:\n  \
                      FILE:LINE:COLUMN: what is wrong; what would be right")]
    CheckConfig {
        /// The configuration file
        file: PathBuf,
    },
    /// Show what a running node does: steering and why not better, workers, hit ratio, store, origins
    #[command(after_help = "Example:\n  edge status\n  edge status --json | jq .steering")]
    Status {
        /// Whom to ask
        #[command(flatten)]
        node: Endpoint,
        /// Print the node's answer as it came
        #[arg(long)]
        json: bool,
    },
    /// Make a running node forget objects
    #[command(after_help = "Example:\n  edge purge --url http://www.example.com/logo.svg\n  \
                      edge purge --prefix http://www.example.com/images/\n  edge purge --tag news --soft\n\n\
                      Tags are those that the origin sent as Surrogate-Key or Cache-Tag; their case does not matter.\n\
                      A host stands for all its schemes and ports.")]
    Purge {
        /// Which objects
        #[command(flatten)]
        what: PurgeWhat,
        /// Keep the objects, but ask the origin before the next use
        #[arg(long)]
        soft: bool,
        /// Whom to ask
        #[command(flatten)]
        node: Endpoint,
    },
    /// Say what a running node has stored under a URL, or why it has not
    #[command(after_help = "Example:\n  edge why http://www.example.com/logo.svg\n  \
                      edge why --json http://www.example.com/logo.svg | jq .variants")]
    Why {
        /// The URL, as clients ask for it
        url: String,
        /// Whom to ask
        #[command(flatten)]
        node: Endpoint,
        /// Print the node's answer as it came
        #[arg(long)]
        json: bool,
    },
    /// Compare the kernel's settings with those for an edge node; changes nothing
    #[command(after_help = "Example:\n  edge tune\n\nTo apply them:\n  \
                            install -m 644 deploy/90-edge-sysctl.conf /etc/sysctl.d/90-edge.conf && sysctl --system")]
    Tune,
}

/// A node's admin endpoint.
#[derive(Debug, Args)]
pub struct Endpoint {
    /// The node's [listen] admin: 127.0.0.1:9180, or unix:/run/edge/admin.sock
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9180")]
    admin: AdminAddress,
    /// A copy of its admin_token_file, where it has one
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl Endpoint {
    fn token(&self) -> Result<Option<Token>> {
        let Some(file) = &self.token_file else { return Ok(None) };
        let read = config::contents(file)
            .map_err(|why| format!("cannot be read: {why}; name a file with the token"));
        let token = read.and_then(|contents| Token::parse(&contents));
        token.map(Some).map_err(|wrong| anyhow::anyhow!("--token-file {} {wrong}", file.display()))
    }

    fn ask(&self, method: &str, path: &str, body: Option<&str>) -> Result<admin::Answer> {
        admin::exchange(&self.admin, self.token()?.as_ref(), method, path, body)
    }
}

/// Which objects; exactly one of these.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct PurgeWhat {
    /// One object in all its variants
    #[arg(long)]
    url: Option<String>,
    /// Every object whose URL begins so
    #[arg(long)]
    prefix: Option<String>,
    /// Every object of a host
    #[arg(long)]
    host: Option<String>,
    /// Every object its origin marked with this tag
    #[arg(long)]
    tag: Option<String>,
}

/// Reads the command line; on a mistake, or for help, this prints and ends the process.
pub fn parse() -> Command {
    Line::parse().command
}

/// Does what was asked for. `serve` is called for `run`, with a file that has passed every check.
pub fn execute(command: Command, serve: impl FnOnce(&Path, Config) -> ExitCode) -> ExitCode {
    let done = match command {
        Command::Run { config } => match config::load(&config) {
            Ok(loaded) => return serve(&config, loaded),
            Err(problems) => return mistaken(&problems),
        },
        Command::CheckConfig { file } => match config::load(&file) {
            Ok(config) => {
                config.warnings.iter().for_each(|warning| eprintln!("{warning}"));
                say(&format!("{}: {}\n", file.display(), summary(&config)))
            }
            Err(problems) => return mistaken(&problems),
        },
        Command::Status { node, json } => show_status(&node, json),
        Command::Purge { what, soft, node } => purge(&what, soft, &node),
        Command::Why { url, node, json } => why(&url, &node, json),
        Command::Tune => say(&tune::report(&tune::settings(), tune::current)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("edge: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints. A reader that has seen enough, such as `head`, is no mistake.
fn say(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("cannot print"),
        _ => Ok(()),
    }
}

/// Nothing stands before the file's name, so that editors can jump to it.
fn mistaken(problems: &config::Problems) -> ExitCode {
    eprintln!("{problems}");
    ExitCode::FAILURE
}

fn summary(config: &Config) -> String {
    let count = |n: usize, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
    let tls: BTreeSet<_> = config.https.iter().map(|entry| entry.address).collect();
    let xdp = config.xdp.as_ref().map_or("no XDP".into(), |xdp| format!("XDP on {}", xdp.interface));
    format!(
        "right: {}, {}, {}, {}, {} MiB in {}, {xdp}",
        count(config.http.len() + tls.len(), "address", "addresses"),
        count(config.https.len(), "certificate", "certificates"),
        count(config.origins.len(), "origin", "origins"),
        count(config.routes.len(), "route", "routes"),
        config.store_bytes() >> 20,
        config.store.iter().map(|shard| shard.path.display().to_string()).collect::<Vec<_>>().join(" and "),
    )
}

fn show_status(node: &Endpoint, json: bool) -> Result<()> {
    let (address, answer) = (&node.admin, node.ask("GET", "/status", None)?);
    if answer.status != 200 {
        bail!("the node at {address} answered {}: {}", answer.status, answer.reason());
    }
    if json {
        return say(&format!("{}\n", answer.body.trim_end()));
    }
    let mut value = serde_json::from_str(&answer.body)
        .with_context(|| format!("what answers at {address} is no edge node, or of another version"))?;
    status::add_hit_ratio(&mut value);
    say(&status::render(&value))
}

fn why(url: &str, node: &Endpoint, json: bool) -> Result<()> {
    let path = format!("/why?url={}", admin::percent_encoded(url));
    let (address, answer) = (&node.admin, node.ask("GET", &path, None)?);
    if answer.status != 200 {
        bail!("the node at {address} answered {}: {}", answer.status, answer.reason());
    }
    match serde_json::from_str(&answer.body) {
        Ok(value) if !json => say(&status::render(&value)),
        _ => say(&format!("{}\n", answer.body.trim_end())),
    }
}

fn purge(what: &PurgeWhat, soft: bool, node: &Endpoint) -> Result<()> {
    let (address, answer) = (&node.admin, node.ask("POST", "/purge", Some(&purge_body(what, soft)))?);
    if !(200..300).contains(&answer.status) {
        bail!("the node at {address} refused with {}: {}", answer.status, answer.reason());
    }
    match serde_json::from_str(&answer.body) {
        Ok(value) => say(&status::render(&value)),
        Err(_) => say(&format!("{}\n", answer.body.trim_end())),
    }
}

fn purge_body(what: &PurgeWhat, soft: bool) -> String {
    let PurgeWhat { url, prefix, host, tag } = what;
    let named = [("url", url), ("prefix", prefix), ("host", host), ("tag", tag)];
    let mut body = serde_json::Map::new();
    for (name, value) in named {
        if let Some(value) = value {
            body.insert(name.into(), value.as_str().into());
        }
    }
    body.insert("soft".into(), soft.into());
    serde_json::Value::Object(body).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parsed(line: &str) -> Result<Command, clap::Error> {
        Line::try_parse_from(line.split(' ')).map(|line| line.command)
    }

    #[test]
    fn the_command_line_is_consistent_and_every_command_has_an_example() {
        let mut command = Line::command();
        command.clone().debug_assert();
        command.build();
        assert!(command.render_long_help().to_string().contains("Example:\n  edge "));
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let help = sub.clone().render_long_help().to_string();
            assert!(help.contains(&format!("Example:\n  edge {}", sub.get_name())), "{help}");
        }
    }

    #[test]
    fn purge_names_exactly_one_thing() {
        let body = |line: &str| match parsed(line).unwrap() {
            Command::Purge { what, soft, .. } => purge_body(&what, soft),
            other => panic!("{other:?}"),
        };
        assert_eq!(body("edge purge --url http://a/b"), r#"{"soft":false,"url":"http://a/b"}"#);
        assert_eq!(body("edge purge --tag \"x --soft"), r#"{"soft":true,"tag":"\"x"}"#);
        assert!(parsed("edge purge").is_err());
        assert!(parsed("edge purge --url a --host b").is_err());
    }

    #[test]
    fn the_admin_address_has_a_default_and_is_checked() {
        let address = |line: &str| match parsed(line).unwrap() {
            Command::Status { node, .. } => node.admin.to_string(),
            other => panic!("{other:?}"),
        };
        for given in ["127.0.0.1:9180", "[::1]:9", "unix:/run/a.sock"] {
            assert_eq!(address(&format!("edge status --admin {given}")), given);
        }
        assert_eq!(address("edge status"), "127.0.0.1:9180");
        let wrong = parsed("edge status --admin nowhere").unwrap_err().to_string();
        assert!(wrong.contains("write one such as"), "{wrong}");
        assert!(parsed("edge run").is_err() && parsed("edge").is_err() && parsed("edge why").is_err());
    }

    #[test]
    fn a_bad_file_is_never_served() {
        let run = Command::Run { config: "/nowhere/edge.toml".into() };
        let code = execute(run, |_, _| panic!("served a file that cannot be read"));
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::FAILURE));
    }
}
