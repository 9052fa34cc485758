//! An object on its way in: read as it arrives, and asked for again from its byte where the connection breaks.

use super::{Bucket, BucketError};
use std::io::{self, Read};
use std::ops::Range;
use ureq::BodyReader;

/// Times that one download may break off.
const MAX_BREAKS: u32 = 8;

/// The bytes of an object; never more than a buffer of it is held.
pub struct Reader {
    bucket: Bucket,
    name: String,
    /// The next byte, and the one after the last.
    at: u64,
    end: u64,
    /// Fixes the content: what was replaced meanwhile does not go on as if it had not been.
    etag: Option<String>,
    body: BodyReader<'static>,
    n_breaks: u32,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("name", &self.name).field("at", &self.at).field("end", &self.end).finish()
    }
}

impl Reader {
    pub(super) fn open(bucket: Bucket, name: &str, range: Option<Range<u64>>) -> Result<Self, BucketError> {
        let first = range.as_ref().map_or(0, |range| range.start);
        let response = bucket.get(name, (first, range.as_ref().map(|range| range.end)), None)?;
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let length: Option<u64> = header("content-length").and_then(|text| text.parse().ok());
        let length = length.ok_or_else(|| bucket.senseless("read", &"an object without a length"))?;
        let want = range.map(|range| range.end - range.start);
        if want.is_some_and(|want| want != length) {
            let what = format!("{length} bytes where {} were asked for", want.unwrap_or_default());
            return Err(bucket.senseless("read", &what));
        }
        let (etag, name) = (header("etag").map(str::to_owned), name.to_owned());
        let body = response.into_body().into_with_config().limit(u64::MAX).reader();
        Ok(Self { bucket, name, at: first, end: first + length, etag, body, n_breaks: 0 })
    }

    /// Asks for the rest.
    fn go_on(&mut self) -> Result<(), BucketError> {
        let response = self.bucket.get(&self.name, (self.at, Some(self.end)), self.etag.as_deref())?;
        self.body = response.into_body().into_with_config().limit(u64::MAX).reader();
        Ok(())
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let n = buffer.len().min(left);
        if n == 0 {
            return Ok(0);
        }
        loop {
            let error = match self.body.read(&mut buffer[..n]) {
                Ok(0) => io::ErrorKind::UnexpectedEof.into(),
                Ok(n) => {
                    self.at += n as u64;
                    return Ok(n);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            self.n_breaks += 1;
            if self.n_breaks > MAX_BREAKS {
                return Err(error);
            }
            tracing::warn!(%error, name = %self.name, at = self.at, "a download from the storage broke off and goes on");
            self.go_on().map_err(io::Error::other)?;
        }
    }
}
