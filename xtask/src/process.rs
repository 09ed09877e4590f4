//! Starting other programs, waiting for them and ending them. What is started here is ended here, by its
//! own process id, also when the task fails, panics or is interrupted. No task's own steps live here.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();
/// How often a wait looks whether it is over.
const POLL: Duration = Duration::from_millis(5);
/// How long a server may take to end after SIGTERM before it is killed.
const STOP: Duration = Duration::from_secs(5);

/// From here on SIGINT, SIGTERM and SIGHUP set a flag instead of ending the process, so that everything
/// that was started is ended in order.
pub fn watch_signals() -> Result<()> {
    let flag = INTERRUPTED.get_or_init(Arc::default);
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signal_hook::flag::register(signal as i32, flag.clone())?;
    }
    Ok(())
}

/// Whether the user asked us to stop.
pub fn interrupted() -> bool {
    INTERRUPTED.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// An error when the user asked us to stop.
pub fn proceed() -> Result<()> {
    if interrupted() {
        bail!("interrupted");
    }
    Ok(())
}

/// Sleeps, but ends with an error as soon as the user asks us to stop.
pub fn sleep(time: Duration) -> Result<()> {
    wait_until(time, || Ok(false)).map(|_| ())
}

/// Polls `done` for at most `time`; whether it came true.
pub fn wait_until(time: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<bool> {
    let end = Instant::now() + time;
    loop {
        proceed()?;
        if done()? {
            return Ok(true);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        std::thread::sleep(left.min(POLL));
    }
}

/// Tells what is being done, as a heading of what follows.
pub fn step(text: &str) {
    eprintln!("\n==> {text}");
}

/// The command line as a user would type it.
pub fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let words = std::iter::once(program.file_name().unwrap_or_default()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Runs a command in the foreground with its output on the terminal; an error when it fails.
pub fn run(command: &mut Command) -> Result<()> {
    let text = shown(command);
    eprintln!("$ {text}");
    proceed()?;
    let mut child = Owned(command.spawn().with_context(|| format!("start `{text}`"))?);
    let status = child.wait()?;
    if !status.success() {
        bail!("`{text}` failed: {status}");
    }
    Ok(())
}

/// Runs a command to its end and gives its standard output; an error with its standard error when it fails.
pub fn output(command: &mut Command) -> Result<String> {
    let text = shown(command);
    proceed()?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = Owned(command.spawn().with_context(|| format!("start `{text}`: is it installed?"))?);
    // Both pipes are drained while it runs, or a full pipe would hold it.
    let readers = [
        child.0.stdout.take().map(|pipe| drain(Box::new(pipe))),
        child.0.stderr.take().map(|pipe| drain(Box::new(pipe))),
    ];
    let status = child.wait()?;
    let [out, err] = readers.map(|reader| reader.and_then(|reader| reader.join().ok()).unwrap_or_default());
    if !status.success() {
        bail!("`{text}` failed: {status}\n{}{}", out.trim_end(), err.trim_end());
    }
    Ok(out)
}

fn drain(mut pipe: Box<dyn std::io::Read + Send>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is still worth showing.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// A command that runs beside us, until its value is dropped.
pub struct Running(Owned);

impl Running {
    /// Starts it.
    pub fn start(command: &mut Command) -> Result<Self> {
        proceed()?;
        let child = command.spawn().with_context(|| format!("start `{}`", shown(command)))?;
        Ok(Running(Owned(child)))
    }

    /// Its standard output, if that was set to a pipe; once.
    pub fn output(&mut self) -> Result<std::process::ChildStdout> {
        self.0.0.stdout.take().context("standard output is no pipe")
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> Result<std::process::ExitStatus> {
        self.0.wait()
    }
}

/// A child that does not outlive its value.
struct Owned(Child);

impl Owned {
    fn wait(&mut self) -> Result<std::process::ExitStatus> {
        loop {
            if let Some(status) = self.0.try_wait()? {
                // Ctrl-C reaches the whole foreground group: the child's death is ours.
                if status.signal() == Some(Signal::SIGINT as i32) {
                    bail!("interrupted");
                }
                return Ok(status);
            }
            proceed()?;
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}

/// SIGTERM, then SIGKILL after [`STOP`]; returns when the process is gone.
fn end(child: &mut Child) {
    if !matches!(child.try_wait(), Ok(None)) {
        return;
    }
    let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
    let end = Instant::now() + STOP;
    while Instant::now() < end {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(POLL);
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// A server that runs in the background until its value is dropped, with its output in a file.
pub struct Server {
    name: String,
    child: Mutex<Child>,
    log: PathBuf,
}

impl Server {
    /// Starts it in its own process group, so that a Ctrl-C is ours to handle, and such that the kernel ends
    /// it should this process be killed.
    pub fn start(name: &str, command: &Command, log: &Path) -> Result<Self> {
        proceed()?;
        let file = File::create(log).with_context(|| format!("create {}", log.display()))?;
        let mut guarded = Command::new("setpriv");
        guarded.args(["--pdeathsig", "TERM"]).arg(command.get_program()).args(command.get_args());
        guarded.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0);
        let child = guarded.spawn().with_context(|| format!("start `{}`", shown(&guarded)))?;
        Ok(Server { name: name.into(), child: Mutex::new(child), log: log.into() })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.lock().id()
    }

    /// Waits until `ready` says so; an error with the log's end when it exits before or takes too long.
    pub fn wait_ready(&self, time: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let started = wait_until(time, || {
            self.alive()?;
            Ok(ready())
        })?;
        if !started {
            bail!("{} is not ready after {time:?}; its last words:\n{}", self.name, self.last_words());
        }
        Ok(())
    }

    /// An error with the log's end when it is not running.
    pub fn alive(&self) -> Result<()> {
        if let Some(status) = self.lock().try_wait()? {
            bail!("{} ended: {status}; its last words:\n{}", self.name, self.last_words());
        }
        Ok(())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.pid() as i32), signal).with_context(|| format!("{signal} to {}", self.name))
    }

    /// Waits for its end, at most `time`.
    pub fn wait_end(&self, time: Duration) -> Result<()> {
        if !wait_until(time, || Ok(self.lock().try_wait()?.is_some()))? {
            bail!("{} still runs after {time:?}", self.name);
        }
        Ok(())
    }

    /// Its output so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn last_words(&self) -> String {
        let text = self.log();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        end(&mut self.lock());
    }
}

/// A directory of this run, removed with its value. Names carry our process id.
pub struct Scratch(PathBuf);

impl Scratch {
    /// In memory where there is a tmpfs, so that disks play no part.
    pub fn create(name: &str) -> Result<Self> {
        let shm = Path::new("/dev/shm");
        Scratch::within(&if shm.is_dir() { shm.to_path_buf() } else { std::env::temp_dir() }, name)
    }

    /// In this directory.
    pub fn within(parent: &Path, name: &str) -> Result<Self> {
        let path = parent.join(format!("edge-{name}-{}", std::process::id()));
        sweep(parent, &format!("edge-{name}-"));
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Scratch(path))
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Creates a directory in it.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(path)
    }

    /// Writes a file in it.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

/// Removes what a killed run left behind: directories of that name whose process is gone.
fn sweep(parent: &Path, prefix: &str) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(prefix)).and_then(|pid| pid.parse().ok());
        if owner.is_some_and(|pid: u32| !is_running(pid)) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether a process of that id exists.
pub fn is_running(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_given_and_failure_is_explained() {
        assert_eq!(output(Command::new("echo").arg("word")).unwrap(), "word\n");
        let error = output(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("why") && error.contains("exit status: 3"), "{error}");
    }

    #[test]
    fn a_dropped_server_is_gone_and_its_directory_too() {
        let scratch = Scratch::create("process-test").unwrap();
        let directory = scratch.directory("inner").unwrap();
        let mut command = Command::new("sleep");
        command.arg("60");
        let server = Server::start("sleep", &command, &scratch.path("log")).unwrap();
        let pid = server.pid();
        server.alive().unwrap();
        drop(server);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        drop(scratch);
        assert!(!directory.exists());
    }

    #[test]
    fn directories_of_killed_runs_are_removed_and_those_of_running_ones_stay() {
        let mut gone = Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        let parent = Scratch::create("process-sweep").unwrap();
        let left = parent.directory(&format!("edge-x-{}", gone.id())).unwrap();
        let ours = parent.directory(&format!("edge-x-{}", std::process::id())).unwrap();
        let other = parent.directory(&format!("edge-y-{}", gone.id())).unwrap();
        sweep(&parent.path(""), "edge-x-");
        assert_eq!([left, ours, other].map(|path| path.exists()), [false, true, true]);
    }

    #[test]
    fn a_server_that_ends_early_is_reported_with_its_output() {
        let scratch = Scratch::create("process-early").unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo broken; exit 7"]);
        let server = Server::start("broken", &command, &scratch.path("log")).unwrap();
        let error = server.wait_ready(Duration::from_secs(5), || false).unwrap_err().to_string();
        assert!(error.contains("broken") && error.contains("exit status: 7"), "{error}");
    }
}
