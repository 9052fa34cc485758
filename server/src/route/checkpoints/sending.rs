//! The bytes of a checkpoint on their way out: from memory, from a file, from the bucket. Never the whole file at once.
//!
//! Of a file, what the system has in memory is read where the connection is served, so that a piece is still in the processor's
//! cache when it is sent; only what has to come from the disk is read on another thread. A few pieces of memory go
//! round for as long as the answer takes.

use crate::catalog::Content;
use crate::route::blocking;
use crate::route::problem::ApiError;
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Bytes read at once.
const PIECE_BYTES: usize = 256 << 10;

/// The bytes of `range`.
pub async fn send(content: &Content, range: Range<u64>) -> Result<Response, ApiError> {
    let length = range.end - range.start;
    let body = match content {
        Content::BuiltIn(bytes) => {
            // a range was checked against the length, which is that of the slice
            let part = bytes.get(range.start as usize..range.end as usize).unwrap_or_default();
            Body::from(part)
        }
        Content::File(path) => of_file(path, range)
            .map_err(|error| ApiError::internal(&format!("cannot read the checkpoint: {error}: {}", path.display())))?,
        Content::Object { bucket, name, copy } => {
            match copy.as_ref().and_then(|path| of_file(path, range.clone()).ok()) {
                Some(body) => body,
                None => {
                    let (bucket, of_it) = (bucket.clone(), name.clone());
                    let reader = blocking(move || bucket.read(&of_it, Some(range))).await?;
                    of_reader(reader, name.clone(), length)
                }
            }
        }
    };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (header::CONTENT_LENGTH, HeaderValue::from(length)),
    ];
    Ok((headers, body).into_response())
}

fn of_file(path: &Path, range: Range<u64>) -> io::Result<Body> {
    let file = Arc::new(File::open(path)?);
    let pieces = FilePieces { file, rest: range, what: path.display().to_string(), free: Free::default() };
    // nothing comes behind an error
    let next = async |pieces: Option<FilePieces>| {
        let mut pieces = pieces?;
        let piece = pieces.next().await?;
        let rest = piece.is_ok().then_some(pieces);
        Some((piece, rest))
    };
    Ok(Body::from_stream(stream::unfold(Some(pieces), next)))
}

/// What is left to send of a file.
struct FilePieces {
    file: Arc<File>,
    rest: Range<u64>,
    what: String,
    free: Free,
}

impl FilePieces {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        let at = self.rest.start;
        let n = (self.rest.end - at).min(PIECE_BYTES as u64) as usize;
        if n == 0 {
            return None;
        }
        let mut piece = self.free.take();
        if let Some(n) = read_cached(&self.file, &mut piece[..n], at) {
            self.rest.start += n as u64;
            return Some(Ok(self.free.lend(piece, n)));
        }
        let file = Arc::clone(&self.file);
        let read = move || {
            let mut file = &*file;
            file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut piece[..n])).map(|()| piece)
        };
        let read = tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(io::Error::other(error)));
        self.rest.start += n as u64;
        Some(match read {
            Ok(piece) => Ok(self.free.lend(piece, n)),
            Err(error) => {
                tracing::error!(%error, what = self.what, "cannot read the checkpoint");
                Err(error)
            }
        })
    }
}

/// Reads what of a piece at `at` is in the system's memory; `None` where that is nothing, or cannot be told.
#[cfg(target_os = "linux")]
fn read_cached(file: &File, piece: &mut [u8], at: u64) -> Option<usize> {
    use rustix::io::{ReadWriteFlags, preadv2};
    preadv2(file, &mut [io::IoSliceMut::new(piece)], at, ReadWriteFlags::NOWAIT).ok().filter(|n| *n > 0)
}

#[cfg(not(target_os = "linux"))]
fn read_cached(_: &File, _: &mut [u8], _: u64) -> Option<usize> {
    None
}

/// Pieces of memory that are not on their way.
#[derive(Clone, Default)]
struct Free(Arc<Mutex<Vec<Vec<u8>>>>);

impl Free {
    fn take(&self) -> Vec<u8> {
        let free = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.unwrap_or_else(|| vec![0; PIECE_BYTES])
    }

    /// The first `n` bytes of `piece`, which comes back when they are sent.
    fn lend(&self, piece: Vec<u8>, n: usize) -> Bytes {
        Bytes::from_owner(OnLoan { piece, n, free: self.clone() })
    }
}

struct OnLoan {
    piece: Vec<u8>,
    n: usize,
    free: Free,
}

impl AsRef<[u8]> for OnLoan {
    fn as_ref(&self) -> &[u8] {
        &self.piece[..self.n]
    }
}

impl Drop for OnLoan {
    fn drop(&mut self) {
        let piece = std::mem::take(&mut self.piece);
        self.free.0.lock().unwrap_or_else(PoisonError::into_inner).push(piece);
    }
}

/// A body of `length` bytes that a thread of its own reads.
fn of_reader(reader: impl Read + Send + 'static, what: String, length: u64) -> Body {
    let (sender, receiver) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || read_pieces(reader, &what, length, &sender));
    Body::from_stream(ReceiverStream::new(receiver))
}

fn read_pieces(mut reader: impl Read, what: &str, length: u64, sender: &mpsc::Sender<io::Result<Bytes>>) {
    let mut rest = length;
    while rest > 0 {
        let n = rest.min(PIECE_BYTES as u64);
        let mut piece = Vec::with_capacity(n as usize);
        let read = reader
            .by_ref()
            .take(n)
            .read_to_end(&mut piece)
            .and_then(|got| if got as u64 == n { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) });
        if let Err(error) = &read {
            tracing::error!(%error, what, "cannot read the checkpoint");
        }
        rest -= n;
        let failed = read.is_err();
        // an error here means that the client went away
        if sender.blocking_send(read.map(|()| Bytes::from(piece))).is_err() || failed {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::to_bytes;

    /// Two pieces and a bit.
    const N_BYTES: usize = 2 * PIECE_BYTES + 77;

    fn file() -> (tempfile::TempDir, std::path::PathBuf, Vec<u8>) {
        let dir = tempfile::tempdir().expect("a folder");
        let (path, bytes) = (dir.path().join("file"), (0..N_BYTES).map(|i| ((i * i) >> 7) as u8).collect::<Vec<u8>>());
        std::fs::write(&path, &bytes).expect("written");
        (dir, path, bytes)
    }

    #[tokio::test]
    async fn a_part_of_a_file_is_sent_as_it_is() {
        let (_dir, path, bytes) = file();
        for range in [0..N_BYTES, 0..1, 5..PIECE_BYTES + 5, PIECE_BYTES..2 * PIECE_BYTES, N_BYTES - 1..N_BYTES] {
            let body = of_file(&path, range.start as u64..range.end as u64).expect("opened");
            assert_eq!(to_bytes(body, usize::MAX).await.expect("sent"), bytes[range]);
        }
    }

    #[tokio::test]
    async fn a_file_that_became_shorter_breaks_the_answer_off() {
        let (_dir, path, _) = file();
        let body = of_file(&path, 0..N_BYTES as u64 + 1).expect("opened");
        assert!(to_bytes(body, usize::MAX).await.is_err());
    }

    #[tokio::test]
    async fn pieces_of_memory_go_round() {
        let (_dir, path, _) = file();
        let what = String::new();
        let file = Arc::new(File::open(&path).expect("opened"));
        let mut pieces = FilePieces { file, rest: 0..N_BYTES as u64, what, free: Free::default() };
        let first = pieces.next().await.expect("a piece").expect("read").as_ptr();
        let second = pieces.next().await.expect("a piece").expect("read").as_ptr();
        assert_eq!(first, second, "the first was sent, so its memory is free");
    }
}
