//! A GGUF file of version 3 from metadata and tensors.

use super::{ALIGNMENT_KEY, Array, DEFAULT_ALIGNMENT, GgufError, MAGIC, TensorKind, Value};
use std::collections::BTreeMap;

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct NewTensor {
    /// Its name in the file.
    pub name: String,
    /// Extent of each dimension, row-major.
    pub shape: Vec<usize>,
    /// How its bytes are to be read.
    pub kind: TensorKind,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// The file: [`super::Gguf::parse`] reads it back as it was given. Tensors keep their order; data are aligned to
/// 32 bytes.
///
/// # Errors
/// [`GgufError::TensorBytes`] for bytes that do not fill a tensor, [`GgufError::Metadata`] for an alignment of the
/// caller's.
pub fn encode(metadata: &BTreeMap<String, Value>, tensors: &[NewTensor]) -> Result<Vec<u8>, GgufError> {
    if metadata.contains_key(ALIGNMENT_KEY) {
        let reason = format!("is not to be given: files are written with {DEFAULT_ALIGNMENT}");
        return Err(GgufError::Metadata { key: ALIGNMENT_KEY.to_owned(), reason });
    }
    let mut file = Vec::new();
    file.extend_from_slice(MAGIC);
    file.extend_from_slice(&3u32.to_le_bytes());
    file.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
    file.extend_from_slice(&(metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        put_string(&mut file, key);
        put_value(&mut file, value);
    }
    let mut offset = 0u64;
    for tensor in tensors {
        let (want, got) = (tensor.kind.n_bytes(&tensor.shape).unwrap_or(u64::MAX), tensor.bytes.len() as u64);
        if want != got {
            return Err(GgufError::TensorBytes { name: tensor.name.clone(), want, got });
        }
        put_string(&mut file, &tensor.name);
        file.extend_from_slice(&(tensor.shape.len() as u32).to_le_bytes());
        for extent in tensor.shape.iter().rev() {
            file.extend_from_slice(&(*extent as u64).to_le_bytes());
        }
        file.extend_from_slice(&tensor.kind.id().to_le_bytes());
        file.extend_from_slice(&offset.to_le_bytes());
        offset = (offset + got).next_multiple_of(DEFAULT_ALIGNMENT);
    }
    let align = |file: &mut Vec<u8>| file.resize(file.len().next_multiple_of(DEFAULT_ALIGNMENT as usize), 0);
    align(&mut file);
    file.reserve(usize::try_from(offset).unwrap_or(0));
    for tensor in tensors {
        file.extend_from_slice(&tensor.bytes);
        align(&mut file);
    }
    Ok(file)
}

fn put_string(file: &mut Vec<u8>, text: &str) {
    file.extend_from_slice(&(text.len() as u64).to_le_bytes());
    file.extend_from_slice(text.as_bytes());
}

fn put_value(file: &mut Vec<u8>, value: &Value) {
    let mut put = |kind: u32, bytes: &[u8]| {
        file.extend_from_slice(&kind.to_le_bytes());
        file.extend_from_slice(bytes);
    };
    match value {
        Value::U8(x) => put(0, &x.to_le_bytes()),
        Value::I8(x) => put(1, &x.to_le_bytes()),
        Value::U16(x) => put(2, &x.to_le_bytes()),
        Value::I16(x) => put(3, &x.to_le_bytes()),
        Value::U32(x) => put(4, &x.to_le_bytes()),
        Value::I32(x) => put(5, &x.to_le_bytes()),
        Value::F32(x) => put(6, &x.to_le_bytes()),
        Value::Bool(x) => put(7, &[u8::from(*x)]),
        Value::String(text) => {
            put(8, &[]);
            put_string(file, text);
        }
        Value::Array(array) => {
            put(9, &[]);
            put_array(file, array);
        }
        Value::U64(x) => put(10, &x.to_le_bytes()),
        Value::I64(x) => put(11, &x.to_le_bytes()),
        Value::F64(x) => put(12, &x.to_le_bytes()),
    }
}

fn put_array(file: &mut Vec<u8>, array: &Array) {
    let n = (array.len() as u64).to_le_bytes();
    let mut numbers = |kind: u32, bytes: &mut dyn Iterator<Item = u8>| {
        file.extend_from_slice(&kind.to_le_bytes());
        file.extend_from_slice(&n);
        file.extend(bytes);
    };
    match array {
        Array::U8(a) => numbers(0, &mut a.iter().copied()),
        Array::I8(a) => numbers(1, &mut a.iter().flat_map(|x| x.to_le_bytes())),
        Array::U16(a) => numbers(2, &mut a.iter().flat_map(|x| x.to_le_bytes())),
        Array::I16(a) => numbers(3, &mut a.iter().flat_map(|x| x.to_le_bytes())),
        Array::U32(a) => numbers(4, &mut a.iter().flat_map(|x| x.to_le_bytes())),
        Array::I32(a) => numbers(5, &mut a.iter().flat_map(|x| x.to_le_bytes())),
        Array::F32(a) => numbers(6, &mut a.iter().flat_map(|x| x.to_le_bytes())),
        Array::Bool(a) => numbers(7, &mut a.iter().map(|x| u8::from(*x))),
        Array::String(a) => {
            numbers(8, &mut std::iter::empty());
            a.iter().for_each(|text| put_string(file, text));
        }
        Array::Array(a) => {
            numbers(9, &mut std::iter::empty());
            a.iter().for_each(|inner| put_array(file, inner));
        }
        Array::U64(a) => numbers(10, &mut a.iter().flat_map(|x| x.to_le_bytes())),
        Array::I64(a) => numbers(11, &mut a.iter().flat_map(|x| x.to_le_bytes())),
        Array::F64(a) => numbers(12, &mut a.iter().flat_map(|x| x.to_le_bytes())),
    }
}
