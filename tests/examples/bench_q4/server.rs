//! The bench page's files on 127.0.0.1, from memory and from the rival's folder; one thread, plain HTTP/1.1.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// What is served: bytes by path, and a folder under `/ort/`.
#[derive(Clone)]
pub struct Site {
    files: Arc<Mutex<HashMap<String, Vec<u8>>>>,
    ort: PathBuf,
}

impl Site {
    /// Starts serving; gives the site and its address. Ends with the process.
    ///
    /// # Errors
    /// No port is free.
    pub fn start(ort: PathBuf) -> std::io::Result<(Self, String)> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}/", listener.local_addr()?);
        let site = Self { files: Arc::default(), ort };
        let served = site.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // a browser that went away is no concern of the bench
                let _ = served.answer(&stream);
            }
        });
        Ok((site, url))
    }

    /// Puts bytes under a path that starts with `/`.
    pub fn put(&self, path: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).insert(path.into(), bytes.into());
    }

    fn answer(&self, mut stream: &TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream);
        let mut request = String::new();
        reader.read_line(&mut request)?;
        let mut header = String::new();
        while reader.read_line(&mut header)? > 2 {
            header.clear();
        }
        let path = request.split(' ').nth(1).unwrap_or_default();
        let (status, body) = match self.find(path) {
            Some(body) => ("200 OK", body),
            None => ("404 Not Found", Vec::new()),
        };
        let kind = match path.rsplit('.').next() {
            Some("js" | "mjs") => "text/javascript",
            Some("wasm") => "application/wasm",
            _ if path == "/" => "text/html",
            _ => "application/octet-stream",
        };
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
        )?;
        stream.write_all(&body)
    }

    fn find(&self, path: &str) -> Option<Vec<u8>> {
        match path.strip_prefix("/ort/") {
            Some(name) if !name.contains('/') => std::fs::read(self.ort.join(name)).ok(),
            _ => self.files.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned(),
        }
    }
}
