//! How a server of an origin stands: what it answered, when and with what it failed last. Says in the log when it begins
//! to fail and when it answers again. Chooses no server.
#![forbid(unsafe_code)]

use crate::{clock, limits};
use http::Uri;
use std::cell::{Cell, RefCell};

/// Why a request to a server failed last, and when, monotonic milliseconds.
struct Failure {
    at_ms: u64,
    reason: String,
}

/// What became of the requests to one server.
#[derive(Default)]
pub(super) struct Standing {
    answered: Cell<u64>,
    failed: Cell<u64>,
    /// The last request to it failed.
    fails: Cell<bool>,
    last: RefCell<Option<Failure>>,
    /// When the log was last told of a failure, monotonic milliseconds.
    told_ms: Cell<Option<u64>>,
    /// The log was told that it fails, and not yet that it answers again.
    told: Cell<bool>,
}

impl Standing {
    /// The head of a response came; any status is an answer.
    pub(super) fn answered(&self, server: &Uri) {
        self.answered.set(self.answered.get() + 1);
        if self.fails.replace(false) && self.told.replace(false) {
            tracing::info!(%server, "the origin's server answers again");
        }
    }

    /// No connection, no head in time, a head or a body that breaks the rules or off.
    pub(super) fn failed(&self, server: &Uri, reason: &str) {
        let now_ms = clock::now().mono_ms;
        self.failed.set(self.failed.get() + 1);
        self.fails.set(true);
        *self.last.borrow_mut() = Some(Failure { at_ms: now_ms, reason: reason.to_owned() });
        let rested = |told_ms| now_ms >= told_ms + limits::ORIGIN_FAILURE_LOG_MS;
        if self.told_ms.get().is_none_or(rested) {
            self.told_ms.set(Some(now_ms));
            self.told.set(true);
            tracing::warn!(%server, reason, failed = self.failed.get(), "a request to the origin's server failed");
        }
    }

    /// For the status.
    pub(super) fn status(&self) -> serde_json::Value {
        let last = self.last.borrow();
        let now_ms = clock::now().mono_ms;
        let state = match (self.fails.get(), self.answered.get()) {
            (true, _) => "fails",
            (false, 0) => "unasked",
            (false, _) => "answers",
        };
        serde_json::json!({
            "state": state,
            "answered": self.answered.get(),
            "failed": self.failed.get(),
            "last_failure_age_s": last.as_ref().map(|failure| (now_ms - failure.at_ms) / 1000),
            "last_failure": last.as_ref().map(|failure| failure.reason.as_str()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_unasked_then_answers_fails_and_answers_again() {
        let (server, standing) = (Uri::from_static("http://192.0.2.1:80"), Standing::default());
        let state = || standing.status()["state"].as_str().unwrap().to_owned();
        assert_eq!(state(), "unasked");
        standing.answered(&server);
        assert_eq!(state(), "answers");
        assert!(standing.status()["last_failure"].is_null());
        standing.failed(&server, "no connection in time");
        standing.failed(&server, "refused");
        assert_eq!(state(), "fails");
        standing.answered(&server);
        let status = standing.status();
        assert_eq!(
            (state().as_str(), &status["answered"], &status["failed"]),
            ("answers", &2.into(), &2.into())
        );
        // Why it failed is still to be seen.
        assert_eq!(status["last_failure"], "refused");
    }
}
