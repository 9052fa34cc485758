//! A PostgreSQL server of its own for a test: a child process on a free port, with its data in a temporary folder.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a start may take.
const LIMIT: Duration = Duration::from_secs(60);
/// It does not run as root: then it runs as this user (`nobody`).
const NOBODY: u32 = 65_534;

/// A running server; ended when dropped, and everything in it is gone then.
pub struct Postgres {
    child: Child,
    programs: PathBuf,
    dir: tempfile::TempDir,
    port: u16,
}

impl Postgres {
    /// Starts the server whose programs lie in the folder that `BECKON_POSTGRES` names. Its user `beckon` has the password
    /// `secret`.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start() -> Self {
        let programs = std::env::var_os("BECKON_POSTGRES")
            .expect("BECKON_POSTGRES names the folder of initdb and postgres; `cargo xtask check` sets it");
        let (programs, dir) = (PathBuf::from(programs), tempfile::tempdir().expect("a folder for the test"));
        #[cfg(unix)]
        if is_root(dir.path()) {
            std::os::unix::fs::chown(dir.path(), Some(NOBODY), Some(NOBODY)).expect("it becomes another user's");
        }
        let password = dir.path().join("password");
        std::fs::write(&password, "secret").expect("written");
        let (data, file) = (dir.path().join("data"), password.to_string_lossy().into_owned());
        let mut initdb = command(&programs, "initdb", dir.path());
        initdb.arg("-D").arg(&data).args(["-U", "beckon", "-A", "scram-sha-256", "--pwfile", &file]);
        initdb.args(["-E", "UTF8", "--no-sync", "--locale", "C"]);
        let made = initdb.stdout(Stdio::null()).output().expect("initdb starts");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port();
        let child = serve(&programs, dir.path(), port);
        let server = Self { child, programs, dir, port };
        server.wait();
        server
    }

    /// Makes an empty database; its address.
    ///
    /// # Panics
    /// When it is refused.
    pub fn fresh(&self, name: &str) -> String {
        self.sql("postgres", &format!("CREATE DATABASE \"{name}\""));
        format!("postgres://beckon:secret@127.0.0.1:{}/{name}", self.port)
    }

    /// Runs statements, past the product.
    ///
    /// # Panics
    /// When one is refused.
    pub fn sql(&self, database: &str, statements: &str) {
        let done = self.psql(database, statements).output().expect("psql starts");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    fn psql(&self, database: &str, statements: &str) -> Command {
        let mut psql = command(&self.programs, "psql", self.dir.path());
        psql.env("PGPASSWORD", "secret").args(["-X", "-q", "-h", "127.0.0.1", "-U", "beckon", "-d", database]);
        psql.args(["-p", &self.port.to_string(), "-c", statements]).stdout(Stdio::null());
        psql
    }

    /// Kills it, does `meanwhile`, and starts it again with the same data.
    ///
    /// # Panics
    /// When it does not come back.
    #[allow(dead_code, reason = "each crate that has this file uses another part of it")]
    pub fn restart(mut self, meanwhile: impl FnOnce()) -> Self {
        // SIGQUIT: at once, all of its processes, as at a crash
        let sent = Command::new("kill").args(["-QUIT", &self.child.id().to_string()]).status().expect("kill");
        assert!(sent.success());
        self.child.wait().expect("it ends");
        meanwhile();
        self.child = serve(&self.programs, self.dir.path(), self.port);
        self.wait();
        self
    }

    /// Starts it again with TLS, by a certificate and its key in PEM form.
    ///
    /// # Panics
    /// When it does not come back.
    #[allow(dead_code, reason = "each crate that has this file uses another part of it")]
    pub fn with_tls(self, certificate: &str, key: &str) -> Self {
        let data = self.dir.path().join("data");
        self.restart(|| {
            for (name, text) in
                [("server.crt", certificate), ("server.key", key), ("postgresql.auto.conf", "ssl = on\n")]
            {
                let path = data.join(name);
                std::fs::write(&path, text).expect("written");
                #[cfg(unix)]
                {
                    use std::os::unix::fs::{PermissionsExt, chown};
                    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("its own");
                    if is_root(&path) {
                        chown(&path, Some(NOBODY), Some(NOBODY)).expect("it becomes another user's");
                    }
                }
            }
        })
    }

    fn wait(&self) {
        let start = Instant::now();
        loop {
            let answer = self.psql("postgres", "SELECT 1").stderr(Stdio::null()).status().expect("psql starts");
            if answer.success() {
                return;
            }
            assert!(start.elapsed() < LIMIT, "PostgreSQL does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-QUIT", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}

fn serve(programs: &Path, dir: &Path, port: u16) -> Child {
    let mut postgres = command(programs, "postgres", dir);
    postgres.arg("-D").arg(dir.join("data")).args(["-F", "-h", "127.0.0.1", "-p", &port.to_string(), "-k"]).arg(dir);
    postgres.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("postgres starts")
}

fn command(programs: &Path, name: &str, dir: &Path) -> Command {
    let mut command = Command::new(programs.join(name));
    command.current_dir(dir).stdin(Stdio::null());
    #[cfg(unix)]
    if is_root(dir) {
        use std::os::unix::process::CommandExt;
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// Whether this process is root, by what it may see: its own folder, or one that it gave away.
#[cfg(unix)]
fn is_root(_: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    // /proc/self belongs to who the process runs as; elsewhere than on Linux nobody runs tests as root
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}
