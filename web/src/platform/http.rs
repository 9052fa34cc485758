//! HTTP: small requests whose answer is text, and downloads that report progress and can be large.

use super::error_text;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;

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
    /// More bytes than announced.
    #[error("{url} is longer than the {expected} bytes announced")]
    TooLong {
        /// What was asked for.
        url: String,
        /// Announced.
        expected: u64,
    },
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Body.
    pub text: String,
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

/// Sends a request and reads the answer as text, whatever its status.
///
/// # Errors
/// [`NetworkError::Unreachable`].
pub async fn send(method: &str, url: &str, body: Body) -> Result<Answer, NetworkError> {
    let init = web_sys::RequestInit::new();
    init.set_method(method);
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
    let response = respond(url, &init, content_type).await?;
    let status = response.status();
    let text = match response.text() {
        Ok(promise) => JsFuture::from(promise).await,
        Err(e) => Err(e),
    }
    .map_err(|e| unreachable(&e))?;
    Ok(Answer { status, text: text.as_string().unwrap_or_default() })
}

/// Fetches a file of `n_bytes`, calling `on_bytes` with the bytes so far.
///
/// # Errors
/// [`NetworkError`]; a file that is too short is left to the caller, who checks hashes.
pub async fn download(url: &str, n_bytes: u64, mut on_bytes: impl FnMut(u64)) -> Result<Vec<u8>, NetworkError> {
    let init = web_sys::RequestInit::new();
    let response = respond(url, &init, None).await?;
    if !response.ok() {
        return Err(NetworkError::Status { status: response.status(), url: url.to_owned() });
    }
    let capacity = usize::try_from(n_bytes).unwrap_or(0).min(1 << 28);
    let mut bytes = Vec::with_capacity(capacity);
    let Some(stream) = response.body() else { return Ok(bytes) };
    let reader: web_sys::ReadableStreamDefaultReader = stream.get_reader().unchecked_into();
    loop {
        let part = JsFuture::from(reader.read()).await.map_err(|e| unreachable(&e))?;
        let field = |name| js_sys::Reflect::get(&part, &JsValue::from_str(name)).unwrap_or(JsValue::UNDEFINED);
        if field("done").is_truthy() {
            return Ok(bytes);
        }
        let chunk: js_sys::Uint8Array = field("value").unchecked_into();
        let old_len = bytes.len();
        let new_len = old_len + chunk.length() as usize;
        if new_len as u64 > n_bytes {
            let _ = reader.cancel();
            return Err(NetworkError::TooLong { url: url.to_owned(), expected: n_bytes });
        }
        bytes.resize(new_len, 0);
        chunk.copy_to(&mut bytes[old_len..]);
        on_bytes(new_len as u64);
    }
}

async fn respond(
    url: &str,
    init: &web_sys::RequestInit,
    content_type: Option<&str>,
) -> Result<web_sys::Response, NetworkError> {
    let request = web_sys::Request::new_with_str_and_init(url, init).map_err(|e| unreachable(&e))?;
    let set = |name, value| request.headers().set(name, value).map_err(|e| unreachable(&e));
    if let Some(content_type) = content_type {
        set("content-type", content_type)?;
    }
    let global = js_sys::global();
    let promise = if let Some(window) = global.dyn_ref::<web_sys::Window>() {
        window.fetch_with_request(&request)
    } else {
        global.unchecked_ref::<web_sys::WorkerGlobalScope>().fetch_with_request(&request)
    };
    let response = JsFuture::from(promise).await.map_err(|e| unreachable(&e))?;
    Ok(response.unchecked_into())
}

fn unreachable(error: &JsValue) -> NetworkError {
    NetworkError::Unreachable { reason: error_text(error) }
}

/// Percent-encodes a query value.
pub fn encoded(text: &str) -> String {
    String::from(js_sys::encode_uri_component(text))
}
