//! Bytes of a checkpoint: layout and encoding, and decoding that believes nothing before it is checked.

use super::{CHUNK_BYTES, Checkpoint, CheckpointError, FORMAT_VERSION, Manifest, TensorEntry};
use super::{check_reward, check_tokenizer, expected_tensors, policy_tensors};
use crate::digest::{hex, sha256, sha256_hex};
use crate::quant::Matrix;
use crate::tokenizer::Tokenizer;
use std::collections::BTreeMap;
use std::ops::Range;

/// First bytes of a checkpoint.
pub const MAGIC: &[u8; 8] = b"BECKON01";
/// Bytes in front of the header JSON: magic, header length, header hash.
pub const PREFIX_BYTES: usize = 8 + 4 + 32;
/// Longest header that is read; a real one has some 100 bytes a tensor.
const MAX_HEADER_BYTES: usize = 16 << 20;
/// Largest payload that is read; wasm32 cannot address more.
pub(crate) const MAX_PAYLOAD_BYTES: u64 = 2 << 30;

/// A checked header: what is needed to fetch, check and assemble the payload.
#[derive(Debug, Clone)]
pub struct Header {
    /// SHA-256 of the header JSON, hex.
    pub id: String,
    /// The header.
    pub manifest: Manifest,
    /// Where the payload begins in the file.
    pub payload_start: u64,
}

/// A piece of a file that is fetched and checked by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Where it lies in the file.
    pub range: Range<u64>,
    /// Its hash, hex.
    pub sha256: String,
}

/// The chunks of a payload that begins at `start` in its file; `None` where there are not as many hashes as chunks.
pub fn chunks(start: u64, payload_bytes: u64, hashes: &[String]) -> Option<Vec<Chunk>> {
    let n_bytes = CHUNK_BYTES as u64;
    let end = start.checked_add(payload_bytes)?;
    let of = |(i, sha256): (u64, &String)| {
        let first = start + i * n_bytes;
        Chunk { range: first..end.min(first + n_bytes), sha256: sha256.clone() }
    };
    (hashes.len() as u64 == payload_bytes.div_ceil(n_bytes)).then(|| (0..).zip(hashes).map(of).collect())
}

fn manifest_error(field: impl Into<String>, reason: impl Into<String>) -> CheckpointError {
    CheckpointError::Manifest { field: field.into(), reason: reason.into() }
}

fn padded(n_bytes: usize) -> usize {
    n_bytes.next_multiple_of(4)
}

/// `(rows, cols)` of a logical shape: a vector is one row.
fn rows_and_cols(shape: &[usize]) -> Option<(usize, usize)> {
    match *shape {
        [cols] => Some((1, cols)),
        [rows, cols] => Some((rows, cols)),
        _ => None,
    }
}

/// Bytes from the start of the file to the end of the header, from the first [`PREFIX_BYTES`] of a file: what to
/// fetch before [`decode_header`].
///
/// # Errors
/// Not a checkpoint, an unknown version, fewer than [`PREFIX_BYTES`], or a header longer than any real one.
pub fn header_bytes(start: &[u8]) -> Result<usize, CheckpointError> {
    let magic = &start[..start.len().min(MAGIC.len())];
    if magic.len() == MAGIC.len() && magic != MAGIC && magic.starts_with(b"BECKON") && magic[6..].is_ascii() {
        return Err(CheckpointError::UnknownVersion { got: String::from_utf8_lossy(&magic[6..]).into_owned() });
    }
    if magic.is_empty() || !MAGIC.starts_with(magic) {
        return Err(CheckpointError::NotACheckpoint { got: magic.to_vec() });
    }
    if start.len() < PREFIX_BYTES {
        return Err(truncated("the prefix", PREFIX_BYTES as u64, start.len()));
    }
    let length = u32::from_le_bytes([start[8], start[9], start[10], start[11]]) as usize;
    if length > MAX_HEADER_BYTES {
        return Err(manifest_error("header length", format!("{length} bytes is above {MAX_HEADER_BYTES}")));
    }
    Ok(PREFIX_BYTES + length)
}

fn truncated(what: &'static str, want: u64, got: usize) -> CheckpointError {
    CheckpointError::Truncated { what, want, got: got as u64 }
}

/// Reads and checks the header from the first bytes of a file (more may follow).
///
/// # Errors
/// As [`header_bytes`]; too few bytes; a header that does not match its hash, has an unknown format version,
/// contradicts itself, or lacks a tensor of its network.
pub fn decode_header(bytes: &[u8]) -> Result<Header, CheckpointError> {
    let end = header_bytes(bytes)?;
    let Some(json) = bytes.get(PREFIX_BYTES..end) else {
        return Err(truncated("the header", end as u64, bytes.len()));
    };
    let (want, got) = (hex(&bytes[12..PREFIX_BYTES]), sha256_hex(json));
    if want != got {
        return Err(CheckpointError::HeaderHash { want, got });
    }
    // the version first: a manifest of another version need not parse
    let text = std::str::from_utf8(json).map_err(|e| manifest_error("header", e.to_string()))?;
    let value: serde_json::Value = serde_json::from_str(text).map_err(|e| manifest_error("header", e.to_string()))?;
    let version = &value["format_version"];
    if !version.as_u64().is_some_and(|version| (1..=u64::from(FORMAT_VERSION)).contains(&version)) {
        return Err(CheckpointError::UnknownVersion { got: version.to_string() });
    }
    let manifest: Manifest = serde_json::from_value(value).map_err(|e| manifest_error("header", e.to_string()))?;
    check_manifest(&manifest)?;
    Ok(Header { id: got, manifest, payload_start: end as u64 })
}

fn check_manifest(manifest: &Manifest) -> Result<(), CheckpointError> {
    manifest.model.validate()?;
    if let Some(reward) = &manifest.reward {
        check_reward(reward, &manifest.model)?;
    }
    if manifest.format_version == 1 && (manifest.reward.is_none() || manifest.prompt_format.is_some()) {
        return Err(manifest_error("format_version", "format 1 has a reward model and no prompt format"));
    }
    if manifest.format_version < 3 && manifest.reward.as_ref().is_some_and(|reward| reward.n_layers.is_some()) {
        return Err(manifest_error("format_version", "a reward model of its own depth came with format 3"));
    }
    if manifest.format_version < 4 && !manifest.model.tied_embedding {
        return Err(manifest_error("format_version", "an output matrix of its own came with format 4"));
    }
    if manifest.payload_bytes > MAX_PAYLOAD_BYTES {
        return Err(manifest_error(
            "payload_bytes",
            format!("{} is above {MAX_PAYLOAD_BYTES}", manifest.payload_bytes),
        ));
    }
    let n_chunks = manifest.payload_bytes.div_ceil(CHUNK_BYTES as u64);
    if manifest.chunks.len() as u64 != n_chunks {
        return Err(manifest_error("chunks", format!("{} hashes for {n_chunks} chunks", manifest.chunks.len())));
    }
    check_tensors(manifest)?;
    let mut ranges: Vec<(u64, u64, &str)> = vec![(manifest.tokenizer.0, manifest.tokenizer.1, "tokenizer")];
    ranges.extend(manifest.tensors.iter().map(|t| (t.offset, t.n_bytes, t.name.as_str())));
    for &(offset, n_bytes, name) in &ranges {
        let end = offset.checked_add(n_bytes);
        if !offset.is_multiple_of(4) || end.is_none_or(|end| end > manifest.payload_bytes) {
            let reason = format!("{n_bytes} bytes at {offset} do not lie in a payload of {}", manifest.payload_bytes);
            return Err(manifest_error(name, reason));
        }
    }
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        let (a, b) = (pair[0], pair[1]);
        // a range may be shared as a whole, not in part
        if (a.0, a.1) != (b.0, b.1) && b.0 < a.0 + a.1 {
            return Err(manifest_error(b.2, format!("its bytes overlap those of {}", a.2)));
        }
    }
    Ok(())
}

/// Names, shapes and sizes against the network.
fn check_tensors(manifest: &Manifest) -> Result<(), CheckpointError> {
    let expected = match &manifest.reward {
        Some(reward) => expected_tensors(&manifest.model, reward),
        None => policy_tensors(&manifest.model),
    };
    let mut expected: BTreeMap<_, _> = expected.into_iter().collect();
    for entry in &manifest.tensors {
        let name = entry.name.clone();
        let Some(want) = expected.remove(&name) else { return Err(CheckpointError::UnknownTensor { name }) };
        if entry.shape != want {
            return Err(CheckpointError::WrongShape { name, got: entry.shape.clone(), want });
        }
        let n_bytes = rows_and_cols(&entry.shape).and_then(|(rows, cols)| entry.format.n_bytes(rows, cols));
        if n_bytes != Some(entry.n_bytes) {
            let reason = format!("{} bytes for shape {:?} in {:?}", entry.n_bytes, entry.shape, entry.format);
            return Err(manifest_error(name, reason));
        }
    }
    match expected.into_keys().next() {
        Some(name) => Err(CheckpointError::MissingTensor { name }),
        None => Ok(()),
    }
}

impl Header {
    /// Bytes of the whole file.
    pub fn file_bytes(&self) -> u64 {
        self.payload_start + self.manifest.payload_bytes
    }

    /// Number of chunks.
    pub fn n_chunks(&self) -> usize {
        self.manifest.chunks.len()
    }

    /// Pieces of the payload, in order.
    pub fn chunks(&self) -> Vec<Chunk> {
        // there are as many hashes as chunks: `check_manifest`
        chunks(self.payload_start, self.manifest.payload_bytes, &self.manifest.chunks).unwrap_or_default()
    }

    /// Range of chunk `chunk` in the file; `None` beyond the last.
    pub fn chunk_range(&self, chunk: usize) -> Option<Range<u64>> {
        let start = (chunk as u64).checked_mul(CHUNK_BYTES as u64).filter(|_| chunk < self.n_chunks())?;
        let end = (start + CHUNK_BYTES as u64).min(self.manifest.payload_bytes);
        Some(self.payload_start + start..self.payload_start + end)
    }

    /// Checks one chunk.
    ///
    /// # Errors
    /// No such chunk, another length, another hash.
    pub fn verify_chunk(&self, chunk: usize, bytes: &[u8]) -> Result<(), CheckpointError> {
        let Some(range) = self.chunk_range(chunk) else {
            return Err(manifest_error("chunks", format!("there is no chunk {chunk}")));
        };
        if (bytes.len() as u64) < range.end - range.start {
            return Err(truncated("a chunk", range.end, (range.start as usize).saturating_add(bytes.len())));
        }
        let (want, got) = (self.manifest.chunks[chunk].clone(), sha256_hex(bytes));
        if want != got {
            return Err(CheckpointError::ChunkHash { chunk, n_chunks: self.n_chunks(), want, got });
        }
        Ok(())
    }

    /// Makes the checkpoint from its whole payload; checks every chunk.
    ///
    /// # Errors
    /// A payload of another length, a damaged chunk, a tokenizer that is none, weights that are not finite.
    pub fn assemble(self, payload: &[u8]) -> Result<Checkpoint, CheckpointError> {
        let (want, got) = (self.manifest.payload_bytes, payload.len() as u64);
        if got < want {
            return Err(truncated("the payload", self.file_bytes(), (self.payload_start + got) as usize));
        }
        if got > want {
            return Err(CheckpointError::TrailingBytes { n_bytes: got - want });
        }
        for (chunk, bytes) in payload.chunks(CHUNK_BYTES).enumerate() {
            self.verify_chunk(chunk, bytes)?;
        }
        let mut assembly = self.assembly();
        payload.chunks(CHUNK_BYTES).try_for_each(|bytes| assembly.push(bytes))?;
        assembly.finish()
    }

    /// Begins to put the checkpoint together.
    pub fn assembly(self) -> Assembly {
        let mut assembly = Assembly {
            header: self,
            next: None,
            start: 0,
            held: Vec::new(),
            tokenizer_json: String::new(),
            tensors: BTreeMap::new(),
        };
        assembly.next = assembly.piece_from(0);
        assembly
    }
}

/// A checkpoint that is put together while its payload comes: beside what is finished, no more of the file is held than one tensor
/// and one chunk.
#[derive(Debug)]
pub struct Assembly {
    header: Header,
    /// The piece of the payload that is finished next.
    next: Option<Range<u64>>,
    /// Where `held` begins in the payload: at or before that piece.
    start: u64,
    held: Vec<u8>,
    tokenizer_json: String,
    tensors: BTreeMap<String, Matrix>,
}

impl Assembly {
    /// Takes the next bytes of the payload, of chunks that [`Header::verify_chunk`] has passed.
    ///
    /// # Errors
    /// More bytes than announced, a tokenizer that is none, weights that are not finite.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), CheckpointError> {
        let (want, got) = (self.header.manifest.payload_bytes, self.n_taken() + bytes.len() as u64);
        if got > want {
            return Err(CheckpointError::TrailingBytes { n_bytes: got - want });
        }
        if let Some(piece) = &self.next {
            // room for the whole piece at once, since a buffer that grows is two for a while
            let n_held = piece.end.saturating_sub(self.start) as usize + bytes.len();
            self.held.reserve_exact(n_held.saturating_sub(self.held.len()));
        }
        self.held.extend_from_slice(bytes);
        while let Some(piece) = self.next.take_if(|piece| piece.end <= got) {
            self.finish_piece(piece.start)?;
            self.next = self.piece_from(piece.start + 1);
        }
        let start = self.next.as_ref().map_or(got, |piece| piece.start.min(got));
        self.held.drain(..(start - self.start) as usize);
        self.start = start;
        Ok(())
    }

    /// Bytes that memory has for what is not finished.
    #[cfg(test)]
    pub(super) fn n_held_bytes(&self) -> usize {
        self.held.capacity()
    }

    /// Bytes of the payload that came so far.
    fn n_taken(&self) -> u64 {
        self.start + self.held.len() as u64
    }

    /// What lies in the payload: place, length, and which tensor it is; `None` is the tokenizer.
    fn pieces(&self) -> impl Iterator<Item = (u64, u64, Option<&TensorEntry>)> {
        let Manifest { tokenizer: (offset, n_bytes), tensors, .. } = &self.header.manifest;
        let tensors = tensors.iter().map(|entry| (entry.offset, entry.n_bytes, Some(entry)));
        tensors.chain([(*offset, *n_bytes, None)])
    }

    /// The first piece that begins at `from` or behind it.
    fn piece_from(&self, from: u64) -> Option<Range<u64>> {
        let behind = self.pieces().filter(|(offset, ..)| *offset >= from);
        behind.min_by_key(|(offset, ..)| *offset).map(|(offset, n_bytes, _)| offset..offset + n_bytes)
    }

    /// Takes what lies at `offset` out of what is held; several tensors may share the place.
    fn finish_piece(&mut self, offset: u64) -> Result<(), CheckpointError> {
        let first = (offset - self.start) as usize;
        let (mut tokenizer_json, mut tensors) = (None, Vec::new());
        for (_, n_bytes, entry) in self.pieces().filter(|piece| piece.0 == offset) {
            let bytes = &self.held[first..first + n_bytes as usize];
            match entry {
                None => tokenizer_json = Some(self.tokenizer(bytes)?),
                Some(entry) => tensors.push((entry.name.clone(), matrix(entry, bytes)?)),
            }
        }
        self.tokenizer_json.extend(tokenizer_json);
        self.tensors.extend(tensors);
        Ok(())
    }

    fn tokenizer(&self, bytes: &[u8]) -> Result<String, CheckpointError> {
        let manifest = &self.header.manifest;
        let json = std::str::from_utf8(bytes).map_err(|e| manifest_error("tokenizer", e.to_string()))?;
        check_tokenizer(&Tokenizer::from_parts(json, manifest.prompt_format.as_ref())?, &manifest.model)?;
        Ok(json.to_owned())
    }

    /// The checkpoint.
    ///
    /// # Errors
    /// A payload that is not there to its end.
    pub fn finish(self) -> Result<Checkpoint, CheckpointError> {
        if self.n_taken() < self.header.manifest.payload_bytes {
            let got = (self.header.payload_start + self.n_taken()) as usize;
            return Err(truncated("the payload", self.header.file_bytes(), got));
        }
        let Header { id, manifest, .. } = self.header;
        Ok(Checkpoint { id, manifest, tokenizer_json: self.tokenizer_json, tensors: self.tensors })
    }
}

fn matrix(entry: &TensorEntry, bytes: &[u8]) -> Result<Matrix, CheckpointError> {
    let name = entry.name.clone();
    let (rows, cols) = rows_and_cols(&entry.shape).ok_or_else(|| manifest_error(&*name, "not a matrix"))?;
    let matrix = Matrix::from_bytes(rows, cols, entry.format, bytes)
        .map_err(|source| CheckpointError::Quant { name: name.clone(), source })?;
    if matrix.is_finite() { Ok(matrix) } else { Err(CheckpointError::NotFinite { name }) }
}

/// Hashes of the chunks of a payload that comes in pieces.
#[derive(Default)]
struct ChunkHashes {
    done: Vec<String>,
    chunk: Vec<u8>,
}

impl ChunkHashes {
    fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK_BYTES - self.chunk.len()));
            self.chunk.extend_from_slice(now);
            bytes = later;
            if self.chunk.len() == CHUNK_BYTES {
                self.done.push(sha256_hex(&self.chunk));
                self.chunk.clear();
            }
        }
    }

    fn all(mut self) -> Vec<String> {
        if !self.chunk.is_empty() {
            self.done.push(sha256_hex(&self.chunk));
        }
        self.done
    }
}

impl Checkpoint {
    /// Places tokenizer and tensors in the payload, and fills in ranges, chunk hashes and id.
    pub(super) fn lay_out(&mut self, order: &[(String, Vec<usize>)]) -> Result<(), CheckpointError> {
        let mut end = padded(self.tokenizer_json.len());
        let mut placed: Vec<([u8; 32], (u64, u64))> = Vec::new();
        self.manifest.tensors.clear();
        for (name, shape) in order {
            let matrix = self.tensors.get(name).ok_or_else(|| CheckpointError::MissingTensor { name: name.clone() })?;
            let bytes = matrix.to_bytes();
            // the same bytes in another format or shape are as good: a range is only bytes
            let hash = sha256(&bytes);
            let there = placed.iter().find(|(other, _)| *other == hash).map(|(_, range)| *range);
            let (offset, n_bytes) = there.unwrap_or_else(|| {
                let range = (end as u64, bytes.len() as u64);
                placed.push((hash, range));
                end += bytes.len();
                range
            });
            let (name, shape) = (name.clone(), shape.clone());
            self.manifest.tensors.push(TensorEntry { name, shape, format: matrix.format, offset, n_bytes });
        }
        self.manifest.payload_bytes = end as u64;
        let mut chunks = ChunkHashes::default();
        self.write_payload(&mut |bytes| chunks.add(bytes));
        self.manifest.chunks = chunks.all();
        self.id = sha256_hex(&self.header_json()?);
        Ok(())
    }

    /// Gives the payload piece by piece, in order.
    fn write_payload(&self, write: &mut dyn FnMut(&[u8])) {
        let tensors = self.manifest.tensors.iter().map(|entry| (entry.offset, self.tensors.get(&entry.name)));
        let mut pieces: Vec<(u64, Option<&Matrix>)> = tensors.filter(|(_, matrix)| matrix.is_some()).collect();
        pieces.push((self.manifest.tokenizer.0, None));
        let (mut from, mut end) = (0, 0);
        // tensors that share a place are written once
        while let Some((offset, matrix)) = pieces.iter().filter(|(at, _)| *at >= from).min_by_key(|(at, _)| *at) {
            let bytes = matrix.map_or_else(|| self.tokenizer_json.as_bytes().to_vec(), Matrix::to_bytes);
            write(&vec![0; offset.saturating_sub(end) as usize]);
            write(&bytes);
            (from, end) = (offset + 1, offset + bytes.len() as u64);
        }
        write(&vec![0; self.manifest.payload_bytes.saturating_sub(end) as usize]);
    }

    fn header_json(&self) -> Result<Vec<u8>, CheckpointError> {
        serde_json::to_vec(&self.manifest).map_err(|e| manifest_error("header", e.to_string()))
    }

    /// The file. Decoding it gives this checkpoint with this id.
    ///
    /// # Errors
    /// A manifest that JSON cannot hold.
    pub fn encode(&self) -> Result<Vec<u8>, CheckpointError> {
        let header = self.header_json()?;
        let length = u32::try_from(header.len()).map_err(|e| manifest_error("header", e.to_string()))?;
        let mut file = [&MAGIC[..], &length.to_le_bytes(), &sha256(&header), &header].concat();
        file.reserve_exact(self.manifest.payload_bytes as usize);
        self.write_payload(&mut |bytes| file.extend_from_slice(bytes));
        Ok(file)
    }

    /// Reads and checks a file.
    ///
    /// # Errors
    /// Whatever is wrong with it, see [`CheckpointError`]; nothing of a damaged file is used.
    pub fn decode(bytes: &[u8]) -> Result<Self, CheckpointError> {
        let header = decode_header(bytes)?;
        // the header was read from these bytes, so it ends within them
        let payload = &bytes[header.payload_start as usize..];
        header.assemble(payload)
    }
}
