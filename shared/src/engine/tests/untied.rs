//! A policy with an output matrix of its own, on every path of both executors.

use super::*;

fn untied_model() -> ModelConfig {
    ModelConfig { tied_embedding: false, ..model(283) }
}

/// The tensors of [`policy_tensors`] with this output matrix.
fn with_output(output: DenseTensor) -> TensorMap {
    let mut tensors = policy_tensors();
    tensors.insert(OUTPUT.into(), output);
    tensors
}

fn untied_tensors() -> TensorMap {
    let mut output = random(vec![(OUTPUT.into(), vec![283, 64])], 3);
    with_output(output.remove(OUTPUT).unwrap())
}

fn untied(format: BlockFormat) -> Checkpoint {
    built(&untied_model(), &untied_tensors(), format)
}

fn tokens() -> Vec<u32> {
    (0..9).map(|i| (i * 31 + 7) % 283).collect()
}

/// Logits after every token, on a path of the CPU.
fn on_path(checkpoint: &Checkpoint, kernel_path: KernelPath) -> Vec<f32> {
    let limits = Limits { kernel_path, ..Limits::of(&checkpoint.manifest.model) };
    whole(&mut Engine::cpu_within(checkpoint, limits).unwrap(), &tokens())
}

#[test]
fn logits_of_an_output_matrix_are_those_of_the_definition() {
    let wide = |logits: Vec<f32>| logits.into_iter().map(f64::from).collect::<Vec<_>>();
    let want = by_definition(&untied_model(), &untied_tensors(), &tokens());
    let tied = by_definition(&model(283), &policy_tensors(), &tokens());
    assert!(want.iter().zip(&tied).any(|(a, b)| (a - b).abs() > 0.1), "the matrix matters");
    let mut plain = Engine::from_tensors(&untied_model(), &untied_tensors(), &tokenizer()).unwrap();
    assert_all_close("plain", &wide(whole(&mut plain, &tokens())), &want, f64::from(TOLERANCE));
    for format in [BlockFormat::Q8, BlockFormat::Q4] {
        let checkpoint = untied(format);
        let want = by_definition(&untied_model(), &checkpoint.dense("policy"), &tokens());
        let got = on_path(&checkpoint, KernelPath::F32);
        assert_all_close("in blocks", &wide(got.clone()), &want, f64::from(TOLERANCE));
        // a tensor of a checkpoint that is taken apart, and panels multiplied as blocks are
        let limits = Limits { kernel_path: KernelPath::fastest(), ..Limits::of(&untied_model()) };
        let mut engine = Engine::cpu_of(checkpoint.clone(), limits).unwrap();
        assert_eq!(whole(&mut engine, &tokens()), on_path(&checkpoint, KernelPath::fastest()), "{format:?}");
        engine.set_exact(true);
        assert_eq!(whole(&mut engine.fork().unwrap(), &tokens()), got, "{format:?}");
        let in_blocks = Limits { plain_bytes: 0, ..Limits::of(&untied_model()) };
        assert_eq!(whole(&mut Engine::cpu_within(&checkpoint, in_blocks).unwrap(), &tokens()), got, "{format:?}");
    }
}

#[test]
fn the_embedding_as_output_matrix_changes_no_bit_and_a_row_of_it_one_logit() {
    let embedding = policy_tensors().remove("model.embed_tokens.weight").unwrap();
    let mut changed = embedding.clone();
    changed.data[7 * 64..8 * 64].iter_mut().for_each(|x| *x += 0.5);
    for format in [BlockFormat::F32, BlockFormat::Q8, BlockFormat::Q4] {
        let tied = checkpoint(format);
        let copied = built(&untied_model(), &with_output(embedding.clone()), format);
        let changed = built(&untied_model(), &with_output(changed.clone()), format);
        for path in [KernelPath::F32, KernelPath::fastest()] {
            let want = on_path(&tied, path);
            assert_eq!(on_path(&copied, path), want, "{format:?} on {path}");
            for (i, (got, want)) in on_path(&changed, path).iter().zip(&want).enumerate() {
                assert_eq!(got == want, i % 283 != 7, "{format:?} on {path}: logit {i}");
            }
        }
    }
}

#[test]
fn an_output_matrix_that_is_announced_must_be_there() {
    let missing = Engine::from_tensors(&untied_model(), &policy_tensors(), &tokenizer()).unwrap_err();
    assert!(missing.to_string().contains(OUTPUT), "{missing}");
    let wrong = with_output(DenseTensor::new(vec![282, 64], vec![0.5; 282 * 64]));
    let wrong = Engine::from_tensors(&untied_model(), &wrong, &tokenizer()).unwrap_err();
    assert!(wrong.to_string().contains(OUTPUT), "{wrong}");
}

mod on_a_gpu {
    use super::*;

    /// Embedding in 8-bit blocks, output matrix in 4-bit ones: two formats that the device must not mix up.
    fn mixed() -> Checkpoint {
        let [in_q8, in_q4] = [BlockFormat::Q8, BlockFormat::Q4].map(untied);
        let of_policy = |(name, matrix): (String, Matrix)| Some((name.strip_prefix("policy.")?.to_owned(), matrix));
        let mut policy: BTreeMap<_, _> = in_q8.tensors.into_iter().filter_map(of_policy).collect();
        policy.insert(OUTPUT.into(), in_q4.tensors["policy.lm_head.weight"].clone());
        let (model, lineage) = (untied_model(), in_q8.manifest.lineage);
        let parts = PolicyParts { name: "mixed".into(), model: &model, lineage, tokenizer: &tokenizer() };
        Checkpoint::from_policy(parts, policy).unwrap()
    }

    #[test]
    #[ignore = "needs a Vulkan adapter (lavapipe will do)"]
    fn greedy_steps_with_an_output_matrix_are_those_of_the_cpu() {
        let context = ready(GpuContext::request()).expect("native").expect("a Vulkan adapter");
        for checkpoint in [untied(BlockFormat::F32), untied(BlockFormat::Q8), untied(BlockFormat::Q4), mixed()] {
            let mut host = Engine::cpu(&checkpoint).unwrap();
            let mut device = now(Engine::gpu(&checkpoint, &context));
            let parity = now(parity::compare(&mut host, &mut device, &prompts(), 20, TOLERANCE));
            assert!(parity.holds(TOLERANCE) && parity.n_agreeing > 0, "{parity:?}");
            let limits = Limits { kernel_path: KernelPath::fastest(), ..Limits::of(&untied_model()) };
            let in_blocks = Engine::cpu_of(checkpoint, limits).unwrap();
            let mut beside = now(in_blocks.gpu_beside(&context));
            assert_eq!(suggest(&mut beside, &request(3, 3)), suggest(&mut device, &request(3, 3)));
        }
    }
}
