//! WGSL kernels, each with a CPU twin of the same name, and the little that is needed to run them.
//!
//! In the loop: the arithmetic under `beckon_shared::engine`. Every kernel lives in `kernels/NAME.wgsl`
//! beside `kernels/NAME.rs`, which holds its parameters (`repr(C)`, size asserted), its twin and its
//! specification; `rms_norm` and `silu_mul` are steps of twins whose kernels do more at once. The kernels use f32
//! activations and only what WebGPU guarantees: 256 invocations, 16 KiB of workgroup memory, 8 storage buffers, no
//! subgroups. Where an adapter has f16 or subgroups, a [`Variant`] of a kernel uses them.
//!
//! Never here: models, training, the DOM, threads.

mod compare;
mod context;
mod kernel;
pub mod kernels;
mod math;
mod packed;
mod panel;
mod ready;
pub mod softmax;
mod source;
mod weight;

pub use compare::{assert_all_close, max_diff_within};
pub use context::{GpuContext, GpuError, SOFTWARE_SUBGROUP};
pub use kernel::{Access, Kernel, KernelSpec, MAX_WORKGROUPS, PARAMS_ALIGNMENT, Recorder};
pub use kernels::matmul_int8::KernelPath;
pub use kernels::{Kernels, Product};
pub use packed::{PackedWeight, TILE};
pub use panel::{OUTPUTS, Panels};
pub use ready::ready;
pub use source::Variant;
pub use weight::{BLOCK, WeightFormat, WeightView, f32_from_f16};
