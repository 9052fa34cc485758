//! Values on their way into and out of the database, in the binary form of the type that their place there has.

use super::Value;
use bytes::BytesMut;
use std::error::Error;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

type Failure = Box<dyn Error + Sync + Send>;

impl ToSql for Value {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Failure> {
        match (self, ty) {
            (Self::Null, _) => Ok(IsNull::Yes),
            (Self::Int(value), &Type::INT8) => value.to_sql(ty, out),
            (Self::Int(value), &Type::INT4) => i32::try_from(*value)?.to_sql(ty, out),
            (Self::Int(value), &Type::INT2) => i16::try_from(*value)?.to_sql(ty, out),
            (Self::Int(value), &Type::BOOL) => (*value != 0).to_sql(ty, out),
            (Self::Int(value), &Type::FLOAT8 | &Type::FLOAT4) => Self::Real(*value as f64).to_sql(ty, out),
            (Self::Int(value), _) => value.to_string().to_sql_checked(ty, out),
            (Self::Real(value), &Type::FLOAT4) => (*value as f32).to_sql(ty, out),
            (Self::Real(value), _) => value.to_sql_checked(ty, out),
            (Self::Text(text), _) => text.to_sql_checked(ty, out),
            (Self::Blob(bytes), _) => bytes.to_sql_checked(ty, out),
        }
    }

    /// What does not fit is found out with the value.
    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Value {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Failure> {
        Ok(match *ty {
            Type::INT8 => Self::Int(i64::from_sql(ty, raw)?),
            Type::INT4 => Self::Int(i32::from_sql(ty, raw)?.into()),
            Type::INT2 => Self::Int(i16::from_sql(ty, raw)?.into()),
            Type::BOOL => Self::Int(bool::from_sql(ty, raw)?.into()),
            Type::FLOAT8 => Self::Real(f64::from_sql(ty, raw)?),
            Type::FLOAT4 => Self::Real(f32::from_sql(ty, raw)?.into()),
            Type::BYTEA => Self::Blob(raw.to_vec()),
            _ => Self::Text(String::from_sql(ty, raw)?),
        })
    }

    fn from_sql_null(_: &Type) -> Result<Self, Failure> {
        Ok(Self::Null)
    }

    fn accepts(ty: &Type) -> bool {
        let own = [Type::INT8, Type::INT4, Type::INT2, Type::BOOL, Type::FLOAT8, Type::FLOAT4, Type::BYTEA];
        own.contains(ty) || <String as FromSql>::accepts(ty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(value: &Value, ty: &Type) -> Option<Value> {
        let mut bytes = BytesMut::new();
        match value.to_sql_checked(ty, &mut bytes).ok()? {
            IsNull::Yes => Value::from_sql_null(ty).ok(),
            IsNull::No => <Value as FromSql>::accepts(ty).then(|| Value::from_sql(ty, &bytes).ok())?,
        }
    }

    #[test]
    fn values_come_back_from_the_type_of_their_place() {
        let int = Value::Int;
        for (value, ty, want) in [
            (int(i64::MIN), Type::INT8, int(i64::MIN)),
            (int(-7), Type::INT4, int(-7)),
            (int(7), Type::INT2, int(7)),
            (int(1), Type::BOOL, int(1)),
            (int(3), Type::FLOAT8, Value::Real(3.0)),
            (int(12), Type::TEXT, Value::Text("12".into())),
            (Value::Real(0.1), Type::FLOAT8, Value::Real(0.1)),
            (Value::Real(f64::NEG_INFINITY), Type::FLOAT8, Value::Real(f64::NEG_INFINITY)),
            (Value::Real(0.5), Type::FLOAT4, Value::Real(0.5)),
            (Value::Text("a\u{e9}".into()), Type::TEXT, Value::Text("a\u{e9}".into())),
            (Value::Blob(vec![0, 171, 255]), Type::BYTEA, Value::Blob(vec![0, 171, 255])),
            (Value::Null, Type::INT8, Value::Null),
        ] {
            assert_eq!(there_and_back(&value, &ty), Some(want), "{value:?} as {ty}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (value, ty) in [
            (Value::Int(1 << 40), Type::INT4),
            (Value::Text("7".into()), Type::INT8),
            (Value::Real(0.5), Type::INT8),
            (Value::Blob(vec![1]), Type::TEXT),
        ] {
            assert_eq!(there_and_back(&value, &ty), None, "{value:?} as {ty}");
        }
        assert!(Value::from_sql(&Type::INT8, &[1, 2]).is_err(), "no eight bytes");
        assert!(Value::from_sql(&Type::TEXT, &[0xff]).is_err(), "not UTF-8");
        assert!(!<Value as FromSql>::accepts(&Type::NUMERIC));
    }
}
