//! JSON text to a type, by way of a JSON value.
//!
//! Code that reads a type is generated once for every kind of input. The page reads some hundred types, so it takes them all
//! from one kind: a tenth of its size. Serde's own reader of a value also takes a struct from a list of its fields, which is as
//! much code again for every type and nothing that we write; the one here does not. What a line and column would say is
//! lost, and nothing here is written by hand.

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _, Expected, MapAccess, SeqAccess,
    Unexpected, VariantAccess, Visitor, value::StringDeserializer,
};
use serde_json::{Error, Result, Value};

/// Reads `text` whole.
///
/// # Errors
/// No JSON, or not of this type.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
    from_value(serde_json::from_str(text)?)
}

/// Reads a value; a struct is an object, nothing else.
///
/// # Errors
/// Not of this type.
pub fn from_value<T: DeserializeOwned>(value: Value) -> Result<T> {
    T::deserialize(Source(value))
}

/// A value that is read.
struct Source(Value);

#[cold]
#[inline(never)]
fn wrong(value: &Value, expected: &dyn Expected) -> Error {
    let found = match value {
        Value::Null => Unexpected::Unit,
        Value::Bool(bool) => Unexpected::Bool(*bool),
        Value::Number(_) => Unexpected::Other("a number"),
        Value::String(text) => Unexpected::Str(text),
        Value::Array(_) => Unexpected::Seq,
        Value::Object(_) => Unexpected::Map,
    };
    Error::invalid_type(found, expected)
}

impl Source {
    /// What holds nothing else; without lists and objects, so that their code is not there for a number.
    fn scalar<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(bool) => visitor.visit_bool(bool),
            Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => visitor.visit_u64(number),
                (None, Some(number)) => visitor.visit_i64(number),
                (None, None) => visitor.visit_f64(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => visitor.visit_string(text),
            other => Err(wrong(&other, &visitor)),
        }
    }
}

macro_rules! scalars {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            self.scalar(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for Source {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.0 {
            Value::Array(_) => self.deserialize_seq(visitor),
            Value::Object(_) => self.deserialize_map(visitor),
            _ => self.scalar(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let Value::Array(items) = self.0 else { return Err(wrong(&self.0, &visitor)) };
        let mut items = Items(items.into_iter());
        let value = visitor.visit_seq(&mut items)?;
        match items.0.len() {
            0 => Ok(value),
            n_left => Err(Error::custom(format_args!("{n_left} items too many in a list"))),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let Value::Object(fields) = self.0 else { return Err(wrong(&self.0, &visitor)) };
        visitor.visit_map(&mut Fields { rest: fields.into_iter(), value: Value::Null })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        let (name, content) = match self.0 {
            Value::String(name) => (name, Value::Null),
            Value::Object(fields) if fields.len() == 1 => match fields.into_iter().next() {
                Some(variant) => variant,
                None => return Err(wrong(&Value::Null, &visitor)),
            },
            other => return Err(wrong(&other, &visitor)),
        };
        visitor.visit_enum(Variant { name, content })
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_unit()
    }

    scalars! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64
        deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf deserialize_unit
        deserialize_identifier
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value> {
        self.scalar(visitor)
    }
}

/// Items of a list.
struct Items(std::vec::IntoIter<Value>);

impl<'de> SeqAccess<'de> for Items {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>> {
        self.0.next().map(|value| seed.deserialize(Source(value))).transpose()
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.0.len())
    }
}

/// Fields of an object.
struct Fields {
    rest: serde_json::map::IntoIter,
    /// Of the key that was read last.
    value: Value,
}

impl Fields {
    #[inline(never)]
    fn next_name(&mut self) -> Option<String> {
        let (name, value) = self.rest.next()?;
        self.value = value;
        Some(name)
    }
}

impl<'de> MapAccess<'de> for Fields {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>> {
        self.next_name().map(|name| seed.deserialize(StringDeserializer::new(name))).transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value> {
        seed.deserialize(Source(self.value.take()))
    }
}

/// A variant: its name alone, or with what it holds.
struct Variant {
    name: String,
    content: Value,
}

impl<'de> EnumAccess<'de> for Variant {
    type Error = Error;
    type Variant = Source;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Source)> {
        Ok((seed.deserialize(StringDeserializer::<Error>::new(self.name))?, Source(self.content)))
    }
}

impl<'de> VariantAccess<'de> for Source {
    type Error = Error;

    fn unit_variant(self) -> Result<()> {
        if self.0.is_null() { Ok(()) } else { Err(wrong(&self.0, &"a variant without content")) }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value> {
        self.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, _fields: &'static [&'static str], visitor: V) -> Result<V::Value> {
        self.deserialize_map(visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;
    use std::collections::BTreeMap;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Kind {
        Plain,
        Named { text: String },
        Wrapped(Vec<i8>),
        Pair(u8, bool),
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Id(u64);

    #[derive(Debug, PartialEq, Deserialize)]
    struct Whole {
        id: Id,
        share: f64,
        sizes: (u32, Option<f32>),
        kinds: BTreeMap<String, Kind>,
        #[serde(default)]
        letter: Option<char>,
        any: Value,
    }

    fn example() -> Value {
        json!({
            "id": u64::MAX, "share": 1, "sizes": [3, null], "unknown": {"a": [1]}, "any": {"x": [null, -1, 0.5]},
            "kinds": {"a": "plain", "b": {"named": {"text": "t"}}, "c": {"wrapped": [-1]}, "d": {"pair": [1, true]}},
        })
    }

    #[test]
    fn every_shape_reads_as_serde_reads_it() {
        for value in
            [example(), json!({"id": 1, "share": 0.1, "sizes": [1, 2.5], "kinds": {}, "letter": "é", "any": 7})]
        {
            let own: Whole = parse(&value.to_string()).unwrap_or_else(|error| panic!("{value}: {error}"));
            assert_eq!(own, serde_json::from_value(value).expect("serde's own reader takes it"));
        }
    }

    #[test]
    fn what_is_of_another_type_is_refused() {
        let spoil = |path: &str, with: Value| {
            let mut value = example();
            *value.pointer_mut(path).expect("a place") = with;
            from_value::<Whole>(value)
        };
        for (path, with) in [
            ("/id", json!(-1)),
            ("/id", json!("1")),
            ("/share", Value::Null),
            ("/sizes", json!([3])),
            ("/sizes", json!([3, null, 4])),
            ("/kinds", json!([])),
            ("/kinds/a", json!("other")),
            ("/kinds/a", json!({"plain": 1})),
            ("/kinds/b", json!("named")),
            ("/kinds/b", json!({"named": {"text": "t"}, "wrapped": []})),
            ("/kinds/c/wrapped/0", json!(200)),
            ("", json!([1, 1, [3, null], {}, null, null])),
        ] {
            assert!(spoil(path, with.clone()).is_err(), "{path} took {with}");
        }
        assert!(parse::<Whole>("{").is_err());
    }
}
