//! `cargo xtask demo`: builds the page and the server, serves the demo, waits until it answers, prints the URL.

use crate::page;
use crate::project::{Project, spelled};
use crate::system;
use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long the server may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Where to serve the demo.
#[derive(clap::Args)]
pub struct Options {
    /// Port on 127.0.0.1; without it 8020, or a free one when that is taken.
    #[arg(long)]
    port: Option<u16>,
    /// Folder for log, runs and checkpoints; `data/demo` in the clone unless told.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Do not open a browser.
    #[arg(long)]
    no_open: bool,
}

/// Builds, serves, and stays until the server ends (Ctrl-C).
pub fn run(project: &Project, options: &Options) -> Result<()> {
    page::run(project, &page::Options::default())?.print();
    let binary = project.build_server()?;
    let port = options.port.unwrap_or_else(free_port);
    let mut command = Command::new(binary);
    let data_dir = options.data_dir.clone().unwrap_or_else(|| project.root.join("data/demo"));
    command.args(["serve", "--demo", "--addr", &format!("127.0.0.1:{port}"), "--data-dir"]).arg(data_dir);
    project.set_environment(&mut command);
    eprintln!("$ {}", spelled(&command));
    let mut server = command.stdin(Stdio::null()).spawn().context("could not start the server")?;
    let start = Instant::now();
    wait_until_it_answers(&mut server, port)?;
    let url = format!("http://127.0.0.1:{port}/");
    println!("\nBeckon answers at {url} ({:.1} s after start). Ctrl-C ends it.\n", start.elapsed().as_secs_f64());
    if !options.no_open {
        open(&url);
    }
    let status = server.wait()?;
    if !status.success() {
        bail!("the server ended with {status}");
    }
    Ok(())
}

/// 8020, or what the system gives when that is taken.
pub fn free_port() -> u16 {
    let bound = TcpListener::bind(("127.0.0.1", 8020)).or_else(|_| TcpListener::bind(("127.0.0.1", 0)));
    bound.and_then(|listener| listener.local_addr()).map_or(8020, |address| address.port())
}

/// Waits for the first answer; the server is ended where none comes in time.
pub fn wait_until_it_answers(server: &mut Child, port: u16) -> Result<()> {
    let start = Instant::now();
    while !answers(port) {
        if let Some(status) = server.try_wait()? {
            bail!("the server ended before it answered ({status}); its message stands above");
        }
        if start.elapsed() > START_LIMIT {
            let _ = server.kill();
            let _ = server.wait();
            bail!("the server did not answer on port {port} within {} s", START_LIMIT.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Whether `GET /api/health` gives 200.
fn answers(port: u16) -> bool {
    let ask = || -> std::io::Result<bool> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(200))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET /api/health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(head.ends_with(b" 200"))
    };
    ask().unwrap_or(false)
}

/// Opens the page where there is a desktop to show it; a machine without one has the URL above.
fn open(url: &str) {
    let has_display = ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some());
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    if !has_display && !cfg!(target_os = "macos") {
        return;
    }
    if let Some(program) = system::find_program(&[program]) {
        let _ = Command::new(program).arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A listener that sends `reply` once.
    fn reply_once(reply: &'static [u8]) -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 256];
            let _ = stream.read(&mut request);
            stream.write_all(reply).unwrap();
        });
        port
    }

    #[test]
    fn only_a_200_counts_as_an_answer() {
        assert!(answers(reply_once(b"HTTP/1.1 200 OK\r\n\r\n")));
        assert!(!answers(reply_once(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")));
        assert!(!answers(reply_once(b"")));
    }

    #[test]
    fn a_server_that_ends_is_noticed() {
        let mut child = Command::new("false").spawn().unwrap();
        let unused = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let error = wait_until_it_answers(&mut child, unused).unwrap_err();
        assert!(error.to_string().contains("ended before"), "{error}");
    }
}
