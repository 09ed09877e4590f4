//! Compares the running kernel with `deploy/90-edge-sysctl.conf`. Reads only.
#![forbid(unsafe_code)]

use std::fmt::Write;

/// The file that is shipped: one list for the report and for `sysctl --system`.
const FILE: &str = include_str!("../../../deploy/90-edge-sysctl.conf");

/// One line of the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Setting {
    key: &'static str,
    value: &'static str,
    /// The comment above it.
    reason: String,
    /// Whether a larger value is as good.
    at_least: bool,
}

/// The settings of the shipped file, in its order. Lines without a blank line between them share a comment.
pub(super) fn settings() -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut reason = String::new();
    for line in FILE.lines().map(str::trim) {
        if line.is_empty() {
            reason.clear();
        } else if let Some(comment) = line.strip_prefix('#') {
            reason = format!("{reason} {}", comment.trim()).trim().into();
        } else if let Some((key, value)) = line.split_once('=') {
            let why = reason.strip_prefix("At least. ");
            settings.push(Setting {
                key: key.trim(),
                value: value.trim(),
                reason: why.unwrap_or(&reason).into(),
                at_least: why.is_some(),
            });
        }
    }
    settings
}

/// The value in force, if this kernel has the setting here.
pub(super) fn current(key: &str) -> Option<String> {
    let path = format!("/proc/sys/{}", key.replace('.', "/"));
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

impl Setting {
    fn satisfied_by(&self, current: &str) -> bool {
        let numbers =
            |text: &str| text.split(' ').map(|word| word.parse().ok()).collect::<Option<Vec<u64>>>();
        match (numbers(self.value), numbers(current)) {
            (Some(wanted), Some(current)) if self.at_least && wanted.len() == current.len() => {
                wanted.iter().zip(&current).all(|(wanted, current)| current >= wanted)
            }
            _ => self.value == current,
        }
    }
}

/// The report: a line for each setting, and the reason for each that differs.
pub(super) fn report(settings: &[Setting], current: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::new();
    let mut differing = 0;
    let width = settings.iter().map(|setting| setting.key.len()).max().unwrap_or(0);
    for setting in settings {
        let now = current(setting.key);
        let (mark, now) = match &now {
            Some(now) if setting.satisfied_by(now) => ("ok      ", now.as_str()),
            Some(now) => ("differs ", now.as_str()),
            None => ("not here", "-"),
        };
        let _ = writeln!(out, "{mark}  {:width$}  {now}", setting.key);
        if mark.starts_with("differs") {
            differing += 1;
            let bound = if setting.at_least { "at least " } else { "" };
            let _ = writeln!(out, "          recommended: {bound}{}", setting.value);
            let _ = writeln!(out, "          {}", setting.reason);
        }
    }
    let _ = match differing {
        0 => writeln!(out, "\nNothing differs."),
        n => writeln!(out, "\n{n} of {} differ. `edge tune --help` says how to apply them.", settings.len()),
    };
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_shipped_file_is_a_setting_with_a_reason() {
        let settings = settings();
        assert!(settings.len() >= 10);
        for setting in &settings {
            assert!(setting.key.contains('.') && !setting.value.is_empty(), "{setting:?}");
            assert!(setting.reason.len() > 20 && setting.reason.ends_with('.'), "{setting:?}");
        }
        let mut keys: Vec<&str> = settings.iter().map(|s| s.key).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), settings.len(), "a key stands twice");
        let assignments = FILE.lines().filter(|l| !l.starts_with('#') && l.contains('=')).count();
        assert_eq!(assignments, settings.len());
    }

    #[test]
    fn this_kernel_knows_most_of_them() {
        let settings = settings();
        let known = settings.iter().filter(|setting| current(setting.key).is_some()).count();
        assert!(known * 2 > settings.len(), "misspelt keys? only {known} of {} exist here", settings.len());
    }

    #[test]
    fn larger_is_as_good_only_where_the_file_says_so() {
        let setting = |value, at_least| Setting { key: "a.b", value, reason: "Because.".into(), at_least };
        assert!(setting("4096", true).satisfied_by("8192") && !setting("4096", true).satisfied_by("128"));
        assert!(!setting("1", false).satisfied_by("2") && setting("bbr", false).satisfied_by("bbr"));
        assert!(
            setting("1 2 3", true).satisfied_by("1 5 3") && !setting("1 2 3", true).satisfied_by("1 1 9")
        );
        assert!(!setting("1 2 3", true).satisfied_by("9 9"));
    }

    #[test]
    fn the_report_gives_reasons_for_what_differs_only() {
        let settings = [
            Setting { key: "a.b", value: "2", reason: "Reason one.".into(), at_least: true },
            Setting { key: "c.d", value: "fq", reason: "Reason two.".into(), at_least: false },
            Setting { key: "e.f", value: "1", reason: "Reason three.".into(), at_least: false },
        ];
        let text = report(&settings, |key| match key {
            "a.b" => Some("1".into()),
            "c.d" => Some("fq".into()),
            _ => None,
        });
        assert!(
            text.contains("differs   a.b  1\n          recommended: at least 2\n          Reason one."),
            "{text}"
        );
        assert!(text.contains("ok        c.d  fq") && !text.contains("Reason two."), "{text}");
        assert!(text.contains("not here  e.f  -") && text.contains("1 of 3 differ."), "{text}");
        assert!(report(&settings[1..2], |_| Some("fq".into())).contains("Nothing differs."));
    }
}
