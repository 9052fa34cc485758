//! Which arithmetic and which instructions the CPU executor works with.

use std::fmt;

/// The ways to compute a product on the CPU. All `Int8…` paths give the same bits; they and
/// [`KernelPath::F32`] differ by the rounding of activations to 8 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KernelPath {
    /// Plain f32 throughout: the truth that other paths and the GPU are compared with.
    F32,
    /// Integer products without vector instructions.
    Int8Scalar,
    /// Integer products with AVX2.
    Int8Avx2,
    /// Integer products with AVX-512 and its VNNI.
    Int8Avx512,
    /// Integer products with NEON.
    Int8Neon,
    /// Integer products with WebAssembly's 128-bit vectors.
    Int8Simd128,
    /// The same with relaxed vector instructions, in a module beside the page's; see `relaxed.rs` beside this file.
    Int8RelaxedSimd,
    /// The same where the processor multiplies four bytes and adds them to a sum in one instruction.
    Int8RelaxedDot,
}

impl KernelPath {
    /// Every path, the better one of a machine's later.
    pub const ALL: [Self; 8] = [
        Self::F32,
        Self::Int8Scalar,
        Self::Int8Avx2,
        Self::Int8Avx512,
        Self::Int8Neon,
        Self::Int8Simd128,
        Self::Int8RelaxedSimd,
        Self::Int8RelaxedDot,
    ];

    /// The fastest path of this processor and this build.
    pub fn fastest() -> Self {
        Self::ALL.into_iter().rev().find(|path| path.is_available()).unwrap_or(Self::F32)
    }

    /// Whether this processor and this build can take it.
    pub fn is_available(self) -> bool {
        match self {
            Self::F32 | Self::Int8Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Int8Avx2 => super::avx2::Avx2::detect().is_some(),
            #[cfg(target_arch = "x86_64")]
            Self::Int8Avx512 => super::avx512::Avx512::detect().is_some(),
            Self::Int8Neon => cfg!(target_arch = "aarch64"),
            Self::Int8Simd128 => cfg!(all(target_arch = "wasm32", target_feature = "simd128")),
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Self::Int8RelaxedSimd | Self::Int8RelaxedDot => super::relaxed::is_available(self),
            #[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
            Self::Int8RelaxedSimd | Self::Int8RelaxedDot => false,
            #[cfg(not(target_arch = "x86_64"))]
            Self::Int8Avx2 | Self::Int8Avx512 => false,
        }
    }

    /// Its name in the page and in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Int8Scalar => "int8-scalar",
            Self::Int8Avx2 => "int8-avx2",
            Self::Int8Avx512 => "int8-avx512-vnni",
            Self::Int8Neon => "int8-neon",
            Self::Int8Simd128 => "int8-simd128",
            Self::Int8RelaxedSimd => "int8-relaxed-simd",
            Self::Int8RelaxedDot => "int8-relaxed-dot",
        }
    }
}

impl fmt::Display for KernelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An integer path that this processor can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Int8(KernelPath);

impl Int8 {
    /// `None` for [`KernelPath::F32`] and where the path is not available.
    pub fn new(path: KernelPath) -> Option<Self> {
        (path != KernelPath::F32 && path.is_available()).then_some(Self(path))
    }

    /// A path that is about to be tried, or of a module that a test runs elsewhere.
    #[cfg(any(test, target_arch = "wasm32"))]
    pub(super) fn unchecked(path: KernelPath) -> Self {
        Self(path)
    }

    /// Which one.
    pub fn path(self) -> KernelPath {
        self.0
    }
}
