//! A file that the user picked, read by slices; nothing of it leaves the browser.

use super::error_text;
use beckon_shared::gguf::{Bytes, Ranges};
use std::ops::Range;
use wasm_bindgen::JsValue;
use wasm_bindgen_futures::JsFuture;

/// A file on the user's disk, as the browser hands it out.
pub struct Picked(pub web_sys::File);

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "sizes of files"
)]
impl Ranges for Picked {
    fn n_bytes(&self) -> u64 {
        self.0.size() as u64
    }

    fn read(&mut self, range: Range<u64>) -> Bytes<'_> {
        Box::pin(async move {
            // a file that was moved or changed since it was picked is no longer given
            let text = |e: JsValue| format!("the browser no longer gives the file ({}); pick it again", error_text(&e));
            let slice = self.0.slice_with_f64_and_f64(range.start as f64, range.end as f64).map_err(text)?;
            let bytes = js_sys::Uint8Array::new(&JsFuture::from(slice.array_buffer()).await.map_err(text)?).to_vec();
            if bytes.len() as u64 != range.end - range.start {
                return Err(format!("the file has only {} of the bytes {range:?}; pick it again", bytes.len()));
            }
            Ok(bytes)
        })
    }
}
