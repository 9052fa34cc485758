//! HTTP: small requests whose answer is text, and downloads that can be large and begin anywhere in a file.

use super::{clock, error_text};
use beckon_shared::control::listing::next_part;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;

/// Milliseconds without a byte after which a download counts as broken.
const STALL_MILLIS: i32 = 20_000;

/// No answer came.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// The server could not be reached, or the connection broke.
    #[error("no answer from the server ({reason}); is `beckon serve` running?")]
    Unreachable {
        /// As the browser says it.
        reason: String,
    },
    /// An answer, but not the file.
    #[error("the server answered {status} for {url}")]
    Status {
        /// HTTP status.
        status: u16,
        /// What was asked for.
        url: String,
    },
    /// The file ends before the bytes that were asked for.
    #[error("{url} is shorter than announced")]
    TooShort {
        /// What was asked for.
        url: String,
    },
}

impl NetworkError {
    /// Whether it may pass by itself.
    pub fn is_transient(&self) -> bool {
        !matches!(self, Self::Status { status: 400..=499, .. })
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Body.
    pub text: String,
    /// Where a list goes on: the address in the header `link` (RFC 8288).
    pub next: Option<String>,
}

/// What is sent.
#[derive(Debug, Clone)]
pub enum Body {
    /// Nothing.
    None,
    /// JSON text.
    Json(String),
    /// Text as it is.
    Text(String),
    /// A file, streamed from disk by the browser.
    File(web_sys::File),
}

/// A key that no other request has; `None` in a browser without randomness.
pub fn fresh_key() -> Option<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    Some(format!("{:032x}", u128::from_le_bytes(bytes)))
}

/// Sends a request and reads the answer as text, whatever its status. A server does what has the same `key` once.
///
/// # Errors
/// [`NetworkError::Unreachable`].
pub async fn send(method: &str, url: &str, body: Body, key: Option<&str>) -> Result<Answer, NetworkError> {
    let init = web_sys::RequestInit::new();
    init.set_method(method);
    if let Some(key) = key {
        let headers = web_sys::Headers::new().map_err(|e| unreachable(&e))?;
        headers.set("idempotency-key", key).map_err(|e| unreachable(&e))?;
        init.set_headers(&headers);
    }
    let content_type = match &body {
        Body::None => None,
        Body::Json(text) => {
            init.set_body(&JsValue::from_str(text));
            Some("application/json")
        }
        Body::Text(text) => {
            init.set_body(&JsValue::from_str(text));
            Some("text/plain; charset=utf-8")
        }
        Body::File(file) => {
            init.set_body(file);
            Some("application/octet-stream")
        }
    };
    let response = JsFuture::from(fetch(url, &init, content_type)?).await.map_err(|e| unreachable(&e))?;
    let response: web_sys::Response = response.unchecked_into();
    let status = response.status();
    let text = match response.text() {
        Ok(promise) => JsFuture::from(promise).await,
        Err(e) => Err(e),
    }
    .map_err(|e| unreachable(&e))?;
    let link = response.headers().get("link").ok().flatten();
    let next = link.and_then(|link| next_part(&link).map(str::to_owned));
    Ok(Answer { status, text: text.as_string().unwrap_or_default(), next })
}

/// The bytes of a file from some place on, piece by piece as they come.
pub struct Download {
    reader: web_sys::ReadableStreamDefaultReader,
    url: String,
    /// Size of the whole file, where the server says it.
    n_bytes: Option<u64>,
    /// What came and was not asked for yet.
    rest: Vec<u8>,
    request: web_sys::AbortController,
}

impl Drop for Download {
    fn drop(&mut self) {
        // a request that nobody waits for would keep one of the few connections that a browser has for a server
        self.request.abort();
    }
}

impl Download {
    /// Asks for everything from byte `first` on; with `None` for the whole file, which the server may compress on the way.
    /// `afresh` passes by the answers that the browser keeps.
    ///
    /// # Errors
    /// [`NetworkError`]; an answer that is not that part.
    pub async fn open(url: &str, first: Option<u64>, afresh: bool) -> Result<Self, NetworkError> {
        let init = web_sys::RequestInit::new();
        if afresh {
            init.set_cache(web_sys::RequestCache::Reload);
        }
        if let Some(first) = first {
            let headers = web_sys::Headers::new().map_err(|e| unreachable(&e))?;
            headers.set("range", &format!("bytes={first}-")).map_err(|e| unreachable(&e))?;
            init.set_headers(&headers);
        }
        let request = web_sys::AbortController::new().map_err(|e| unreachable(&e))?;
        init.set_signal(Some(&request.signal()));
        let Some(response) = clock::within(STALL_MILLIS, fetch(url, &init, None)?).await else {
            request.abort();
            return Err(stalled());
        };
        let response: web_sys::Response = response.map_err(|e| unreachable(&e))?.unchecked_into();
        let status = response.status();
        let body = response.body().filter(|_| status == 206 || status == 200 && first.unwrap_or(0) == 0);
        let Some(body) = body else { return Err(NetworkError::Status { status, url: url.to_owned() }) };
        // of a part the size stands behind a stroke: bytes 0-99/100
        let name = if status == 206 { "content-range" } else { "content-length" };
        let size = response.headers().get(name).ok().flatten();
        let n_bytes = size.and_then(|size| size.rsplit('/').next()?.parse().ok());
        let reader = body.get_reader().unchecked_into();
        Ok(Self { reader, url: url.to_owned(), n_bytes, rest: Vec::new(), request })
    }

    /// Size of the whole file; `None` where the server does not say it.
    pub fn n_bytes(&self) -> Option<u64> {
        self.n_bytes
    }

    /// 1 to `max` further bytes.
    ///
    /// # Errors
    /// [`NetworkError::Unreachable`] where the connection broke or nothing came for 20 seconds, [`NetworkError::TooShort`] at
    /// the end of the file.
    pub async fn next(&mut self, max: usize) -> Result<Vec<u8>, NetworkError> {
        if self.rest.is_empty() {
            let part = clock::within(STALL_MILLIS, self.reader.read()).await;
            let part = part.ok_or_else(stalled)?.map_err(|e| unreachable(&e))?;
            let field = |name| js_sys::Reflect::get(&part, &JsValue::from_str(name)).unwrap_or(JsValue::UNDEFINED);
            if field("done").is_truthy() {
                return Err(NetworkError::TooShort { url: self.url.clone() });
            }
            self.rest = field("value").unchecked_into::<js_sys::Uint8Array>().to_vec();
        }
        let behind = self.rest.split_off(max.min(self.rest.len()));
        Ok(std::mem::replace(&mut self.rest, behind))
    }
}

/// A promise of a response.
fn fetch(url: &str, init: &web_sys::RequestInit, content_type: Option<&str>) -> Result<js_sys::Promise, NetworkError> {
    let request = web_sys::Request::new_with_str_and_init(url, init).map_err(|e| unreachable(&e))?;
    let set = |name, value| request.headers().set(name, value).map_err(|e| unreachable(&e));
    if let Some(content_type) = content_type {
        set("content-type", content_type)?;
    }
    let global = js_sys::global();
    Ok(if let Some(window) = global.dyn_ref::<web_sys::Window>() {
        window.fetch_with_request(&request)
    } else {
        global.unchecked_ref::<web_sys::WorkerGlobalScope>().fetch_with_request(&request)
    })
}

fn stalled() -> NetworkError {
    NetworkError::Unreachable { reason: format!("nothing came for {} seconds", STALL_MILLIS / 1_000) }
}

fn unreachable(error: &JsValue) -> NetworkError {
    NetworkError::Unreachable { reason: error_text(error) }
}

/// Percent-encodes a part of an address.
pub fn encoded(text: &str) -> String {
    String::from(js_sys::encode_uri_component(text))
}
