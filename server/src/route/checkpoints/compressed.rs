//! Adapters with gzip, for clients that take it. Each is compressed once and kept in memory, within a limit.

use crate::catalog::Content;
use crate::catalog::bucket::BucketError;
use axum::body::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is kept in all; the oldest goes first.
const MAX_KEPT_BYTES: usize = 64 << 20;
/// A larger file is sent as it is.
pub const MAX_FILE_BYTES: u64 = 64 << 20;

/// A compressed file, once it is; its lock is held by who makes it.
type Slot = Arc<Mutex<Option<Bytes>>>;

/// Compressed files by what fixes their content.
#[derive(Default)]
pub struct Compressed {
    kept: Mutex<VecDeque<(String, Slot)>>,
}

impl Compressed {
    /// The content that `id` fixes, with gzip. Blocks; of those who ask for the same at once, the first compresses it. Who asks for
    /// another does not wait for them.
    ///
    /// # Errors
    /// The content cannot be read.
    pub fn get(&self, id: &str, content: &Content) -> Result<Bytes, BucketError> {
        let slot = self.slot(id);
        let mut made = locked(&slot);
        if let Some(bytes) = &*made {
            return Ok(bytes.clone());
        }
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        let sent = opened(content)?.and_then(|mut reader| io::copy(&mut reader, &mut encoder));
        let bytes = sent.and_then(|_| encoder.finish());
        let bytes = bytes.map_err(|source| BucketError::Io { action: "read", object: id.into(), source })?;
        let bytes = made.insert(bytes.into()).clone();
        drop(made);
        self.forget_oldest();
        Ok(bytes)
    }

    fn slot(&self, id: &str) -> Slot {
        let mut kept = locked(&self.kept);
        if let Some((_, slot)) = kept.iter().find(|(other, _)| other == id) {
            return Arc::clone(slot);
        }
        let slot = Slot::default();
        kept.push_back((id.to_owned(), Arc::clone(&slot)));
        slot
    }

    /// Down to [`MAX_KEPT_BYTES`]; one that is being made counts nothing yet.
    fn forget_oldest(&self) {
        let mut kept = locked(&self.kept);
        let n_bytes = |slot: &Slot| slot.try_lock().map_or(0, |made| made.as_ref().map_or(0, Bytes::len));
        while kept.iter().map(|(_, slot)| n_bytes(slot)).sum::<usize>() > MAX_KEPT_BYTES {
            kept.pop_front();
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn opened(content: &Content) -> Result<io::Result<Box<dyn Read>>, BucketError> {
    let file = |path| File::open(path).map(|file| Box::new(file) as Box<dyn Read>);
    Ok(match content {
        Content::BuiltIn(bytes) => Ok(Box::new(*bytes)),
        Content::File(path) => file(path),
        Content::Object { bucket, name, copy } => match copy.as_ref().and_then(|path| file(path).ok()) {
            Some(copy) => Ok(copy),
            None => Ok(Box::new(bucket.read(name, None)?)),
        },
    })
}
