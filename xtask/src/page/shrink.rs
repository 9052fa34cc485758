//! Makes wasm-bindgen's two files smaller without changing what they do: names by which one calls the other carry 16 random
//! hexadecimal digits each, which nothing compresses, and the JavaScript comes with comments and indentation.
//!
//! And makes them fit for a memory that threads share, into which `worker.js` may turn the module's by one flag: a shared memory has
//! an end (WebAssembly threads proposal), and its old views stay, too short, where it grows.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;

/// Sections of a wasm module that hold names (WebAssembly Core Specification 5.5).
const CUSTOM: u8 = 0;
const IMPORTS: u8 = 2;
const EXPORTS: u8 = 7;
/// Section of the module's memory.
const MEMORY: u8 = 5;
/// Pages of the largest memory.
const MAX_PAGES: u32 = 1 << 16;
/// How wasm-bindgen sees that a view's memory has grown, and how it does where it may be shared.
const HAS_GROWN: [&str; 2] = ["Memory0.byteLength === 0", "Memory0.buffer !== wasm.memory.buffer"];
/// What short names begin with, a number behind it.
const SHORT: char = 'q';
/// Bytes of the module's magic number and version.
const HEAD: usize = 8;

/// The JavaScript and the module, the names between them shortened in both; custom sections are left out.
///
/// # Errors
/// A module that is cut or imports what is no function, or JavaScript with text over several lines.
pub fn shrink(js: &str, wasm: &[u8]) -> Result<(String, Vec<u8>)> {
    let js = stripped(js)?;
    ensure!(js.contains(HAS_GROWN[0]), "wasm-bindgen's JavaScript has no {:?}", HAS_GROWN[0]);
    let js = js.replace(HAS_GROWN[0], HAS_GROWN[1]);
    let taken = js.split(|c| !is_part(c)).find(|word| is_short(word));
    ensure!(taken.is_none(), "wasm-bindgen's JavaScript has a name that looks like a short one: {taken:?}");
    let mut names = BTreeMap::new();
    let mut out = wasm.get(..HEAD).context("a module without a head")?.to_vec();
    let mut rest = Reader(&wasm[HEAD..]);
    while !rest.0.is_empty() {
        let (kind, body) = (rest.byte()?, rest.bytes()?);
        let body = match kind {
            CUSTOM => continue,
            IMPORTS | EXPORTS => renamed(kind, body, &mut names)?,
            MEMORY => with_end(body)?,
            _ => body.to_vec(),
        };
        out.push(kind);
        put(&mut out, &body);
    }
    Ok((with_names(&js, &names), out))
}

/// The section of one memory without an end, with one.
fn with_end(body: &[u8]) -> Result<Vec<u8>> {
    let mut reader = Reader(body);
    ensure!(
        reader.number()? == 1 && reader.byte()? == 0,
        "the page's module has another memory than one without an end"
    );
    let mut out = vec![1, 1];
    put_number(&mut out, reader.number()?);
    put_number(&mut out, MAX_PAGES);
    Ok(out)
}

/// A section of imports or exports with short names for those that end with a hash.
fn renamed(kind: u8, body: &[u8], names: &mut BTreeMap<String, String>) -> Result<Vec<u8>> {
    let mut reader = Reader(body);
    let mut out = Vec::new();
    let n = reader.number()?;
    put_number(&mut out, n);
    for _ in 0..n {
        if kind == IMPORTS {
            put(&mut out, reader.bytes()?);
        }
        let name = std::str::from_utf8(reader.bytes()?).context("a name that is no text")?;
        let next = format!("{SHORT}{:x}", names.len());
        let has_hash = name.as_bytes().windows(16).any(|part| part.iter().all(u8::is_ascii_hexdigit));
        let name = if has_hash { names.entry(name.to_owned()).or_insert(next) } else { name };
        put(&mut out, name.as_bytes());
        let of = reader.byte()?;
        ensure!(kind == EXPORTS || of == 0, "the page's module imports something that is no function: {name}");
        out.push(of);
        put_number(&mut out, reader.number()?);
    }
    Ok(out)
}

/// Exchanges whole identifiers.
fn with_names(js: &str, names: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(js.len());
    let mut rest = js;
    while !rest.is_empty() {
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end);
        out += names.get(word).map_or(word, String::as_str);
        let end = behind.find(is_part).unwrap_or(behind.len());
        out += &behind[..end];
        rest = &behind[end..];
    }
    out
}

fn is_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn is_short(word: &str) -> bool {
    word.strip_prefix(SHORT).is_some_and(|number| u32::from_str_radix(number, 16).is_ok())
}

/// JavaScript without lines of comments, indentation and empty lines; line ends stay, as they can end a statement.
///
/// # Errors
/// Text over several lines, or a comment with something behind it.
pub fn stripped(js: &str) -> Result<String> {
    let mut out = String::with_capacity(js.len());
    let mut in_comment = false;
    for line in js.lines().map(str::trim) {
        in_comment |= line.starts_with("/*");
        if in_comment {
            in_comment = !line.contains("*/");
            ensure!(
                in_comment || line.find("*/") == Some(line.len() - 2),
                "a comment with something behind it: {line}"
            );
            continue;
        }
        ensure!(line.matches('`').count() % 2 == 0, "a text over several lines: {line}");
        if !line.is_empty() && !line.starts_with("//") {
            out += line;
            out.push('\n');
        }
    }
    ensure!(!in_comment, "a comment without an end");
    Ok(out)
}

/// What is left of a module or section.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8> {
        let (first, rest) = self.0.split_first().context("a module that is cut")?;
        self.0 = rest;
        Ok(*first)
    }

    /// LEB128, at most 32 bits.
    fn number(&mut self) -> Result<u32> {
        let mut number = 0;
        for shift in (0..32).step_by(7) {
            let byte = self.byte()?;
            number |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        anyhow::bail!("a number above 32 bits")
    }

    /// As many bytes as the number before them says.
    fn bytes(&mut self) -> Result<&'a [u8]> {
        let n = self.number()? as usize;
        let (bytes, rest) = self.0.split_at_checked(n).context("a module that is cut")?;
        self.0 = rest;
        Ok(bytes)
    }
}

fn put_number(out: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u32);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    const JS: &str = "/**\n * @returns {number}\n */\nexport function page() {\n    // why\n    wasm.page_h0123456789abcdef();\n}\n\
        import0 = { __wbg_call_0123456789abcdef: (a) => a, __wbg_call_0123456789abcdef_2: 1, \"text /* in it\": 2 };\n\
        if (cachedUint8ArrayMemory0.byteLength === 0) {}\n";

    fn module() -> Vec<u8> {
        let mut wasm = b"\0asm\x01\0\0\0".to_vec();
        let mut section = |kind: u8, names: &[&str]| {
            let mut body = vec![names.len() as u8];
            for name in names {
                if kind == IMPORTS {
                    put(&mut body, b"./b.js");
                }
                put(&mut body, name.as_bytes());
                body.extend([0, 0x83, 0x01]); // function 131
            }
            wasm.push(kind);
            put(&mut wasm, &body);
        };
        section(IMPORTS, &["__wbg_call_0123456789abcdef", "__wbg_call_0123456789abcdef_2", "plain"]);
        section(EXPORTS, &["page_h0123456789abcdef", "memory"]);
        wasm.extend([MEMORY, 3, 1, 0, 17]);
        wasm.extend([CUSTOM, 3, 2, b'h', b'i', 10, 1, 0]);
        wasm
    }

    #[test]
    fn both_sides_get_the_same_short_names() {
        let (js, wasm) = shrink(JS, &module()).unwrap();
        assert_eq!(
            js,
            "export function page() {\nwasm.q2();\n}\nimport0 = { q0: (a) => a, q1: 1, \"text /* in it\": 2 };\n\
             if (cachedUint8ArrayMemory0.buffer !== wasm.memory.buffer) {}\n"
        );
        let text: String = wasm.iter().map(|byte| char::from(*byte)).collect();
        assert!(
            ["./b.js\u{2}q0", "./b.js\u{2}q1", "plain", "\u{2}q2", "memory"].iter().all(|part| text.contains(part))
        );
        assert!(!text.contains("abcdef") && !text.contains("hi"), "{text:?}");
        assert!(text.ends_with("\u{a}\u{1}\u{0}") && text.contains("q2\u{0}\u{83}\u{1}"), "{text:?}");
        let memory = [MEMORY, 6, 1, 1, 17, 0x80, 0x80, 4];
        assert!(wasm.windows(memory.len()).any(|part| part == memory), "{wasm:x?}");
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert!(shrink("a = `one\ntwo`;", &module()).is_err());
        assert!(shrink("/* a */ b();", &module()).is_err());
        assert!(shrink(&format!("{JS}q0f();"), &module()).is_err());
        assert!(shrink("a();", &module()).is_err(), "no view of the memory");
        let text = module();
        let at = text.windows(5).position(|part| part == [MEMORY, 3, 1, 0, 17]).unwrap();
        let with = |flags: u8| [&text[..at + 3], &[flags], &text[at + 4..]].concat();
        assert!(shrink(JS, &with(0)).is_ok() && shrink(JS, &with(4)).is_err(), "a memory of 64 bits");
        assert!(shrink(JS, &module()[..module().len() - 1]).is_err());
        assert!(shrink(JS, b"\0asm").is_err());
    }
}
