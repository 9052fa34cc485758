//! A file that is read by ranges, wherever it lies: in memory, on the disk of who looks at the page, behind HTTP.

use super::{Gguf, GgufError};
use std::future::{Future, ready};
use std::ops::Range;
use std::pin::Pin;

/// Bytes that the head is looked for in at first; twice as many where it goes on.
const FIRST_BYTES: u64 = 256 << 10;

/// Bytes that may have to be waited for; the error is for people.
pub type Bytes<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>, String>> + 'a>>;

/// Gives any part of a file. Behind it the reader is compiled once, for whatever gives.
pub trait Ranges {
    /// Bytes of the whole file.
    fn n_bytes(&self) -> u64;

    /// The bytes of a range, all of them.
    fn read(&mut self, range: Range<u64>) -> Bytes<'_>;
}

/// A file in memory.
impl Ranges for &[u8] {
    fn n_bytes(&self) -> u64 {
        self.len() as u64
    }

    fn read(&mut self, range: Range<u64>) -> Bytes<'_> {
        let bytes = self.get(range.start as usize..range.end as usize);
        Box::pin(ready(bytes.map(<[u8]>::to_vec).ok_or_else(|| format!("there are no bytes {range:?}"))))
    }
}

/// [`Ranges::read`] with its error among the others.
pub(super) async fn read(file: &mut dyn Ranges, range: Range<u64>) -> Result<Vec<u8>, GgufError> {
    file.read(range).await.map_err(|reason| GgufError::Read { reason })
}

impl Gguf {
    /// Reads the head from as much of the start of a file as it takes.
    ///
    /// # Errors
    /// As [`Gguf::parse`], and what the file says.
    pub async fn read(file: &mut dyn Ranges) -> Result<Self, GgufError> {
        let n_bytes = file.n_bytes();
        let mut n_head = FIRST_BYTES;
        loop {
            let head = read(file, 0..n_head.min(n_bytes)).await?;
            match Self::parse(&head, n_bytes) {
                // a head has an end, see `parse`; what is asked for lies within the file
                Err(GgufError::HeadGoesOn { want, .. }) => n_head = want.max(2 * n_head),
                other => return other,
            }
        }
    }
}
