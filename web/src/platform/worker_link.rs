//! The page's end of a dedicated worker.

use super::error_text;
use wasm_bindgen::JsCast;
use wasm_bindgen::JsValue;
use wasm_bindgen::closure::Closure;

/// A running worker.
pub struct WorkerLink {
    worker: web_sys::Worker,
    _on_message: Closure<dyn FnMut(web_sys::MessageEvent)>,
    _on_error: Closure<dyn FnMut(web_sys::ErrorEvent)>,
}

impl WorkerLink {
    /// Starts a module worker. `on_error` is called when it could not be loaded or an exception left it.
    ///
    /// # Errors
    /// Why the browser refused.
    pub fn start(
        url: &str,
        mut on_message: impl FnMut(String) + 'static,
        mut on_error: impl FnMut(String) + 'static,
    ) -> Result<Self, String> {
        let options = web_sys::WorkerOptions::new();
        options.set_type(web_sys::WorkerType::Module);
        let worker = web_sys::Worker::new_with_options(url, &options).map_err(|e| error_text(&e))?;
        let on_message = Closure::<dyn FnMut(_)>::new(move |event: web_sys::MessageEvent| {
            if let Some(text) = event.data().as_string() {
                on_message(text);
            }
        });
        let on_error = Closure::<dyn FnMut(_)>::new(move |event: web_sys::ErrorEvent| {
            let message = event.message();
            on_error(if message.is_empty() { "its script could not be loaded".into() } else { message });
        });
        worker.set_onmessage(Some(on_message.as_ref().unchecked_ref()));
        worker.set_onerror(Some(on_error.as_ref().unchecked_ref()));
        Ok(Self { worker, _on_message: on_message, _on_error: on_error })
    }

    /// Sends text, and a file along with it: not its bytes, the browser's handle to them.
    ///
    /// # Errors
    /// Why the browser refused.
    pub fn post(&self, text: &str, file: Option<&web_sys::File>) -> Result<(), String> {
        let text = JsValue::from_str(text);
        let message = file.map_or_else(|| text.clone(), |file| js_sys::Array::of2(&text, file).into());
        self.worker.post_message(&message).map_err(|e| error_text(&e))
    }
}

impl Drop for WorkerLink {
    fn drop(&mut self) {
        self.worker.set_onmessage(None);
        self.worker.set_onerror(None);
        self.worker.terminate();
    }
}
