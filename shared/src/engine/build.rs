//! Where engines come from: checkpoints, trained tensors, other engines.

use super::heads::Heads;
use super::linear::Linear;
use super::parallel::{OneThread, Parallel};
use super::weights::{Weights, plain_matrix};
use super::{Engine, EngineError, Executor, Limits, cpu, gpu};
use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::quant::Matrix;
use crate::tensor::TensorMap;
use crate::tokenizer::Tokenizer;
use beckon_shaders::{GpuContext, KernelPath, KernelSpec};
use std::sync::Arc;

impl Engine {
    /// The networks of a checkpoint on the CPU, in f32: the policy, and the reward model where there is one.
    ///
    /// # Errors
    /// A checkpoint that was put together by hand and lacks something.
    pub fn cpu(checkpoint: &Checkpoint) -> Result<Self, EngineError> {
        Self::cpu_within(checkpoint, Limits::of(&checkpoint.manifest.model))
    }

    /// [`Engine::cpu`] with sizes and a kernel path of the caller's.
    ///
    /// # Errors
    /// As [`Engine::cpu`]; [`EngineError::KernelPath`].
    pub fn cpu_within(checkpoint: &Checkpoint, limits: Limits) -> Result<Self, EngineError> {
        Self::cpu_on(checkpoint, limits, Arc::new(OneThread))
    }

    /// [`Engine::cpu_within`] on the caller's threads; their number does not change a result.
    ///
    /// # Errors
    /// As [`Engine::cpu_within`].
    pub fn cpu_on(checkpoint: &Checkpoint, limits: Limits, threads: Arc<dyn Parallel>) -> Result<Self, EngineError> {
        Self::cpu_of_parts(Parts::of(checkpoint.clone())?, limits, threads)
    }

    /// [`Engine::cpu_within`] of a checkpoint that nobody else needs: at no time are there more than its weights and one
    /// product's matrices beside them.
    ///
    /// # Errors
    /// As [`Engine::cpu_within`].
    pub fn cpu_of(checkpoint: Checkpoint, limits: Limits) -> Result<Self, EngineError> {
        Self::cpu_of_parts(Parts::of(checkpoint)?, limits, Arc::new(OneThread))
    }

    fn cpu_of_parts(parts: Parts, limits: Limits, threads: Arc<dyn Parallel>) -> Result<Self, EngineError> {
        let Parts { config, policy, reward, tokenizer } = parts;
        let (reward, heads) = reward.unzip();
        let executor = Executor::Cpu(cpu::CpuExecutor::new(&config, limits, (policy, reward), threads)?);
        Ok(Self { config, limits, tokenizer, executor, heads, adapted_heads: None })
    }

    /// The networks of a checkpoint on a GPU; [`GpuContext::request`] picks the adapter.
    ///
    /// # Errors
    /// As [`Engine::cpu`], or what the device refuses.
    pub async fn gpu(checkpoint: &Checkpoint, gpu: &GpuContext) -> Result<Self, EngineError> {
        Self::gpu_edited(checkpoint, gpu, &KernelSpec::clone).await
    }

    /// [`Engine::gpu`] with sizes of the caller's: outside a page, where a batch may be as large as the device holds. A pass
    /// takes a whole batch, so its rows are at least [`Limits::n_seqs`].
    ///
    /// # Errors
    /// As [`Engine::gpu`].
    pub async fn gpu_within(checkpoint: &Checkpoint, gpu: &GpuContext, limits: Limits) -> Result<Self, EngineError> {
        let limits = Limits { rows_per_pass: limits.rows_per_pass.max(limits.n_seqs), ..limits };
        Self::gpu_made(checkpoint, gpu, limits, &KernelSpec::clone).await
    }

    /// [`Engine::gpu`] with each kernel's source edited before: for tests that a wrong kernel is noticed.
    ///
    /// # Errors
    /// As [`Engine::gpu`].
    pub async fn gpu_edited(
        checkpoint: &Checkpoint,
        gpu: &GpuContext,
        edit: &dyn Fn(&KernelSpec) -> KernelSpec,
    ) -> Result<Self, EngineError> {
        Self::gpu_made(checkpoint, gpu, Limits::of(&checkpoint.manifest.model), edit).await
    }

    async fn gpu_made(
        checkpoint: &Checkpoint,
        gpu: &GpuContext,
        limits: Limits,
        edit: &dyn Fn(&KernelSpec) -> KernelSpec,
    ) -> Result<Self, EngineError> {
        let Parts { config, policy, reward, tokenizer } = Parts::of(checkpoint.clone())?;
        let in_blocks = |weights: Weights| weights.map(|matrix| Linear::new(matrix, KernelPath::F32));
        let (policy, (reward, heads)) = (in_blocks(policy), reward.unzip());
        let reward = reward.map(in_blocks);
        let of_reward = reward.as_ref().zip(heads.as_ref());
        let executor = gpu::GpuExecutor::new(gpu, &config, limits, &policy, of_reward, edit).await?;
        Ok(Self { config, limits, tokenizer, executor: Executor::Gpu(executor), heads, adapted_heads: None })
    }

    /// The networks of an engine on the CPU, as they are without an adapter, on a GPU too: uploaded from that engine's weights, a
    /// product's matrices at a time.
    ///
    /// # Errors
    /// [`EngineError::NoWeights`] of an engine on a GPU; what the device refuses.
    pub async fn gpu_beside(&self, gpu: &GpuContext) -> Result<Self, EngineError> {
        let Executor::Cpu(executor) = &self.executor else { return Err(EngineError::NoWeights) };
        let (policy, reward) = executor.weights();
        let limits = Limits::of(&self.config);
        let reward = reward.zip(self.heads.as_ref());
        let executor = gpu::GpuExecutor::new(gpu, &self.config, limits, policy, reward, &KernelSpec::clone).await?;
        Ok(Self {
            config: self.config.clone(),
            limits,
            tokenizer: self.tokenizer.clone(),
            executor: Executor::Gpu(executor),
            heads: self.heads.clone(),
            adapted_heads: None,
        })
    }

    /// On the CPU, whether products are made as [`KernelPath::F32`] makes them, bit for bit, on whatever path the weights lie
    /// for; slow, and in no more memory than one matrix. Nothing changes on a GPU.
    pub fn set_exact(&mut self, exact: bool) {
        if let Executor::Cpu(executor) = &mut self.executor {
            executor.set_exact(exact);
        }
    }

    /// A policy alone on the CPU, unquantized: RL's rollouts. Names as [`crate::config::tensor_names`].
    ///
    /// # Errors
    /// A configuration that cannot be; tensors missing, of another shape or not finite.
    pub fn from_tensors(config: &ModelConfig, policy: &TensorMap, tokenizer: &Tokenizer) -> Result<Self, EngineError> {
        config.validate()?;
        let weights = Weights::gather(config, |name| {
            let tensor = policy.get(name).ok_or_else(|| EngineError::MissingTensor { name: name.to_owned() })?;
            plain_matrix(name, tensor)
        })?;
        let limits = Limits::of(config);
        let executor = Executor::Cpu(cpu::CpuExecutor::new(config, limits, (weights, None), Arc::new(OneThread))?);
        Ok(Self {
            config: config.clone(),
            limits,
            tokenizer: Arc::new(tokenizer.clone()),
            executor,
            heads: None,
            adapted_heads: None,
        })
    }

    /// Another engine over the same weights with its own cache, for another thread; `None` on a GPU.
    pub fn fork(&self) -> Option<Self> {
        let Executor::Cpu(executor) = &self.executor else { return None };
        Some(Self {
            config: self.config.clone(),
            limits: self.limits,
            tokenizer: self.tokenizer.clone(),
            executor: Executor::Cpu(executor.clone()),
            heads: self.heads.clone(),
            adapted_heads: self.adapted_heads.clone(),
        })
    }
}

/// What a checkpoint is taken apart into.
struct Parts {
    config: ModelConfig,
    policy: Weights,
    reward: Option<(Weights, Heads)>,
    tokenizer: Arc<Tokenizer>,
}

impl Parts {
    fn of(mut checkpoint: Checkpoint) -> Result<Self, EngineError> {
        let config = checkpoint.manifest.model.clone();
        config.validate()?;
        let tokenizer = Arc::new(checkpoint.tokenizer()?);
        let mut take = |name: String| -> Result<Matrix, EngineError> {
            checkpoint.tensors.remove(&name).ok_or(EngineError::MissingTensor { name })
        };
        let policy = Weights::gather(&config, |name| take(format!("policy.{name}")))?;
        let reward = match &checkpoint.manifest.reward {
            None => None,
            Some(reward) => {
                let weights = Weights::gather(&reward.trunk(&config), |name| take(format!("reward.{name}")))?;
                let values = |name: &str| Ok(take(format!("reward.{name}"))?.to_dense().data);
                Some((weights, Heads::gather(&config, reward, values)?))
            }
        };
        Ok(Self { config, policy, reward, tokenizer })
    }
}
