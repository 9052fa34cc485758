//! Small settings that outlive a visit. A browser that refuses storage only forgets them.

use beckon_shared::json;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Reads a setting; `None` where there is none or it no longer parses.
pub fn load<T: DeserializeOwned>(key: &str) -> Option<T> {
    let text = area()?.get_item(&full(key)).ok()??;
    json::parse(&text).ok()
}

/// Writes a setting.
pub fn save<T: Serialize>(key: &str, value: &T) {
    if let (Some(area), Ok(text)) = (area(), serde_json::to_string(value)) {
        let _ = area.set_item(&full(key), &text);
    }
}

fn full(key: &str) -> String {
    format!("beckon.{key}")
}

fn area() -> Option<web_sys::Storage> {
    web_sys::window()?.local_storage().ok()?
}
