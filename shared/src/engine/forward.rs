//! What a forward pass takes and gives, whichever executor runs it. Dimension key: `R` rows, `N` rows whose
//! result is wanted, `D` width, `V` vocabulary.

use super::adapter::SideLayer;
use super::heads::Heads;
use super::{EngineError, cpu, gpu};
use crate::config::ModelConfig;
use beckon_shaders::KernelPath;
use beckon_shaders::kernels::heads::OUTPUTS;
use std::ops::Range;

/// Sizes that are fixed when an engine is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Cache slots of the prompt.
    pub prompt_tokens: usize,
    /// Cache slots of a candidate, and the longest suggestion.
    pub suffix_tokens: usize,
    /// Candidates in one batch; more are decoded batch by batch.
    pub n_seqs: usize,
    /// Rows of a pass; longer prompts take several passes.
    pub rows_per_pass: usize,
    /// On [`KernelPath::F32`] the CPU keeps a network's weights as plain f32 where they take at most this;
    /// larger ones stay in their blocks and are decoded during every pass.
    pub plain_bytes: usize,
    /// What the CPU computes with.
    pub kernel_path: KernelPath,
}

impl Limits {
    /// The product's sizes for a network, in f32.
    pub fn of(config: &ModelConfig) -> Self {
        Self {
            prompt_tokens: config.max_seq_len,
            suffix_tokens: config.max_suggestion_tokens(),
            n_seqs: 8,
            rows_per_pass: 64,
            plain_bytes: 64 << 20,
            kernel_path: KernelPath::F32,
        }
    }

    /// The same sizes with the fastest path of this processor.
    pub fn fastest(self) -> Self {
        Self { kernel_path: KernelPath::fastest(), ..self }
    }
}

/// Which network a pass runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Writes suggestions.
    Policy,
    /// Judges them.
    Reward,
}

/// One token of a forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Token id.
    pub token: u32,
    /// The candidate it belongs to; `None` for the prompt.
    pub seq: Option<u32>,
    /// Position in the sequence, from 0 at the first prompt token.
    pub pos: u32,
}

/// What a forward call gives back.
#[derive(Debug, Clone, Copy)]
pub enum Output<'a> {
    /// Logits `[N, V]` after the rows with these ascending indices.
    Logits(&'a [usize]),
    /// Hidden states `[R, D]` of all rows after the final norm.
    Hidden,
}

/// A run of rows that are computed together.
#[derive(Debug)]
pub(super) struct Pass {
    pub rows: Range<usize>,
    /// Rows whose result is wanted, counted from the run's start.
    pub selected: Vec<u32>,
}

impl Output<'_> {
    pub(super) fn passes(self, n_rows: usize, rows_per_pass: usize) -> Result<Vec<Pass>, EngineError> {
        if let Output::Logits(wanted) = self
            && let Some(i) = (0..wanted.len()).find(|i| wanted[*i] >= n_rows || *i > 0 && wanted[*i] <= wanted[*i - 1])
        {
            return Err(EngineError::Row { row_idx: wanted[i], reason: "its logits cannot be given in this order" });
        }
        let pass = |start: usize| {
            let rows = start..(start + rows_per_pass).min(n_rows);
            let selected = match self {
                Output::Hidden => (0..rows.len() as u32).collect(),
                Output::Logits(wanted) => {
                    wanted.iter().filter(|i| rows.contains(i)).map(|i| (i - start) as u32).collect()
                }
            };
            Pass { rows, selected }
        };
        Ok((0..n_rows).step_by(rows_per_pass).map(pass).collect())
    }
}

/// How the names of CPUs begin, before the [`KernelPath`].
pub(crate) const CPU_NAME: &str = "CPU, ";

/// Where the networks run.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // there is one of them
pub enum Executor {
    /// The kernels' CPU twins, or their fast forms.
    Cpu(cpu::CpuExecutor),
    /// WGSL on wgpu.
    Gpu(gpu::GpuExecutor),
}

impl Executor {
    /// `cpu` or `gpu`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Cpu(_) => "cpu",
            Self::Gpu(_) => "gpu",
        }
    }

    /// What people call the device; on the CPU with its [`KernelPath`], on a GPU with the variants of its kernels.
    pub fn device_name(&self) -> String {
        match self {
            Self::Cpu(executor) => format!("{CPU_NAME}{}", executor.kernel_path()),
            Self::Gpu(executor) => format!("{}, {}", executor.adapter_name(), executor.variants()),
        }
    }

    /// Puts an adapter's side paths beside the matrices of both networks, or takes them away; all or nothing. `heads` are those that
    /// then hold.
    ///
    /// # Errors
    /// A failure of the device.
    pub(super) async fn set_sides(
        &mut self,
        policy: Option<Vec<SideLayer>>,
        reward: Option<Vec<SideLayer>>,
        heads: Option<&Heads>,
    ) -> Result<(), EngineError> {
        match self {
            Self::Cpu(executor) => {
                executor.set_sides(policy, reward);
                Ok(())
            }
            Self::Gpu(executor) => executor.set_sides((policy, reward), heads).await,
        }
    }

    /// The reward model over rows of candidates, `lens` of each in turn, and its heads over them.
    ///
    /// # Errors
    /// As [`Executor::forward`].
    pub(super) async fn judge(
        &mut self,
        rows: &[Row],
        lens: &[usize],
        heads: &Heads,
    ) -> Result<Vec<[f32; OUTPUTS]>, EngineError> {
        match self {
            Self::Cpu(executor) => {
                let hidden = executor.forward(Network::Reward, rows, Output::Hidden)?; // [T of all, D]
                Ok(heads.outputs(lens, &hidden))
            }
            Self::Gpu(executor) => executor.judge(rows, lens).await,
        }
    }

    /// One forward pass of one network over any rows: prefill, a decode step or scoring.
    ///
    /// A prompt row attends to the prompt up to itself; a candidate's row to the whole prompt and to its
    /// own candidate up to itself. The cache keeps what was computed; see [`Row`] for positions.
    ///
    /// # Errors
    /// Rows without a place, no such network, or a failure of the device.
    pub async fn forward(
        &mut self,
        network: Network,
        rows: &[Row],
        output: Output<'_>,
    ) -> Result<Vec<f32>, EngineError> {
        match self {
            Self::Cpu(executor) => executor.forward(network, rows, output),
            Self::Gpu(executor) => executor.forward(network, rows, output).await,
        }
    }
}
