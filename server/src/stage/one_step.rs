//! One step of each stage, loss and every gradient, with all weights and with adapters on a frozen base: in micro-batches
//! against whole batches, split over devices against one, and on a GPU against the CPU.
//!
//! The gradients are read from the state that a stage saves: after the first step AdamW's first moment is a tenth of
//! the (clipped) gradient.

use super::garm::{self, GarmInputs, Likelihood};
use super::rl::{self, RlInputs};
use super::sft::{self, SftInputs};
use super::{Control, Observer, StageContext, StageError};
use crate::model::device::{check_half, pick_device};
use crate::model::llama::Llama;
use crate::model::reward::RewardModel;
use crate::model::state::TrainState;
use beckon_shared::checkpoint::RewardConfig;
use beckon_shared::config::{ModelConfig, Preset};
use beckon_shared::control::{BasePrecision, DeviceChoice, GarmConfig, LoraConfig, RlConfig, SftConfig, Stage};
use beckon_shared::preference::{Anchor, Pair, PairKind, SftExample, Split};
use beckon_shared::prompt::Prompt;
use beckon_shared::reward::kl_controller::KlPlacement;
use beckon_shared::tensor::{DenseTensor, TensorMap};
use beckon_shared::tokenizer::Tokenizer;
use burn::tensor::Device;
use std::cell::OnceCell;
use std::path::Path;

const TOPICS: [&str; 6] = ["rice", "rome", "guitar", "berlin", "rust", "puppy"];
const ENDINGS: [&str; 4] = ["near me", "for beginners", "history facts", "price list"];

/// Ends the stage after its first step, and keeps that step's loss.
#[derive(Default)]
struct OneStep {
    loss: Option<f64>,
}

impl Observer for OneStep {
    fn metric(&mut self, _: Stage, step: usize, _: usize, name: &str, value: f64) {
        if step == 1 && name == "loss" {
            self.loss = Some(value);
        }
    }
    fn log(&mut self, _: &str) {}
    fn control(&mut self) -> Control {
        if self.loss.is_some() { Control::Cancel } else { Control::Continue }
    }
    fn wait_while_paused(&mut self) -> Control {
        Control::Continue
    }
}

/// What all stages learn from.
struct World {
    tokenizer: Tokenizer,
    model: ModelConfig,
    policy: TensorMap,
    reward: TensorMap,
    sft: Vec<SftExample>,
    split: Split,
    prompts: Vec<Prompt>,
}

fn world() -> World {
    let texts = TOPICS.iter().flat_map(|t| ENDINGS.map(|e| format!("{t} {e}")));
    let tokenizer = Tokenizer::train(texts, 300).expect("tokenizer");
    let model = ModelConfig { vocab_size: tokenizer.vocab_size(), d_model: 32, n_layers: 2, ..Preset::Tiny.model() };
    let policy = Llama::init(&model, 3, &Device::flex()).expect("policy").to_tensors();
    let mut reward =
        RewardModel::init(&model, &policy, 0.0, 0.01, 1, &Device::flex()).expect("reward model").to_tensors();
    reward.insert("feature_mean".into(), DenseTensor::new(vec![32], vec![0.0; 32]));
    reward.insert("whitening".into(), DenseTensor::new(vec![4, 32], vec![0.05; 128]));
    let mut sft = Vec::new();
    let mut split = Split::default();
    for (i, topic) in TOPICS.iter().enumerate() {
        let prompt = Prompt::from_query(*topic);
        for (k, ending) in ENDINGS.iter().enumerate() {
            let (source, group) = ("test".to_owned(), format!("user {i}"));
            let suggestion = format!("{topic} {ending}");
            sft.push(SftExample {
                source: source.clone(),
                group: group.clone(),
                prompt: prompt.clone(),
                suggestion: suggestion.clone(),
                weight: 1.0,
            });
            split.anchors.push(Anchor {
                source: source.clone(),
                group: group.clone(),
                prompt: prompt.clone(),
                suggestion: suggestion.clone(),
                level: (k % 3) as u8,
                weight: 1.0,
            });
            split.pairs.push(Pair {
                source,
                group,
                prompt: prompt.clone(),
                chosen: suggestion,
                rejected: format!("{topic} {}", ENDINGS[(k + 1) % 4]),
                label: 0.8,
                weight: 1.0,
                kind: PairKind::Slate,
                logit_variance: 0.0,
            });
        }
    }
    World { prompts: TOPICS.map(Prompt::from_query).to_vec(), tokenizer, model, policy, reward, sft, split }
}

/// Where and in which parts a step is computed.
struct Place<'a> {
    device: &'a Device,
    lent: &'a [Device],
    micro_batch_tokens: Option<usize>,
    checkpoint_activations: bool,
}

impl<'a> Place<'a> {
    fn whole(device: &'a Device) -> Self {
        Self { device, lent: &[], micro_batch_tokens: None, checkpoint_activations: false }
    }
}

/// Loss and gradients of a stage's first step.
fn first_step(
    place: &Place,
    dir: &Path,
    stage: impl FnOnce(&mut StageContext) -> Result<(), StageError>,
) -> (f64, TensorMap) {
    let mut observer = OneStep::default();
    let mut ctx = StageContext {
        device: place.device.clone(),
        lent: place.lent.to_vec(),
        dir: dir.to_owned(),
        seed: 5,
        save_every: 0,
        micro_batch_tokens: place.micro_batch_tokens,
        checkpoint_activations: place.checkpoint_activations,
        observer: &mut observer,
    };
    let end = stage(&mut ctx);
    assert!(matches!(end, Err(StageError::Cancelled)), "ends after a step: {end:?}");
    let state = TrainState::load(&dir.join("state.safetensors")).expect("readable").expect("saved");
    let moments = state.tensors.into_iter().filter(|(name, _)| name.starts_with("adamw.first.")).collect();
    (observer.loss.expect("a loss"), moments)
}

fn stages(world: &World, place: &Place, lora: Option<LoraConfig>, dir: &Path) -> [(f64, TensorMap); 3] {
    let World { tokenizer, model, policy, sft, split, .. } = world;
    let sft_config = SftConfig { n_steps: 2, batch_tokens: 256, n_warmup_steps: 0, ..SftConfig::default() };
    let inputs =
        SftInputs { tokenizer, model, init: Some(policy), lora, train: sft, held_out: &[], soft_targets: None };
    let one = first_step(place, &dir.join("sft"), |ctx| sft::run(ctx, &inputs, &sft_config).map(|_| ()));
    // no warm-up: the variance learns from the first step on, and synthetic text is read
    // on a network of chance two depths are as good as each other, and devices may differ
    let garm_config = GarmConfig {
        n_steps: 2,
        batch_pairs: 8,
        variance_warmup: 0.0,
        feature_dims: 4,
        n_layers: Some(2),
        text_weight: 0.2,
        ..GarmConfig::default()
    };
    let likelihood = Likelihood::Probit;
    let start = OnceCell::new();
    let inputs =
        GarmInputs { tokenizer, model, init: policy, lora, train: split, held_out: split, likelihood, start: &start };
    let two = first_step(place, &dir.join("garm"), |ctx| garm::run(ctx, &inputs, &garm_config).map(|_| ()));
    let three = rl_step(world, place, (lora, 1), &dir.join("rl"));
    [one, two, three]
}

/// Loss and gradients of RL's first step, a batch of rollouts with so many updates: of the first the loss, of all
/// together the moments.
fn rl_step(
    world: &World,
    place: &Place,
    (lora, updates_per_batch): (Option<LoraConfig>, usize),
    dir: &Path,
) -> (f64, TensorMap) {
    let World { tokenizer, model, policy, reward, sft, prompts, .. } = world;
    let config = RlConfig {
        n_steps: 2,
        updates_per_batch,
        batch_prompts: 2,
        group_size: 3,
        max_new_tokens: 6,
        kl_placement: if updates_per_batch > 1 { KlPlacement::Loss } else { KlPlacement::default() },
        ..RlConfig::default()
    };
    let reward_config = RewardConfig { variance_floor: 0.01, feature_dims: 4, kappa: 0.2, n_layers: None };
    let inputs = RlInputs {
        tokenizer,
        model,
        policy,
        reward,
        reward_config: &reward_config,
        prompts,
        bc: sft,
        logged: sft,
        lora,
        judge: None,
        truth: None,
    };
    first_step(place, dir, |ctx| rl::run(ctx, &inputs, &config).map(|_| ()))
}

/// Both have the same loss and gradients, within `tolerance` of each parameter's largest.
fn assert_same(what: &str, want: &[(f64, TensorMap); 3], got: &[(f64, TensorMap); 3], tolerance: f32) {
    for ((stage, want), got) in ["sft", "garm", "rl"].iter().zip(want).zip(got) {
        assert_same_step(&format!("{stage}, {what}"), want, got, tolerance);
    }
}

fn assert_same_step(what: &str, want: &(f64, TensorMap), got: &(f64, TensorMap), tolerance: f32) {
    let loss_tolerance = f64::from(tolerance) * 0.1 * want.0.abs().max(0.1);
    assert!((want.0 - got.0).abs() < loss_tolerance, "{what}: loss {} and {}", want.0, got.0);
    assert!(want.1.len() > 10 && want.1.keys().eq(got.1.keys()), "{what}: the same parameters learn");
    let largest = want.1.values().flat_map(|t| &t.data).fold(0f32, |m, x| m.max(x.abs()));
    assert!(largest > 1e-6, "{what}: something is learnt");
    for (parameter, want) in &want.1 {
        let size = want.data.iter().fold(1e-3 * largest, |m, x| m.max(x.abs()));
        for (want, got) in want.data.iter().zip(&got.1[parameter].data) {
            assert!((want - got).abs() < tolerance * size, "{what}: {parameter}: {want} and {got} of {size}");
        }
    }
}

#[test]
fn one_step_in_micro_batches_has_the_loss_and_every_gradient_of_whole_batches() {
    let (world, cpu) = (world(), Device::flex());
    for lora in [None, Some(LoraConfig::default())] {
        let dir = tempfile::tempdir().expect("folder");
        let whole = stages(&world, &Place::whole(&cpu), lora, &dir.path().join("whole"));
        // two or three rows at once
        let parts = Place { micro_batch_tokens: Some(32), ..Place::whole(&cpu) };
        let parts = stages(&world, &parts, lora, &dir.path().join("parts"));
        assert_same(&format!("micro-batches, lora {lora:?}"), &whole, &parts, 1e-3);
    }
}

/// A batch's second update reads the rollouts again, in parts and elsewhere as the first does.
#[test]
fn several_updates_a_batch_are_the_same_in_parts_and_split_over_devices() {
    let (world, cpu) = (world(), Device::flex());
    let (dir, lent) = (tempfile::tempdir().expect("folder"), [Device::flex()]);
    let step = |name: &str, place: &Place, n_updates| rl_step(&world, place, (None, n_updates), &dir.path().join(name));
    let whole = step("whole", &Place::whole(&cpu), 3);
    let parts = Place { micro_batch_tokens: Some(32), ..Place::whole(&cpu) };
    assert_same_step("in parts", &whole, &step("parts", &parts, 3), 1e-3);
    let split = Place { lent: &lent, ..Place::whole(&cpu) };
    assert_same_step("two devices", &whole, &step("split", &split, 3), 1e-3);
    let one = step("one", &Place::whole(&cpu), 1);
    assert_ne!(one.1, whole.1, "the others were taken");
}

/// All weights and adapters alone; in parts and over devices too, as each part is a pass of its own.
#[test]
fn one_step_with_recomputed_activations_has_the_loss_and_every_gradient_of_kept_ones() {
    let (world, cpu) = (world(), Device::flex());
    let lent = [Device::flex()];
    for (lora, lent, micro_batch_tokens) in
        [(None, &lent[..0], None), (Some(LoraConfig::default()), &lent[..0], None), (None, &lent[..], Some(32))]
    {
        let dir = tempfile::tempdir().expect("folder");
        let kept = stages(&world, &Place::whole(&cpu), lora, &dir.path().join("kept"));
        let again = Place { lent, micro_batch_tokens, checkpoint_activations: true, ..Place::whole(&cpu) };
        let again = stages(&world, &again, lora, &dir.path().join("again"));
        let tolerance = if micro_batch_tokens.is_some() { 1e-3 } else { 1e-4 };
        assert_same(&format!("lora {lora:?}, {micro_batch_tokens:?}"), &kept, &again, tolerance);
    }
}

#[test]
fn one_step_split_over_devices_has_the_loss_and_every_gradient_of_one() {
    let (world, cpu) = (world(), Device::flex());
    // copies on the CPU itself; the end-to-end tests have other processes
    let lent = [Device::flex(), Device::flex()];
    for (lora, micro_batch_tokens) in [(None, None), (Some(LoraConfig::default()), None), (None, Some(32))] {
        let dir = tempfile::tempdir().expect("folder");
        let one = stages(&world, &Place::whole(&cpu), lora, &dir.path().join("one"));
        let split = Place { lent: &lent, micro_batch_tokens, ..Place::whole(&cpu) };
        let split = stages(&world, &split, lora, &dir.path().join("split"));
        assert_same(&format!("three devices, lora {lora:?}, {micro_batch_tokens:?}"), &one, &split, 1e-3);
    }
}

#[test]
#[ignore = "needs a Vulkan adapter (lavapipe will do)"]
fn one_step_of_each_stage_has_the_loss_and_every_gradient_of_the_cpu() {
    let (gpu, name) = pick_device(DeviceChoice::Gpu).expect("an adapter");
    let world = world();
    for lora in [None, Some(LoraConfig::default())] {
        let dir = tempfile::tempdir().expect("folder");
        let cpu = stages(&world, &Place::whole(&Device::flex()), lora, &dir.path().join("cpu"));
        let gpu = stages(&world, &Place::whole(&gpu), lora, &dir.path().join("gpu"));
        assert_same(&format!("{name}, lora {lora:?}"), &cpu, &gpu, 1e-2);
    }
}

/// Euclidean.
fn norm(values: impl Iterator<Item = f32>) -> f64 {
    values.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

/// Each stage's step with the base in half precision against f32: the loss within 1%, each adapter's gradient within 2% of its
/// norm, and no gradient of the base.
fn assert_half_is_close(name: &str, device: &Device) {
    let (world, dir) = (world(), tempfile::tempdir().expect("folder"));
    let run = |base_precision: BasePrecision| {
        let lora = LoraConfig { base_precision, ..LoraConfig::default() };
        stages(&world, &Place::whole(device), Some(lora), &dir.path().join(format!("{base_precision:?}")))
    };
    let (want, got) = (run(BasePrecision::F32), run(BasePrecision::F16));
    for ((stage, want), got) in ["sft", "garm", "rl"].iter().zip(&want).zip(&got) {
        let what = format!("{stage} with a base in f16, {name}");
        let loss_tolerance = 1e-2 * want.0.abs().max(0.1);
        assert!((want.0 - got.0).abs() < loss_tolerance, "{what}: loss {} and {}", want.0, got.0);
        assert!(want.1.keys().eq(got.1.keys()), "{what}: the same parameters learn");
        let learns = |path: &String| path.contains("adapter") || path.contains("_head");
        assert!(got.1.keys().all(learns), "{what}: {:?}", got.1.keys());
        assert_ne!(want.1, got.1, "{what}: nothing was rounded");
        let norms: Vec<f64> = want.1.values().map(|t| norm(t.data.iter().copied())).collect();
        let least = 1e-3 * norms.iter().fold(0.0, |m: f64, x| m.max(*x));
        assert!(least > 1e-9, "{what}: something is learnt");
        for ((parameter, want), size) in want.1.iter().zip(norms) {
            let apart = norm(want.data.iter().zip(&got.1[parameter].data).map(|(a, b)| a - b));
            assert!(apart < 2e-2 * size.max(least), "{what}: {parameter}: {apart} of {size}");
        }
    }
}

/// A run would be refused there; the stages are not, and Burn's CPU backend multiplies f16.
#[test]
fn one_step_with_a_base_in_half_precision_is_that_in_f32_but_for_rounding() {
    assert_half_is_close("cpu", &Device::flex());
}

#[test]
#[ignore = "needs a Vulkan adapter (lavapipe will do)"]
fn one_step_with_a_base_in_half_precision_on_a_gpu_is_that_in_f32_but_for_rounding() {
    let (gpu, name) = pick_device(DeviceChoice::Gpu).expect("an adapter");
    match check_half(&gpu, &name) {
        Ok(()) => assert_half_is_close(&name, &gpu),
        Err(error) => eprintln!("one step with a base in f16: NOT RUN, {error}"),
    }
}
