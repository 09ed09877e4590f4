//! Prints a node's JSON for people. Fields are shown by their form, not by their name, so that a node of a
//! newer version is shown whole. Units come from the names: `_bytes`, `_ms`, `_s`, `_ratio`, `_share`.
#![forbid(unsafe_code)]

use serde_json::{Map, Value};
use std::fmt::Write;

/// What an operator looks for first; the rest follows by name.
const FIRST: &[&str] = &[
    "url",
    "state",
    "because",
    "version",
    "uptime_s",
    "draining",
    "hit_ratio",
    "steering",
    "workers",
    "store",
    "fetches",
    "origins",
    "tls",
];

/// Adds the share of requests that were answered from a shard, where the node counts both.
pub(super) fn add_hit_ratio(status: &mut Value) {
    let count = |name: &str| status.pointer(&format!("/counters/{name}"))?.as_f64();
    if let (Some(hits), Some(requests)) = (count("hits"), count("requests"))
        && requests > 0.0
    {
        status["hit_ratio"] = (hits / requests).into();
    }
}

/// Characters of a line that most terminals show whole.
const LINE_CHARS_MAX: usize = 132;

/// The document as text.
pub(super) fn render(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) => object("", map, 0, &mut out),
        other => out = format!("{}\n", scalar("", other)),
    }
    out
}

/// Simple fields as an aligned list, then each nested one under its heading.
fn object(name: &str, map: &Map<String, Value>, indent: usize, out: &mut String) {
    let rank = |key: &str| FIRST.iter().position(|first| *first == key).unwrap_or(FIRST.len());
    let mut fields = shown(name, map);
    fields.sort_by_key(|(key, _)| rank(key));
    let (nested, simple): (Vec<_>, Vec<_>) = fields.into_iter().partition(|(_, value)| is_nested(value));
    let width = simple.iter().map(|(key, _)| title(key).chars().count()).max().unwrap_or(0);
    for (key, value) in simple {
        let _ = writeln!(out, "{:indent$}{:width$}  {}", "", title(key), scalar(key, value));
    }
    for (key, value) in nested {
        let _ = writeln!(out, "{:indent$}{}", "", title(key));
        match value {
            Value::Object(map) => object(key, map, indent + 2, out),
            Value::Array(items) => table(items, indent + 2, out),
            _ => {}
        }
    }
}

fn is_nested(value: &Value) -> bool {
    match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => items.iter().any(|item| item.is_object() || item.is_array()),
        _ => false,
    }
}

/// A list of objects, one a line, under the names of all their fields.
fn table(items: &[Value], indent: usize, out: &mut String) {
    let mut columns: Vec<&String> = Vec::new();
    for key in items.iter().filter_map(Value::as_object).flat_map(Map::keys) {
        if !columns.contains(&key) {
            columns.push(key);
        }
    }
    columns.sort_by_key(|key| column_rank(key));
    let mut rows = vec![columns.iter().map(|key| title(key)).collect::<Vec<_>>()];
    for item in items {
        match item.as_object() {
            Some(map) => rows.push(
                columns.iter().map(|key| map.get(*key).map_or("-".into(), |v| scalar(key, v))).collect(),
            ),
            None => rows.push(vec![scalar("", item)]),
        }
    }
    let width = |i: usize| rows.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns.len().max(1)).map(|i| width(i).unwrap_or(0)).collect();
    if columns.len() > 1 && indent + widths.iter().map(|width| width + 2).sum::<usize>() > LINE_CHARS_MAX {
        return listed(&rows, indent, out);
    }
    for row in rows.iter().filter(|row| !row.is_empty()) {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let _ = writeln!(out, "{:indent$}{}", "", cells.join("  ").trim_end());
    }
}

/// A table too wide for a terminal: each of its rows as a list of its own, under what names it.
fn listed(rows: &[Vec<String>], indent: usize, out: &mut String) {
    let Some((titles, items)) = rows.split_first() else { return };
    let width = titles.iter().map(|title| title.chars().count()).max().unwrap_or(0);
    for item in items {
        for (number, (title, cell)) in titles.iter().zip(item).enumerate() {
            let mark = if number == 0 { "- " } else { "  " };
            let _ = writeln!(out, "{:indent$}{mark}{title:width$}  {cell}", "");
        }
    }
}

/// What names a line comes first, and sentences last.
fn column_rank(key: &str) -> usize {
    match key {
        "worker" | "name" | "step" | "address" | "origin" | "path" | "state" => 0,
        "cpu" | "outcome" | "value" | "status" => 1,
        "reason" | "last_failure" => 4,
        "counters" => 3,
        _ => 2,
    }
}

/// Of counters only those that counted something.
fn shown<'a>(name: &str, map: &'a Map<String, Value>) -> Vec<(&'a String, &'a Value)> {
    let is_idle = |value: &Value| name == "counters" && value.as_u64() == Some(0);
    map.iter().filter(|(_, value)| !is_idle(value)).collect()
}

/// Units that stand with the value rather than in the name.
const UNITS: &[&str] = &["_bytes", "_ms", "_s"];

/// `used_bytes`: `used`.
fn title(key: &str) -> String {
    let unit = UNITS.iter().find(|unit| key.len() > unit.len() && key.ends_with(**unit));
    key[..key.len() - unit.map_or(0, |unit| unit.len())].replace('_', " ")
}

fn scalar(key: &str, value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        // A peer's text is not let at the terminal: no escape sequences.
        Value::String(text) => text.chars().filter(|c| !c.is_control()).collect(),
        Value::Number(number) => quantity(key, number.as_f64().unwrap_or(0.0), &number.to_string()),
        Value::Array(items) if items.is_empty() => "none".into(),
        Value::Array(items) => items.iter().map(|item| scalar(key, item)).collect::<Vec<_>>().join(", "),
        Value::Object(map) if shown(key, map).is_empty() => "none".into(),
        Value::Object(map) => {
            let field = |(key, value): (&String, &Value)| format!("{} {}", title(key), scalar(key, value));
            shown(key, map).into_iter().map(field).collect::<Vec<_>>().join(", ")
        }
    }
}

fn quantity(key: &str, number: f64, plain: &str) -> String {
    if key.ends_with("_ratio") || key.ends_with("_share") {
        return format!("{:.1} %", number * 100.0);
    }
    if key.ends_with("_ms") {
        return format!("{plain} ms");
    }
    if key.ends_with("_s") {
        return format!("{plain} s");
    }
    if !key.ends_with("_bytes") {
        return plain.into();
    }
    let steps = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    match steps.iter().find(|(shift, _)| number >= (1u64 << shift) as f64) {
        Some((shift, unit)) => format!("{:.1} {unit}", number / (1u64 << shift) as f64),
        None => format!("{plain} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_is_shown_whole_and_aligned() {
        let value = json!({
            "zone": null,
            "version": "0.1.0",
            "uptime_s": 12,
            "workers": [{"cpu": 0, "hit_ratio": 0.5}, {"cpu": 11, "late": true}],
            "steering": {"mode": "pick", "why_not_better": ["native: EPERM", "no \u{1b}[31mBTF"]},
            "store": {"size_bytes": 1073741824, "used_bytes": 512, "opened": {"took_ms": 7}},
            "queues": [],
        });
        let expected = "\
version  0.1.0
uptime   12 s
queues   none
zone     -
steering
  mode            pick
  why not better  native: EPERM, no [31mBTF
workers
  cpu  hit ratio  late
  0    50.0 %     -
  11   -          yes
store
  size  1.0 GiB
  used  512 B
  opened
    took  7 ms
";
        assert_eq!(render(&value), expected);
    }

    #[test]
    fn a_table_too_wide_for_a_terminal_is_a_list_for_each_row() {
        let long = "x".repeat(LINE_CHARS_MAX);
        let value = json!({"shards": [{"path": "/a", "reason": long}, {"path": "/b", "held": "in memory"}]});
        let expected = format!(
            "shards\n  - path    /a\n    held    -\n    reason  {long}\n  - path    /b\n    held    in memory\n    reason  -\n"
        );
        assert_eq!(render(&value), expected);
    }

    #[test]
    fn counters_that_counted_nothing_are_left_out_and_what_names_a_line_comes_first() {
        let value = json!({
            "counters": {"hits": 0, "misses": 2},
            "per_cpu": [{"counters": {"a": 0}, "cpu": 1}, {"counters": {"a": 3, "b": 0}, "cpu": 2}],
            "steps": [{"outcome": "taken", "reason": "all is well", "step": "pick", "x": 0}],
        });
        let expected = "\
counters
  misses  2
per cpu
  cpu  counters
  1    none
  2    a 3
steps
  step  outcome  x  reason
  pick  taken    0  all is well
";
        assert_eq!(render(&value), expected);
    }

    #[test]
    fn the_hit_ratio_is_reckoned_from_the_counters() {
        let ratio = |mut status: Value| {
            add_hit_ratio(&mut status);
            status.get("hit_ratio").and_then(Value::as_f64)
        };
        assert_eq!(ratio(json!({"counters": {"hits": 3, "requests": 4}})), Some(0.75));
        assert_eq!(ratio(json!({"counters": {"hits": 0, "requests": 0}})), None);
        assert_eq!(ratio(json!([1])), None);
    }

    #[test]
    fn odd_documents_are_shown_all_the_same() {
        assert_eq!(render(&json!("x")), "x\n");
        assert_eq!(render(&json!({})), "");
        assert_eq!(render(&json!({"a": [[1, 2], 3]})), "a\n  1, 2\n  3\n");
        assert_eq!(render(&json!({"a": [{"b": {"c_ms": 1}}, 2]})), "a\n  b\n  c 1 ms\n  2\n");
        assert_eq!(title("_bytes"), " bytes", "a name that is only a unit keeps it");
    }
}
