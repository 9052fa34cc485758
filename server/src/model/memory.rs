//! Whether the tensors of a run fit into memory, asked before it begins: a system that runs out of memory ends the
//! process, and nobody is left to say what to lower.

use super::lora::n_adapter_weights;
use beckon_shared::config::ModelConfig;
use beckon_shared::control::{RunConfig, Stage};
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

/// Tokens that a text of a log has at least, conversation before it included.
const SHORTEST_TEXT: usize = 8;
const GIB: f64 = (1u64 << 30) as f64;

/// A stage that cannot have the memory it needs.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error(
    "{} needs at least {:.1} GiB of memory and {:.1} GiB are free; {advice}",
    stage.name(),
    *need as f64 / GIB,
    *free as f64 / GIB
)]
pub struct MemoryError {
    /// Which stage.
    pub stage: Stage,
    /// Bytes it holds at once, at least.
    pub need: u64,
    /// Bytes there are.
    pub free: u64,
    /// What to lower.
    pub advice: String,
}

/// Refuses a run of which a stage needs more than `free` bytes.
///
/// # Errors
/// [`MemoryError`] for the first such stage.
pub fn check(model: &ModelConfig, config: &RunConfig, free: u64) -> Result<(), MemoryError> {
    for (stage, batch) in
        [(Stage::Sft, "sft.batch_tokens"), (Stage::Garm, "garm.batch_pairs"), (Stage::Rl, "rl.batch_prompts")]
    {
        let need = need(model, config, stage);
        if need.weights + need.activations <= free {
            continue;
        }
        let advice = if need.weights > free && config.lora.is_none() {
            "train adapters of a base (lora) in place of all weights, or a smaller model".to_owned()
        } else if need.weights > free {
            "free some, or take a smaller model".to_owned()
        } else {
            let also = if config.checkpoint_activations { "" } else { ", or set checkpoint_activations" };
            format!("set micro_batch_tokens below {} or lower {batch}{also}", need.n_tokens)
        };
        return Err(MemoryError { stage, need: need.weights + need.activations, free, advice });
    }
    Ok(())
}

/// Bytes that the system, or the control group that the process is in, has left.
pub fn free() -> u64 {
    let system =
        System::new_with_specifics(RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram()));
    let group = system.cgroup_limits().map_or(u64::MAX, |limits| limits.free_memory);
    system.available_memory().min(group)
}

/// What a stage holds at once, at least.
struct Need {
    /// Bytes of weights, gradients, moments and copies.
    weights: u64,
    /// Bytes that the backward pass keeps.
    activations: u64,
    /// Padded tokens behind them.
    n_tokens: usize,
}

fn need(model: &ModelConfig, config: &RunConfig, stage: Stage) -> Need {
    // a policy, and a reward model's trunk, which has no output matrix of its own
    let (n_all, n_trunk) = (model.n_params(), model.trunk(model.n_layers).n_params());
    let (n_held, n_whole, n_tokens) = match stage {
        // what it starts from and what learns
        Stage::Sft => (2 * n_all, n_all, config.sft.batch_tokens),
        Stage::Garm => (n_all + n_trunk, n_trunk, 2 * config.garm.batch_pairs * SHORTEST_TEXT),
        // beside them the reference and the reward model
        _ => (3 * n_all + n_trunk, n_all, config.rl.batch_prompts * config.rl.group_size * SHORTEST_TEXT),
    };
    let n_learning = config.lora.map_or(n_whole, |lora| n_adapter_weights(model, &lora));
    let n_tokens = config.micro_batch_tokens.map_or(n_tokens, |limit| n_tokens.min(limit));
    // of a token and layer: residual stream and norms, queries to outputs, gate, up and their product
    let n_of_layer = 8 * model.d_model + 3 * model.d_ff;
    let n_kept = match config.checkpoint_activations {
        false => n_of_layer * model.n_layers,
        true => n_of_layer + model.d_model * model.n_layers,
    };
    let bytes = |n: usize| 4 * n as u64;
    Need {
        weights: bytes(n_held + 3 * n_learning),
        activations: bytes(n_kept).saturating_mul(n_tokens as u64),
        n_tokens,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use beckon_shared::config::Preset;
    use beckon_shared::control::LoraConfig;

    fn refused(config: &RunConfig, gib: f64) -> Option<MemoryError> {
        check(&ModelConfig::smollm2(), config, (gib * GIB) as u64).err()
    }

    #[test]
    fn a_stage_that_cannot_fit_is_refused_with_what_to_lower() {
        let adapters = RunConfig { lora: Some(LoraConfig::default()), ..RunConfig::default() };
        assert_eq!(refused(&adapters, 4.0), None, "a run of this size took 3 GiB at 512 tokens");
        let error = refused(&RunConfig::default(), 2.0).expect("weights, gradients and moments of all").to_string();
        assert!(error.starts_with("sft needs at least 3.") && error.contains("lora"), "{error}");
        let mut wide = adapters.clone();
        wide.sft.batch_tokens = 1 << 20;
        let error = refused(&wide, 16.0).expect("a million tokens at once").to_string();
        assert!(error.contains("micro_batch_tokens below 1048576 or lower sft.batch_tokens"), "{error}");
        wide.micro_batch_tokens = Some(512);
        assert_eq!(refused(&wide, 4.0), None, "the same step in parts");
        // 30 layers: the inputs of all and one whole are a tenth of 30 whole
        let mut deep = RunConfig { micro_batch_tokens: Some(1 << 14), ..wide.clone() };
        let error = refused(&deep, 10.0).expect("sixteen thousand tokens at once").to_string();
        assert!(error.contains("checkpoint_activations"), "{error}");
        deep.checkpoint_activations = true;
        assert_eq!(refused(&deep, 10.0), None, "layers are computed again");
        let mut many = adapters;
        many.rl.batch_prompts = 1 << 14;
        assert_eq!(refused(&many, 16.0).map(|error| error.stage), Some(Stage::Rl));
    }

    #[test]
    fn an_output_matrix_is_held_by_policies_and_not_by_a_reward_model() {
        let (tied, config) = (ModelConfig::smollm2(), RunConfig::default());
        let untied = ModelConfig { tied_embedding: false, ..tied.clone() };
        let more = |config: &RunConfig, stage| {
            let [with, without] = [&untied, &tied].map(|model| need(model, config, stage).weights);
            (with - without) / (4 * 49_152 * 576)
        };
        // what SFT starts from, and what learns with its gradient and moments; GaRM starts from a policy alone
        assert_eq!([Stage::Sft, Stage::Garm, Stage::Rl].map(|stage| more(&config, stage)), [5, 1, 6]);
        let adapters = RunConfig { lora: Some(LoraConfig::default()), ..config };
        assert_eq!([Stage::Sft, Stage::Garm, Stage::Rl].map(|stage| more(&adapters, stage)), [2, 1, 3]);
    }

    #[test]
    fn this_machine_has_memory_for_the_model_that_ships() {
        let free = free();
        assert!(free > 1 << 28, "{free} bytes are free");
        assert_eq!(check(&Preset::Nano.model(), &RunConfig::default(), free), Ok(()));
    }
}
