//! Adapters: they give what merged weights give, leave nothing behind, and are refused as a whole.

use super::*;

const RANK: usize = 3;

/// Side paths beside every matrix of both networks, and heads of their own.
fn adapter() -> Adapter {
    let model = model(283);
    let factors = |seed: u64| {
        let names = tensor_names(&model).into_iter().filter(|(name, shape)| name.contains("proj") && shape.len() == 2);
        names.enumerate().map(move |(i, (name, shape))| {
            let pair = vec![("a".to_owned(), vec![RANK, shape[1]]), ("b".to_owned(), vec![shape[0], RANK])];
            let mut pair = random(pair, seed + i as u64);
            let (a, b) = (pair.remove("a").unwrap(), pair.remove("b").unwrap());
            (name, LowRank { a, b, scale: 0.25 + i as f32 / 16.0 })
        })
    };
    let heads = random(reward_head_names(&model, 5), 99);
    let config = RewardConfig { variance_floor: 0.02, feature_dims: 5, kappa: 0.5, n_layers: None };
    Adapter { policy: factors(10).collect(), reward: factors(50).collect(), heads: Some((config, heads)) }
}

/// The tensors of `of` with the side paths added to its matrices.
fn merged(of: &str, base: &Checkpoint, sides: &BTreeMap<String, LowRank>) -> TensorMap {
    let mut tensors = base.dense(of);
    for (name, LowRank { a, b, scale }) in sides {
        let (cols, weight) = (a.shape[1], &mut tensors.get_mut(name).unwrap().data);
        for (i, w) in weight.iter_mut().enumerate() {
            let (n, c) = (i / cols, i % cols);
            *w += scale * (0..RANK).map(|k| b.data[n * RANK + k] * a.data[k * cols + c]).sum::<f32>();
        }
    }
    tensors
}

/// What both networks say: logits after a prompt, and scores.
fn answers(engine: &mut Engine) -> Vec<f32> {
    let tokens: Vec<u32> = (0..70).map(|i| (i * 31 + 7) % 283).collect();
    let mut all = whole(engine, &tokens);
    let scores = now(engine.score(&prompts()[0], &TEXTS.map(str::to_owned)));
    all.extend(scores.iter().flat_map(|s| [s.reward_mean, s.aleatoric_std, s.epistemic_std]));
    all
}

/// An engine with the adapter against one of merged weights; gives both sides' answers.
fn assert_as_merged(engine: &mut Engine, tolerance: f64) {
    let (base, adapter) = (checkpoint(BlockFormat::F32), adapter());
    let before = answers(engine);
    now(engine.set_adapter(Some(&adapter)));
    let (policy, mut reward) = (merged("policy", &base, &adapter.policy), merged("reward", &base, &adapter.reward));
    let (config, heads) = adapter.heads.clone().unwrap();
    reward.extend(heads);
    let formats = Formats { policy: BlockFormat::F32, reward: BlockFormat::F32 };
    let (model, tokenizer) = (model(283), tokenizer());
    let lineage = base.manifest.lineage.clone();
    let parts = Parts { name: "merged".into(), model: &model, reward: config, lineage, tokenizer: &tokenizer };
    let want = answers(&mut Engine::cpu(&Checkpoint::build(parts, &policy, &reward, formats).unwrap()).unwrap());
    let got = answers(engine);
    assert_all_close("with the adapter", &got, &want, tolerance);
    let moved = before.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(f64::from(moved) > 100.0 * tolerance, "the adapter changes little: {moved}");
    now(engine.set_adapter(None));
    assert_eq!(answers(engine), before, "something was left behind");
}

#[test]
fn side_paths_give_what_merged_weights_give() {
    assert_as_merged(&mut Engine::cpu(&checkpoint(BlockFormat::F32)).unwrap(), 2e-3);
}

#[test]
fn integer_paths_agree_under_an_adapter() {
    let on = |path| {
        let limits = Limits { kernel_path: path, ..Limits::of(&model(283)) };
        let mut engine = Engine::cpu_within(&checkpoint(BlockFormat::Q4), limits).unwrap();
        now(engine.set_adapter(Some(&adapter())));
        answers(&mut engine)
    };
    assert_eq!(on(KernelPath::fastest()), on(KernelPath::Int8Scalar));
}

#[test]
fn an_adapter_that_does_not_fit_changes_nothing() {
    let mut engine = cpu();
    now(engine.set_adapter(Some(&adapter())));
    let before = answers(&mut engine);
    let name = "model.layers.1.mlp.down_proj.weight";
    let with = |edit: &dyn Fn(&mut Adapter)| {
        let mut adapter = adapter();
        edit(&mut adapter);
        adapter
    };
    let side = |adapter: &mut Adapter, edit: &dyn Fn(&mut LowRank)| edit(adapter.policy.get_mut(name).unwrap());
    let bad = [
        with(&|a| side(a, &|s| s.a = DenseTensor::new(vec![RANK, 64], vec![0.0; RANK * 64]))),
        with(&|a| side(a, &|s| s.b.data[5] = f32::NAN)),
        with(&|a| side(a, &|s| s.scale = f32::INFINITY)),
        with(&|a| {
            let side = a.policy.remove(name).unwrap();
            a.policy.insert("model.layers.2.mlp.down_proj.weight".into(), side);
        }),
        with(&|a| {
            let side = a.reward.remove(name).unwrap();
            a.reward.insert("model.embed_tokens.weight".into(), side);
        }),
        with(&|a| {
            a.heads.as_mut().unwrap().1.remove("whitening");
        }),
    ];
    for (i, bad) in bad.iter().enumerate() {
        now_err(engine.set_adapter(Some(bad)));
        assert_eq!(answers(&mut engine), before, "bad adapter {i} left something");
    }
    let mut alone = Engine::from_tensors(&model(283), &policy_tensors(), &tokenizer()).unwrap();
    assert!(matches!(now_err(alone.set_adapter(Some(&adapter()))), EngineError::NoReward));
    now(alone.set_adapter(Some(&Adapter { policy: adapter().policy, ..Adapter::default() })));
}

#[test]
fn a_clone_has_the_adapter_and_an_own_one_later() {
    let mut engine = cpu();
    now(engine.set_adapter(Some(&adapter())));
    let mut fork = engine.fork().unwrap();
    assert_eq!(answers(&mut fork), answers(&mut engine));
    now(fork.set_adapter(None));
    assert_ne!(answers(&mut fork), answers(&mut engine));
}

mod on_a_gpu {
    use super::*;

    #[test]
    #[ignore = "needs a Vulkan adapter (lavapipe will do)"]
    fn side_paths_give_what_merged_weights_give_there() {
        let context = ready(GpuContext::request()).expect("native").expect("a Vulkan adapter");
        assert_as_merged(&mut now(Engine::gpu(&checkpoint(BlockFormat::F32), &context)), 5e-3);
    }

    #[test]
    #[ignore = "needs a Vulkan adapter (lavapipe will do)"]
    fn a_part_of_the_matrices_and_twenty_swaps_leave_memory_as_it_was() {
        let context = ready(GpuContext::request()).expect("native").expect("a Vulkan adapter");
        let mut host = Engine::cpu(&checkpoint(BlockFormat::Q4)).unwrap();
        let mut device = now(Engine::gpu(&checkpoint(BlockFormat::Q4), &context));
        let n_bytes = |engine: &Engine| match engine.executor() {
            Executor::Gpu(executor) => executor.n_bytes(),
            Executor::Cpu(_) => 0,
        };
        let (before, plain) = (n_bytes(&device), answers(&mut device));
        let allocated_before = n_allocations(&context);
        let mut allocated_with = None;
        for swap in 0..20 {
            let mut part = adapter();
            // other matrices stay without a side path each time
            let with_path = part.policy.into_iter().enumerate().filter(|(i, _)| i % 5 != swap % 5);
            part.policy = with_path.map(|(_, side)| side).collect();
            now(host.set_adapter(Some(&part)));
            now(device.set_adapter(Some(&part)));
            if swap < 5 {
                assert_all_close("host and device", &answers(&mut device), &answers(&mut host), 5e-3);
            }
            if swap % 5 == 4 {
                // the same adapter each time: an old one that is not given back would be counted
                let allocated = n_allocations(&context);
                let first = *allocated_with.get_or_insert(allocated);
                assert!(allocated <= first + STAGING, "{first} allocations became {allocated} by swap {}", swap + 1);
                assert!(
                    allocated > allocated_before + STAGING,
                    "{allocated} with an adapter, {allocated_before} without"
                );
            }
        }
        assert!(n_bytes(&device) > before);
        now(device.set_adapter(None));
        assert_eq!((n_bytes(&device), answers(&mut device)), (before, plain));
        let allocated = n_allocations(&context);
        assert!(allocated <= allocated_before + STAGING, "{allocated_before} allocations became {allocated}");
    }
}
