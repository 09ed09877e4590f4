//! What the results of the caching tests add up to. The suite's own command exits with 0 whatever fails, so
//! its JSON is judged here, by its rules: a test counts only if all it depends on passed. Runs nothing.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the driver wrote.
#[derive(Debug, Deserialize)]
pub struct Run {
    tests: Vec<Test>,
    results: BTreeMap<String, Outcome>,
}

#[derive(Debug, Deserialize)]
struct Test {
    id: String,
    name: String,
    kind: Kind,
    depends_on: Vec<String>,
}

/// How much a test asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The RFCs demand it.
    Required,
    /// A good cache does it.
    Optimal,
    /// It tells what a cache does, without judging it.
    #[serde(rename = "check")]
    Behaviour,
}

/// `true`, or what was thrown and its message.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Outcome {
    Passed(bool),
    Failed(String, String),
}

/// The tests of one kind.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Passed, and all they depend on too.
    pub passed: usize,
    /// That ran or should have run.
    pub of: usize,
}

/// A test that does not count.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Its name for machines.
    pub id: String,
    /// What it asks.
    pub name: String,
    /// How much it asks.
    pub kind: Kind,
    /// What was wrong.
    pub reason: String,
}

/// The result of a run.
#[derive(Debug, Serialize)]
pub struct Score {
    /// For each kind.
    pub counts: BTreeMap<Kind, Count>,
    /// In the order of kinds and of the suite.
    pub failures: Vec<Failure>,
}

impl Score {
    /// Judges a run. `chosen`: only these tests were run; empty: all.
    pub fn of(run: &Run, chosen: &[String]) -> Self {
        let by_id = run.tests.iter().map(|test| (test.id.as_str(), test)).collect();
        let mut score = Score { counts: BTreeMap::new(), failures: Vec::new() };
        for test in &run.tests {
            if !chosen.is_empty() && !chosen.contains(&test.id) {
                continue;
            }
            let reason = match chosen.is_empty() {
                true => verdict(run, &by_id, test, 0),
                false => own_verdict(run, test),
            };
            let count = score.counts.entry(test.kind).or_default();
            count.of += 1;
            match reason {
                None => count.passed += 1,
                Some(reason) => score.failures.push(Failure {
                    id: test.id.clone(),
                    name: test.name.clone(),
                    kind: test.kind,
                    reason,
                }),
            }
        }
        score.failures.sort_by_key(|failure| failure.kind);
        score
    }

    /// One line for each kind.
    pub fn table(&self) -> String {
        let line = |(kind, count): (&Kind, &Count)| {
            let name = format!("{kind:?}").to_lowercase();
            format!("{name:<10} {:>4} of {}\n", count.passed, count.of)
        };
        self.counts.iter().map(line).collect()
    }
}

/// Why a test does not count; `None`: it does.
fn verdict(run: &Run, by_id: &BTreeMap<&str, &Test>, test: &Test, depth: usize) -> Option<String> {
    // No chain of tests is longer than there are tests.
    if depth > run.tests.len() {
        return Some("depends on itself".into());
    }
    for id in &test.depends_on {
        match by_id.get(id.as_str()) {
            None => return Some(format!("depends on {id}, which does not exist")),
            Some(other) if verdict(run, by_id, other, depth + 1).is_some() => {
                let own = own_verdict(run, test).map_or("passes by itself".into(), |own| own);
                return Some(format!("depends on {id}, which fails; {own}"));
            }
            Some(_) => {}
        }
    }
    own_verdict(run, test)
}

fn own_verdict(run: &Run, test: &Test) -> Option<String> {
    match run.results.get(&test.id) {
        None => Some("did not run".into()),
        Some(Outcome::Passed(true)) => None,
        Some(Outcome::Passed(false)) => Some("failed without a word".into()),
        Some(Outcome::Failed(kind, message)) => Some(format!("{kind}: {message}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_counts_only_with_all_it_depends_on() {
        let run: Run = serde_json::from_str(
            r#"{"tests": [
                {"id": "a", "suite": "s", "name": "A", "kind": "check", "depends_on": []},
                {"id": "b", "suite": "s", "name": "B", "kind": "required", "depends_on": ["a"]},
                {"id": "c", "suite": "s", "name": "C", "kind": "required", "depends_on": []},
                {"id": "d", "suite": "s", "name": "D", "kind": "optimal", "depends_on": ["c"]},
                {"id": "e", "suite": "s", "name": "E", "kind": "optimal", "depends_on": ["e"]},
                {"id": "f", "suite": "s", "name": "F", "kind": "required", "depends_on": ["x"]}
            ], "results": {"a": ["Assertion", "no"], "b": true, "c": true, "d": ["Setup", "retry"], "e": true, "f": true}}"#,
        )
        .unwrap();
        let score = Score::of(&run, &[]);
        let failures: Vec<_> = score.failures.iter().map(|f| (f.id.as_str(), f.reason.as_str())).collect();
        assert_eq!(
            failures,
            [
                ("b", "depends on a, which fails; passes by itself"),
                ("f", "depends on x, which does not exist"),
                ("d", "Setup: retry"),
                ("e", "depends on e, which fails; passes by itself"),
                ("a", "Assertion: no"),
            ]
        );
        assert_eq!(score.counts[&Kind::Required], Count { passed: 1, of: 3 });
        assert_eq!(score.counts[&Kind::Optimal], Count { passed: 0, of: 2 });
        // One test alone is judged by itself.
        assert_eq!(Score::of(&run, &["b".into()]).counts[&Kind::Required], Count { passed: 1, of: 1 });
    }
}
