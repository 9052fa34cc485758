//! Files of checkpoints in an S3-compatible bucket: `PREFIX/ID.beckon`, and `PREFIX/ID.adapter` where there is one.
//!
//! In the loop: the truth behind [`super::Catalog`], whose folder is then a cache. An object appears whole: a large file goes up
//! in parts, which become an object when the last is there, and what the bucket has is read back and compared before it counts.
//! Requests that fail for a reason that may pass are sent again after a growing pause, and a download goes on at its byte.
//! Signatures are AWS's (version 4, in the address), made by `rusty_s3`; `object_store` would be this too, but its features
//! of other crates build Burn again. Methods block.

mod reader;

use super::{ADAPTER_EXTENSION, EXTENSION};
use rusty_s3::actions::{CreateMultipartUpload, ListObjectsV2, S3Action};
use rusty_s3::{Bucket as Signer, Credentials, UrlStyle};
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;
use std::time::Duration;
use ureq::Agent;
use ureq::http::Response;

pub use reader::Reader;

/// How long a signature holds; a request is sent at once, but a clock may be wrong by minutes.
const SIGNED_FOR: Duration = Duration::from_secs(900);
/// Until a connection stands, and until an answer begins.
const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(60);
/// Tries of a request, and the pause before the second; each is three times the one before.
const N_TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(100);
/// Bytes of a part of an upload, which are held in memory. S3 takes 10,000 parts.
const PART_BYTES: usize = 16 << 20;
/// Longest list and error text that is read.
const MAX_ANSWER_BYTES: u64 = 16 << 20;

/// Where the bucket is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Address {
    /// `s3://BUCKET` or `s3://BUCKET/PREFIX`.
    pub url: String,
    /// Server that is asked, as `http://localhost:9000`; `None`: `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, or Amazon.
    pub endpoint: Option<String>,
    /// `None`: `AWS_REGION`, `AWS_DEFAULT_REGION`, or `us-east-1`.
    pub region: Option<String>,
}

/// Why the bucket did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// The address cannot be one.
    #[error("{url} is no storage address: {reason}; write s3://BUCKET or s3://BUCKET/PREFIX")]
    Address {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The environment has no key.
    #[error(
        "no key for {url}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN, where there is one)"
    )]
    NoKey {
        /// Which storage.
        url: String,
    },
    /// No answer, or one that makes no sense.
    #[error("cannot {action} {object}: {reason}")]
    Failed {
        /// What was tried.
        action: &'static str,
        /// Which object, or the storage.
        object: String,
        /// Why.
        reason: String,
    },
    /// An answer that says no.
    #[error("cannot {action} {object}: {}", refusal(*status, detail))]
    Refused {
        /// What was tried.
        action: &'static str,
        /// Which object, or the storage.
        object: String,
        /// HTTP status.
        status: u16,
        /// The answer's code and message.
        detail: String,
    },
    /// The local side of a transfer failed.
    #[error("cannot {action} {object}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Which object.
        object: String,
        /// What the system said.
        source: io::Error,
    },
}

/// A file in the bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// `ID.beckon` or `ID.adapter`.
    pub name: String,
    /// Length.
    pub n_bytes: u64,
}

/// A bucket with the key to it; cheap to clone.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// As the user wrote it, without a slash at the end; for messages.
    url: String,
    signer: Signer,
    credentials: Credentials,
    /// Ends with `/` unless empty.
    prefix: String,
    agent: Agent,
}

impl Bucket {
    /// The bucket at `address`, once it has answered; region and endpoint that it leaves out, and the key, come from the
    /// environment.
    ///
    /// # Errors
    /// [`BucketError`]: no such address, no key; it does not answer, does not take the key, or is not there.
    pub fn open(address: &Address) -> Result<Self, BucketError> {
        let variable = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
        let credentials = Credentials::from_env().ok_or_else(|| BucketError::NoKey { url: address.url.clone() })?;
        let mut address = address.clone();
        address.endpoint = address.endpoint.or_else(|| variable("AWS_ENDPOINT_URL_S3"));
        address.endpoint = address.endpoint.or_else(|| variable("AWS_ENDPOINT_URL"));
        address.region = address.region.or_else(|| variable("AWS_REGION")).or_else(|| variable("AWS_DEFAULT_REGION"));
        let bucket = Self::with_key(&address, credentials)?;
        bucket.list()?;
        Ok(bucket)
    }

    /// The bucket at `address` with this key. Nothing is asked of the storage.
    ///
    /// # Errors
    /// [`BucketError::Address`].
    pub(super) fn with_key(address: &Address, credentials: Credentials) -> Result<Self, BucketError> {
        let url = &address.url;
        let wrong = |reason: String| BucketError::Address { url: url.clone(), reason };
        let rest = url.strip_prefix("s3://").ok_or_else(|| wrong("it does not begin with s3://".into()))?;
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_matches('/');
        let plain = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains(['?', '#', '\\', '%']);
        if !plain(name) || !(prefix.is_empty() || prefix.split('/').all(plain)) {
            return Err(wrong("a part of it is empty, begins with a dot or holds ? # % or \\".into()));
        }
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let region = address.region.clone().unwrap_or_else(|| "us-east-1".to_owned());
        let amazon = format!("https://s3.{region}.amazonaws.com");
        // other servers, and names with dots, know only the form with the bucket in the path
        let style = match address.endpoint {
            None if !name.contains('.') => UrlStyle::VirtualHost,
            _ => UrlStyle::Path,
        };
        let endpoint = address.endpoint.as_deref().unwrap_or(&amazon);
        let parsed = endpoint.parse().map_err(|error| wrong(format!("the endpoint {endpoint}: {error}")))?;
        let signer = Signer::new(parsed, style, name.to_owned(), region)
            .map_err(|error| wrong(format!("with the endpoint {endpoint}: {error}")))?;
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            // to another region, for which the signature does not hold: told instead
            .max_redirects(0)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(ANSWER))
            .user_agent(concat!("beckon/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        Ok(Self { url: url.trim_end_matches('/').to_owned(), signer, credentials, prefix, agent })
    }

    /// Where it is, for people.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Every file of a checkpoint in the bucket; what has another name is left out.
    ///
    /// # Errors
    /// [`BucketError`].
    pub fn list(&self) -> Result<Vec<Object>, BucketError> {
        let (action, mut found, mut next) = ("list", Vec::new(), None);
        loop {
            let page = self.ask(action, &self.url, || {
                let mut list = self.signer.list_objects_v2(Some(&self.credentials));
                list.with_prefix(self.prefix.as_str());
                if let Some(token) = next.clone() {
                    list.with_continuation_token(token);
                }
                self.agent.get(list.sign(SIGNED_FOR).as_str()).call()
            })?;
            let text = self.text(action, &self.url, page)?;
            let page = ListObjectsV2::parse_response(&text).map_err(|error| self.senseless(action, &error))?;
            found.extend(page.contents.into_iter().filter_map(|object| {
                let name = object.key.strip_prefix(&self.prefix)?.to_owned();
                is_name(&name).then_some(Object { name, n_bytes: object.size? })
            }));
            next = page.next_continuation_token;
            if next.is_none() {
                return Ok(found);
            }
        }
    }

    /// A part of an object, or all of it, to be read as it arrives.
    ///
    /// # Errors
    /// [`BucketError`] where it does not begin.
    pub fn read(&self, name: &str, range: Option<Range<u64>>) -> Result<Reader, BucketError> {
        Reader::open(self.clone(), name, range)
    }

    /// Sends a GET for the bytes from `first` to before `end` of an object whose entity tag is `etag`, where these are given.
    fn get(
        &self,
        name: &str,
        (first, end): (u64, Option<u64>),
        etag: Option<&str>,
    ) -> Result<Response<ureq::Body>, BucketError> {
        let key = self.key(name);
        self.ask("read", &self.named(name), || {
            let get = self.signer.get_object(Some(&self.credentials), &key);
            let mut request = self.agent.get(get.sign(SIGNED_FOR).as_str());
            if let Some(end) = end {
                request = request.header("range", format!("bytes={first}-{}", end.saturating_sub(1)));
            }
            if let Some(etag) = etag {
                request = request.header("if-match", etag);
            }
            request.call()
        })
    }

    /// Writes a file as an object, and reads it back to see that all of it is there.
    ///
    /// # Errors
    /// [`BucketError`]; then there is no object of this name, or the one from before, or one that differs from the file.
    pub fn write(&self, name: &str, from: &Path) -> Result<(), BucketError> {
        let io = |source| BucketError::Io { action: "write", object: self.named(name), source };
        let mut file = std::fs::File::open(from).map_err(io)?;
        if file.metadata().map_err(io)?.len() <= PART_BYTES as u64 {
            let (key, mut bytes) = (self.key(name), Vec::new());
            file.read_to_end(&mut bytes).map_err(io)?;
            self.ask("write", &self.named(name), || {
                let put = self.signer.put_object(Some(&self.credentials), &key);
                self.agent.put(put.sign(SIGNED_FOR).as_str()).send(&bytes)
            })?;
        } else {
            self.write_parts(name, &mut file)?;
        }
        let mut file = std::fs::File::open(from).map_err(io)?;
        if !same(&mut file, &mut self.read(name, None)?).map_err(io)? {
            let reason = "the storage has something else than was written; is there another writer?".to_owned();
            return Err(BucketError::Failed { action: "write", object: self.named(name), reason });
        }
        Ok(())
    }

    fn write_parts(&self, name: &str, file: &mut std::fs::File) -> Result<(), BucketError> {
        let (action, object, key) = ("write", self.named(name), self.key(name));
        let begun = self.ask(action, &object, || {
            let create = self.signer.create_multipart_upload(Some(&self.credentials), &key);
            self.agent.post(create.sign(SIGNED_FOR).as_str()).send_empty()
        })?;
        let begun = self.text(action, &object, begun)?;
        let upload = CreateMultipartUpload::parse_response(&begun).map_err(|error| self.senseless(action, &error))?;
        let upload = upload.upload_id();
        let mut finish = || {
            let tags = self.send_parts(name, file, upload)?;
            let done = self.ask(action, &object, || {
                let tags = tags.iter().map(String::as_str);
                let complete = self.signer.complete_multipart_upload(Some(&self.credentials), &key, upload, tags);
                self.agent.post(complete.sign(SIGNED_FOR).as_str()).send(complete.body())
            })?;
            let text = self.text(action, &object, done)?;
            // this answer begins before the storage is done, so its status is no verdict
            if text.contains("<Error>") {
                return Err(BucketError::Refused { action, object: object.clone(), status: 200, detail: plain(&text) });
            }
            Ok(())
        };
        finish().inspect_err(|_| {
            // parts that stay cost space until the bucket's own rules remove them
            let _ = self.ask("give up", &object, || {
                let abort = self.signer.abort_multipart_upload(Some(&self.credentials), &key, upload);
                self.agent.delete(abort.sign(SIGNED_FOR).as_str()).call()
            });
        })
    }

    /// Sends the parts of a file one after the other; their entity tags.
    fn send_parts(&self, name: &str, file: &mut std::fs::File, upload: &str) -> Result<Vec<String>, BucketError> {
        let (action, object, key) = ("write", self.named(name), self.key(name));
        let mut tags = Vec::new();
        for number in 1_u16.. {
            let mut part = Vec::with_capacity(PART_BYTES);
            let read = Read::take(&mut *file, PART_BYTES as u64).read_to_end(&mut part);
            read.map_err(|source| BucketError::Io { action, object: object.clone(), source })?;
            if part.is_empty() {
                break;
            }
            let sent = self.ask(action, &object, || {
                let put = self.signer.upload_part(Some(&self.credentials), &key, number, upload);
                self.agent.put(put.sign(SIGNED_FOR).as_str()).send(&part)
            })?;
            let tag = sent.headers().get("etag").and_then(|tag| tag.to_str().ok());
            tags.push(tag.ok_or_else(|| self.senseless(action, &"a part has no entity tag"))?.to_owned());
        }
        Ok(tags)
    }

    /// Writes an object into a new file, synced; the caller verifies it.
    ///
    /// # Errors
    /// [`BucketError`]; the file may be there in part.
    pub fn fetch(&self, name: &str, to: &Path) -> Result<(), BucketError> {
        let mut reader = self.read(name, None)?;
        let written = std::fs::File::create(to).and_then(|mut file| {
            io::copy(&mut reader, &mut file)?;
            file.sync_all()
        });
        written.map_err(|source| BucketError::Io { action: "read", object: self.named(name), source })
    }

    /// Removes an object, where there is one.
    ///
    /// # Errors
    /// [`BucketError`]; then it may still be there.
    pub fn remove(&self, name: &str) -> Result<(), BucketError> {
        let key = self.key(name);
        let done = self.ask("delete", &self.named(name), || {
            let delete = self.signer.delete_object(Some(&self.credentials), &key);
            self.agent.delete(delete.sign(SIGNED_FOR).as_str()).call()
        });
        match done {
            Err(BucketError::Refused { status: 404, detail, .. }) if !detail.contains("NoSuchBucket") => Ok(()),
            done => done.map(drop),
        }
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// An object for people.
    fn named(&self, name: &str) -> String {
        format!("{}/{name}", self.url)
    }

    fn senseless(&self, action: &'static str, what: &dyn std::fmt::Display) -> BucketError {
        let reason = format!("the storage answered what is not S3: {what}");
        BucketError::Failed { action, object: self.url.clone(), reason }
    }

    /// Sends a request, again where the reason of a failure may pass. Each try is signed anew.
    fn ask(
        &self,
        action: &'static str,
        object: &str,
        send: impl Fn() -> Result<Response<ureq::Body>, ureq::Error>,
    ) -> Result<Response<ureq::Body>, BucketError> {
        let mut pause = PAUSE;
        for n_left in (0..N_TRIES).rev() {
            let error = match send() {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) => {
                    let status = response.status().as_u16();
                    let detail = plain(&self.text(action, object, response)?);
                    let error = BucketError::Refused { action, object: object.to_owned(), status, detail };
                    if status < 500 && status != 429 {
                        return Err(error);
                    }
                    error
                }
                Err(error) => {
                    let reason = format!("no answer from {}: {error}", self.signer.base_url());
                    BucketError::Failed { action, object: object.to_owned(), reason }
                }
            };
            if n_left == 0 {
                return Err(error);
            }
            tracing::warn!(%error, "the storage is asked again");
            std::thread::sleep(pause);
            pause *= 3;
        }
        unreachable!("the last try returns")
    }

    fn text(
        &self,
        action: &'static str,
        object: &str,
        mut response: Response<ureq::Body>,
    ) -> Result<String, BucketError> {
        let text = response.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_string();
        let failed = |error: ureq::Error| {
            let reason = format!("its answer broke off: {error}");
            BucketError::Failed { action, object: object.to_owned(), reason }
        };
        text.map_err(failed)
    }
}

/// Whether both give the same bytes to their end.
fn same(a: &mut impl Read, b: &mut impl Read) -> io::Result<bool> {
    const PIECE: u64 = 1 << 20;
    loop {
        let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
        a.take(PIECE).read_to_end(&mut of_a)?;
        b.take(PIECE).read_to_end(&mut of_b)?;
        if of_a != of_b || of_a.is_empty() {
            return Ok(of_a == of_b);
        }
    }
}

/// Whether an object's name is one of ours: the hexadecimal digits of a SHA-256, and our extensions. It becomes a file's name.
fn is_name(name: &str) -> bool {
    let Some((id, extension)) = name.split_once('.') else { return false };
    let hex = id.len() == 64 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    hex && (extension == EXTENSION || extension == ADAPTER_EXTENSION)
}

/// Why the storage said no, and what to do.
fn refusal(status: u16, detail: &str) -> String {
    match status {
        401 | 403 => format!(
            "the storage refuses the key ({detail}); look at AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, what the key may do, \
             and the clock"
        ),
        404 if detail.contains("NoSuchBucket") => "there is no such bucket; make it, or name another".into(),
        404 => format!("it is not there ({detail})"),
        301 | 307 => {
            format!("the bucket is in another region or at another endpoint ({detail}); name it with --s3-region")
        }
        _ => format!("the storage answered {status}: {detail}"),
    }
}

/// Code and message of an error in XML; the beginning of the text where it has none.
fn plain(text: &str) -> String {
    let part = |tag: &str| Some(text.split_once(&format!("<{tag}>"))?.1.split_once('<')?.0);
    match (part("Code"), part("Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        _ => text.chars().take(200).collect(),
    }
}

#[cfg(test)]
pub(super) mod tests;
