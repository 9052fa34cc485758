//! An object on its way in: read as it arrives.

use super::{Bucket, BucketError};
use crate::outbound;
use axum::body::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use object_store::path::Path as Key;
use object_store::{GetOptions, GetRange, ObjectStore};
use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

/// The bytes of an object; never more than a few buffers of it are held.
pub struct Reader {
    bucket: Bucket,
    name: String,
    /// `None` once it broke off for good.
    pieces: Option<BoxStream<'static, object_store::Result<Bytes>>>,
    piece: Bytes,
    /// Bytes behind `piece`.
    n_left: u64,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("name", &self.name).field("n_left", &self.n_left).finish_non_exhaustive()
    }
}

impl Reader {
    pub(super) fn open(bucket: Bucket, name: &str, range: Option<Range<u64>>) -> Result<Self, BucketError> {
        let (store, key, object) = (Arc::clone(&bucket.store), Key::from(name), bucket.named(name));
        let options = GetOptions { range: range.clone().map(GetRange::Bounded), ..GetOptions::default() };
        let found = outbound::wait(async move { store.get_opts(&key, options).await })
            .map_err(|error| bucket.failed("read", object.clone(), &error))?;
        let got = found.range.clone();
        if let Some(want) = range.filter(|want| *want != got) {
            let reason = format!("the storage gave bytes {got:?} where {want:?} were asked for");
            return Err(BucketError::Failed { action: "read", object, reason });
        }
        let pieces = Some(found.into_stream());
        Ok(Self { bucket, name: name.to_owned(), pieces, piece: Bytes::new(), n_left: got.end - got.start })
    }

    /// The next bytes; an error where there are none left of those that were promised.
    fn next(&mut self) -> io::Result<Bytes> {
        let ended = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let pieces = self.pieces.take().ok_or_else(ended)?;
        let (piece, rest) = outbound::wait(pieces.into_future());
        let failed = |error| io::Error::other(self.bucket.failed("read", self.bucket.named(&self.name), &error));
        let piece = piece.ok_or_else(ended)?.map_err(failed)?;
        self.pieces = Some(rest);
        Ok(piece)
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && self.n_left > 0 && !buffer.is_empty() {
            let piece = self.next()?;
            self.n_left = self.n_left.checked_sub(piece.len() as u64).ok_or(io::ErrorKind::InvalidData)?;
            self.piece = piece;
        }
        let piece = self.piece.split_to(self.piece.len().min(buffer.len()));
        buffer[..piece.len()].copy_from_slice(&piece);
        Ok(piece.len())
    }
}
