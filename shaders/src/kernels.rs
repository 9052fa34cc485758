//! The kernels: one file of WGSL and one of Rust each, the latter with parameters, twin and
//! specification. [`matmul_int8`] is the CPU's alone: the fast form of [`matmul`].
//!
//! Dimension key: `R` rows of a pass, `C` columns, `N` outputs, `H` heads, `G` key-value heads, `K` head
//! width, `S` cache slots, `F` feed-forward width. Matrices are row-major.

pub mod attention;
pub mod embed;
pub mod matmul;
pub mod matmul_int8;
pub mod rms_norm;
pub mod rope_append;
pub mod silu_mul;

use crate::context::{GpuContext, GpuError};
use crate::kernel::{Kernel, KernelSpec};
use crate::weight::WeightFormat;
use std::collections::BTreeMap;

/// Every kernel.
pub const SPECS: [&KernelSpec; 6] =
    [&attention::SPEC, &embed::SPEC, &matmul::SPEC, &rms_norm::SPEC, &rope_append::SPEC, &silu_mul::SPEC];

/// All kernels compiled for one device.
#[derive(Debug, Clone)]
pub struct Kernels {
    /// Attention over two spans of slots.
    pub attention: Kernel,
    /// Normalisation.
    pub rms_norm: Kernel,
    /// Rotary angles and cache writes.
    pub rope_append: Kernel,
    /// Gated activation.
    pub silu_mul: Kernel,
    embed: BTreeMap<WeightFormat, Kernel>,
    matmul: BTreeMap<WeightFormat, Vec<Kernel>>,
}

impl Kernels {
    /// Compiles the kernels, those with weights for each of `formats`; [`Kernels::embed`] for
    /// [`WeightFormat::F32`] as well, which selects rows.
    ///
    /// # Errors
    /// [`GpuError::Rejected`] naming the kernel.
    pub async fn compile(gpu: &GpuContext, formats: &[WeightFormat]) -> Result<Self, GpuError> {
        Self::compile_edited(gpu, formats, &KernelSpec::clone).await
    }

    /// [`Kernels::compile`] with each kernel's source edited before: for tests that a wrong kernel is noticed.
    ///
    /// # Errors
    /// As [`Kernels::compile`].
    pub async fn compile_edited(
        gpu: &GpuContext,
        formats: &[WeightFormat],
        edit: &dyn Fn(&KernelSpec) -> KernelSpec,
    ) -> Result<Self, GpuError> {
        let (mut embed, mut matmul) = (BTreeMap::new(), BTreeMap::new());
        for format in WeightFormat::ALL {
            let wanted = formats.contains(&format);
            let constant = ("FORMAT", format.wgsl_value());
            if wanted || format == WeightFormat::F32 {
                embed.insert(format, one(gpu, &edit(&embed::SPEC), &[constant]).await?);
            }
            if wanted {
                let variants = matmul::ROWS.map(|rows| [constant, ("ROWS", f64::from(rows))]);
                let variants: Vec<&[(&str, f64)]> = variants.iter().map(|v| &v[..]).collect();
                matmul.insert(format, Kernel::compile(gpu, &edit(&matmul::SPEC), &variants).await?);
            }
        }
        Ok(Self {
            attention: one(gpu, &edit(&attention::SPEC), &[]).await?,
            rms_norm: one(gpu, &edit(&rms_norm::SPEC), &[]).await?,
            rope_append: one(gpu, &edit(&rope_append::SPEC), &[]).await?,
            silu_mul: one(gpu, &edit(&silu_mul::SPEC), &[]).await?,
            embed,
            matmul,
        })
    }

    /// The gather of a table in `format`.
    ///
    /// # Panics
    /// If `format` was not among those compiled.
    pub fn embed(&self, format: WeightFormat) -> &Kernel {
        self.embed.get(&format).expect("embed compiled for this format")
    }

    /// The product with a matrix in `format` for `n_rows` rows, and the rows a workgroup takes.
    ///
    /// # Panics
    /// If `format` was not among those compiled.
    pub fn matmul(&self, format: WeightFormat, n_rows: usize) -> (&Kernel, u32) {
        let variant = matmul::variant_for(n_rows);
        let kernels = self.matmul.get(&format).expect("matmul compiled for this format");
        (&kernels[variant], matmul::ROWS[variant])
    }
}

async fn one(gpu: &GpuContext, spec: &KernelSpec, constants: &[(&str, f64)]) -> Result<Kernel, GpuError> {
    let mut compiled = Kernel::compile(gpu, spec, &[constants]).await?;
    Ok(compiled.remove(0))
}
