//! Checkpoints in an S3-compatible bucket: one object a checkpoint, `PREFIX/ID.beckon`.
//!
//! In the loop: the truth behind the folder of [`super::Catalog`], which then is its verified copy. An object appears whole
//! (a PUT is atomic) and is written with `If-None-Match: *`, so none is ever overwritten. Methods block. Signatures are
//! those of AWS (version 4, presigned), made by `rusty_s3`; `object_store` would be this too, but its features of
//! `futures-util` build Burn again.

use super::EXTENSION;
use rusty_s3::actions::{ListObjectsV2, S3Action};
use rusty_s3::{Bucket as Signer, Credentials, UrlStyle};
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;
use ureq::Agent;
use ureq::http::Response;

/// How long a signature holds; a request is sent at once.
const SIGNED_FOR: Duration = Duration::from_secs(900);
/// Until a connection stands, and until the first byte of an answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Tries of a request that fails for a reason that may pass, and the pause before the second; it doubles.
const N_TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(200);
/// Largest object that one PUT may make.
const MAX_BYTES: u64 = 5 << 30;
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
    /// No answer.
    #[error("cannot {action} {object}: {reason}")]
    Unreachable {
        /// What was tried.
        action: &'static str,
        /// Which object.
        object: String,
        /// Why.
        reason: String,
    },
    /// An answer that says no.
    #[error("cannot {action} {object}: the storage answered {status}: {detail}")]
    Refused {
        /// What was tried.
        action: &'static str,
        /// Which object.
        object: String,
        /// HTTP status.
        status: u16,
        /// The answer's code and message.
        detail: String,
    },
    /// More than one PUT can carry.
    #[error("cannot write {object}: {n_bytes} bytes are more than the {MAX_BYTES} of one upload")]
    TooLarge {
        /// Which object.
        object: String,
        /// Its length.
        n_bytes: u64,
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

/// A bucket with the key to it.
pub struct Bucket {
    /// As the user wrote it, for messages.
    url: String,
    signer: Signer,
    credentials: Credentials,
    /// Ends with `/` unless empty.
    prefix: String,
    agent: Agent,
}

impl Bucket {
    /// The bucket at `address`; region and endpoint that it leaves out, and the key, come from the environment.
    ///
    /// # Errors
    /// [`BucketError::Address`], `NoKey`. Nothing is asked of the storage yet.
    pub fn open(address: &Address) -> Result<Self, BucketError> {
        let variable = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
        let credentials = Credentials::from_env().ok_or_else(|| BucketError::NoKey { url: address.url.clone() })?;
        let mut address = address.clone();
        address.endpoint = address.endpoint.or_else(|| variable("AWS_ENDPOINT_URL_S3"));
        address.endpoint = address.endpoint.or_else(|| variable("AWS_ENDPOINT_URL"));
        address.region = address.region.or_else(|| variable("AWS_REGION")).or_else(|| variable("AWS_DEFAULT_REGION"));
        Self::with_key(&address, credentials)
    }

    /// The bucket at `address` with this key.
    ///
    /// # Errors
    /// [`BucketError::Address`].
    fn with_key(address: &Address, credentials: Credentials) -> Result<Self, BucketError> {
        let url = &address.url;
        let wrong = |reason: String| BucketError::Address { url: url.clone(), reason };
        let rest = url.strip_prefix("s3://").ok_or_else(|| wrong("it does not begin with s3://".into()))?;
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_matches('/');
        let plain = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains(['?', '#', '\\']);
        if !plain(name) || !(prefix.is_empty() || prefix.split('/').all(plain)) {
            return Err(wrong("a part of it is empty, begins with a dot or holds ? # or \\".into()));
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
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .user_agent(concat!("beckon/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        Ok(Self { url: url.trim_end_matches('/').to_owned(), signer, credentials, prefix, agent })
    }

    /// Ids of all checkpoints in the bucket.
    ///
    /// # Errors
    /// [`BucketError`].
    pub fn list(&self) -> Result<Vec<String>, BucketError> {
        let (action, mut found, mut next) = ("list", Vec::new(), None);
        loop {
            let text = self.ask(action, &self.url, || {
                let mut list = self.signer.list_objects_v2(Some(&self.credentials));
                list.with_prefix(self.prefix.as_str());
                if let Some(token) = next.clone() {
                    list.with_continuation_token(token);
                }
                self.agent.get(list.sign(SIGNED_FOR).as_str()).call()
            })?;
            let text = self.text(action, &self.url, text)?;
            let page = ListObjectsV2::parse_response(&text).map_err(|error| BucketError::Unreachable {
                action,
                object: self.url.clone(),
                reason: format!("its answer is not a list: {error}"),
            })?;
            let id = |key: &str| {
                Some(key.strip_prefix(&self.prefix)?.strip_suffix(EXTENSION)?.strip_suffix('.')?.to_owned())
            };
            found.extend(page.contents.iter().filter_map(|object| id(&object.key)).filter(|id| is_id(id)));
            next = page.next_continuation_token;
            if next.is_none() {
                return Ok(found);
            }
        }
    }

    /// Writes a file as the object of `id`, unless there is one already, which is left as it is.
    ///
    /// # Errors
    /// [`BucketError`]; then no object was made, or a whole one.
    pub fn put(&self, id: &str, from: &Path) -> Result<(), BucketError> {
        let (action, object) = ("write", self.name(id));
        let io = |source| BucketError::Io { action, object: object.clone(), source };
        let n_bytes = std::fs::metadata(from).map_err(io)?.len();
        if n_bytes > MAX_BYTES {
            return Err(BucketError::TooLarge { object, n_bytes });
        }
        let key = self.key(id);
        let done = self.ask(action, &object, || {
            let file = File::open(from)?;
            let mut put = self.signer.put_object(Some(&self.credentials), &key);
            put.headers_mut().insert("if-none-match", "*");
            self.agent.put(put.sign(SIGNED_FOR).as_str()).header("if-none-match", "*").send(file)
        });
        match done {
            // somebody else has made it, or an earlier try whose answer was lost
            Err(BucketError::Refused { status: 409 | 412, .. }) => Ok(()),
            done => done.map(drop),
        }
    }

    /// Writes the object of `id` into a new file, synced; the caller verifies it.
    ///
    /// # Errors
    /// [`BucketError`]; the file may be there in part.
    pub fn fetch(&self, id: &str, to: &Path) -> Result<(), BucketError> {
        let (action, object) = ("read", self.name(id));
        let key = self.key(id);
        let mut response = self.ask(action, &object, || {
            let get = self.signer.get_object(Some(&self.credentials), &key);
            self.agent.get(get.sign(SIGNED_FOR).as_str()).call()
        })?;
        let written = File::create(to).and_then(|mut file| {
            io::copy(&mut response.body_mut().as_reader(), &mut file)?;
            file.sync_all()
        });
        written.map_err(|source| BucketError::Io { action, object, source })
    }

    /// Removes the object of `id`, where there is one.
    ///
    /// # Errors
    /// [`BucketError`]; then it is still there.
    pub fn remove(&self, id: &str) -> Result<(), BucketError> {
        let object = self.name(id);
        let key = self.key(id);
        let done = self.ask("delete", &object, || {
            let delete = self.signer.delete_object(Some(&self.credentials), &key);
            self.agent.delete(delete.sign(SIGNED_FOR).as_str()).call()
        });
        match done {
            Err(BucketError::Refused { status: 404, .. }) => Ok(()),
            done => done.map(drop),
        }
    }

    fn key(&self, id: &str) -> String {
        format!("{}{id}.{EXTENSION}", self.prefix)
    }

    fn name(&self, id: &str) -> String {
        format!("{}/{id}.{EXTENSION}", self.url)
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
                Err(error) => BucketError::Unreachable { action, object: object.to_owned(), reason: error.to_string() },
            };
            if n_left == 0 {
                return Err(error);
            }
            tracing::warn!(%error, "the storage is asked again");
            std::thread::sleep(pause);
            pause *= 2;
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
        text.map_err(|error| BucketError::Unreachable { action, object: object.to_owned(), reason: error.to_string() })
    }
}

/// Whether an object's name is one of ours: the hexadecimal digits of a SHA-256. It becomes a file's name.
fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Code and message of an error in XML; the whole where it has none.
fn plain(text: &str) -> String {
    let part = |tag: &str| Some(text.split_once(&format!("<{tag}>"))?.1.split_once('<')?.0);
    match (part("Code"), part("Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        _ => text.chars().take(200).collect(),
    }
}

#[cfg(test)]
mod tests;
