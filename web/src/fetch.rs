//! Checkpoints and adapters by ranges: the header first, then chunk by chunk, each checked by its hash and kept as soon as it is there.
//! A download that breaks off, by a server that is gone or a page that is closed, goes on at the first chunk that is not kept.
//! Bytes that are not those announced come once more, past what the browser itself keeps of earlier answers.
//! What is kept has a name that fixes its content: the checkpoint's id, or base, adapter and version of the format.

use crate::api;
use crate::platform::clock;
use crate::platform::http::{Download, NetworkError};
use crate::platform::kept::{Kept, evict};
use beckon_shared::adapter::{self, AdapterFile, FORMAT_VERSION};
use beckon_shared::checkpoint::{self, Checkpoint, Chunk, PREFIX_BYTES, decode_header};
use beckon_shared::control::CheckpointInfo;
use beckon_shared::control::registry::AdapterInfo;
use beckon_shared::digest::{hex, sha256, sha256_hex};
use beckon_shared::gguf::{Bytes, Ranges};
use std::ops::Range;

/// Pauses before a broken connection is tried again, milliseconds.
const RETRY_MILLIS: [i32; 3] = [500, 1_500, 3_000];

/// A file with where it came from.
pub struct Fetched<T> {
    /// The file, checked whole.
    pub file: T,
    /// Bytes that came over the network, as they are in the file; 0 where all were kept.
    pub n_bytes: u64,
    /// Why it is not kept for offline use.
    pub notice: Option<String>,
}

/// Bytes of one file, from what is kept where they are there, else from the server.
struct Source<'a> {
    url: String,
    /// Name under which it is kept; it fixes the content.
    name: String,
    /// The file that is kept.
    kept: Option<Kept>,
    /// First bytes of a file of its kind.
    magic: &'static [u8],
    /// SHA-256 of the header, hex.
    id: &'a str,
    /// Size of the file.
    n_bytes: u64,
    /// Whether the server may be asked.
    online: bool,
    /// Whether its beginning is asked for as the whole file, which the server may then compress. A whole answer that breaks off
    /// costs more than a part: Chromium begins it again.
    whole: bool,
    /// Whether what the browser keeps of earlier answers is passed by.
    afresh: bool,
    /// An open answer and the offset of its next byte.
    download: Option<(Download, u64)>,
    n_fetched: u64,
    notice: Option<String>,
}

/// Gets a checkpoint; `on_share` hears the share that is there.
///
/// # Errors
/// In words for people: no answer after several tries, a chunk that is damaged at the server, another checkpoint than announced.
pub async fn checkpoint(info: &CheckpointInfo, on_share: &dyn Fn(f64)) -> Result<Fetched<Checkpoint>, String> {
    whole(Source::of_checkpoint(info), on_share).await
}

/// A checkpoint of which nothing has to be fetched.
pub async fn kept_checkpoint(info: &CheckpointInfo, on_share: &dyn Fn(f64)) -> Option<Checkpoint> {
    let source = Source { online: false, ..Source::of_checkpoint(info) };
    Some(whole(source, on_share).await.ok()?.file)
}

async fn whole(mut source: Source<'_>, on_share: &dyn Fn(f64)) -> Result<Fetched<Checkpoint>, String> {
    let header = decode_header(&source.header().await?).map_err(|e| e.to_string())?;
    let (chunks, mut assembly) = (header.chunks(), header.assembly());
    source.payload(&chunks, &mut |bytes| assembly.push(&bytes).map_err(|e| e.to_string()), on_share).await?;
    let file = assembly.finish().map_err(|e| e.to_string())?;
    Ok(Fetched { file, n_bytes: source.n_fetched, notice: source.notice })
}

/// Gets the adapter beside a checkpoint.
///
/// # Errors
/// As [`checkpoint`]; an adapter of another checkpoint.
pub async fn adapter(of: &str, info: &AdapterInfo, on_share: &dyn Fn(f64)) -> Result<Fetched<AdapterFile>, String> {
    let url = api::adapter_url(of);
    let name = format!("{}-{}-{FORMAT_VERSION}.adapter", info.base, info.id);
    let mut source = Source { whole: true, magic: adapter::MAGIC, ..Source::new(url, name, &info.id, info.n_bytes) };
    let header = adapter::decode_header(&source.header().await?).map_err(|e| e.to_string())?;
    if header.manifest.checkpoint != of {
        return Err("the file is the adapter of another checkpoint".into());
    }
    let mut payload = Vec::new();
    let mut take = |bytes: Vec<u8>| {
        payload.extend(bytes);
        Ok(())
    };
    source.payload(&header.chunks, &mut take, on_share).await?;
    let file = header.assemble(&payload).map_err(|e| e.to_string())?;
    Ok(Fetched { file, n_bytes: source.n_fetched, notice: source.notice })
}

/// A file of this origin that nobody announced, as a GGUF: read by ranges, and not kept, because nothing fixes its content.
pub struct Unannounced(Source<'static>);

impl Unannounced {
    /// Asks for its beginning, and learns how long it is.
    ///
    /// # Errors
    /// In words: no answer, no such file, or a server that does not say how long it is.
    pub async fn open(url: &str) -> Result<Self, String> {
        let download = Download::open(url, Some(0), false).await.map_err(|e| e.to_string())?;
        let n_bytes = download.n_bytes().ok_or_else(|| format!("the server does not say how long {url} is"))?;
        let mut source = Source::new(url.to_owned(), String::new(), "", n_bytes);
        source.download = Some((download, 0));
        Ok(Self(source))
    }

    /// Bytes that came over the network.
    pub fn n_fetched(&self) -> u64 {
        self.0.n_fetched
    }
}

impl Ranges for Unannounced {
    fn n_bytes(&self) -> u64 {
        self.0.n_bytes
    }

    fn read(&mut self, range: Range<u64>) -> Bytes<'_> {
        Box::pin(self.0.bytes(range.start, (range.end - range.start) as usize))
    }
}

impl<'a> Source<'a> {
    fn new(url: String, name: String, id: &'a str, n_bytes: u64) -> Self {
        Self {
            url,
            name,
            kept: None,
            magic: checkpoint::MAGIC,
            id,
            n_bytes,
            online: true,
            whole: false,
            afresh: false,
            download: None,
            n_fetched: 0,
            notice: None,
        }
    }

    fn of_checkpoint(info: &'a CheckpointInfo) -> Self {
        Self::new(api::checkpoint_url(&info.id), format!("{}.checkpoint", info.id), &info.id, info.n_bytes)
    }

    /// Everything up to the payload.
    async fn header(&mut self) -> Result<Vec<u8>, String> {
        self.kept = Kept::open(&self.name).await.ok();
        if let Some(bytes) = self.kept.as_ref().and_then(|kept| self.kept_header(kept)) {
            return Ok(bytes);
        }
        let mut bytes = self.fetched_header().await?;
        if bytes.is_none() && self.distrust() {
            bytes = self.fetched_header().await?;
        }
        let bytes = bytes.ok_or("the file is another one than announced: its header has another SHA-256")?;
        self.kept = None;
        match Kept::create(&self.name).await {
            Ok(kept) => self.kept = Some(kept),
            Err(why) => self.notice = Some(not_kept(why)),
        }
        self.keep(0, &bytes).await;
        Ok(bytes)
    }

    /// What the server says is the header; `None` where it is not the one that was announced.
    async fn fetched_header(&mut self) -> Result<Option<Vec<u8>>, String> {
        let mut bytes = self.bytes(0, PREFIX_BYTES).await?;
        let n_json = header_length(&bytes);
        if PREFIX_BYTES as u64 + u64::from(n_json) > self.n_bytes {
            return Ok(None);
        }
        bytes.extend(self.bytes(PREFIX_BYTES as u64, n_json as usize).await?);
        Ok(self.is_header(&bytes).then_some(bytes))
    }

    /// After bytes that are not those announced: whether they may be asked for again, now past what the browser keeps of earlier
    /// answers.
    fn distrust(&mut self) -> bool {
        self.download = None;
        !std::mem::replace(&mut self.afresh, true)
    }

    /// The header that is kept, where it is the one that was announced.
    fn kept_header(&self, kept: &Kept) -> Option<Vec<u8>> {
        let end = PREFIX_BYTES as u64 + u64::from(header_length(&kept.read(0..PREFIX_BYTES as u64)?));
        let bytes = kept.read(0..end.min(self.n_bytes))?;
        self.is_header(&bytes).then_some(bytes)
    }

    /// Whether these bytes are the announced header behind what stands before it: magic, length, its hash.
    fn is_header(&self, bytes: &[u8]) -> bool {
        let Some((prefix, json)) = bytes.split_at_checked(PREFIX_BYTES) else { return false };
        let hash = sha256(json);
        prefix.starts_with(self.magic) && prefix.ends_with(&hash) && hex(&hash) == self.id
    }

    /// Everything behind the header, chunk by chunk.
    async fn payload(
        &mut self,
        chunks: &[Chunk],
        take: &mut dyn FnMut(Vec<u8>) -> Result<(), String>,
        on_share: &dyn Fn(f64),
    ) -> Result<(), String> {
        let end = chunks.last().map_or(0, |chunk| chunk.range.end);
        if end > self.n_bytes {
            return Err(format!("it says that it has {end} bytes and was announced with {}", self.n_bytes));
        }
        let first = chunks.first().map_or(0, |chunk| chunk.range.start);
        // too little memory is told before anything comes; a compiler may leave out room that nobody looks at
        let mut room = Vec::<u8>::new();
        room.try_reserve_exact((end - first) as usize).map_err(|e| e.to_string())?;
        drop(std::hint::black_box(room));
        for (i, chunk) in chunks.iter().enumerate() {
            take(self.chunk(i, chunk).await?)?;
            on_share((i + 1) as f64 / chunks.len() as f64);
        }
        Ok(())
    }

    async fn chunk(&mut self, i: usize, Chunk { range, sha256 }: &Chunk) -> Result<Vec<u8>, String> {
        // what is kept and damaged comes again
        let kept = self.kept.as_ref().and_then(|kept| kept.read(range.clone()));
        if let Some(bytes) = kept.filter(|bytes| sha256_hex(bytes) == *sha256) {
            return Ok(bytes);
        }
        let n = (range.end - range.start) as usize;
        let mut bytes = self.bytes(range.start, n).await?;
        if sha256_hex(&bytes) != *sha256 && self.distrust() {
            bytes = self.bytes(range.start, n).await?;
        }
        if sha256_hex(&bytes) != *sha256 {
            return Err(format!("it is damaged at the server: chunk {i} does not match its SHA-256"));
        }
        self.keep(range.start, &bytes).await;
        Ok(bytes)
    }

    async fn keep(&mut self, first: u64, bytes: &[u8]) {
        // after a refusal, as of a full disk, the next chunks would only be refused too
        let Some(kept) = self.kept.as_ref().filter(|_| self.notice.is_none()) else { return };
        let mut written = kept.write(first, bytes);
        while written.is_err() && evict(&self.name).await {
            written = kept.write(first, bytes);
        }
        self.notice = written.err().map(not_kept);
    }

    /// Exactly `n` bytes from `first` on; a broken connection is opened again there.
    async fn bytes(&mut self, first: u64, n: usize) -> Result<Vec<u8>, String> {
        if !self.online {
            return Err("it is not kept".into());
        }
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
            None => (Download::open(&self.url, (at > 0 || !self.whole).then_some(at), self.afresh).await?, at),
        };
        let piece = download.next(n - bytes.len()).await?;
        self.n_fetched += piece.len() as u64;
        bytes.extend(&piece);
        self.download = Some((download, at + piece.len() as u64));
        Ok(())
    }
}

/// Bytes of the JSON behind a prefix.
fn header_length(prefix: &[u8]) -> u32 {
    u32::from_le_bytes([prefix[8], prefix[9], prefix[10], prefix[11]])
}

fn not_kept(why: String) -> String {
    format!("not kept for offline use: {why}")
}
