//! JSON text to a type, by way of a JSON value.
//!
//! Code that reads a type is generated once for every kind of input. The page reads some hundred types, so it takes them all
//! from one kind: a tenth of its size. What a line and column would say is lost, and nothing here is written by hand.

use serde::de::DeserializeOwned;

/// Reads `text` whole.
///
/// # Errors
/// No JSON, or not of this type.
pub fn parse<T: DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    serde_json::from_value(serde_json::from_str(text)?)
}
