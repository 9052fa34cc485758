//! Chunks of checkpoints and adapters in the browser's Cache Storage, so that Preview starts without the server and a download goes on
//! where it broke off. Bytes that come back are checked by hash like those of the network; a browser that offers no cache
//! (an insecure origin, say) only loses the speed.

use super::error_text;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;

const NAME: &str = "beckon-checkpoints-2";
/// Held whole files.
const OLD_NAME: &str = "beckon-checkpoints-1";
/// Checkpoints kept, and as many adapters; the oldest goes.
const MAX_FILES: usize = 4;
/// In the addresses of adapters, and in no other.
const ADAPTER: &str = "/adapter/";

/// Bytes that this origin uses, and that the browser lets it use; `None` where it does not say.
pub async fn quota() -> Option<[f64; 2]> {
    let get = |of: &JsValue, name: &str| js_sys::Reflect::get(of, &JsValue::from_str(name)).ok();
    let storage = get(&get(&js_sys::global(), "navigator")?, "storage")?;
    let estimate: js_sys::Function = get(&storage, "estimate")?.dyn_into().ok()?;
    let promise: js_sys::Promise = estimate.call0(&storage).ok()?.dyn_into().ok()?;
    let estimate = JsFuture::from(promise).await.ok()?;
    Some([get(&estimate, "usage")?.as_f64()?, get(&estimate, "quota")?.as_f64()?])
}

/// Cached bytes of `url`.
pub async fn get(url: &str) -> Option<Vec<u8>> {
    let cache = open().await.ok()?;
    let found = JsFuture::from(cache.match_with_str(url)).await.ok()?;
    let response: web_sys::Response = found.dyn_into().ok()?;
    let buffer = JsFuture::from(response.array_buffer().ok()?).await.ok()?;
    Some(js_sys::Uint8Array::new(&buffer).to_vec())
}

/// Keeps the bytes of `url`.
///
/// # Errors
/// Why the browser refused, as when its quota is used up.
pub async fn put(url: &str, bytes: &[u8]) -> Result<(), String> {
    let text = |e: JsValue| error_text(&e);
    let cache = open().await.map_err(text)?;
    let array = js_sys::Uint8Array::from(bytes);
    let response = web_sys::Response::new_with_opt_buffer_source(Some(&array)).map_err(text)?;
    JsFuture::from(cache.put_with_str(url, &response)).await.map_err(text)?;
    Ok(())
}

/// Makes room for the parts of `file`: what older versions kept goes, and the oldest of too many files of its kind.
///
/// # Errors
/// Why the browser refused.
pub async fn make_room(file: &str) -> Result<(), String> {
    let text = |e: JsValue| error_text(&e);
    JsFuture::from(storage().map_err(text)?.delete(OLD_NAME)).await.map_err(text)?;
    let cache = open().await.map_err(text)?;
    let keys: js_sys::Array = JsFuture::from(cache.keys()).await.map_err(text)?.unchecked_into();
    // oldest first
    let mut others: Vec<(String, web_sys::Request)> = Vec::new();
    for request in keys.iter().map(JsCast::unchecked_into::<web_sys::Request>) {
        let of = request.url();
        let of = of.split('?').next().unwrap_or(&of);
        if !of.ends_with(file) && of.contains(ADAPTER) == file.contains(ADAPTER) {
            others.push((of.to_owned(), request));
        }
    }
    let mut files: Vec<&str> = others.iter().map(|(of, _)| of.as_str()).collect();
    files.dedup();
    let n_gone = (files.len() + 1).saturating_sub(MAX_FILES);
    for (_, request) in others.iter().filter(|(of, _)| files[..n_gone].contains(&of.as_str())) {
        JsFuture::from(cache.delete_with_request(request)).await.map_err(text)?;
    }
    Ok(())
}

/// Forgets the bytes of `url`, as when their hash is wrong.
pub async fn remove(url: &str) {
    if let Ok(cache) = open().await {
        let _ = JsFuture::from(cache.delete_with_str(url)).await;
    }
}

fn storage() -> Result<web_sys::CacheStorage, JsValue> {
    let storage = js_sys::Reflect::get(&js_sys::global(), &JsValue::from_str("caches"))?;
    storage.dyn_into().map_err(|_| JsValue::from_str("no cache storage here"))
}

async fn open() -> Result<web_sys::Cache, JsValue> {
    Ok(JsFuture::from(storage()?.open(NAME)).await?.unchecked_into())
}
