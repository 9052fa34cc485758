//! Named dense f32 tensors: what Burn, safetensors files, the quantizer and the engine hand to each
//! other. Names are those of Hugging Face's Llama, see [`crate::config::tensor_names`].

use std::collections::BTreeMap;

/// A dense, row-major f32 tensor on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct DenseTensor {
    /// Extent of each dimension; a linear weight is `[out, in]`.
    pub shape: Vec<usize>,
    /// Row-major values, `shape.iter().product()` of them.
    pub data: Vec<f32>,
}

impl DenseTensor {
    /// Wraps `data`.
    ///
    /// # Panics
    /// If `data` does not fill `shape`.
    pub fn new(shape: Vec<usize>, data: Vec<f32>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "tensor data does not fill shape {shape:?}");
        Self { shape, data }
    }
}

/// Tensors by name, in a fixed order.
pub type TensorMap = BTreeMap<String, DenseTensor>;
