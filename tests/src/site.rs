//! A page's files on 127.0.0.1, from memory and from folders, whole or from a byte on; one thread, plain HTTP/1.1.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

const ISOLATED: &str = "cross-origin-opener-policy: same-origin\r\ncross-origin-embedder-policy: require-corp\r\n";

/// What is served: bytes by path, and files of folders below a path each.
#[derive(Clone)]
pub struct Site {
    files: Arc<Mutex<HashMap<String, Vec<u8>>>>,
    /// A path that starts and ends with `/`, and what lies below it.
    folders: Vec<(&'static str, PathBuf)>,
    is_isolated: bool,
}

impl Site {
    /// Starts serving; gives the site and its address. Ends with the process. `is_isolated`: from other origins, so that workers
    /// may share memory.
    ///
    /// # Errors
    /// No port is free.
    pub fn start(folders: Vec<(&'static str, PathBuf)>, is_isolated: bool) -> std::io::Result<(Self, String)> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}/", listener.local_addr()?);
        let site = Self { files: Arc::default(), folders, is_isolated };
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
        let mut first = None;
        let mut header = String::new();
        while reader.read_line(&mut header)? > 2 {
            let range = header.to_ascii_lowercase();
            let range = range.strip_prefix("range: bytes=").and_then(|range| range.split('-').next()?.parse().ok());
            first = range.or(first);
            header.clear();
        }
        let path = request.split([' ', '?']).nth(1).unwrap_or_default();
        let found = self.find(path);
        let (status, more, body) = match (found, first) {
            (Some(body), Some(first)) if first < body.len() => {
                let more = format!("content-range: bytes {first}-{}/{}\r\n", body.len() - 1, body.len());
                ("206 Partial Content", more, body[first..].to_vec())
            }
            (Some(body), None) => ("200 OK", String::new(), body),
            (Some(_), Some(_)) => ("416 Range Not Satisfiable", String::new(), Vec::new()),
            (None, _) => ("404 Not Found", String::new(), Vec::new()),
        };
        let kind = match path.rsplit('.').next() {
            Some("js" | "mjs") => "text/javascript",
            Some("wasm") => "application/wasm",
            _ if path == "/" => "text/html",
            _ => "application/octet-stream",
        };
        let length = body.len();
        let isolated = if self.is_isolated { ISOLATED } else { "" };
        write!(
            stream,
            "HTTP/1.1 {status}\r\n{more}{isolated}content-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
        )?;
        stream.write_all(&body)
    }

    fn find(&self, path: &str) -> Option<Vec<u8>> {
        let held = self.files.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned();
        held.or_else(|| {
            let (name, dir) = self.folders.iter().find_map(|(at, dir)| Some((path.strip_prefix(at)?, dir)))?;
            // names of these folders' own files only
            let is_plain = |part: &str| !part.is_empty() && !part.starts_with('.');
            if name.split('/').all(is_plain) { std::fs::read(dir.join(name)).ok() } else { None }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_give_their_own_files_only() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(dir.path().join("in")).expect("a folder inside");
        for name in ["secret", "in/a.js"] {
            std::fs::write(dir.path().join(name), name).expect("a file");
        }
        let (site, _) =
            Site::start(vec![("/x/", dir.path().join("in")), ("/all/", dir.path().into())], true).expect("a port");
        site.put("/x/b.js", "held");
        assert_eq!(site.find("/x/a.js").as_deref(), Some(&b"in/a.js"[..]));
        assert_eq!(site.find("/all/in/a.js").as_deref(), Some(&b"in/a.js"[..]));
        assert_eq!(site.find("/x/b.js").as_deref(), Some(&b"held"[..]));
        for path in ["/x/../secret", "/x/", "/x//a.js", "/y/a.js", "/x/none"] {
            assert_eq!(site.find(path), None, "{path}");
        }
    }
}
