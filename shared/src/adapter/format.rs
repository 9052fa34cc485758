//! Bytes of an adapter file: encoding, and decoding that believes nothing before it is checked.

use super::{AdapterError, AdapterFile, AdapterManifest, FORMAT_VERSION, Stored, dense};
use crate::checkpoint::{CHUNK_BYTES, Chunk, PREFIX_BYTES, check_reward, chunks, expected_tensors};
use crate::digest::{hex, sha256, sha256_hex};
use crate::engine::{Adapter, LowRank};
use crate::tensor::{DenseTensor, TensorMap};
use std::collections::BTreeMap;

/// First bytes of an adapter.
pub const MAGIC: &[u8; 8] = b"BECKAD01";
/// Longest header that is read.
const MAX_HEADER_BYTES: usize = 16 << 20;

/// Distances in the payload: of a value from the next, and of its bytes from each other.
fn strides(version: u32, n_values: usize) -> (usize, usize) {
    if version == 1 { (4, 1) } else { (1, n_values) }
}

fn malformed(what: impl Into<String>) -> AdapterError {
    AdapterError::Malformed { what: what.into() }
}

impl AdapterFile {
    /// Fills in places, chunk hashes and id.
    pub(super) fn lay_out(&mut self) -> Result<(), AdapterError> {
        let mut first = 0;
        self.manifest.tensors = self
            .tensors()
            .map(|(name, tensor)| {
                let stored = Stored { name, shape: tensor.shape.clone(), first };
                first += tensor.data.len() as u64;
                stored
            })
            .collect();
        self.manifest.n_values = first;
        self.manifest.chunks = self.payload().chunks(CHUNK_BYTES).map(sha256_hex).collect();
        self.id = sha256_hex(&self.header_json()?);
        Ok(())
    }

    /// Tensors in file order with their names in it; a scale is folded into its `b`.
    pub(super) fn tensors(&self) -> impl Iterator<Item = (String, DenseTensor)> + '_ {
        let sides = [("policy", &self.adapter.policy), ("reward", &self.adapter.reward)];
        let sides = sides.into_iter().flat_map(|(network, sides)| {
            sides.iter().flat_map(move |(name, LowRank { a, b, scale })| {
                let scaled = b.data.iter().map(|value| value * scale).collect();
                let b = DenseTensor::new(b.shape.clone(), scaled);
                [(format!("{network}.{name}.a"), a.clone()), (format!("{network}.{name}.b"), b)]
            })
        });
        let heads = self.adapter.heads.iter().flat_map(|(_, heads)| heads);
        sides.chain(heads.map(|(name, head)| (format!("reward.{name}"), head.clone())))
    }

    fn payload(&self) -> Vec<u8> {
        let values: Vec<f32> = self.tensors().flat_map(|(_, tensor)| tensor.data).collect();
        let (stride, plane) = strides(self.manifest.format_version, values.len());
        let mut payload = vec![0; 4 * values.len()];
        for (i, value) in values.iter().enumerate() {
            value.to_le_bytes().iter().enumerate().for_each(|(byte, bits)| payload[stride * i + plane * byte] = *bits);
        }
        payload
    }

    fn header_json(&self) -> Result<Vec<u8>, AdapterError> {
        serde_json::to_vec(&self.manifest).map_err(|e| malformed(e.to_string()))
    }

    /// The file. Decoding it gives this adapter with this id.
    ///
    /// # Errors
    /// A manifest that JSON cannot hold.
    pub fn encode(&self) -> Result<Vec<u8>, AdapterError> {
        let header = self.header_json()?;
        let length = u32::try_from(header.len()).map_err(|e| malformed(e.to_string()))?;
        Ok([&MAGIC[..], &length.to_le_bytes(), &sha256(&header), &header, &self.payload()].concat())
    }

    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`AdapterError::Malformed`] with what is wrong; nothing of a damaged file is used.
    pub fn decode(bytes: &[u8]) -> Result<Self, AdapterError> {
        let header = decode_header(bytes)?;
        // the header was read from these bytes, so it ends within them
        let payload = &bytes[header.payload_start as usize..];
        header.assemble(payload)
    }
}

/// A checked header: what is needed to fetch, check and assemble the payload.
#[derive(Debug, Clone)]
pub struct AdapterHeader {
    /// SHA-256 of the header JSON, hex.
    pub id: String,
    /// The header.
    pub manifest: AdapterManifest,
    /// Where the payload begins in the file.
    pub payload_start: u64,
    /// Pieces of the payload, in order.
    pub chunks: Vec<Chunk>,
}

/// Reads and checks the header from the first bytes of a file (more may follow). The bytes in front of it are laid out as a
/// checkpoint's: its length stands at byte 8, [`PREFIX_BYTES`] are before it.
///
/// # Errors
/// [`AdapterError::Malformed`].
pub fn decode_header(bytes: &[u8]) -> Result<AdapterHeader, AdapterError> {
    let (prefix, rest) = bytes.split_at_checked(PREFIX_BYTES).ok_or_else(|| malformed("it is truncated"))?;
    if !prefix.starts_with(MAGIC) {
        return Err(malformed("it does not begin as an adapter or is from a newer Beckon"));
    }
    let length = u32::from_le_bytes([prefix[8], prefix[9], prefix[10], prefix[11]]) as usize;
    if length > MAX_HEADER_BYTES || length > rest.len() {
        return Err(malformed(format!("its header of {length} bytes does not lie in the file")));
    }
    let json = &rest[..length];
    let id = sha256_hex(json);
    if id != hex(&prefix[12..]) {
        return Err(malformed("its header does not match its SHA-256"));
    }
    let text = std::str::from_utf8(json).map_err(|e| malformed(e.to_string()))?;
    let manifest: AdapterManifest = crate::json::parse(text).map_err(|e| malformed(e.to_string()))?;
    if !(1..=FORMAT_VERSION).contains(&manifest.format_version) {
        return Err(malformed(format!("format {} is unknown, update Beckon", manifest.format_version)));
    }
    manifest.model.validate().map_err(|e| malformed(e.to_string()))?;
    check_reward(&manifest.reward, &manifest.model)?;
    let payload_start = (PREFIX_BYTES + length) as u64;
    let n_bytes = manifest.n_values.checked_mul(4);
    let chunks = n_bytes.and_then(|n_bytes| chunks(payload_start, n_bytes, &manifest.chunks));
    let chunks = chunks.ok_or_else(|| malformed("it does not have as many hashes as chunks"))?;
    Ok(AdapterHeader { id, manifest, payload_start, chunks })
}

impl AdapterHeader {
    /// Makes the adapter from its whole payload; checks every chunk.
    ///
    /// # Errors
    /// [`AdapterError::Malformed`].
    pub fn assemble(self, payload: &[u8]) -> Result<AdapterFile, AdapterError> {
        let Self { id, manifest, .. } = self;
        if manifest.n_values.checked_mul(4) != Some(payload.len() as u64) {
            return Err(malformed(format!("{} bytes of payload for {} values", payload.len(), manifest.n_values)));
        }
        if !payload.chunks(CHUNK_BYTES).map(sha256_hex).eq(manifest.chunks.iter().cloned()) {
            return Err(malformed("a chunk does not match its SHA-256"));
        }
        let n_values = payload.len() / 4;
        let (stride, plane) = strides(manifest.format_version, n_values);
        let value = |i| f32::from_le_bytes([0, 1, 2, 3].map(|byte| payload[stride * i + plane * byte]));
        let values: Vec<f32> = (0..n_values).map(value).collect();
        if values.iter().chain(&manifest.probe.logits).any(|value| !value.is_finite()) {
            return Err(malformed("it holds values that are not finite"));
        }
        let adapter = assemble(&manifest, &values)?;
        Ok(AdapterFile { id, manifest, adapter })
    }
}

/// Tensors by name, each known and of its shape.
fn assemble(manifest: &AdapterManifest, values: &[f32]) -> Result<Adapter, AdapterError> {
    let shapes: BTreeMap<_, _> = expected_tensors(&manifest.model, &manifest.reward).into_iter().collect();
    let mut stored = BTreeMap::new();
    for Stored { name, shape, first } in &manifest.tensors {
        let size = shape.iter().try_fold(1_usize, |size, n| size.checked_mul(*n));
        let range = usize::try_from(*first).ok().zip(size).and_then(|(first, n)| Some(first..first.checked_add(n)?));
        let own = range.and_then(|range| values.get(range)).ok_or_else(|| malformed(format!("{name} is not in it")))?;
        stored.insert(name.as_str(), dense(shape, own));
    }
    let mut sides = [BTreeMap::new(), BTreeMap::new()];
    let mut heads = TensorMap::new();
    for (full, shape) in &shapes {
        let (network, name) = full.split_once('.').unwrap_or(("", full));
        let pair = (stored.remove(format!("{full}.a").as_str()), stored.remove(format!("{full}.b").as_str()));
        match (pair, stored.remove(full.as_str())) {
            ((Some(a), Some(b)), None) => {
                let fits = shape.len() == 2 && a.shape.len() == 2 && b.shape.len() == 2;
                let fits = fits && [b.shape[0], a.shape[1]] == shape[..] && a.shape[0] == b.shape[1];
                if !fits {
                    return Err(malformed(format!("factors of {full} do not have its shape {shape:?}")));
                }
                sides[usize::from(network == "reward")].insert(name.to_owned(), LowRank { a, b, scale: 1.0 });
            }
            ((None, None), Some(head)) if head.shape == *shape && !name.starts_with("model.") => {
                heads.insert(name.to_owned(), head);
            }
            ((None, None), None) => {}
            _ => return Err(malformed(format!("{full} is incomplete or has another shape than {shape:?}"))),
        }
    }
    if let Some(name) = stored.keys().next() {
        return Err(malformed(format!("tensor {name} does not belong to its network")));
    }
    let [policy, reward] = sides;
    Ok(Adapter { policy, reward, heads: Some((manifest.reward.clone(), heads)) })
}
