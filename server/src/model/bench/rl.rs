//! Speed of an RL step with its rollouts, without the rewards, which no rival has: drawing suggestions, their
//! log-probabilities under policy and reference, the policy gradient, AdamW.

use super::{BenchError, BenchFigure, N_WARMUP, RATE, Setting, Size, median};
use crate::model::batch::Batch;
use crate::model::device::pick_device;
use crate::model::llama::Llama;
use crate::model::optim::{AdamW, AdamWConfig};
use crate::stage::rl::RlInputs;
use crate::stage::rl::rollout::{Group, rollouts};
use crate::stage::sft::token_logps;
use beckon_shared::checkpoint::RewardConfig;
use beckon_shared::control::{DeviceChoice, RlConfig};
use beckon_shared::prompt::Prompt;
use beckon_shared::tokenizer::{MIN_VOCAB_SIZE, Tokenizer};
use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use serde::Serialize;
use std::time::Instant;

/// The drawing of suggestions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Drawing {
    /// Prompts of a step.
    pub n_prompts: usize,
    /// Suggestions for each.
    pub group_size: usize,
    /// Tokens of a prompt.
    pub n_prompt_tokens: usize,
    /// Tokens of a suggestion at most; an untrained policy almost never ends one earlier.
    pub n_new_tokens: usize,
}

/// Bytes of each prompt's text, each a token of a tokenizer without merges.
const N_PROMPT_BYTES: usize = 13;
const N_PROMPTS: usize = 8;
const GROUP_SIZE: usize = 8;
const N_NEW_TOKENS: usize = 16;

/// An RL step: tokens of all sequences per second.
///
/// # Errors
/// A GPU was asked for and there is none.
pub fn rl_step(size: Size, choice: DeviceChoice, n_steps: usize) -> Result<BenchFigure, BenchError> {
    let (device, text) = pick_device(choice)?;
    let tokenizer = Tokenizer::train([""; 0], MIN_VOCAB_SIZE)?;
    let prompts: Vec<Prompt> = (0..N_PROMPTS).map(|i| Prompt::from_query(format!("{i:0N_PROMPT_BYTES$}"))).collect();
    let mut setting = size.setting(n_steps);
    let n_prompt_tokens = tokenizer.encode_prompt(&prompts[0], setting.model.max_seq_len).len();
    setting.n_rows = N_PROMPTS * GROUP_SIZE;
    setting.n_tokens = n_prompt_tokens + N_NEW_TOKENS;
    setting.drawing =
        Some(Drawing { n_prompts: N_PROMPTS, group_size: GROUP_SIZE, n_prompt_tokens, n_new_tokens: N_NEW_TOKENS });
    let ours = measure(&setting, &tokenizer, &prompts, &device)?;
    Ok(setting.figure("rl", size, text, ours))
}

fn measure(setting: &Setting, tokenizer: &Tokenizer, prompts: &[Prompt], device: &Device) -> Result<f64, BenchError> {
    let config = RlConfig {
        batch_prompts: N_PROMPTS,
        group_size: GROUP_SIZE,
        max_new_tokens: N_NEW_TOKENS,
        ..RlConfig::default()
    };
    let autodiff = device.clone().autodiff();
    let mut model = Llama::init(&setting.model, 0, &autodiff)?;
    let reference = model.valid();
    let start = model.to_tensors();
    let reward_config = RewardConfig { variance_floor: 0.05, feature_dims: 1, kappa: 0.1, n_layers: None };
    let inputs = RlInputs {
        tokenizer,
        model: &setting.model,
        policy: &start,
        reward: &start,
        reward_config: &reward_config,
        prompts,
        bc: &[],
        logged: &[],
        lora: None,
        judge: None,
        truth: None,
    };
    let mut optimizer = AdamW::new(AdamWConfig::default());
    let mut speeds = Vec::with_capacity(setting.n_steps);
    for step in 0..N_WARMUP + setting.n_steps {
        let begun = Instant::now();
        let groups = rollouts(&inputs, &model.to_tensors(), prompts, &config, step as u64)?;
        let batch = Batch::pack(groups.iter().flat_map(|group: &Group| &group.sequences));
        let logps = token_logps(&model, &batch, &autodiff); // [N]
        let baseline = token_logps(&reference, &batch, device); // [N]
        // any advantages do: they change no operation
        let advantages: Vec<f32> = (0..batch.n_rows).map(|i| (i as f32).sin()).collect();
        let weights = batch.per_target(&advantages); // [N]
        let n = weights.len();
        let weights = Tensor::<1>::from_data(TensorData::new(weights, [n]), device) - baseline.mul_scalar(1e-3);
        let loss = (logps * weights).mean().neg();
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        (model, _) = optimizer.step(model, grads, RATE, &|_| 1.0);
        let n_tokens: usize = groups.iter().flat_map(|g| &g.sequences).map(|s| s.tokens.len()).sum();
        if step >= N_WARMUP {
            speeds.push(n_tokens as f64 / begun.elapsed().as_secs_f64());
        }
    }
    Ok(median(&mut speeds))
}
