//! JSON text to a type, by way of a JSON value, and one value over another.
//!
//! Code that reads a type is generated once for every kind of input. The page reads some hundred types, so it takes them all
//! from one kind: a tenth of its size. What a line and column would say is lost, and nothing here is written by hand.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Reads `text` whole.
///
/// # Errors
/// No JSON, or not of this type.
pub fn parse<T: DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    serde_json::from_value(serde_json::from_str(text)?)
}

/// Puts the values of `given` over those of `base`, object by object; anything else is replaced.
pub fn merge(base: &mut Value, given: Value) {
    match (base, given) {
        (Value::Object(base), Value::Object(given)) => {
            for (key, value) in given {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, given) => *base = given,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn objects_are_merged_and_everything_else_is_replaced() {
        let mut base = json!({"a": {"b": 1, "c": [1, 2]}, "d": 3});
        merge(&mut base, json!({"a": {"c": [4], "e": null}, "d": {"f": 5}}));
        assert_eq!(base, json!({"a": {"b": 1, "c": [4], "e": null}, "d": {"f": 5}}));
    }
}
