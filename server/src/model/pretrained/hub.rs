//! Models by name from the Hugging Face hub, or from another that answers alike (`HF_ENDPOINT`; `HF_TOKEN` for private
//! models).
//!
//! Files lie in `<cache>/<owner>--<model>/<commit>/`. One is complete when it has its name: it is written beside it,
//! compared with the length that the hub announced, and moved. What is there is not fetched again.

use super::PretrainedError;
use super::folder::{CONFIG, INDEX, TEMPLATE, TENSORS, TOKENIZER, TOKENIZER_CONFIG, shards};
use serde::Deserialize;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::Agent;

/// The hub that everyone uses.
const ENDPOINT: &str = "https://huggingface.co";
/// How long the hub may take to accept a connection and to begin an answer; a download may take as long as it does.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest description of a model.
const MAX_INFO_BYTES: u64 = 32 << 20;

/// Where to fetch from and where to keep.
#[derive(Debug, Clone)]
pub struct Hub {
    /// Address without a slash at its end.
    pub endpoint: String,
    /// Sent as a bearer token.
    pub token: Option<String>,
    /// Folder of what was fetched.
    pub cache: PathBuf,
}

/// Why a model was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// No hub answers.
    #[error(
        "no model hub answers at {endpoint} ({reason}); fetch the files elsewhere and run `beckon model import FOLDER`, or set \
         HF_ENDPOINT to a hub that can be reached"
    )]
    Unreachable {
        /// Address of the hub.
        endpoint: String,
        /// What the client says.
        reason: String,
    },
    /// The hub refuses: no such model, revision or file, or not for everyone.
    #[error("the hub answers {status} for {what}; is the name spelled owner/model, is it public or HF_TOKEN set?")]
    Refused {
        /// What was asked for.
        what: String,
        /// HTTP status.
        status: u16,
    },
    /// An answer that is not what a hub says.
    #[error("the hub's answer about {what} cannot be used: {reason}")]
    Answer {
        /// What was asked for.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A model name, revision or file name that could leave the cache.
    #[error("{name:?} is not the name of a {what}")]
    Name {
        /// What it should name.
        what: &'static str,
        /// What was given.
        name: String,
    },
    /// The cache cannot be written.
    #[error("cannot write what was fetched: {source}: {}", path.display())]
    Write {
        /// What the system said.
        source: io::Error,
        /// Which file.
        path: PathBuf,
    },
    /// The model has an index of shards that cannot be read.
    #[error(transparent)]
    Pretrained(#[from] PretrainedError),
}

/// What the hub says about a revision of a model.
#[derive(Debug, Deserialize)]
struct Info {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Hub {
    /// By the environment: `HF_ENDPOINT`, `HF_TOKEN`, and below `cache` the folder `hub`.
    pub fn from_env(cache: &Path) -> Self {
        let variable = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: variable("HF_TOKEN"),
            cache: cache.join("hub"),
        }
    }

    /// Fetches what an import needs of `model` (`owner/name`) and gives its folder, or with `gguf` that one file's path.
    ///
    /// # Errors
    /// [`HubError`]; files that were complete before stay.
    pub fn pull(&self, model: &str, revision: &str, gguf: Option<&str>) -> Result<PathBuf, HubError> {
        check_name("model", model, model.split('/').count() == 2)?;
        check_name("revision", revision, true)?;
        let agent = agent();
        let what = format!("{model} ({revision})");
        let info = self.info(&agent, &what, &format!("api/models/{model}/revision/{revision}"))?;
        check_name("commit", &info.sha, !info.sha.contains('/'))?;
        let dir = self.cache.join(model.replace('/', "--")).join(&info.sha);
        std::fs::create_dir_all(&dir).map_err(|source| HubError::Write { source, path: dir.clone() })?;
        let fetch = |file: &str| {
            check_name("file", file, !file.contains('/'))?;
            let url = format!("{}/{model}/resolve/{}/{file}", self.endpoint, info.sha);
            self.file(&agent, &format!("{file} of {model}"), &url, &dir.join(file))
        };
        if let Some(file) = gguf {
            fetch(file)?;
            return Ok(dir.join(file));
        }
        let there = |name: &str| info.siblings.iter().any(|sibling| sibling.rfilename == name);
        fetch(CONFIG)?;
        fetch(TOKENIZER)?;
        for optional in [TOKENIZER_CONFIG, TEMPLATE].into_iter().filter(|name| there(name)) {
            fetch(optional)?;
        }
        if there(INDEX) && !there(TENSORS) {
            fetch(INDEX)?;
            let path = dir.join(INDEX);
            for shard in shards(&super::read(&path, "the index of the tensors")?, &path)? {
                fetch(&shard)?;
            }
        } else {
            fetch(TENSORS)?;
        }
        Ok(dir)
    }

    fn get(&self, agent: &Agent, what: &str, url: &str) -> Result<ureq::http::Response<ureq::Body>, HubError> {
        let mut request = agent.get(url);
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        request.call().map_err(|error| match error {
            ureq::Error::StatusCode(status) => HubError::Refused { what: what.to_owned(), status },
            other => HubError::Unreachable { endpoint: self.endpoint.clone(), reason: other.to_string() },
        })
    }

    fn info(&self, agent: &Agent, what: &str, path: &str) -> Result<Info, HubError> {
        let answer = |reason: String| HubError::Answer { what: what.to_owned(), reason };
        let mut response = self.get(agent, what, &format!("{}/{path}", self.endpoint))?;
        let text = response.body_mut().with_config().limit(MAX_INFO_BYTES).read_to_vec();
        serde_json::from_slice(&text.map_err(|e| answer(e.to_string()))?).map_err(|e| answer(e.to_string()))
    }

    /// One file to `path`, unless it is there.
    fn file(&self, agent: &Agent, what: &str, url: &str, path: &Path) -> Result<(), HubError> {
        if path.is_file() {
            return Ok(());
        }
        let mut response = self.get(agent, what, url)?;
        let announced = response.body().content_length();
        let partial = path.with_extension("partial");
        let written = File::create(&partial).and_then(|mut file| {
            let n_bytes = io::copy(&mut response.body_mut().as_reader(), &mut file)?;
            file.sync_all()?;
            Ok(n_bytes)
        });
        let whole = written.and_then(|n_bytes| match announced {
            Some(want) if want != n_bytes => {
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{n_bytes} of {want} bytes came")))
            }
            _ => std::fs::rename(&partial, path),
        });
        whole.map_err(|source| {
            // half a file is of no use
            let _ = std::fs::remove_file(&partial);
            HubError::Write { source, path: path.to_owned() }
        })
    }
}

fn agent() -> Agent {
    Agent::config_builder()
        .timeout_connect(Some(PATIENCE))
        .timeout_recv_response(Some(PATIENCE))
        .user_agent(concat!("beckon/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
}

/// A name becomes part of an address and of a path.
fn check_name(what: &'static str, name: &str, also: bool) -> Result<(), HubError> {
    let plain = |part: &str| {
        let known = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
        !part.is_empty() && !part.starts_with('.') && part.chars().all(known)
    };
    if also && name.split('/').all(plain) { Ok(()) } else { Err(HubError::Name { what, name: name.to_owned() }) }
}
