//! The document: address, focus, files, pointer positions.

use wasm_bindgen::JsCast;
use wasm_bindgen::closure::Closure;
use wasm_bindgen_futures::JsFuture;

/// Largest file that is read as text; the server takes no more at once.
const MAX_TEXT_BYTES: f64 = 16.0 * 1024.0 * 1024.0;

fn document() -> Option<web_sys::Document> {
    web_sys::window()?.document()
}

/// `location.hash`.
pub fn hash() -> String {
    web_sys::window().and_then(|w| w.location().hash().ok()).unwrap_or_default()
}

/// `location.search`: what the worker's script is told, as `?threads=1`.
pub fn search() -> String {
    web_sys::window().and_then(|w| w.location().search().ok()).unwrap_or_default()
}

/// Goes to an address inside the page.
pub fn go(href: &str) {
    if let Some(window) = web_sys::window() {
        let _ = window.location().set_hash(href);
    }
}

/// Leaves the page for another address.
pub fn leave(href: &str) {
    if let Some(window) = web_sys::window() {
        let _ = window.location().set_href(href);
    }
}

/// Calls `f` whenever the address inside the page changes.
pub fn on_hash_change(mut f: impl FnMut(String) + 'static) {
    let closure = Closure::<dyn FnMut()>::new(move || f(hash()));
    if let Some(window) = web_sys::window() {
        let _ = window.add_event_listener_with_callback("hashchange", closure.as_ref().unchecked_ref());
    }
    closure.forget();
}

/// Window title.
pub fn set_title(title: &str) {
    if let Some(document) = document() {
        document.set_title(title);
    }
}

/// Removes an element.
pub fn remove(id: &str) {
    if let Some(element) = document().and_then(|d| d.get_element_by_id(id)) {
        element.remove();
    }
}

/// Moves the keyboard focus, after what is being rendered now is there.
pub fn focus_soon(id: impl Into<String>) {
    let id = id.into();
    super::spawn(async move {
        super::clock::sleep(0).await;
        let element = document().and_then(|d| d.get_element_by_id(&id));
        if let Some(element) = element.and_then(|e| e.dyn_into::<web_sys::HtmlElement>().ok()) {
            let _ = element.focus();
        }
    });
}

/// Content of `<meta name=…>`.
pub fn meta(name: &str) -> Option<String> {
    let element = document()?.query_selector(&format!("meta[name=\"{name}\"]")).ok()??;
    Some(element.dyn_into::<web_sys::HtmlMetaElement>().ok()?.content())
}

/// Where a pointer is across the element that listens, in [0, 1].
pub fn pointer_share(event: &web_sys::PointerEvent) -> Option<f64> {
    let element: web_sys::Element = event.current_target()?.dyn_into().ok()?;
    let rect = element.get_bounding_client_rect();
    (rect.width() > 0.0).then(|| ((f64::from(event.client_x()) - rect.left()) / rect.width()).clamp(0.0, 1.0))
}

/// The file that was dropped; `None` where something else was.
pub fn dropped_file(event: &web_sys::DragEvent) -> Option<web_sys::File> {
    event.data_transfer()?.files()?.get(0)
}

/// The file that was picked in the `<input type=file>` that fired; the input is emptied so that the same
/// file can be picked again.
pub fn picked_file(event: &web_sys::Event) -> Option<web_sys::File> {
    let input: web_sys::HtmlInputElement = event.target()?.dyn_into().ok()?;
    let file = input.files()?.get(0);
    input.set_value("");
    file
}

/// The file that was picked, as [`picked_file`] gives it, read whole: `then` takes its name, and its text or why there is none.
pub fn picked_text(event: &web_sys::Event, then: impl FnOnce(String, Result<String, String>) + 'static) {
    let Some(file) = picked_file(event) else { return };
    super::spawn(async move {
        let text = if file.size() > MAX_TEXT_BYTES {
            Err("it is larger than 16 MiB".to_owned())
        } else {
            JsFuture::from(file.text()).await.map_err(|error| super::error_text(&error))
        };
        then(file.name(), text.map(|text| text.as_string().unwrap_or_default()));
    });
}

/// First bytes of a file as text, for telling its format.
pub async fn file_head(file: &web_sys::File) -> String {
    let Ok(head) = file.slice_with_i32_and_i32(0, 1 << 16) else { return String::new() };
    JsFuture::from(head.text()).await.ok().and_then(|t| t.as_string()).unwrap_or_default()
}

/// A JSON text as an address that a link can save.
pub fn json_address(json: &str) -> String {
    format!("data:application/json,{}", super::http::encoded(json))
}
