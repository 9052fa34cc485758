//! The kernels: one file of WGSL and one of Rust each, the latter with parameters, twin and
//! specification. [`matmul_int8`] is the CPU's alone: the fast form of [`matmul`].
//!
//! Dimension key: `R` rows of a pass, `C` columns, `N` outputs, `H` heads, `G` key-value heads, `K` head
//! width, `S` cache slots, `F` feed-forward width. Matrices are row-major.

pub mod attention;
pub mod embed;
pub mod heads;
pub mod low_rank_down;
pub mod low_rank_up;
pub mod matmul;
pub mod matmul_int8;
pub mod norm_gate_up;
pub mod norm_matmul;
pub mod norm_rows;
pub mod product;
pub mod rms_norm;
pub mod rope_append;
pub mod sample;
pub mod silu_mul;

use crate::context::{GpuContext, GpuError};
use crate::kernel::{Kernel, KernelSpec};
use crate::source::Variant;
use crate::weight::WeightFormat;
use product::Tiling;
use std::collections::{BTreeMap, BTreeSet};

/// Every kernel.
pub const SPECS: [&KernelSpec; 12] = [
    &attention::SPEC,
    &embed::SPEC,
    &heads::SPEC,
    &low_rank_down::SPEC,
    &low_rank_up::SPEC,
    &matmul::SPEC,
    &norm_gate_up::SPEC,
    &norm_matmul::SPEC,
    &norm_rows::SPEC,
    &rope_append::SPEC,
    &sample::SPEC,
    &silu_mul::SPEC,
];

/// The kernels that an engine runs in variants: those that take most of its time.
pub const VARIED: [&KernelSpec; 4] = [&attention::SPEC, &matmul::SPEC, &norm_gate_up::SPEC, &norm_matmul::SPEC];

/// The kernels that multiply with a weight matrix; each is compiled per format and [`Tiling`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Product {
    /// [`matmul`].
    Matmul,
    /// [`norm_matmul`].
    NormMatmul,
    /// [`norm_gate_up`].
    NormGateUp,
}

impl Product {
    /// Every product.
    pub const ALL: [Self; 3] = [Self::Matmul, Self::NormMatmul, Self::NormGateUp];

    /// The kernel as written.
    pub fn spec(self) -> &'static KernelSpec {
        match self {
            Self::Matmul => &matmul::SPEC,
            Self::NormMatmul => &norm_matmul::SPEC,
            Self::NormGateUp => &norm_gate_up::SPEC,
        }
    }

    /// The tilings that it is compiled for.
    pub fn tilings(self, of_adapter: [Tiling; 3]) -> [Tiling; 3] {
        match self {
            Self::NormGateUp => of_adapter.map(Tiling::paired),
            Self::Matmul | Self::NormMatmul => of_adapter,
        }
    }
}

/// All kernels compiled for one device.
#[derive(Debug, Clone)]
pub struct Kernels {
    /// Attention over two spans of slots.
    pub attention: Kernel,
    /// Heads of the reward model.
    pub heads: Kernel,
    /// Rows into an adapter's rank.
    pub low_rank_down: Kernel,
    /// From an adapter's rank onto a product.
    pub low_rank_up: Kernel,
    /// Chosen rows, normalised.
    pub norm_rows: Kernel,
    /// Rotary angles and cache writes.
    pub rope_append: Kernel,
    /// Draws of tokens.
    pub sample: Kernel,
    /// The activation by itself.
    pub silu_mul: Kernel,
    embed: BTreeMap<WeightFormat, Kernel>,
    products: BTreeMap<(Product, WeightFormat), ([Tiling; 3], Vec<Kernel>)>,
}

impl Kernels {
    /// Compiles the kernels: [`Kernels::embed`] for `tables`, [`Kernels::product`] for `products`, duplicates
    /// allowed; each kernel's source goes through `edit` first, for tests that a wrong kernel is noticed.
    ///
    /// # Errors
    /// [`GpuError::Rejected`] naming the kernel.
    pub async fn compile(
        gpu: &GpuContext,
        tables: &[WeightFormat],
        products: &[(Product, WeightFormat)],
        edit: &dyn Fn(&KernelSpec) -> KernelSpec,
    ) -> Result<Self, GpuError> {
        let tilings = Tiling::for_adapter(gpu.is_software());
        let (mut embeds, mut compiled) = (BTreeMap::new(), BTreeMap::new());
        for format in tables.iter().copied().collect::<BTreeSet<_>>() {
            embeds.insert(format, one(gpu, &edit(&embed::SPEC), &[("FORMAT", format.wgsl_value())]).await?);
        }
        for (product, format) in products.iter().copied().collect::<BTreeSet<_>>() {
            let tilings = product.tilings(tilings);
            let kernels = of_product(gpu, &edit(product.spec()), format, &tilings).await?;
            compiled.insert((product, format), (tilings, kernels));
        }
        Ok(Self {
            attention: one(gpu, &edit(&attention::SPEC), &[]).await?,
            heads: one(gpu, &edit(&heads::SPEC), &[]).await?,
            low_rank_down: one(gpu, &edit(&low_rank_down::SPEC), &[]).await?,
            low_rank_up: one(gpu, &edit(&low_rank_up::SPEC), &[]).await?,
            norm_rows: one(gpu, &edit(&norm_rows::SPEC), &[]).await?,
            rope_append: one(gpu, &edit(&rope_append::SPEC), &[]).await?,
            sample: one(gpu, &edit(&sample::SPEC), &[]).await?,
            silu_mul: one(gpu, &edit(&silu_mul::SPEC), &[]).await?,
            embed: embeds,
            products: compiled,
        })
    }

    /// Exchanges the kernels of a name for those of a variant: `attention`, or a product; any other is left alone. A product's
    /// are all, or, where `only` says so, those of a format for a number of rows. Bind groups stay good. After an error all
    /// kernels are as before.
    ///
    /// # Errors
    /// [`GpuError::Rejected`] naming the kernel.
    pub async fn set_variant(
        &mut self,
        gpu: &GpuContext,
        (name, variant): (&str, Variant),
        only: Option<(WeightFormat, usize)>,
    ) -> Result<(), GpuError> {
        if name == attention::SPEC.name {
            self.attention = one(gpu, &attention::SPEC.in_variant(variant), &[]).await?;
        }
        let mut exchanged = self.products.clone();
        for ((product, format), (tilings, kernels)) in &mut exchanged {
            if product.spec().name != name || only.is_some_and(|(only, _)| only != *format) {
                continue;
            }
            let spec = product.spec().in_variant(variant);
            for (tiling, kernel) in tilings.iter().zip(kernels) {
                if only.is_none_or(|(_, n_rows)| Tiling::choose(tilings, n_rows) == tiling) {
                    *kernel = of_product(gpu, &spec, *format, &[*tiling]).await?.remove(0);
                }
            }
        }
        self.products = exchanged;
        Ok(())
    }

    /// The gather of a table in `format`.
    ///
    /// # Panics
    /// If `format` was not among those compiled.
    pub fn embed(&self, format: WeightFormat) -> &Kernel {
        self.embed.get(&format).expect("embed compiled for this format")
    }

    /// The product with a matrix in `format` for `n_rows` rows, and how it is cut. Bind groups fit the kernels
    /// for all numbers of rows.
    ///
    /// # Panics
    /// If `product` and `format` were not among those compiled.
    pub fn product(&self, product: Product, format: WeightFormat, n_rows: usize) -> (&Kernel, &Tiling) {
        let (tilings, kernels) = self.products.get(&(product, format)).expect("product compiled for this format");
        let tiling = Tiling::choose(tilings, n_rows);
        let (_, kernel) = tilings.iter().zip(kernels).find(|(t, _)| *t == tiling).expect("one of its own");
        (kernel, tiling)
    }
}

/// A product for one format, once a tiling.
async fn of_product(
    gpu: &GpuContext,
    spec: &KernelSpec,
    format: WeightFormat,
    tilings: &[Tiling],
) -> Result<Vec<Kernel>, GpuError> {
    let constants = tilings.iter().map(|tiling| {
        let [rows, outputs, lanes] = tiling.constants();
        [("FORMAT", format.wgsl_value()), rows, outputs, lanes]
    });
    let constants: Vec<_> = constants.collect();
    Kernel::compile(gpu, spec, &constants.iter().map(|constants| &constants[..]).collect::<Vec<_>>()).await
}

async fn one(gpu: &GpuContext, spec: &KernelSpec, constants: &[(&str, f64)]) -> Result<Kernel, GpuError> {
    let mut compiled = Kernel::compile(gpu, spec, &[constants]).await?;
    Ok(compiled.remove(0))
}
