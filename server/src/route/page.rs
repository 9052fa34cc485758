//! The page itself, embedded in the program, with the security headers that a browser looks for.
//!
//! Files are embedded from `server/page`, which `cargo xtask build-page` fills. A name with a content hash is kept by
//! browsers for good, everything else is checked again at each visit. Where `NAME.br` lies beside `NAME`, it is sent to
//! those who understand Brotli.

use super::problem::ApiError;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use rust_embed::{EmbeddedFile, RustEmbed};
use std::borrow::Cow;

#[derive(RustEmbed)]
#[folder = "page"]
struct Page;

/// `GET` of anything that is not under `/api`: a file of the page; for a path of the page's own router, its index.
pub async fn page(method: Method, uri: Uri, headers: HeaderMap) -> Result<Response, ApiError> {
    let path = uri.path().trim_start_matches('/');
    if method != Method::GET && method != Method::HEAD {
        let detail = format!("{method} {} is not known", uri.path());
        return Err(ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed", detail));
    }
    if let Some(response) = embedded(path, &headers) {
        return Ok(response);
    }
    // the last part of a route of the page has no extension; a missing file must not come back as HTML
    let is_route = !path.rsplit('/').next().unwrap_or_default().contains('.');
    let index = if is_route { embedded("index.html", &headers) } else { None };
    index.ok_or_else(|| ApiError::not_found(format!("there is no {}", uri.path())))
}

fn embedded(path: &str, headers: &HeaderMap) -> Option<Response> {
    let plain = Page::get(path)?;
    let (file, encoding) = match Page::get(&format!("{path}.br")).filter(|_| accepts(headers, "br")) {
        Some(compressed) => (compressed, Some(HeaderValue::from_static("br"))),
        None => (plain, None),
    };
    let etag = HeaderValue::from_str(&format!("\"{}\"", tag(&file))).ok()?;
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|tags| *tags == etag);
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let bytes = match file.data {
            Cow::Borrowed(bytes) => Bytes::from_static(bytes),
            Cow::Owned(bytes) => Bytes::from(bytes),
        };
        Body::from(bytes).into_response()
    };
    let out = response.headers_mut();
    out.insert(header::CONTENT_TYPE, HeaderValue::from_static(mime(path)));
    out.insert(header::ETAG, etag);
    out.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    let lifetime = if has_hash(path) { "public, max-age=31536000, immutable" } else { "no-cache" };
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static(lifetime));
    if let Some(encoding) = encoding {
        out.insert(header::CONTENT_ENCODING, encoding);
    }
    Some(response)
}

fn tag(file: &EmbeddedFile) -> String {
    file.metadata.sha256_hash()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether `Accept-Encoding` names `coding` and does not rule it out with a weight of zero.
pub(super) fn accepts(headers: &HeaderMap, coding: &str) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|choice| {
        let (name, weight) = choice.split_once(';').unwrap_or((choice, "q=1"));
        let weight = weight.trim().trim_start_matches("q=").parse().unwrap_or(0.0);
        name.trim() == coding && weight > 0.0
    })
}

/// Whether a name holds a content hash: a part of at least 8 hexadecimal digits, as in `app-0123abcd.js`.
fn has_hash(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    name.split(['-', '.', '_']).any(|part| part.len() >= 8 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Content type by extension; a browser compiles WebAssembly while it loads only if the type is right.
fn mime(path: &str) -> &'static str {
    match path.rsplit('.').next().unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "wasm" => "application/wasm",
        "css" => "text/css; charset=utf-8",
        "json" | "map" => "application/json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

/// What the page may load and run: its own files, WebAssembly, styles that its components set, pictures it made itself.
const PAGE_POLICY: &str = "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self' 'unsafe-inline'; \
                           img-src 'self' data: blob:; worker-src 'self' blob:; connect-src 'self'; object-src 'none'; \
                           base-uri 'none'; form-action 'self'; frame-ancestors 'self'";

/// A page to sign in with a token, which needs neither WebAssembly nor anything secret.
pub async fn sign_in() -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, SIGN_IN).into_response()
}

/// Its script.
pub async fn sign_in_script() -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("text/javascript; charset=utf-8"))], SIGN_IN_SCRIPT)
        .into_response()
}

const SIGN_IN: &str = include_str!("page/sign_in.html");
const SIGN_IN_SCRIPT: &str = include_str!("page/sign_in.js");

/// Headers of every response: what may be loaded, no guessing of content types, no reading by other origins, and the
/// isolation that lets the page share memory between its threads.
pub async fn security_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_FRAME_OPTIONS, "SAMEORIGIN"),
        (header::CONTENT_SECURITY_POLICY, PAGE_POLICY),
        (header::HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
        (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (header::HeaderName::from_static("cross-origin-embedder-policy"), "require-corp"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashed_names_are_told_from_plain_ones() {
        for hashed in ["app-0123abcd.js", "assets/app_bg-0123456789abcdef.wasm", "style.deadbeef.css"] {
            assert!(has_hash(hashed), "{hashed}");
        }
        for plain in ["index.html", "favicon.ico", "worker.js", "assets/0123abcd/app.js"] {
            assert!(!has_hash(plain), "{plain}");
        }
    }

    #[test]
    fn brotli_is_sent_only_where_it_is_wanted() {
        let sent = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(value));
            accepts(&headers, "br")
        };
        assert!(sent("gzip, deflate, br, zstd"));
        assert!(sent("br;q=0.5"));
        assert!(!sent("br;q=0"));
        assert!(!sent("gzip, brotli"));
        assert!(!accepts(&HeaderMap::new(), "br"));
    }

    #[test]
    fn webassembly_has_its_type() {
        assert_eq!(mime("app-0123abcd.wasm"), "application/wasm");
    }
}
