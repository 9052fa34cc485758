//! Networks on Burn and what training them needs: device choice, batches, optimiser, saved state.
//!
//! In the loop: the stages of [`crate::stage`] train these networks; their tensors leave as a
//! [`TensorMap`](beckon_shared::tensor::TensorMap) under Hugging Face names, which is what the
//! checkpoint and the engine of the page read. Not here: what is learnt (the stages), quantization.

pub mod batch;
pub mod bench;
pub mod device;
pub mod lent;
pub mod llama;
pub mod lora;
pub mod memory;
pub mod micro;
pub mod ops;
pub mod optim;
pub mod parallel;
pub mod pretrained;
pub mod reward;
pub mod state;
pub mod threads;

use beckon_shared::config::ConfigError;

/// Tensors that do not make the network asked for.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum ModelError {
    /// The configuration itself cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A tensor of the network is not there.
    #[error("tensor {name} is missing")]
    Missing {
        /// Which.
        name: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error("tensor {name} has shape {got:?}, the configuration asks for {want:?}")]
    Shape {
        /// Which.
        name: String,
        /// Shape found.
        got: Vec<usize>,
        /// Shape expected.
        want: Vec<usize>,
    },
}
