//! `beckon device lend` as a child process.

use crate::process::binary;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// What both sides know.
pub const TOKEN: (&str, &str) = ("BECKON_DEVICE_TOKEN", "a-token-of-the-tests-of-beckon");

/// A process that lends its CPU; killed when dropped.
pub struct Lender {
    child: Child,
    /// What a borrower is given.
    pub url: String,
}

impl Lender {
    /// Starts one and waits until it listens.
    ///
    /// # Panics
    /// When it ends first.
    pub fn start(args: &[&str]) -> Self {
        let mut command = Command::new(binary());
        command.args(["device", "lend", "--device", "cpu"]).args(args).envs([TOKEN]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the lender starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let url = lines.find_map(|line| line.strip_prefix("lent at: ").map(str::to_owned));
        let url = url.expect("the lender says where it is");
        // what it prints from now on goes nowhere, but must not block it
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, url }
    }

    /// `HOST:PORT`.
    pub fn addr(&self) -> &str {
        self.url.rsplit(['/', '@']).next().unwrap_or_default()
    }
}

impl Drop for Lender {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
