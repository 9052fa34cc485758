use super::*;
use crate::checkpoint::{Formats, Lineage, Parts, PolicyParts};
use crate::config::OUTPUT;
use crate::tokenizer::Tokenizer;
use beckon_shaders::ready;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

const MAX_RANK: usize = 6;

fn model() -> ModelConfig {
    ModelConfig {
        vocab_size: 290,
        d_model: 64,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 16,
        d_ff: 96,
        rope_base: 10_000.0,
        rope_scaling: None,
        norm_eps: 1e-5,
        max_seq_len: 64,
        tied_embedding: true,
    }
}

fn random(shape: &[usize], rng: &mut ChaCha8Rng) -> DenseTensor {
    let (offset, width) = if shape.len() == 1 { (1.0, 0.2) } else { (0.0, 0.3) };
    let mut value = || offset + width * (rng.next_u32() as f32 / 2_147_483_648.0 - 1.0);
    DenseTensor::new(shape.to_vec(), (0..shape.iter().product()).map(|_| value()).collect())
}

fn lineage() -> Lineage {
    Lineage { device: "cpu".into(), ..Lineage::default() }
}

/// A policy without a reward model, in 8-bit blocks.
fn base(seed: u64) -> Checkpoint {
    base_of(&model(), seed)
}

fn base_of(model: &ModelConfig, seed: u64) -> Checkpoint {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let tokenizer = Tokenizer::train(["how to cook rice", "rice cooker"], 277).unwrap();
    let matrices = tensor_names(model).into_iter().map(|(name, shape)| {
        let format = if shape.len() == 2 { BlockFormat::Q8 } else { BlockFormat::F32 };
        (name, Matrix::from_dense(&random(&shape, &mut rng), format).unwrap())
    });
    let parts = PolicyParts { name: "base".into(), model, lineage: lineage(), tokenizer: &tokenizer };
    Checkpoint::from_policy(parts, matrices.collect()).unwrap()
}

fn reward_config() -> RewardConfig {
    RewardConfig { variance_floor: 0.01, feature_dims: 5, kappa: 0.5, n_layers: None }
}

/// As two stages of adapters leave a network: two products of thin matrices added to attention.
fn tuned(base: &Checkpoint, seed: u64) -> TensorMap {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut tensors = base.dense("policy");
    for (name, weight) in tensors.iter_mut().filter(|(name, _)| name.contains("self_attn")) {
        for _ in 0..2 {
            let mut factor = |shape: [usize; 2]| random(&shape, &mut rng);
            let (b, a) = (factor([weight.shape[0], 3]), factor([3, weight.shape[1]]));
            add_product(weight, &LowRank { a, b, scale: 0.2 });
        }
        assert!(weight.data.iter().all(|w| w.is_finite()), "{name}");
    }
    tensors
}

fn reward(base: &Checkpoint) -> TensorMap {
    let mut rng = ChaCha8Rng::seed_from_u64(77);
    let heads = reward_head_names(&model(), 5).into_iter().map(|(name, shape)| (name, random(&shape, &mut rng)));
    tuned(base, 5).into_iter().chain(heads).collect()
}

fn build(base: &Checkpoint, policy: &TensorMap) -> Result<AdapterFile, AdapterError> {
    let (reward, reward_config) = (reward(base), reward_config());
    let parts = AdapterParts {
        name: "rice",
        base,
        checkpoint: "merged",
        policy,
        reward: &reward,
        reward_config: &reward_config,
        max_rank: MAX_RANK,
    };
    ready(AdapterFile::build(parts)).unwrap()
}

fn file(base: &Checkpoint) -> AdapterFile {
    build(base, &tuned(base, 4)).unwrap()
}

#[test]
fn factors_have_the_rank_of_what_was_learnt_and_give_it_back() {
    let base = base(1);
    let file = file(&base);
    assert_eq!(file.adapter.policy.len(), 8);
    assert!(file.adapter.policy.values().all(|side| side.a.shape[0] == 6), "two stages of rank 3");
    for (network, want) in [("policy", tuned(&base, 4)), ("reward", reward(&base))] {
        let got = file.merged(&base, network).unwrap();
        assert!(got.keys().eq(want.keys()));
        for (name, tensor) in &want {
            let far = tensor.data.iter().zip(&got[name].data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(far <= 2e-5, "{network}.{name} by {far}");
        }
    }
}

#[test]
fn an_engine_with_the_adapter_answers_as_merged_weights() {
    let base = base(1);
    let (file, model, heads) = (file(&base), model(), reward_config());
    let mut engine = Engine::cpu(&file.frame(base.clone()).unwrap()).unwrap();
    ready(file.apply(&mut engine, None)).unwrap().unwrap();
    let tokenizer = base.tokenizer().unwrap();
    let parts =
        Parts { name: "merged".into(), model: &model, reward: heads, lineage: lineage(), tokenizer: &tokenizer };
    let formats = Formats { policy: BlockFormat::F32, reward: BlockFormat::F32 };
    let merged = Checkpoint::build(parts, &tuned(&base, 4), &reward(&base), formats).unwrap();
    let mut whole = Engine::cpu(&merged).unwrap();
    let prompt = Prompt::from_query("rice");
    let logits = |engine: &mut Engine| ready(engine.greedy(&prompt, 1)).unwrap().unwrap()[0].logits.clone();
    for (a, b) in logits(&mut engine).iter().zip(logits(&mut whole)) {
        assert!((a - b).abs() <= 2e-3, "{a} and {b}");
    }
    let texts = ["rice cooker".to_owned()];
    let score = |engine: &mut Engine| ready(engine.score(&prompt, &texts)).unwrap().unwrap()[0];
    let (a, b) = (score(&mut engine), score(&mut whole));
    assert!((a.reward_mean - b.reward_mean).abs() <= 2e-3 && (a.reward_std() - b.reward_std()).abs() <= 2e-3);
}

#[test]
fn a_file_comes_back_whole_and_no_damage_passes() {
    let file = file(&base(1));
    let bytes = file.encode().unwrap();
    assert_eq!(AdapterFile::decode(&bytes).unwrap(), file);
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for _ in 0..200 {
        let mut damaged = bytes.clone();
        let at = rng.next_u64() as usize % bytes.len();
        damaged[at] ^= 1 << (rng.next_u32() % 8);
        assert!(AdapterFile::decode(&damaged).is_err(), "byte {at}");
        assert!(AdapterFile::decode(&bytes[..at]).is_err(), "cut at {at}");
    }
    assert!(AdapterFile::decode(&[&bytes[..], &[0]].concat()).is_err(), "bytes behind the end");
}

#[test]
fn bytes_stand_in_planes_and_a_file_of_version_1_is_read() {
    let mut file = file(&base(1));
    let values: Vec<[u8; 4]> = file.tensors().flat_map(|(_, tensor)| tensor.data).map(f32::to_le_bytes).collect();
    let plane = |byte: usize| values.iter().map(move |bytes| bytes[byte]).collect::<Vec<u8>>();
    assert!(file.encode().unwrap().ends_with(&[plane(0), plane(1), plane(2), plane(3)].concat()));
    file.manifest.format_version = 1;
    file.lay_out().unwrap();
    let bytes = file.encode().unwrap();
    assert!(bytes.ends_with(values.as_flattened()));
    assert_eq!(AdapterFile::decode(&bytes).unwrap(), file);
    file.manifest.format_version = 3;
    let error = AdapterFile::decode(&file.encode().unwrap()).unwrap_err().to_string();
    assert!(error.contains("format 3"), "{error}");
}

#[test]
fn another_base_is_refused() {
    let file = file(&base(1));
    let error = file.frame(base(2)).unwrap_err();
    assert!(matches!(error, AdapterError::OtherBase { .. }), "{error}");
    assert!(error.to_string().contains(&base(1).id) && error.to_string().contains(&base(2).id));
}

#[test]
fn what_factors_cannot_hold_is_refused_by_name() {
    let base = base(1);
    let mut policy = tuned(&base, 4);
    policy.get_mut("model.norm.weight").unwrap().data[3] += 0.1;
    let error = build(&base, &policy).unwrap_err();
    assert!(error.to_string().contains("policy.model.norm.weight"), "{error}");
    let mut policy = tuned(&base, 4);
    let name = "model.layers.1.mlp.up_proj.weight";
    let noise = random(&[96, 64], &mut ChaCha8Rng::seed_from_u64(9));
    policy.insert(name.into(), noise);
    let error = build(&base, &policy).unwrap_err();
    assert!(error.to_string().contains(name), "{error}");
}

#[test]
fn a_failed_self_test_leaves_the_engine_as_it_was() {
    let base = base(1);
    let whole = file(&base);
    let mut file = whole.clone();
    let mut engine = Engine::cpu(&file.frame(base.clone()).unwrap()).unwrap();
    let prompt = Prompt::from_query("rice");
    let logits = |engine: &mut Engine| ready(engine.greedy(&prompt, 1)).unwrap().unwrap()[0].logits.clone();
    let before = logits(&mut engine);
    // factors of another run under these numbers
    file.adapter.policy.values_mut().for_each(|side| side.scale = -3.0);
    let error = ready(file.apply(&mut engine, None)).unwrap().unwrap_err();
    assert!(matches!(error, AdapterError::SelfTest { .. }), "{error}");
    assert_eq!(logits(&mut engine), before);
    // or with the one before
    ready(whole.apply(&mut engine, None)).unwrap().unwrap();
    let before = logits(&mut engine);
    assert!(ready(file.apply(&mut engine, Some(&whole))).unwrap().is_err());
    assert_eq!(logits(&mut engine), before);
}

#[test]
fn an_adapter_lies_over_a_base_with_an_output_matrix_of_its_own() {
    let base = base_of(&ModelConfig { tied_embedding: false, ..model() }, 1);
    let file = AdapterFile::decode(&file(&base).encode().unwrap()).unwrap();
    let frame = file.frame(base.clone()).unwrap();
    let [of_policy, of_reward] = ["policy", "reward"].map(|network| frame.dense(network).contains_key(OUTPUT));
    assert!(of_policy && !of_reward, "the reward model writes no words");
    let mut engine = Engine::cpu(&frame).unwrap();
    ready(file.apply(&mut engine, None)).unwrap().unwrap();
    let merged = file.merged(&base, "policy").unwrap();
    assert_eq!(merged[OUTPUT], base.dense("policy")[OUTPUT], "frozen, as the embedding");
    let mut whole = Engine::from_tensors(&base.manifest.model, &merged, &base.tokenizer().unwrap()).unwrap();
    let prompt = Prompt::from_query("rice");
    let logits = |engine: &mut Engine| ready(engine.greedy(&prompt, 1)).unwrap().unwrap()[0].logits.clone();
    for (a, b) in logits(&mut engine).iter().zip(logits(&mut whole)) {
        assert!((a - b).abs() <= 2e-3, "{a} and {b}");
    }
}

#[test]
fn a_reward_model_may_end_before_its_base() {
    let base = base(1);
    let reward_config = RewardConfig { n_layers: Some(1), ..reward_config() };
    let mut reward = reward(&base);
    reward.retain(|name, _| !name.starts_with("model.layers.1."));
    let policy = tuned(&base, 4);
    let parts = AdapterParts {
        name: "short",
        base: &base,
        checkpoint: "merged",
        policy: &policy,
        reward: &reward,
        reward_config: &reward_config,
        max_rank: MAX_RANK,
    };
    let short = ready(AdapterFile::build(parts)).unwrap().unwrap();
    let short = AdapterFile::decode(&short.encode().unwrap()).unwrap();
    assert!(short.merged(&base, "reward").unwrap().keys().eq(reward.keys()));
    assert_eq!(short.merged(&base, "policy").unwrap().len(), policy.len());

    let (model, tokenizer) = (model(), base.tokenizer().unwrap());
    let parts = Parts {
        name: "merged".into(),
        model: &model,
        reward: reward_config.clone(),
        lineage: lineage(),
        tokenizer: &tokenizer,
    };
    let formats = Formats { policy: BlockFormat::F32, reward: BlockFormat::F32 };
    let merged = Checkpoint::build(parts, &policy, &reward, formats).unwrap();
    let merged = Checkpoint::decode(&merged.encode().unwrap()).unwrap();
    assert_eq!((merged.manifest.format_version, merged.manifest.reward.as_ref()), (3, Some(&reward_config)));
    let mut whole = Engine::cpu(&merged).unwrap();
    let mut engine = Engine::cpu(&short.frame(base.clone()).unwrap()).unwrap();
    ready(short.apply(&mut engine, None)).unwrap().unwrap();
    let (prompt, texts) = (Prompt::from_query("rice"), ["rice cooker".to_owned()]);
    let score = |engine: &mut Engine| ready(engine.score(&prompt, &texts)).unwrap().unwrap()[0];
    let (a, b) = (score(&mut engine), score(&mut whole));
    assert!((a.reward_mean - b.reward_mean).abs() <= 2e-3 && (a.reward_std() - b.reward_std()).abs() <= 2e-3);

    // over engines of another depth its heads would read the wrong layer
    let refused = ready(file(&base).apply(&mut engine, Some(&short))).unwrap();
    assert!(matches!(refused, Err(AdapterError::Engine(EngineError::Adapter { .. }))), "{refused:?}");
    let after = score(&mut engine);
    assert_eq!(after.reward_mean.to_bits(), a.reward_mean.to_bits());
}
