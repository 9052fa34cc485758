//! The text of kernels: WGSL files one after the other, in the page without what only people read; and variants for adapters that
//! can do more than WebGPU guarantees, which exchange single files or words of it.

use crate::kernel::KernelSpec;
use std::borrow::Cow;

/// WGSL files of `kernels/` in order.
macro_rules! text {
    ($($file:literal),+) => {{
        const TEXT: &str = concat!($(include_str!($file)),+);
        #[cfg(target_arch = "wasm32")]
        const TEXT_OF_PAGE: &str = {
            const BYTES: [u8; $crate::source::stripped_len(TEXT)] = $crate::source::stripped(TEXT);
            match str::from_utf8(&BYTES) {
                Ok(text) => text,
                Err(_) => panic!("comments and indentation end between characters"),
            }
        };
        #[cfg(not(target_arch = "wasm32"))]
        const TEXT_OF_PAGE: &str = TEXT; // messages of compilers then name the lines of files
        std::borrow::Cow::Borrowed(TEXT_OF_PAGE)
    }};
}
pub(crate) use text;

/// Length of [`stripped`].
#[cfg(any(target_arch = "wasm32", test))]
pub(crate) const fn stripped_len(text: &str) -> usize {
    walk::<0>(text).1
}

/// The text without comments, indentation and empty lines. WGSL has no strings that could look like a comment.
#[cfg(any(target_arch = "wasm32", test))]
pub(crate) const fn stripped<const N: usize>(text: &str) -> [u8; N] {
    walk::<N>(text).0
}

/// The first N bytes of the stripped text, and its length.
#[cfg(any(target_arch = "wasm32", test))]
const fn walk<const N: usize>(text: &str) -> ([u8; N], usize) {
    let text = text.as_bytes();
    let (mut out, mut len, mut at, mut at_start) = ([0; N], 0, 0, true);
    while at < text.len() {
        let is_comment = text[at] == b'/' && at + 1 < text.len() && text[at + 1] == b'/';
        if is_comment {
            while at < text.len() && text[at] != b'\n' {
                at += 1;
            }
            continue;
        }
        let byte = text[at];
        at += 1;
        if at_start && (byte == b' ' || byte == b'\n') {
            continue;
        }
        at_start = byte == b'\n';
        if len < N {
            out[len] = byte;
        }
        len += 1;
    }
    (out, len)
}

/// What a kernel uses beyond what WebGPU guarantees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, PartialOrd, Ord)]
pub struct Variant {
    /// Products of weights are made in f16; they are added up in f32.
    pub f16: bool,
    /// Sums over threads go through subgroups. Never in a page: wgpu cannot ask a browser for them.
    pub subgroups: bool,
}

impl Variant {
    /// What every adapter has.
    pub const PLAIN: Self = Self { f16: false, subgroups: false };

    /// Every variant.
    pub const ALL: [Self; 4] = [
        Self::PLAIN,
        Self { f16: true, subgroups: false },
        Self { f16: false, subgroups: true },
        Self { f16: true, subgroups: true },
    ];
}

impl std::fmt::Display for Variant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match (self.f16, self.subgroups) {
            (false, false) => "plain",
            (true, false) => "f16",
            (false, true) => "subgroups",
            (true, true) => "f16 and subgroups",
        })
    }
}

/// Files with what is common to kernels, and what stands in their place where there are subgroups.
#[cfg(not(target_arch = "wasm32"))]
const BY_SUBGROUPS: [[&str; 2]; 2] = [
    [include_str!("kernels/lanes.wgsl"), include_str!("kernels/lanes_subgroup.wgsl")],
    [include_str!("kernels/threads.wgsl"), include_str!("kernels/threads_subgroup.wgsl")],
];

impl KernelSpec {
    /// The kernel in a variant; as it is where the variant changes nothing in it.
    pub fn in_variant(&self, variant: Variant) -> Self {
        let mut source = self.source.clone();
        #[cfg(not(target_arch = "wasm32"))]
        if variant.subgroups {
            for [plain, other] in BY_SUBGROUPS {
                source = Cow::Owned(source.replace(plain, other));
            }
        }
        if variant.f16 && source.contains(PLAIN_REAL) {
            source = Cow::Owned(["enable f16;\n", &source.replace(PLAIN_REAL, "alias Real = f16;")].concat());
        }
        Self { source, ..self.clone() }
    }

    /// `variant` without what changes nothing in this kernel.
    pub fn reduced(&self, variant: Variant) -> Variant {
        let source = self.in_variant(variant).source;
        Variant::ALL.into_iter().find(|less| self.in_variant(*less).source == source).unwrap_or(variant)
    }

    /// The variants that differ from the plain kernel and from each other.
    pub fn variants(&self) -> impl Iterator<Item = Variant> {
        Variant::ALL.into_iter().skip(1).filter(|variant| self.reduced(*variant) == *variant)
    }
}

/// The line of `dequantize.wgsl` that says what products are made in.
const PLAIN_REAL: &str = "alias Real = f32;";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_people_read_goes() {
        const TEXT: &str = "// head — of all\nfn f() { // why\n    return a / b;\n\n}\n";
        let bytes: [u8; stripped_len(TEXT)] = stripped(TEXT);
        assert_eq!(str::from_utf8(&bytes), Ok("fn f() { \nreturn a / b;\n}\n"));
    }

    #[test]
    fn a_kernel_has_the_variants_that_change_it() {
        use crate::kernels::{attention, embed, matmul, sample};
        let of = |spec: &KernelSpec| spec.variants().map(|variant| variant.to_string()).collect::<Vec<_>>();
        assert_eq!(of(&matmul::SPEC), ["f16", "subgroups", "f16 and subgroups"]);
        assert_eq!(of(&attention::SPEC), ["subgroups"]);
        assert_eq!(of(&sample::SPEC), [""; 0]);
        assert!(embed::SPEC.in_variant(Variant::ALL[3]).source.starts_with("enable f16;"));
    }
}
