//! A proxy on 127.0.0.1 that breaks downloads off, holds them up or damages them: it stands for a server that goes away and comes
//! back, and for what lies between it and the page.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

/// Longest request head that is passed on.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// What it breaks off and what went through.
#[derive(Debug, Default)]
pub struct Cuts {
    /// After how many bytes of an answer about a file the next such answers break off, last first; then none does.
    pub after: Vec<usize>,
    /// Bytes of answers about files (checkpoints and adapters) that were passed on, heads included.
    pub n_bytes: usize,
    /// Requests for files.
    pub n_requests: usize,
    /// Whether an answer that breaks off does so without an end: its connection stays open, and nothing more comes.
    pub stalls: bool,
    /// Which byte behind the head of an answer about a file comes damaged, in the next such answers, last first.
    pub damaged: Vec<usize>,
    /// Whether the server is gone with the next answer that breaks off.
    pub goes: bool,
    /// Nothing is answered: the server is gone.
    pub is_gone: bool,
}

/// Passes everything on to `upstream` (`http://HOST:PORT`); gives its own address.
///
/// # Errors
/// No port is free.
pub fn start(upstream: &str, cuts: &Arc<Mutex<Cuts>>) -> std::io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    let (upstream, cuts) = (upstream.trim_start_matches("http://").to_owned(), Arc::clone(cuts));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (upstream, cuts) = (upstream.clone(), Arc::clone(&cuts));
            std::thread::spawn(move || {
                // a broken connection is what it is for
                let _ = pass(stream, &upstream, &cuts);
            });
        }
    });
    Ok(url)
}

/// One request a connection.
fn pass(mut browser: TcpStream, upstream: &str, cuts: &Mutex<Cuts>) -> std::io::Result<()> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && head.len() < MAX_HEAD_BYTES {
        browser.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    if cuts.lock().unwrap_or_else(PoisonError::into_inner).is_gone {
        return browser.shutdown(std::net::Shutdown::Both);
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let (first, rest) = text.split_once("\r\n").unwrap_or((&text, ""));
    let is_file = first.contains("/api/checkpoints/") && (first.contains("/file ") || first.contains("/adapter "));
    let lines = rest.lines().filter(|line| !line.is_empty() && !line.to_ascii_lowercase().starts_with("connection:"));
    let kept: String = lines.map(|line| format!("{line}\r\n")).collect();
    let mut server = TcpStream::connect(upstream)?;
    write!(server, "{first}\r\n{kept}connection: close\r\n\r\n")?;
    let mut body = (browser.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || std::io::copy(&mut body.0, &mut body.1));
    let (limit, damaged) = if is_file {
        let mut cuts = cuts.lock().unwrap_or_else(PoisonError::into_inner);
        cuts.n_requests += 1;
        (cuts.after.pop().unwrap_or(usize::MAX), cuts.damaged.pop())
    } else {
        (usize::MAX, None)
    };
    let (mut sent, mut piece) = (0, vec![0; 16 << 10]);
    // where the body begins; the head comes in the first piece
    let mut body_at = None;
    while sent < limit {
        let n = server.read(&mut piece)?.min(limit - sent);
        if n == 0 {
            break;
        }
        // counted before it goes out: who has read the last byte finds it in the count
        if is_file {
            cuts.lock().unwrap_or_else(PoisonError::into_inner).n_bytes += n;
        }
        let head_end = || piece[..n].windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
        body_at = body_at.or_else(head_end);
        if let (Some(at), Some(body_at)) = (damaged, body_at)
            && (sent..sent + n).contains(&(body_at + at))
        {
            piece[body_at + at - sent] ^= 1;
        }
        browser.write_all(&piece[..n])?;
        sent += n;
    }
    if sent >= limit {
        let stalls = {
            let mut cuts = cuts.lock().unwrap_or_else(PoisonError::into_inner);
            cuts.is_gone |= cuts.goes;
            cuts.stalls
        };
        // until the browser gives up: its half ends then
        while stalls && browser.read(&mut piece)? > 0 {}
    }
    browser.shutdown(std::net::Shutdown::Both)
}
