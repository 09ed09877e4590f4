//! A running edge: its configuration file, its start, and its counters read from the admin listener.
//! What a benchmark or the demo does with it lives with them.
#![forbid(unsafe_code)]

use crate::build;
use crate::process::Scratch;
use anyhow::Result;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What differs between the nodes our tasks start.
pub struct Node<'a> {
    /// `[node] cpus`; empty: all allowed.
    pub cpus: String,
    /// `[listen] http`
    pub http: String,
    /// `[listen] admin`
    pub admin: String,
    /// `[origins.main] servers`
    pub origin: String,
    /// `[xdp] interface` and `mode`; `None`: no such section.
    pub xdp: Option<(&'a str, &'a str)>,
    /// `[store] size`
    pub store_size: &'a str,
}

impl Node<'_> {
    /// The configuration file's text.
    pub fn text(&self, store: &str) -> String {
        let mut text = String::new();
        if !self.cpus.is_empty() {
            text += &format!("[node]\ncpus = \"{}\"\n\n", self.cpus);
        }
        text += &format!("[listen]\nhttp = [\"{}\"]\nadmin = \"{}\"\n\n", self.http, self.admin);
        text += &format!("[store]\npath = \"{store}\"\nsize = \"{}\"\n\n", self.store_size);
        text += &format!("[origins.main]\nservers = [\"http://{}\"]\n\n", self.origin);
        if let Some((interface, mode)) = self.xdp {
            text += &format!("[xdp]\ninterface = \"{interface}\"\nmode = \"{mode}\"\n\n");
        }
        text + "[[routes]]\norigin = \"main\"\n"
    }

    /// Writes the file and its store directory, and gives the command that runs the release binary.
    pub fn command(&self, scratch: &Scratch, name: &str) -> Result<Command> {
        self.command_of(&build::release_binary("edge")?, scratch, name)
    }

    /// As [`Node::command`], for another binary.
    pub fn command_of(&self, binary: &Path, scratch: &Scratch, name: &str) -> Result<Command> {
        let store = scratch.directory(&format!("{name}-store"))?;
        let file: PathBuf =
            scratch.write(&format!("{name}.toml"), self.text(&store.display().to_string()))?;
        let mut command = Command::new(binary);
        command.args(["run", "--config"]).arg(file);
        Ok(command)
    }
}

/// One reading of `/metrics`: every series by its name, summed over its labels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Reads the text exposition; comments and what cannot be read are left out.
    pub fn parse(text: &str) -> Self {
        let mut sums = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((series, value)) = line.rsplit_once(' ')
                && let Ok(value) = value.parse::<f64>()
            {
                let name = series.split('{').next().unwrap_or_default();
                *sums.entry(name.to_owned()).or_default() += value;
            }
        }
        Metrics(sums)
    }

    /// The sum over all labels; 0 where there is no such metric.
    pub fn sum(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or(0.0)
    }

    /// What a counter grew by since `earlier`.
    pub fn growth(&self, earlier: &Metrics, name: &str) -> f64 {
        self.sum(name) - earlier.sum(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed() {
        let text = "# HELP edge_hits Hits.\n# TYPE edge_hits counter\nedge_hits_total{worker=\"0\",cpu=\"1\"} 5\n\
                    edge_hits_total{worker=\"1\",cpu=\"3\"} 7\nedge_requests_total 20\nbroken\n# EOF\n";
        let metrics = Metrics::parse(text);
        assert_eq!(metrics.sum("edge_hits_total"), 12.0);
        assert_eq!(metrics.sum("edge_requests_total"), 20.0);
        assert_eq!(metrics.sum("edge_none_total"), 0.0);
        assert_eq!(metrics.growth(&Metrics::parse("edge_hits_total 2\n"), "edge_hits_total"), 10.0);
    }
}
