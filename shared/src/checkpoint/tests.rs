use super::*;
use crate::config::Preset;
use crate::digest::sha256;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const DIMS: usize = 16;

fn random(names: Vec<(String, Vec<usize>)>, seed: u64) -> TensorMap {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut tensor = |shape: Vec<usize>| {
        let data = (0..shape.iter().product()).map(|_| rng.random_range(-0.1f32..0.1)).collect();
        DenseTensor::new(shape, data)
    };
    names.into_iter().map(|(name, shape)| (name, tensor(shape))).collect()
}

fn tokenizer() -> Tokenizer {
    Tokenizer::train(["how to cook rice", "how to cook brown rice"], 300).unwrap()
}

fn tensors(model: &ModelConfig) -> (TensorMap, TensorMap) {
    let policy = random(tensor_names(model), 1);
    let trunk = tensor_names(&model.trunk(model.n_layers));
    let reward = random([trunk, reward_head_names(model, DIMS)].concat(), 2);
    (policy, reward)
}

fn lineage() -> Lineage {
    Lineage {
        data_hash: "00".into(),
        sources: vec![("log".into(), 3)],
        parent: None,
        config: serde_json::json!({"learning_rate": 3e-4, "n_steps": 10}),
        seed: 7,
        commit: None,
        command: "beckon loop".into(),
        device: "cpu".into(),
        simulated: true,
        attribution: vec![],
        reward_version: None,
    }
}

fn parts<'a>(model: &'a ModelConfig, tokenizer: &'a Tokenizer) -> Parts<'a> {
    let reward = RewardConfig { variance_floor: 0.01, feature_dims: DIMS, kappa: 0.25, n_layers: None };
    Parts { name: "test".into(), model, reward, lineage: lineage(), tokenizer }
}

fn build(model: &ModelConfig) -> Checkpoint {
    let (policy, reward) = tensors(model);
    Checkpoint::build(parts(model, &tokenizer()), &policy, &reward, Formats::default()).unwrap()
}

/// The file with its header changed by `edit`, and the hash made to fit, as an attacker would.
fn forge(file: &[u8], edit: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    let header = decode_header(file).unwrap();
    let start = header.payload_start as usize;
    let mut value: serde_json::Value = serde_json::from_slice(&file[PREFIX_BYTES..start]).unwrap();
    edit(&mut value);
    let json = serde_json::to_vec(&value).unwrap();
    [b"BECKON01", &(json.len() as u32).to_le_bytes()[..], &sha256(&json), &json, &file[start..]].concat()
}

#[test]
fn round_trip() {
    let model = Preset::Tiny.model();
    let checkpoint = build(&model);
    let file = checkpoint.encode().unwrap();
    let back = Checkpoint::decode(&file).unwrap();
    assert_eq!(back.id, checkpoint.id);
    assert_eq!(back.manifest, checkpoint.manifest);
    assert_eq!(back.tensors, checkpoint.tensors);
    assert_eq!(back.tokenizer_json, checkpoint.tokenizer_json);
    assert_eq!(back.encode().unwrap(), file);
    assert_eq!(back.tokenizer().unwrap().to_json(), tokenizer().to_json());
    // again from the same parts: the same file
    assert_eq!(build(&model).encode().unwrap(), file);
}

#[test]
fn formats_and_dequantized_tensors() {
    let model = Preset::Tiny.model();
    let checkpoint = build(&model);
    let format = |name: &str| checkpoint.tensors[name].format;
    assert_eq!(format("policy.model.embed_tokens.weight"), BlockFormat::Q8);
    assert_eq!(format("reward.model.layers.0.mlp.up_proj.weight"), BlockFormat::Q4);
    for name in ["policy.model.norm.weight", "reward.whitening", "reward.mean_head.weight", "reward.feature_mean"] {
        assert_eq!(format(name), BlockFormat::F32, "{name}");
    }
    let (policy, reward) = tensors(&model);
    let (dense_policy, dense_reward) = (checkpoint.dense("policy"), checkpoint.dense("reward"));
    for (want, got, tolerance) in [(policy, dense_policy, 0.1 / 127.0), (reward, dense_reward, 0.2 / 15.0)] {
        assert_eq!(want.keys().collect::<Vec<_>>(), got.keys().collect::<Vec<_>>());
        for (name, tensor) in &want {
            assert_eq!(tensor.shape, got[name].shape, "{name}");
            for (w, g) in tensor.data.iter().zip(&got[name].data) {
                crate::metrics::assert_close(name, *g, *w, tolerance);
            }
        }
    }
}

#[test]
fn nano_fits_into_eight_megabytes() {
    let n_bytes = build(&Preset::Nano.model()).encode().unwrap().len();
    assert!(n_bytes <= 8_000_000, "{n_bytes}");
}

#[test]
fn equal_tensors_are_stored_once() {
    let model = Preset::Tiny.model();
    let (policy, mut reward) = tensors(&model);
    let formats = Formats { policy: BlockFormat::Q8, reward: BlockFormat::Q8 };
    let apart = Checkpoint::build(parts(&model, &tokenizer()), &policy, &reward, formats).unwrap();
    reward.extend(policy.clone());
    let shared = Checkpoint::build(parts(&model, &tokenizer()), &policy, &reward, formats).unwrap();
    assert!(shared.manifest.payload_bytes < apart.manifest.payload_bytes * 6 / 10);
    let back = Checkpoint::decode(&shared.encode().unwrap()).unwrap();
    assert_eq!(back.tensors, shared.tensors);
}

#[test]
fn chunk_by_chunk() {
    let checkpoint = build(&Preset::Nano.model());
    let file = checkpoint.encode().unwrap();
    let header = decode_header(&file[..header_bytes(&file[..PREFIX_BYTES]).unwrap()]).unwrap();
    assert_eq!((header.file_bytes(), &header.id), (file.len() as u64, &checkpoint.id));
    assert!(header.n_chunks() > 3);
    let mut payload = Vec::new();
    for chunk in 0..header.n_chunks() {
        let range = header.chunk_range(chunk).unwrap();
        let bytes = &file[range.start as usize..range.end as usize];
        header.verify_chunk(chunk, bytes).unwrap();
        let mut damaged = bytes.to_vec();
        damaged[17] ^= 1;
        let error = header.verify_chunk(chunk, &damaged).unwrap_err();
        assert!(error.to_string().starts_with(&format!("chunk {chunk} of ")), "{error}");
        payload.extend_from_slice(bytes);
    }
    assert!(header.chunk_range(header.n_chunks()).is_none());
    assert_eq!(header.assemble(&payload).unwrap().tensors, checkpoint.tensors);
}

#[test]
fn a_checkpoint_is_put_together_while_it_comes() {
    let model = Preset::Nano.model();
    let (policy, mut reward) = tensors(&model);
    // one trunk at the places of both, so that a place is read twice
    reward.extend(policy.clone());
    let formats = Formats { policy: BlockFormat::Q8, reward: BlockFormat::Q8 };
    let checkpoint = Checkpoint::build(parts(&model, &tokenizer()), &policy, &reward, formats).unwrap();
    let file = checkpoint.encode().unwrap();
    let header = decode_header(&file).unwrap();
    let payload = &file[header.payload_start as usize..];
    let largest = header.manifest.tensors.iter().map(|entry| entry.n_bytes).max().unwrap() as usize;
    for of_piece in [1_000_003, CHUNK_BYTES] {
        let mut assembly = header.clone().assembly();
        for bytes in payload.chunks(of_piece) {
            assembly.push(bytes).unwrap();
            assert!(assembly.n_held_bytes() <= largest + of_piece, "{} of {}", assembly.n_held_bytes(), payload.len());
        }
        let got = assembly.finish().unwrap();
        assert_eq!((&got.id, &got.tensors), (&checkpoint.id, &checkpoint.tensors));
        assert_eq!(got.tokenizer_json, checkpoint.tokenizer_json);
    }
    let mut short = header.clone().assembly();
    short.push(&payload[..payload.len() - 1]).unwrap();
    assert!(matches!(short.finish().unwrap_err(), CheckpointError::Truncated { .. }));
    let mut long = header.assembly();
    long.push(payload).unwrap();
    assert!(matches!(long.push(&[0]).unwrap_err(), CheckpointError::TrailingBytes { n_bytes: 1 }));
}

#[test]
fn every_truncation_is_refused() {
    let file = build(&Preset::Tiny.model()).encode().unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut lengths: Vec<usize> = (0..64).chain([file.len() - 1, file.len() - 4]).collect();
    lengths.extend((0..100).map(|_| rng.random_range(0..file.len())));
    for length in lengths {
        let error = Checkpoint::decode(&file[..length]).unwrap_err();
        let expected = matches!(error, CheckpointError::Truncated { .. } | CheckpointError::NotACheckpoint { .. });
        assert!(expected, "{length}: {error}");
    }
    let error = Checkpoint::decode(&[&file[..], b"x"].concat()).unwrap_err();
    assert!(matches!(error, CheckpointError::TrailingBytes { n_bytes: 1 }), "{error}");
}

#[test]
fn every_bit_flip_is_refused() {
    let mut file = build(&Preset::Tiny.model()).encode().unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let mut places: Vec<usize> = (0..PREFIX_BYTES * 8).collect();
    places.extend((0..150).map(|_| rng.random_range(0..file.len() * 8)));
    for bit in places {
        file[bit / 8] ^= 1 << (bit % 8);
        assert!(Checkpoint::decode(&file).is_err(), "bit {bit}");
        file[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(Checkpoint::decode(&file).is_ok());
}

#[test]
fn unknown_versions_say_so() {
    let file = build(&Preset::Tiny.model()).encode().unwrap();
    let mut later = file.clone();
    later[7] = b'2';
    let versions = [5.into(), 0.into(), (-1).into(), "2".into(), serde_json::Value::Null];
    let forged = versions.map(|version| forge(&file, |m| m["format_version"] = version));
    for bytes in std::iter::once(later).chain(forged) {
        let text = Checkpoint::decode(&bytes).unwrap_err().to_string();
        assert!(text.contains("is unknown: this program reads formats up to 4"), "{text}");
    }
    let error = Checkpoint::decode(b"PK\x03\x04 something else").unwrap_err();
    assert!(matches!(error, CheckpointError::NotACheckpoint { .. }), "{error}");
}

fn policy_alone(model: &ModelConfig, tokenizer: &Tokenizer) -> Result<Checkpoint, CheckpointError> {
    let pack = |(name, tensor): (String, DenseTensor)| {
        let format = if tensor.shape.len() == 1 { BlockFormat::F32 } else { BlockFormat::Q4 };
        (name, Matrix::from_dense(&tensor, format).unwrap())
    };
    let policy = tensors(model).0.into_iter().map(pack).collect();
    Checkpoint::from_policy(PolicyParts { name: "alone".into(), model, lineage: lineage(), tokenizer }, policy)
}

#[test]
fn a_policy_alone_is_a_checkpoint_of_format_2() {
    let model = Preset::Tiny.model();
    let alone = policy_alone(&model, &tokenizer()).unwrap();
    let file = alone.encode().unwrap();
    let back = Checkpoint::decode(&file).unwrap();
    assert_eq!((&back.id, &back.tensors), (&alone.id, &alone.tensors));
    assert_eq!((back.manifest.format_version, &back.manifest.reward), (2, &None));
    assert!(back.dense("reward").is_empty() && !back.dense("policy").is_empty());
    // with both networks and our own format the file stays one that the first programs read
    assert_eq!(build(&model).manifest.format_version, 1);
    let error = Checkpoint::decode(&forge(&file, |m| m["format_version"] = 1.into())).unwrap_err().to_string();
    assert!(error.contains("format 1 has a reward model"), "{error}");
    let invented = |m: &mut serde_json::Value| {
        m["reward"] = serde_json::json!({"variance_floor": 0.01, "feature_dims": 4, "kappa": 1.0});
    };
    let error = Checkpoint::decode(&forge(&file, invented)).unwrap_err();
    assert!(matches!(error, CheckpointError::MissingTensor { .. }), "{error}");
}

#[test]
fn an_output_matrix_of_its_own_is_kept_where_the_embedding_is_not_tied() {
    let model = ModelConfig { tied_embedding: false, ..Preset::Tiny.model() };
    let checkpoint = build(&model);
    let back = Checkpoint::decode(&checkpoint.encode().unwrap()).unwrap();
    assert_eq!((&back.id, &back.tensors, &back.manifest.model), (&checkpoint.id, &checkpoint.tensors, &model));
    assert_eq!(back.tensors["policy.lm_head.weight"].format, BlockFormat::Q8, "as the embedding");
    assert!(!back.tensors.contains_key("reward.lm_head.weight"), "a reward model writes no words");
    assert!(back.dense("policy").contains_key(OUTPUT));
    // earlier programs are told the version, not that a tensor is unknown
    assert_eq!(back.manifest.format_version, 4);
    let alone = policy_alone(&model, &tokenizer()).unwrap();
    assert_eq!((alone.manifest.format_version, alone.tensors.len()), (4, tensor_names(&model).len()));
    let file = checkpoint.encode().unwrap();
    let error = Checkpoint::decode(&forge(&file, |m| m["format_version"] = 3.into())).unwrap_err().to_string();
    assert!(error.contains("came with format 4"), "{error}");
    // there where it is announced, and only there
    let error = Checkpoint::decode(&forge(&file, |m| _ = m["model"].as_object_mut().unwrap().remove("tied_embedding")));
    let error = error.unwrap_err();
    assert!(matches!(&error, CheckpointError::UnknownTensor { name } if name == "policy.lm_head.weight"), "{error}");
    let (mut policy, reward) = tensors(&model);
    policy.remove(OUTPUT);
    let error = Checkpoint::build(parts(&model, &tokenizer()), &policy, &reward, Formats::default()).unwrap_err();
    assert!(matches!(&error, CheckpointError::MissingTensor { name } if name == "policy.lm_head.weight"), "{error}");
}

#[test]
fn a_policy_gets_a_reward_model_and_a_shared_trunk_takes_no_room() {
    let model = Preset::Tiny.model();
    let alone = policy_alone(&model, &tokenizer()).unwrap();
    let trunk = |(name, m): (&String, &Matrix)| (name["policy.".len()..].to_owned(), m.clone());
    let mut reward: BTreeMap<String, Matrix> = alone.tensors.iter().map(trunk).collect();
    for (name, shape) in reward_head_names(&model, DIMS) {
        let n_values = shape.iter().product::<usize>();
        let dense = DenseTensor::new(shape, vec![0.5; n_values]);
        reward.insert(name, Matrix::from_dense(&dense, BlockFormat::F32).unwrap());
    }
    let config = RewardConfig { variance_floor: 0.01, feature_dims: DIMS, kappa: 0.25, n_layers: None };
    let both = alone.clone().with_reward(config.clone(), reward.clone()).unwrap();
    let file = both.encode().unwrap();
    let back = Checkpoint::decode(&file).unwrap();
    assert_eq!((&back.id, &back.tensors), (&both.id, &both.tensors));
    assert_eq!(back.manifest.reward.as_ref(), Some(&config));
    let range =
        |name: &str| back.manifest.tensors.iter().find(|e| e.name == name).map(|e| (e.offset, e.n_bytes)).unwrap();
    assert_eq!(range("policy.model.embed_tokens.weight"), range("reward.model.embed_tokens.weight"));
    // once more: what was there goes
    assert_eq!(both.clone().with_reward(config.clone(), reward.clone()).unwrap().id, both.id);
    reward.remove("mean_head.bias");
    let refused = alone.with_reward(config.clone(), reward).unwrap_err();
    assert!(matches!(refused, CheckpointError::MissingTensor { .. }), "{refused}");
    let narrow = RewardConfig { feature_dims: 0, ..config };
    assert!(matches!(both.with_reward(narrow, BTreeMap::new()), Err(CheckpointError::Manifest { .. })));
}

#[test]
fn a_prompt_format_goes_with_the_tokenizer() {
    let model = Preset::Tiny.model();
    let json = tokenizer().to_json().replace("<|end|>", "<|im_end|>");
    let format = PromptFormat { end: "<|im_end|>".into(), ..PromptFormat::own() };
    let foreign = Tokenizer::pretrained(&json, format.clone()).unwrap();
    assert_ne!(
        foreign.hash(),
        Tokenizer::pretrained(&json, PromptFormat { begin: "a".into(), ..format.clone() }).unwrap().hash()
    );
    let file = policy_alone(&model, &foreign).unwrap().encode().unwrap();
    let back = Checkpoint::decode(&file).unwrap();
    assert_eq!(back.manifest.prompt_format, Some(format));
    assert_eq!(back.tokenizer().unwrap().encode_suggestion("rice"), foreign.encode_suggestion("rice"));
    let error = Checkpoint::decode(&forge(&file, |m| m["prompt_format"]["end"] = "rice".into())).unwrap_err();
    assert!(error.to_string().contains("\"rice\" ends a suggestion"), "{error}");
    let error =
        Checkpoint::decode(&forge(&file, |m| drop(m.as_object_mut().unwrap().remove("prompt_format")))).unwrap_err();
    assert!(matches!(error, CheckpointError::Tokenizer(TokenizerError::SpecialToken { .. })), "{error}");
}

#[test]
fn policies_that_do_not_fit_are_refused() {
    let model = Preset::Tiny.model();
    let tokenizer = tokenizer();
    let whole: BTreeMap<String, Matrix> = policy_alone(&model, &tokenizer)
        .unwrap()
        .tensors
        .into_iter()
        .map(|(name, matrix)| (name["policy.".len()..].to_owned(), matrix))
        .collect();
    let make = |edit: &dyn Fn(&mut BTreeMap<String, Matrix>)| {
        let mut policy = whole.clone();
        edit(&mut policy);
        let parts = PolicyParts { name: String::new(), model: &model, lineage: lineage(), tokenizer: &tokenizer };
        Checkpoint::from_policy(parts, policy).map(|c| c.id)
    };
    assert!(make(&|_| ()).is_ok());
    let norm = "model.norm.weight";
    let refused = make(&|p| _ = p.remove(norm)).unwrap_err();
    assert!(matches!(refused, CheckpointError::MissingTensor { .. }), "{refused}");
    let refused = make(&|p| _ = p.insert("lm_head.weight".into(), whole[norm].clone())).unwrap_err();
    assert!(matches!(refused, CheckpointError::UnknownTensor { .. }), "{refused}");
    let refused = make(&|p| _ = p.insert(norm.into(), whole["model.layers.0.mlp.up_proj.weight"].clone())).unwrap_err();
    assert!(matches!(refused, CheckpointError::WrongShape { .. }), "{refused}");
    let refused = make(&|p| p.get_mut(norm).unwrap().quants[0] = f32::NAN.to_bits()).unwrap_err();
    assert!(matches!(refused, CheckpointError::NotFinite { .. }), "{refused}");
}

#[test]
fn lying_manifests_are_refused() {
    type Edit = fn(&mut serde_json::Value);
    let cases: &[(&str, Edit)] = &[
        ("overflow", |m| m["tensors"][0]["offset"] = (u64::MAX - 3).into()),
        ("beyond the payload", |m| m["tensors"][1]["offset"] = (1u64 << 40).into()),
        ("misaligned", |m| m["tensors"][1]["offset"] = 2.into()),
        ("overlap", |m| m["tensors"][2]["offset"] = (m["tensors"][2]["offset"].as_u64().unwrap() + 4).into()),
        ("size", |m| m["tensors"][0]["n_bytes"] = 4.into()),
        ("format", |m| m["tensors"][0]["format"] = "q4".into()),
        ("unknown format", |m| m["tensors"][0]["format"] = "q3".into()),
        ("shape", |m| m["tensors"][0]["shape"] = serde_json::json!([64, 512])),
        ("rank", |m| m["tensors"][0]["shape"] = serde_json::json!([512, 64, 1])),
        ("missing", |m| drop(m["tensors"].as_array_mut().unwrap().pop())),
        ("twice", |m| {
            let first = m["tensors"][0].clone();
            m["tensors"].as_array_mut().unwrap().push(first);
        }),
        ("other name", |m| m["tensors"][0]["name"] = "policy.model.extra".into()),
        ("chunks", |m| drop(m["chunks"].as_array_mut().unwrap().pop())),
        ("payload size", |m| m["payload_bytes"] = u64::MAX.into()),
        ("smaller payload", |m| m["payload_bytes"] = 4096.into()),
        ("tokenizer range", |m| m["tokenizer"] = serde_json::json!([0, u64::MAX])),
        ("tokenizer elsewhere", |m| m["tokenizer"] = serde_json::json!([4, m["tokenizer"][1].as_u64().unwrap() - 4])),
        ("model", |m| m["model"]["n_kv_heads"] = 3.into()),
        ("huge model", |m| m["model"]["vocab_size"] = u64::MAX.into()),
        ("vocabulary below the tokenizer's", |m| m["model"]["vocab_size"] = 32.into()),
        ("kappa", |m| m["reward"]["kappa"] = (-1.0).into()),
        ("variance floor", |m| m["reward"]["variance_floor"] = 0.0.into()),
        ("feature dims", |m| m["reward"]["feature_dims"] = 0.into()),
        ("no lineage", |m| drop(m.as_object_mut().unwrap().remove("lineage"))),
        ("not a manifest", |m| *m = serde_json::json!([1, 2])),
    ];
    let file = build(&Preset::Tiny.model()).encode().unwrap();
    assert!(Checkpoint::decode(&forge(&file, |_| ())).is_ok());
    for (what, edit) in cases {
        assert!(Checkpoint::decode(&forge(&file, edit)).is_err(), "{what}");
    }
}

#[test]
fn building_checks_its_input() {
    let model = Preset::Tiny.model();
    let tokenizer = tokenizer();
    let (policy, reward) = tensors(&model);
    let build = |policy: &TensorMap, reward: &TensorMap| {
        Checkpoint::build(parts(&model, &tokenizer), policy, reward, Formats::default()).map(|c| c.id)
    };
    let mut missing = reward.clone();
    missing.remove("whitening");
    let error = build(&policy, &missing).unwrap_err();
    assert!(matches!(&error, CheckpointError::MissingTensor { name } if name == "reward.whitening"), "{error}");
    let mut wrong = policy.clone();
    wrong.insert("model.norm.weight".into(), DenseTensor::new(vec![1], vec![1.0]));
    assert!(matches!(build(&wrong, &reward).unwrap_err(), CheckpointError::WrongShape { .. }));
    let mut extra = policy.clone();
    extra.insert("lm_head.weight".into(), DenseTensor::new(vec![1], vec![1.0]));
    assert!(matches!(build(&extra, &reward).unwrap_err(), CheckpointError::UnknownTensor { .. }));
    let mut nan = policy.clone();
    nan.get_mut("model.norm.weight").unwrap().data[0] = f32::NAN;
    assert!(matches!(build(&nan, &reward).unwrap_err(), CheckpointError::NotFinite { .. }));
    let small = ModelConfig { vocab_size: 32, ..model.clone() };
    let error = Checkpoint::build(parts(&small, &tokenizer), &policy, &reward, Formats::default()).unwrap_err();
    assert!(error.to_string().contains("model.vocab_size"), "{error}");
}
