//! Signals as events: blocked in every thread, taken one at a time by the main thread.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// What an operator (or systemd) asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// TERM or INT: drain and stop.
    Stop,
    /// HUP: read the configuration again.
    Reload,
}

/// TERM, INT and HUP, as long as this lives.
pub struct Signals(SignalFd);

impl Signals {
    /// Blocks the signals for this thread and all threads it starts from now on: call it first.
    pub fn block() -> io::Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            set.add(signal);
        }
        set.thread_block()?;
        Ok(Signals(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?))
    }

    /// The next request, or `None` after `wait` without one.
    pub fn next(&self, wait: Duration) -> io::Result<Option<Request>> {
        let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.0.read_signal()?.map(|info| match info.ssi_signo as i32 {
            libc::SIGHUP => Request::Reload,
            _ => Request::Stop,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_come_as_requests() {
        let signals = Signals::block().unwrap();
        assert_eq!(signals.next(Duration::ZERO).unwrap(), None);
        for (signal, request) in [(Signal::SIGHUP, Request::Reload), (Signal::SIGTERM, Request::Stop)] {
            // To this thread alone: other tests' threads do not block it.
            nix::sys::pthread::pthread_kill(nix::sys::pthread::pthread_self(), signal).unwrap();
            assert_eq!(signals.next(Duration::from_secs(5)).unwrap(), Some(request));
        }
    }
}
