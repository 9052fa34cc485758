//! Files of checkpoints in an S3-compatible bucket: `PREFIX/ID.beckon`, and `PREFIX/ID.adapter` where there is one.
//!
//! In the loop: the truth behind [`super::Catalog`], whose folder is then a cache. An object appears whole: a large file goes up
//! in parts, which become an object when the last is there, and what the bucket has is read back and compared before it counts.
//! `object_store` signs and sends; it sends again, after a growing pause, what failed for a reason that may pass, and lets a
//! download go on at its byte as long as the object is the same. Methods block.

mod reader;

use super::{ADAPTER_EXTENSION, EXTENSION};
use crate::outbound;
use axum::http::Uri;
use futures_util::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::aws::AmazonS3ConfigKey as Setting;
use object_store::buffered::BufWriter;
use object_store::client::HttpError;
use object_store::path::Path as Key;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientOptions, HeaderValue, ObjectStore, ObjectStoreExt, RetryConfig};
use std::error::Error;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

pub use reader::Reader;

/// Until a connection stands.
const CONNECT: Duration = Duration::from_secs(5);
/// Until an answer begins, what is sent with the request included, and between its pieces.
const SILENCE: Duration = Duration::from_secs(120);
/// Until a storage has answered for the first time, all tries and what names a role included: a start must not wait longer.
const START: Duration = Duration::from_secs(60);
/// Times that a request is sent again, or a download goes on; pauses are drawn between the first and three times the last one.
const N_RETRIES: usize = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A download may take as long as its reader does; other requests end by their number of tries and the limits above.
const RETRY: Duration = Duration::from_secs(24 * 3600);
/// Bytes of a part of an upload, of which a few are held in memory. S3 takes 10,000 parts.
const PART_BYTES: usize = 8 << 20;
/// Parts on their way at once.
const N_PARTS: usize = 2;

/// Settings that name a key, or where one is to be had; one line has to be whole. Without any, `object_store` would ask an
/// address that only Amazon's machines know, which takes long to fail elsewhere: who wants that names it.
const KEYS: [&[Setting]; 5] = [
    &[Setting::AccessKeyId, Setting::SecretAccessKey],
    &[Setting::WebIdentityTokenFile, Setting::RoleArn],
    &[Setting::ContainerCredentialsRelativeUri],
    &[Setting::ContainerCredentialsFullUri, Setting::ContainerAuthorizationTokenFile],
    &[Setting::MetadataEndpoint],
];

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
        "no key for {url}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN, where there is one), or \
         what names a role, as AWS_WEB_IDENTITY_TOKEN_FILE with AWS_ROLE_ARN"
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
    /// It takes connections, or keeps failing, and does not answer.
    #[error(
        "no answer from {endpoint} for {object} within {limit:?}: is that a storage (--s3-endpoint), does it run, does a proxy or \
         firewall hold connections open, and does what names the key's role answer?"
    )]
    Silent {
        /// Which storage.
        object: String,
        /// Server that was asked.
        endpoint: String,
        /// How long was waited.
        limit: Duration,
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
#[derive(Clone)]
pub struct Bucket {
    /// As the user wrote it, without a slash at the end; for messages.
    url: String,
    /// Server that is asked; for messages.
    endpoint: String,
    store: Arc<dyn ObjectStore>,
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bucket").field("url", &self.url).field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Bucket {
    /// The bucket at `address`, once it has answered; region and endpoint that it leaves out, and the key, come from the
    /// environment.
    ///
    /// # Errors
    /// [`BucketError`]: no such address, no key; it does not answer, does not take the key, or is not there.
    pub fn open(address: &Address) -> Result<Self, BucketError> {
        let builder = from_environment();
        if !has_key(&builder) {
            return Err(BucketError::NoKey { url: address.url.clone() });
        }
        let bucket = Self::with_settings(address, builder)?;
        bucket.check(START)?;
        Ok(bucket)
    }

    /// Asks for something small, and waits `limit` for the answer, however often it has to be asked.
    fn check(&self, limit: Duration) -> Result<(), BucketError> {
        let mut list = self.store.list(None);
        match outbound::wait(async move { tokio::time::timeout(limit, list.try_next()).await }) {
            Ok(answer) => answer.map(drop).map_err(|error| self.failed("list", self.url.clone(), &error)),
            Err(_) => Err(BucketError::Silent { object: self.url.clone(), endpoint: self.endpoint.clone(), limit }),
        }
    }

    /// The bucket at `address` with the key, and what else `address` leaves out, of `builder`. Nothing is asked of the storage.
    ///
    /// # Errors
    /// [`BucketError::Address`].
    pub(super) fn with_settings(address: &Address, builder: AmazonS3Builder) -> Result<Self, BucketError> {
        let url = &address.url;
        let wrong = |reason: String| BucketError::Address { url: url.clone(), reason };
        let rest = url.strip_prefix("s3://").ok_or_else(|| wrong("it does not begin with s3://".into()))?;
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_matches('/');
        let plain = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains(['?', '#', '\\', '%']);
        if !plain(name) || !(prefix.is_empty() || prefix.split('/').all(plain)) {
            return Err(wrong("a part of it is empty, begins with a dot or holds ? # % or \\".into()));
        }
        let prefix = Key::parse(prefix).map_err(|error| wrong(error.to_string()))?;
        let of_builder =
            || [Setting::S3Endpoint, Setting::Endpoint].iter().find_map(|key| builder.get_config_value(key));
        let endpoint = address.endpoint.clone().or_else(of_builder);
        let is_server = |endpoint: &String| {
            let uri: Option<Uri> = endpoint.parse().ok();
            uri.is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.query().is_none())
        };
        if let Some(endpoint) = endpoint.as_ref().filter(|endpoint| !is_server(endpoint)) {
            return Err(wrong(format!("the endpoint {endpoint} is not of the form http://HOST:PORT or https://HOST")));
        }
        let region = address.region.clone().or_else(|| builder.get_config_value(&Setting::Region));
        let region = region.unwrap_or_else(|| "us-east-1".to_owned());
        let is_amazon = endpoint.is_none();
        let endpoint = endpoint.unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
        let options = client(&endpoint, builder.get_config_value(&Setting::AccessKeyId).is_none());
        let mut builder = builder
            .with_bucket_name(name)
            .with_region(region)
            // other servers, and names with dots, know only the form with the bucket in the path
            .with_virtual_hosted_style_request(is_amazon && !name.contains('.'))
            // the form for one object is what every server knows
            .with_disable_bulk_delete(true)
            .with_retry(RetryConfig {
                backoff: BackoffConfig { init_backoff: FIRST_PAUSE, max_backoff: LONGEST_PAUSE, base: 3.0 },
                max_retries: N_RETRIES,
                retry_timeout: RETRY,
            })
            .with_client_options(options);
        if !is_amazon {
            builder = builder.with_config(Setting::S3Endpoint, endpoint.clone());
        }
        let store = outbound::wait(async move { builder.build() }).map_err(|error| wrong(error.to_string()))?;
        let store = Arc::new(PrefixStore::new(store, prefix));
        Ok(Self { url: url.trim_end_matches('/').to_owned(), endpoint, store })
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
        let found: Vec<_> = outbound::wait(self.store.list(None).try_collect())
            .map_err(|error| self.failed("list", self.url.clone(), &error))?;
        let ours = found.into_iter().filter(|object| is_name(object.location.as_ref()));
        Ok(ours.map(|object| Object { name: object.location.to_string(), n_bytes: object.size }).collect())
    }

    /// A part of an object, or all of it, to be read as it arrives.
    ///
    /// # Errors
    /// [`BucketError`] where it does not begin.
    pub fn read(&self, name: &str, range: Option<Range<u64>>) -> Result<Reader, BucketError> {
        Reader::open(self.clone(), name, range)
    }

    /// Writes a file as an object, and reads it back to see that all of it is there.
    ///
    /// # Errors
    /// [`BucketError`]; then there is no object of this name, or the one from before, or one that differs from the file.
    pub fn write(&self, name: &str, from: &Path) -> Result<(), BucketError> {
        let (store, key, path) = (Arc::clone(&self.store), Key::from(name), from.to_owned());
        let sent = outbound::wait(async move {
            let mut file = tokio::fs::File::open(path).await?;
            let mut object = BufWriter::with_capacity(store, key, PART_BYTES).with_max_concurrency(N_PARTS);
            if let Err(error) = tokio::io::copy(&mut file, &mut object).await {
                // parts that stay cost space until the bucket's own rules remove them
                let _ = object.abort().await;
                return Err(error);
            }
            // here the parts become an object, or are given up
            object.shutdown().await
        });
        let io = |source: io::Error| match source.downcast::<object_store::Error>() {
            Ok(error) => self.failed("write", self.named(name), &error),
            Err(source) => BucketError::Io { action: "write", object: self.named(name), source },
        };
        sent.map_err(io)?;
        let mut file = std::fs::File::open(from).map_err(io)?;
        if !same(&mut file, &mut self.read(name, None)?).map_err(io)? {
            let reason = "the storage has something else than was written; is there another writer?".to_owned();
            return Err(BucketError::Failed { action: "write", object: self.named(name), reason });
        }
        Ok(())
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
        let (store, key) = (Arc::clone(&self.store), Key::from(name));
        let done = outbound::wait(async move { store.delete(&key).await });
        match done.map_err(|error| self.failed("delete", self.named(name), &error)) {
            Err(BucketError::Refused { status: 404, detail, .. }) if !detail.contains("NoSuchBucket") => Ok(()),
            done => done,
        }
    }

    /// An object for people.
    fn named(&self, name: &str) -> String {
        format!("{}/{name}", self.url)
    }

    /// A failure in our words: that there was no answer, or what the answer says.
    fn failed(&self, action: &'static str, object: String, error: &object_store::Error) -> BucketError {
        let mut cause: &(dyn Error + 'static) = error;
        let mut unanswered = false;
        while let Some(source) = cause.source() {
            cause = source;
            unanswered |= cause.is::<HttpError>();
        }
        let said = cause.to_string();
        match answer(&said) {
            Some((status, body)) => BucketError::Refused { action, object, status, detail: plain(body) },
            None if unanswered => {
                BucketError::Failed { action, object, reason: format!("no answer from {}: {said}", self.endpoint) }
            }
            None => BucketError::Failed { action, object, reason: plain(&said) },
        }
    }
}

/// What the environment says of S3 (`AWS_…`, the names that `object_store` knows); what is empty is not said.
fn from_environment() -> AmazonS3Builder {
    let texts =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    texts.fold(AmazonS3Builder::new(), |builder, (name, value)| match name.to_ascii_lowercase().parse() {
        Ok(key) if name.starts_with("AWS_") && !value.is_empty() => builder.with_config(key, value),
        _ => builder,
    })
}

fn has_key(builder: &AmazonS3Builder) -> bool {
    KEYS.iter().any(|settings| settings.iter().all(|key| builder.get_config_value(key).is_some()))
}

/// How `endpoint` is asked, and what gives out the keys of a role.
fn client(endpoint: &str, is_role: bool) -> ClientOptions {
    ClientOptions::new()
        .with_user_agent(HeaderValue::from_static(concat!("beckon/", env!("CARGO_PKG_VERSION"))))
        .with_allow_http(true)
        // a machine without any certificates can still ask a server that has none; a role's keys come by HTTPS
        .with_no_system_certificates(endpoint.starts_with("http://") && !is_role)
        .with_connect_timeout(CONNECT)
        .with_read_timeout(SILENCE)
        // a download may take as long as its reader does
        .with_timeout_disabled()
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

/// Status and body of an answer that says no. `object_store` gives them in words alone.
fn answer(said: &str) -> Option<(u16, &str)> {
    if said.starts_with("Received redirect") {
        return Some((301, "redirected"));
    }
    let (status, body) = said.strip_prefix("Server returned non-2xx status code: ")?.split_once(": ")?;
    Some((status.split(' ').next()?.parse().ok()?, body))
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
