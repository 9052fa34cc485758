//! Files of checkpoints and adapters in the origin's private file system (OPFS), so that Preview starts without the server and a
//! download goes on where it broke off. A file lies there as it lies at the server; what did not come yet is missing at its end, and
//! what comes back is checked by hash like the bytes of the network. A browser that offers no such files only loses the speed.
//! Reading and writing is synchronous, which browsers allow to workers alone.

use super::error_text;
use std::ops::Range;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;

const FOLDER: &str = "beckon-1";
/// Where earlier versions kept chunks, in Cache Storage.
const OLD_CACHES: [&str; 2] = ["beckon-checkpoints-1", "beckon-checkpoints-2"];
/// Checkpoints kept, and as many adapters; the oldest goes.
const MAX_FILES: usize = 4;

/// Bytes that this origin uses, and that the browser lets it use; `None` where it does not say.
pub async fn quota() -> Option<[f64; 2]> {
    let estimate = call(&storage().ok()?, "estimate", &[]).await.ok()?;
    let get = |name: &str| js_sys::Reflect::get(&estimate, &JsValue::from_str(name)).ok()?.as_f64();
    Some([get("usage")?, get("quota")?])
}

/// An open file; closed when dropped.
pub struct Kept(web_sys::FileSystemSyncAccessHandle);

impl Kept {
    /// Opens what is kept under `name`.
    ///
    /// # Errors
    /// There is none, or the browser refuses.
    pub async fn open(name: &str) -> Result<Self, String> {
        handle(name, &object(&[])).await.map_err(|e| error_text(&e))
    }

    /// Opens `name`, new where it is not there, and makes room for it: what older versions kept goes, and the oldest of too many
    /// files of its kind, which is the ending.
    ///
    /// # Errors
    /// Why the browser refuses.
    pub async fn create(name: &str) -> Result<Self, String> {
        make_room(name).await.map_err(|e| error_text(&e))?;
        handle(name, &object(&[("create", JsValue::TRUE)])).await.map_err(|e| error_text(&e))
    }

    /// The bytes of a range; `None` where the file ends before.
    pub fn read(&self, range: Range<u64>) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact((range.end - range.start) as usize).ok()?;
        bytes.resize((range.end - range.start) as usize, 0);
        let n_read = self.0.read_with_u8_array_and_options(&mut bytes, &at(range.start)).ok()?;
        (n_read as usize == bytes.len()).then_some(bytes)
    }

    /// Puts bytes at a place of the file.
    ///
    /// # Errors
    /// Why the browser refuses, as when its quota is used up.
    pub fn write(&self, first: u64, bytes: &[u8]) -> Result<(), String> {
        let n_written = self.0.write_with_u8_array_and_options(bytes, &at(first)).map_err(|e| error_text(&e))?;
        if n_written as usize == bytes.len() { Ok(()) } else { Err("the disk is full".to_owned()) }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn at(first: u64) -> web_sys::FileSystemReadWriteOptions {
    let options = web_sys::FileSystemReadWriteOptions::new();
    options.set_at(first as f64);
    options
}

async fn handle(name: &str, options: &JsValue) -> Result<Kept, JsValue> {
    let file = call(&folder().await?, "getFileHandle", &[name.into(), options.clone()]).await?;
    // tabs that load the same write the same; a browser that does not know the mode gives the file to one of them
    let shared = object(&[("mode", "readwrite-unsafe".into())]);
    Ok(Kept(call(&file, "createSyncAccessHandle", &[shared]).await?.unchecked_into()))
}

/// Removes the oldest other file of the kind of `name`; whether there was one that could be removed.
pub async fn evict(name: &str) -> bool {
    drop_oldest(name, None).await == Ok(true)
}

async fn make_room(name: &str) -> Result<(), JsValue> {
    for old in OLD_CACHES {
        let caches = js_sys::Reflect::get(&js_sys::global(), &"caches".into())?;
        call(&caches, "delete", &[old.into()]).await?;
    }
    drop_oldest(name, Some(MAX_FILES)).await.map(drop)
}

/// Removes the oldest other files of the kind of `name` until with it there are at most `limit`, without a limit one; whether any went.
async fn drop_oldest(name: &str, limit: Option<usize>) -> Result<bool, JsValue> {
    let folder = folder().await?;
    let ending = name.rsplit('.').next();
    let mut others: Vec<(f64, String)> = Vec::new();
    let names = call(&folder, "keys", &[]).await?;
    loop {
        let next = call(&names, "next", &[]).await?;
        let Some(other) = js_sys::Reflect::get(&next, &"value".into())?.as_string() else { break };
        if other != name && other.rsplit('.').next() == ending {
            let file =
                call(&call(&folder, "getFileHandle", &[JsValue::from_str(&other)]).await?, "getFile", &[]).await?;
            others.push((file.unchecked_into::<web_sys::File>().last_modified(), other));
        }
    }
    others.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut any = false;
    let n_gone = limit.map_or(others.len().min(1), |limit| (others.len() + 1).saturating_sub(limit));
    for (_, other) in &others[..n_gone] {
        // one that another tab reads at the moment stays
        any |= call(&folder, "removeEntry", &[JsValue::from_str(other)]).await.is_ok();
    }
    Ok(any)
}

async fn folder() -> Result<JsValue, JsValue> {
    let root = call(&storage()?, "getDirectory", &[]).await?;
    call(&root, "getDirectoryHandle", &[FOLDER.into(), object(&[("create", JsValue::TRUE)])]).await
}

fn storage() -> Result<JsValue, JsValue> {
    let navigator = js_sys::Reflect::get(&js_sys::global(), &"navigator".into())?;
    js_sys::Reflect::get(&navigator, &"storage".into())
}

fn object(fields: &[(&str, JsValue)]) -> JsValue {
    let object = js_sys::Object::new();
    for (name, value) in fields {
        // a plain object takes every field
        let _ = js_sys::Reflect::set(&object, &JsValue::from_str(name), value);
    }
    object.into()
}

/// Calls a method that not every browser has, and waits for what it promises.
async fn call(of: &JsValue, name: &str, arguments: &[JsValue]) -> Result<JsValue, JsValue> {
    let method = js_sys::Reflect::get(of, &JsValue::from_str(name))?;
    let method: js_sys::Function =
        method.dyn_into().map_err(|_| JsValue::from_str("the browser keeps no files for this address"))?;
    let arguments: js_sys::Array = arguments.iter().collect();
    JsFuture::from(js_sys::Promise::resolve(&method.apply(of, &arguments)?)).await
}
