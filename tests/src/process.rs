//! The real `beckon` binary as a child process: built once, started on a free port with its own data folder.

use crate::client::Client;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How long a start may take; generous, as the machine may be compiling beside it.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Root of the clone: the one that the tests run for, which is not where they were built if two clones share a build directory.
///
/// # Panics
/// If the folder of a package has no parent.
pub fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        let own = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        Path::new(&own).parent().expect("tests lies in the root").to_owned()
    });
    &ROOT
}

/// Path of the `beckon` binary, built from this clone.
///
/// # Panics
/// When it does not compile.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        // TARGET/release/deps/end_to_end-HASH
        let own = std::env::current_exe().expect("path of the test binary");
        let release = own.ancestors().nth(2).expect("the test binary lies in TARGET/release/deps");
        let target = release.parent().expect("TARGET");
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        // what Cargo says of this package is none of the build scripts' business: ring's would run again for it, and all that
        // stands on ring, Burn with it, would be compiled again
        let of_package = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
        for (name, _) in std::env::vars().filter(|(name, _)| of_package(name)) {
            cargo.env_remove(name);
        }
        let status = cargo
            .args(["build", "--quiet", "--release", "--workspace", "--bin", "beckon", "--target-dir"])
            .arg(target)
            .current_dir(root())
            .status()
            .expect("cargo starts");
        assert!(status.success(), "beckon does not compile");
        // Another clone that shares the target folder replaces TARGET/release/beckon; this name is ours. The
        // rename leaves the file of a process that still runs alone.
        let built = release.join(format!("beckon{}", std::env::consts::EXE_SUFFIX));
        let link = release.join(format!("beckon-{}", std::process::id()));
        std::fs::hard_link(&built, &link).or_else(|_| std::fs::copy(&built, &link).map(drop)).expect("a second name");
        let clone: String = root().to_string_lossy().chars().filter(char::is_ascii_alphanumeric).collect();
        let own_name = release.join(format!("beckon-under-test-{clone}"));
        std::fs::rename(&link, &own_name).expect("a name of our own");
        own_name
    })
}

/// Runs a `beckon` command to its end.
///
/// # Panics
/// When it cannot be started.
pub fn beckon<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>, dir: &Path) -> Output {
    Command::new(binary()).args(args).current_dir(dir).stdin(Stdio::null()).output().expect("beckon starts")
}

/// What a finished command printed, for messages and searches.
pub fn printed(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A running server; ended when dropped.
pub struct Server {
    child: Child,
    /// Client of its address.
    pub client: Client,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Starts `beckon serve` on a free port with the CPU backend and waits until it answers.
    ///
    /// # Panics
    /// When it ends or does not answer in time, with what it printed.
    pub fn start(data_dir: &Path, more_args: &[&str]) -> Self {
        Self::start_with(data_dir, more_args, &[])
    }

    /// The same with variables in its environment.
    ///
    /// # Panics
    /// As [`Server::start`].
    pub fn start_with(data_dir: &Path, more_args: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut server = Self::spawn(data_dir, more_args, variables);
        let start = Instant::now();
        loop {
            let printed = server.lines.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(url) = printed.iter().find_map(|line| line.strip_prefix("page: ")) {
                server.client = Client::new(url.trim_end_matches('/'));
                if server.client.get("/api/health").status == 200 {
                    return server;
                }
            }
            let ended = server.child.try_wait().expect("state of the server");
            assert!(ended.is_none() && start.elapsed() < START_LIMIT, "no answer ({ended:?}); it printed {printed:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The same without waiting: its client has no address. For one that is to end by itself.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(data_dir: &Path, more_args: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(binary());
        command.args(["serve", "--addr", "127.0.0.1:0", "--device", "cpu", "--data-dir"]).arg(data_dir).args(more_args);
        command.envs(variables.iter().copied());
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let lines = Arc::new(Mutex::new(Vec::new()));
        keep_lines(child.stdout.take().expect("piped"), &lines);
        keep_lines(child.stderr.take().expect("piped"), &lines);
        Self { child, client: Client::new(""), lines }
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// When it does not within `limit`.
    pub fn ended(&mut self, limit: Duration) -> ExitStatus {
        crate::wait_for("the end of the server", limit, || self.child.try_wait().expect("state of the server"))
    }

    /// Everything it printed so far.
    pub fn log(&self) -> String {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// kill -9: no chance to save anything.
    pub fn kill(mut self) {
        self.child.kill().expect("the server can be killed");
        self.child.wait().expect("the server ends");
    }

    /// Asks it to end (SIGTERM) and gives its exit status.
    ///
    /// # Panics
    /// When it does not end within a minute.
    pub fn terminate(mut self) -> ExitStatus {
        let sent = Command::new("kill").arg(self.child.id().to_string()).status().expect("kill");
        assert!(sent.success(), "SIGTERM could not be sent");
        crate::wait_for("the end of the server", START_LIMIT, || self.child.try_wait().expect("state of the server"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the server printed:\n{}", self.log());
        }
    }
}

fn keep_lines(stream: impl std::io::Read + Send + 'static, lines: &Arc<Mutex<Vec<String>>>) {
    let lines = Arc::clone(lines);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    });
}
