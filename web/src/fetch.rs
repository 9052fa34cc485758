//! Checkpoints by ranges: the header first, then chunk by chunk, each checked by its hash and kept as soon as it is there.
//! A download that breaks off, by a server that is gone or a page that is closed, goes on at the first chunk that is not kept.

use crate::api;
use crate::platform::http::{Download, NetworkError};
use crate::platform::{cache, clock};
use beckon_shared::checkpoint::{Checkpoint, Header, PREFIX_BYTES, decode_header, header_bytes};
use beckon_shared::control::CheckpointInfo;

/// Pauses before a broken connection is tried again, milliseconds.
const RETRY_MILLIS: [i32; 3] = [500, 1_500, 3_000];

/// A checkpoint with where it came from.
pub struct Fetched {
    /// The checkpoint, checked whole.
    pub checkpoint: Checkpoint,
    /// Nothing had to be fetched.
    pub from_cache: bool,
    /// Why it is not kept for offline use.
    pub notice: Option<String>,
}

/// Bytes of one file, from the cache where they are, else from the server.
struct Source<'a> {
    url: String,
    info: &'a CheckpointInfo,
    /// An open answer and the offset of its next byte.
    download: Option<(Download, u64)>,
    n_fetched: u64,
    notice: Option<String>,
}

/// Gets a checkpoint; `on_share` hears the share that is there.
///
/// # Errors
/// In words for people: no answer after several tries, a chunk that is damaged at the server, another checkpoint than announced.
pub async fn checkpoint(info: &CheckpointInfo, on_share: impl Fn(f64)) -> Result<Fetched, String> {
    let url = api::checkpoint_url(&info.id);
    let mut source = Source { url, info, download: None, n_fetched: 0, notice: None };
    let header = source.header().await?;
    let mut payload = Vec::new();
    payload.try_reserve_exact(header.manifest.payload_bytes as usize).map_err(|e| e.to_string())?;
    for chunk in 0..header.n_chunks() {
        payload.extend(source.chunk(&header, chunk).await?);
        on_share((chunk + 1) as f64 / header.n_chunks() as f64);
    }
    let checkpoint = header.assemble(&payload).map_err(|e| e.to_string())?;
    Ok(Fetched { checkpoint, from_cache: source.n_fetched == 0, notice: source.notice })
}

impl Source<'_> {
    async fn header(&mut self) -> Result<Header, String> {
        let key = format!("{}?header", self.url);
        if let Some(header) = cache::get(&key).await.and_then(|bytes| self.checked(&bytes).ok()) {
            return Ok(header);
        }
        let mut bytes = self.bytes(0, PREFIX_BYTES).await?;
        let n_bytes = header_bytes(&bytes).map_err(|e| e.to_string())?;
        if n_bytes as u64 > self.info.n_bytes {
            return Err(format!("its header of {n_bytes} bytes does not lie in a file of {}", self.info.n_bytes));
        }
        bytes.extend(self.bytes(PREFIX_BYTES as u64, n_bytes - PREFIX_BYTES).await?);
        let header = self.checked(&bytes)?;
        self.notice = cache::make_room(&self.url).await.err().map(not_kept);
        self.keep(&key, &bytes).await;
        Ok(header)
    }

    fn checked(&self, bytes: &[u8]) -> Result<Header, String> {
        let header = decode_header(bytes).map_err(|e| e.to_string())?;
        if header.id == self.info.id { Ok(header) } else { Err("the file is another checkpoint than announced".into()) }
    }

    async fn chunk(&mut self, header: &Header, chunk: usize) -> Result<Vec<u8>, String> {
        let key = format!("{}?chunk={chunk}", self.url);
        if let Some(bytes) = cache::get(&key).await {
            if header.verify_chunk(chunk, &bytes).is_ok() {
                return Ok(bytes);
            }
            // what is kept is damaged
            cache::remove(&key).await;
        }
        let Some(range) = header.chunk_range(chunk) else { return Ok(Vec::new()) };
        let bytes = self.bytes(range.start, (range.end - range.start) as usize).await?;
        header.verify_chunk(chunk, &bytes).map_err(|e| e.to_string())?;
        self.keep(&key, &bytes).await;
        Ok(bytes)
    }

    async fn keep(&mut self, key: &str, bytes: &[u8]) {
        // after a refusal, as of a full disk, the next chunks would only be refused too
        if self.notice.is_none() {
            self.notice = cache::put(key, bytes).await.err().map(not_kept);
        }
    }

    /// Exactly `n` bytes from `first` on; a broken connection is opened again there.
    async fn bytes(&mut self, first: u64, n: usize) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::with_capacity(n);
        let mut pauses = RETRY_MILLIS.iter();
        while bytes.len() < n {
            let Err(error) = self.more(first, n, &mut bytes).await else { continue };
            self.download = None;
            match pauses.next().filter(|_| error.is_transient()) {
                Some(pause) => clock::sleep(*pause).await,
                None => return Err(format!("{error} (what is there is kept, the next try goes on from it)")),
            }
        }
        Ok(bytes)
    }

    /// The next piece towards `n` bytes from `first` on.
    async fn more(&mut self, first: u64, n: usize, bytes: &mut Vec<u8>) -> Result<(), NetworkError> {
        let at = first + bytes.len() as u64;
        let (mut download, _) = match self.download.take().filter(|(_, next)| *next == at) {
            Some(open) => open,
            None => (Download::open(&self.url, at).await?, at),
        };
        let piece = download.next(n - bytes.len()).await?;
        self.n_fetched += piece.len() as u64;
        bytes.extend(&piece);
        self.download = Some((download, at + piece.len() as u64));
        Ok(())
    }
}

fn not_kept(why: String) -> String {
    format!("not kept for offline use: {why}")
}
