//! The head of a GGUF file, read without believing it.

use super::{ALIGNMENT_KEY, Array, DEFAULT_ALIGNMENT, Gguf, GgufError, MAGIC, TensorInfo, TensorKind, Value};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// Longest head that is read. A vocabulary of 128,000 tokens with its merges takes about 8 MiB.
const MAX_HEAD_BYTES: u64 = 64 << 20;
/// Most metadata entries, and most tensors.
const MAX_ENTRIES: u64 = 1 << 16;
/// Longest key or tensor name.
const MAX_NAME_BYTES: u64 = 1 << 16;
/// Most dimensions of a tensor, as in ggml.
const MAX_DIMS: u32 = 4;
/// Arrays within arrays.
const MAX_DEPTH: usize = 4;
/// Largest alignment.
const MAX_ALIGNMENT: u64 = 1 << 20;

/// Where reading stands.
struct Reader<'a> {
    head: &'a [u8],
    file_bytes: u64,
    at: usize,
}

impl<'a> Reader<'a> {
    /// The next `n_bytes`; `what` names them in errors.
    fn take(&mut self, n_bytes: u64, what: &dyn Fn() -> String) -> Result<&'a [u8], GgufError> {
        let start = self.at as u64;
        let end = start.checked_add(n_bytes).filter(|end| *end <= self.file_bytes);
        let Some(end) = end else {
            return Err(GgufError::BeyondEnd { what: what(), start, n_bytes, file_bytes: self.file_bytes });
        };
        if end > MAX_HEAD_BYTES {
            return Err(GgufError::TooMany { what: format!("the end of {}", what()), got: end, max: MAX_HEAD_BYTES });
        }
        let (from, to) = (self.at, end as usize); // at most MAX_HEAD_BYTES
        let Some(bytes) = self.head.get(from..to) else {
            return Err(GgufError::HeadGoesOn { what: what(), want: end, got: self.head.len() as u64 });
        };
        self.at = to;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, what: &dyn Fn() -> String) -> Result<[u8; N], GgufError> {
        let mut value = [0; N];
        value.copy_from_slice(self.take(N as u64, what)?);
        Ok(value)
    }

    fn u32(&mut self, what: &dyn Fn() -> String) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &dyn Fn() -> String) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn count(&mut self, max: u64, what: &str) -> Result<u64, GgufError> {
        let got = self.u64(&|| what.to_owned())?;
        if got > max { Err(GgufError::TooMany { what: what.to_owned(), got, max }) } else { Ok(got) }
    }

    fn string(&mut self, max: u64, what: &dyn Fn() -> String) -> Result<String, GgufError> {
        let n_bytes = self.u64(&|| format!("the length of {}", what()))?;
        if n_bytes > max {
            return Err(GgufError::TooMany { what: format!("the length of {}", what()), got: n_bytes, max });
        }
        let bytes = self.take(n_bytes, what)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(error) => Err(GgufError::Malformed { what: what(), reason: format!("not UTF-8: {error}") }),
        }
    }

    /// `n` numbers of `N` bytes, taken at once so that a lying count fails before anything is allocated.
    fn numbers<const N: usize, T>(
        &mut self,
        n: u64,
        what: &dyn Fn() -> String,
        number: fn([u8; N]) -> T,
    ) -> Result<Vec<T>, GgufError> {
        let bytes = self.take(n.saturating_mul(N as u64), what)?;
        Ok(bytes.as_chunks::<N>().0.iter().copied().map(number).collect())
    }

    fn value(&mut self, key: &str) -> Result<Value, GgufError> {
        let what = || format!("the value of {key}");
        let kind = self.u32(&|| format!("the type of {key}"))?;
        Ok(match kind {
            0 => Value::U8(u8::from_le_bytes(self.array(&what)?)),
            1 => Value::I8(i8::from_le_bytes(self.array(&what)?)),
            2 => Value::U16(u16::from_le_bytes(self.array(&what)?)),
            3 => Value::I16(i16::from_le_bytes(self.array(&what)?)),
            4 => Value::U32(self.u32(&what)?),
            5 => Value::I32(i32::from_le_bytes(self.array(&what)?)),
            6 => Value::F32(f32::from_le_bytes(self.array(&what)?)),
            7 => Value::Bool(self.array::<1>(&what)?[0] != 0),
            8 => Value::String(self.string(MAX_HEAD_BYTES, &what)?),
            9 => Value::Array(self.values(key, 0)?),
            10 => Value::U64(self.u64(&what)?),
            11 => Value::I64(i64::from_le_bytes(self.array(&what)?)),
            12 => Value::F64(f64::from_le_bytes(self.array(&what)?)),
            _ => return Err(unknown_value(key, kind)),
        })
    }

    fn values(&mut self, key: &str, depth: usize) -> Result<Array, GgufError> {
        let what = || format!("the array {key}");
        if depth >= MAX_DEPTH {
            let reason = format!("arrays are nested more than {MAX_DEPTH} deep");
            return Err(GgufError::Malformed { what: what(), reason });
        }
        let kind = self.u32(&|| format!("the element type of {key}"))?;
        let n = self.u64(&|| format!("the length of {key}"))?;
        Ok(match kind {
            0 => Array::U8(self.numbers(n, &what, u8::from_le_bytes)?),
            1 => Array::I8(self.numbers(n, &what, i8::from_le_bytes)?),
            2 => Array::U16(self.numbers(n, &what, u16::from_le_bytes)?),
            3 => Array::I16(self.numbers(n, &what, i16::from_le_bytes)?),
            4 => Array::U32(self.numbers(n, &what, u32::from_le_bytes)?),
            5 => Array::I32(self.numbers(n, &what, i32::from_le_bytes)?),
            6 => Array::F32(self.numbers(n, &what, f32::from_le_bytes)?),
            7 => Array::Bool(self.numbers(n, &what, |[byte]: [u8; 1]| byte != 0)?),
            // the elements are collected one by one: a lying count meets the end of the file first
            8 => Array::String(self.elements(n, |r, i| r.string(MAX_HEAD_BYTES, &|| format!("element {i} of {key}")))?),
            9 => Array::Array(self.elements(n, |r, _| r.values(key, depth + 1))?),
            10 => Array::U64(self.numbers(n, &what, u64::from_le_bytes)?),
            11 => Array::I64(self.numbers(n, &what, i64::from_le_bytes)?),
            12 => Array::F64(self.numbers(n, &what, f64::from_le_bytes)?),
            _ => return Err(unknown_value(key, kind)),
        })
    }

    fn elements<T>(
        &mut self,
        n: u64,
        mut element: impl FnMut(&mut Self, u64) -> Result<T, GgufError>,
    ) -> Result<Vec<T>, GgufError> {
        (0..n).map(|i| element(self, i)).collect::<Result<Vec<T>, _>>()
    }

    /// One entry of the table of tensors; `start` is still relative to the tensor data.
    fn tensor(&mut self, tensor_idx: u64) -> Result<TensorInfo, GgufError> {
        let name = self.string(MAX_NAME_BYTES, &|| format!("the name of tensor {tensor_idx}"))?;
        let what = || format!("the entry of tensor {name}");
        let malformed = |reason: String| GgufError::Malformed { what: format!("tensor {name}"), reason };
        let n_dims = self.u32(&what)?;
        if n_dims == 0 || n_dims > MAX_DIMS {
            return Err(malformed(format!("has {n_dims} dimensions, expected 1 to {MAX_DIMS}")));
        }
        let mut shape = Vec::new();
        for _ in 0..n_dims {
            let extent = self.u64(&what)?;
            let extent = usize::try_from(extent).ok().filter(|extent| *extent > 0);
            shape.push(extent.ok_or_else(|| malformed("has a dimension that is 0 or too large".to_owned()))?);
        }
        shape.reverse(); // the file names the innermost dimension first
        let type_id = self.u32(&what)?;
        let start = self.u64(&what)?;
        let Some(kind) = TensorKind::from_id(type_id) else {
            return Err(GgufError::UnknownKind { name, type_id, type_name: TensorKind::name_of_id(type_id) });
        };
        let Some(n_bytes) = kind.n_bytes(&shape) else {
            let reason = format!(
                "shape {shape:?} cannot be {}: rows are whole blocks of {} values, and the size fits 64 bits",
                kind.name(),
                kind.block_values()
            );
            return Err(malformed(reason));
        };
        Ok(TensorInfo { name, shape, kind, start, n_bytes })
    }
}

fn unknown_value(key: &str, kind: u32) -> GgufError {
    GgufError::Malformed {
        what: format!("metadata {key}"),
        reason: format!("has unknown type {kind}, expected 0 to 12"),
    }
}

impl Gguf {
    /// Reads the head. `head` is the start of the file, the whole of it or at least its head;
    /// `file_bytes` is the length of the whole file.
    ///
    /// # Errors
    /// [`GgufError::HeadGoesOn`] where more bytes are needed; else whatever is wrong with the file: another
    /// format or version, lengths, counts, alignment, offsets or sizes that cannot be, a type of tensor
    /// that Beckon does not read, names that appear twice, tensors that overlap.
    pub fn parse(head: &[u8], file_bytes: u64) -> Result<Self, GgufError> {
        let file_bytes = file_bytes.max(head.len() as u64);
        let mut reader = Reader { head, file_bytes, at: 0 };
        let magic = &head[..head.len().min(MAGIC.len())];
        if magic != &MAGIC[..magic.len()] || (magic.len() as u64) == file_bytes {
            return Err(GgufError::NotGguf { got: magic.to_vec() });
        }
        reader.take(MAGIC.len() as u64, &|| "the magic".to_owned())?;
        let version = check_version(reader.u32(&|| "the version".to_owned())?)?;
        let n_tensors = reader.count(MAX_ENTRIES, "the number of tensors")?;
        let n_entries = reader.count(MAX_ENTRIES, "the number of metadata entries")?;
        let mut metadata = BTreeMap::new();
        for i in 0..n_entries {
            let key = reader.string(MAX_NAME_BYTES, &|| format!("metadata key {i}"))?;
            let value = reader.value(&key)?;
            match metadata.entry(key) {
                Entry::Occupied(there) => {
                    let what = format!("metadata {}", there.key());
                    return Err(GgufError::Malformed { what, reason: "appears twice".to_owned() });
                }
                Entry::Vacant(place) => _ = place.insert(value),
            }
        }
        let alignment = alignment(&metadata)?;
        let mut tensors = BTreeMap::new();
        for i in 0..n_tensors {
            let info = reader.tensor(i)?;
            if let Some(there) = tensors.insert(info.name.clone(), info) {
                let what = format!("tensor {}", there.name);
                return Err(GgufError::Malformed { what, reason: "appears twice".to_owned() });
            }
        }
        let data_start = (reader.at as u64).next_multiple_of(alignment);
        place(&mut tensors, data_start, alignment, file_bytes)?;
        Ok(Self { version, metadata, tensors, data_start, file_bytes })
    }
}

fn check_version(version: u32) -> Result<u32, GgufError> {
    let reason = match version {
        2 | 3 => return Ok(version),
        0 | 1 => "versions 2 and 3 are read; convert it again with a current llama.cpp",
        _ if matches!(version.swap_bytes(), 1..=3) => "it was written for big-endian machines; convert it again",
        _ => "versions 2 and 3 are read; update Beckon, or convert the model to version 3",
    };
    Err(GgufError::Version { got: version, reason })
}

fn alignment(metadata: &BTreeMap<String, Value>) -> Result<u64, GgufError> {
    let Some(value) = metadata.get(ALIGNMENT_KEY) else { return Ok(DEFAULT_ALIGNMENT) };
    let fits = |a: &u64| a.is_power_of_two() && (8..=MAX_ALIGNMENT).contains(a);
    value.as_u64().filter(fits).ok_or_else(|| GgufError::Metadata {
        key: ALIGNMENT_KEY.to_owned(),
        reason: format!("is {}, expected a power of two from 8 to {MAX_ALIGNMENT}", value.describe()),
    })
}

/// Offsets from the start of the file, checked against alignment, the file's end and each other.
fn place(
    tensors: &mut BTreeMap<String, TensorInfo>,
    data_start: u64,
    alignment: u64,
    file_bytes: u64,
) -> Result<(), GgufError> {
    for info in tensors.values_mut() {
        if !info.start.is_multiple_of(alignment) {
            let reason = format!("its offset {} is not a multiple of the alignment {alignment}", info.start);
            return Err(GgufError::Malformed { what: format!("tensor {}", info.name), reason });
        }
        let start = data_start.checked_add(info.start);
        let end = start.and_then(|start| start.checked_add(info.n_bytes));
        if end.is_none_or(|end| end > file_bytes) {
            let (what, start) = (format!("tensor {}", info.name), start.unwrap_or(u64::MAX));
            return Err(GgufError::BeyondEnd { what, start, n_bytes: info.n_bytes, file_bytes });
        }
        info.start += data_start;
    }
    // of the type that checkpoints sort too: another one is 5 kB of page
    let mut ranges: Vec<(u64, u64, &str)> = Vec::new();
    ranges.extend(tensors.values().map(|info| (info.start, info.range().end, info.name.as_str())));
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        let ((_, other_end, other), (start, _, name)) = (pair[0], pair[1]);
        if start < other_end {
            return Err(GgufError::Overlap { name: name.to_owned(), start, other: other.to_owned(), other_end });
        }
    }
    Ok(())
}
