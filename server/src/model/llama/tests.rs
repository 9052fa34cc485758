//! The network against an independent f64 forward pass, by hand, and by finite differences.

use super::*;
use crate::model::batch::{Batch, Sequence};
use crate::model::micro;
use crate::model::optim::{AdamW, AdamWConfig};
use crate::model::parallel::Replicas;
use crate::model::reward::RewardModel;
use crate::stage::sft;
use beckon_shared::config::Preset;
use beckon_shared::metrics::assert_close;
use burn::optim::GradientsParams;

fn small_config() -> ModelConfig {
    ModelConfig {
        vocab_size: 50,
        d_model: 32,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 8,
        d_ff: 64,
        ..Preset::Tiny.model()
    }
}

/// The same with an output matrix of its own.
fn untied_config() -> ModelConfig {
    ModelConfig { tied_embedding: false, ..small_config() }
}

/// Weights large enough that every part of the network matters.
fn lively_tensors(config: &ModelConfig) -> TensorMap {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut tensors = init_tensors(config, 11);
    for tensor in tensors.values_mut() {
        let std = if tensor.shape.len() == 1 { 0.3 } else { 1.0 / (tensor.shape[1] as f64).sqrt() };
        let offset = if tensor.shape.len() == 1 { 1.0 } else { 0.0 };
        tensor.data = normals(&mut rng, tensor.data.len(), std).into_iter().map(|x| x + offset).collect();
    }
    tensors
}

/// The same mathematics in f64 with plain loops, one row at a time; `tensors` by Hugging Face names.
mod reference {
    use super::*;

    type Rows = Vec<Vec<f64>>;

    fn matrix(tensors: &TensorMap, name: &str) -> Rows {
        let tensor = &tensors[name];
        tensor
            .data
            .chunks(tensor.shape[tensor.shape.len() - 1])
            .map(|r| r.iter().map(|&x| x.into()).collect())
            .collect()
    }

    fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(x, y)| x * y).sum()
    }

    fn linear(x: &Rows, weight: &Rows) -> Rows {
        x.iter().map(|row| weight.iter().map(|w| dot(row, w)).collect()).collect()
    }

    fn norm(x: &Rows, weight: &[f64], eps: f64) -> Rows {
        let scale = |row: &Vec<f64>| 1.0 / (dot(row, row) / row.len() as f64 + eps).sqrt();
        x.iter().map(|row| row.iter().zip(weight).map(|(v, w)| v * scale(row) * w).collect()).collect()
    }

    fn rotate(head: &mut [f64], position: usize, base: f64) {
        let half = head.len() / 2;
        for i in 0..half {
            let angle = position as f64 * base.powf(-(i as f64) / half as f64);
            let (a, b) = (head[i], head[i + half]);
            head[i] = a * angle.cos() - b * angle.sin();
            head[i + half] = b * angle.cos() + a * angle.sin();
        }
    }

    fn attention(c: &ModelConfig, mut q: Rows, mut k: Rows, v: &Rows) -> Rows {
        let d = c.head_dim;
        for rows in [&mut q, &mut k] {
            for (t, row) in rows.iter_mut().enumerate() {
                row.chunks_mut(d).for_each(|head| rotate(head, t, c.rope_base.into()));
            }
        }
        let mut out = vec![vec![0.0; c.n_heads * d]; q.len()];
        for t in 0..q.len() {
            for h in 0..c.n_heads {
                let g = h / (c.n_heads / c.n_kv_heads);
                let score = |s: usize| dot(&q[t][h * d..(h + 1) * d], &k[s][g * d..(g + 1) * d]) / (d as f64).sqrt();
                let exps: Vec<f64> = (0..=t).map(|s| score(s).exp()).collect();
                let total: f64 = exps.iter().sum();
                for (s, e) in exps.iter().enumerate() {
                    for i in 0..d {
                        out[t][h * d + i] += e / total * v[s][g * d + i];
                    }
                }
            }
        }
        out
    }

    pub fn hidden(c: &ModelConfig, tensors: &TensorMap, tokens: &[u32]) -> Rows {
        let get = |name: String| matrix(tensors, &format!("model.{name}.weight"));
        let eps = f64::from(c.norm_eps);
        let add = |x: &mut Rows, y: Rows| {
            x.iter_mut().zip(y).for_each(|(a, b)| a.iter_mut().zip(b).for_each(|(a, b)| *a += b))
        };
        let embed = get("embed_tokens".into());
        let mut x: Rows = tokens.iter().map(|&t| embed[t as usize].clone()).collect();
        for i in 0..c.n_layers {
            let layer = |part: &str| get(format!("layers.{i}.{part}"));
            let y = norm(&x, &layer("input_layernorm")[0], eps);
            let project = |part: &str| linear(&y, &layer(&format!("self_attn.{part}_proj")));
            let y = attention(c, project("q"), project("k"), &project("v"));
            add(&mut x, linear(&y, &layer("self_attn.o_proj")));
            let y = norm(&x, &layer("post_attention_layernorm")[0], eps);
            let mut gate = linear(&y, &layer("mlp.gate_proj"));
            for (g, u) in gate.iter_mut().zip(linear(&y, &layer("mlp.up_proj"))) {
                g.iter_mut().zip(u).for_each(|(g, u)| *g = *g / (1.0 + (-*g).exp()) * u);
            }
            add(&mut x, linear(&gate, &layer("mlp.down_proj")));
        }
        norm(&x, &get("norm".into())[0], eps)
    }

    /// Loss of [`sft::loss`] on one batch.
    pub fn loss(c: &ModelConfig, tensors: &TensorMap, rows: &[Sequence], weights: &[f32]) -> f64 {
        let output = if c.tied_embedding { "model.embed_tokens.weight" } else { OUTPUT };
        let output = matrix(tensors, output);
        let mean = f64::from(weights.iter().sum::<f32>()) / weights.len() as f64;
        let (mut total, mut n) = (0.0, 0);
        for (row, weight) in rows.iter().zip(weights) {
            let logits = linear(&hidden(c, tensors, &row.tokens), &output);
            for t in row.n_prompt..row.tokens.len() {
                let before = &logits[t - 1];
                let log_sum = before.iter().map(|x| x.exp()).sum::<f64>().ln();
                total += f64::from(*weight) / mean * (log_sum - before[row.tokens[t] as usize]);
                n += 1;
            }
        }
        total / f64::from(n)
    }
}

fn rows() -> Vec<Sequence> {
    vec![
        Sequence::new(&[1, 9, 17, 3], &[25, 33, 4]),
        Sequence::new(&[1, 40, 3], &[41, 4]),
        Sequence::new(&[1, 9, 12, 2, 44, 3], &[7, 8, 9, 4]),
    ]
}

fn int_tensor(tokens: &[u32], device: &Device) -> Tensor<2, Int> {
    let values: Vec<i32> = tokens.iter().map(|&t| t as i32).collect();
    Tensor::from_data(TensorData::new(values, [1, tokens.len()]), device)
}

fn hidden_of(model: &Llama, tokens: &[u32]) -> Vec<f32> {
    model.hidden(int_tensor(tokens, &model.device())).into_data().try_into_vec().expect("f32")
}

#[test]
fn hidden_states_and_logits_equal_the_reference() {
    let config = small_config();
    let tensors = lively_tensors(&config);
    let model = Llama::from_tensors(&config, &tensors, &Device::flex()).expect("model");
    let tokens = [1, 9, 17, 3, 25, 33, 4];
    let want: Vec<f64> = reference::hidden(&config, &tensors, &tokens).concat();
    let hidden = model.hidden(int_tensor(&tokens, &Device::flex()));
    let logits: Vec<f32> = model.logits(hidden.clone()).into_data().try_into_vec().expect("f32");
    let got: Vec<f32> = hidden.into_data().try_into_vec().expect("f32");
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        assert_close(&format!("hidden {i}"), *got, *want, 2e-5);
    }
    let embed = &tensors["model.embed_tokens.weight"].data;
    for v in [0, 7, 49] {
        let last = &want[6 * 32..];
        let logit: f64 = last.iter().zip(&embed[v * 32..]).map(|(h, e)| h * f64::from(*e)).sum();
        assert_close("logit", logits[6 * 50 + v], logit, 2e-5);
    }
}

/// With every linear weight zero the blocks add nothing, so the hidden state is the normed
/// embedding: a row (3, 4, 0, ...) of width 32 becomes (3, 4, 0, ...) / sqrt(25/32).
#[test]
fn without_blocks_the_hidden_state_is_the_normed_embedding() {
    let config = ModelConfig { n_layers: 1, norm_eps: 0.0, ..small_config() };
    let mut tensors = init_tensors(&config, 1);
    for (name, tensor) in &mut tensors {
        if name.contains("proj") {
            tensor.data.fill(0.0);
        }
    }
    let embed = tensors.get_mut("model.embed_tokens.weight").expect("embedding");
    embed.data[5 * 32..6 * 32].fill(0.0);
    embed.data[5 * 32..5 * 32 + 2].copy_from_slice(&[3.0, 4.0]);
    let model = Llama::from_tensors(&config, &tensors, &Device::flex()).expect("model");
    let hidden = hidden_of(&model, &[5, 6]);
    assert_close("3 of (3, 4)", hidden[0], 3.394_112_6, 1e-5);
    assert_close("4 of (3, 4)", hidden[1], 4.525_483_4, 1e-5);
    assert_close("rest", hidden[2], 0.0, 0.0);
}

#[test]
fn later_tokens_and_padding_change_nothing_before_them() {
    let config = small_config();
    let model = Llama::from_tensors(&config, &lively_tensors(&config), &Device::flex()).expect("model");
    let short = hidden_of(&model, &[1, 9, 17]);
    let long = hidden_of(&model, &[1, 9, 17, 30, 31]);
    let other = hidden_of(&model, &[1, 9, 18]);
    for i in 0..3 * 32 {
        assert_close("a prefix", long[i], short[i], 1e-6);
    }
    assert!((2 * 32..3 * 32).any(|i| (other[i] - short[i]).abs() > 1e-3), "the last token must matter");
    let alone: Vec<(f64, usize)> =
        rows().iter().map(|row| sft::logps_of(&model, std::slice::from_ref(row))[0]).collect();
    for (together, alone) in sft::logps_of(&model, &rows()).iter().zip(alone) {
        assert_close("log-probability in a padded batch", together.0, alone.0, 1e-5);
        assert_eq!(together.1, alone.1);
    }
}

/// Loss against the f64 reference, then its gradient against central differences of that
/// reference, for elements of every tensor.
#[test]
fn the_gradient_of_the_loss_equals_finite_differences() {
    assert_gradient_is_that_of_differences(small_config());
}

/// The same of a network whose output matrix is its own: that learns, and the embedding by what is read alone.
#[test]
fn an_output_matrix_of_its_own_has_its_gradient() {
    assert_gradient_is_that_of_differences(untied_config());
}

fn assert_gradient_is_that_of_differences(config: ModelConfig) {
    let tensors = lively_tensors(&config);
    let device = Device::flex().autodiff();
    let model = Llama::from_tensors(&config, &tensors, &device).expect("model");
    let weights = [0.5, 2.0, 1.0];
    let loss = sft::loss(&model, &Batch::pack(&rows()), &weights, &device);
    let grads = GradientsParams::from_grads(loss.backward(), &model);
    assert_close("loss", loss.into_scalar::<f32>(), reference::loss(&config, &tensors, &rows(), &weights), 1e-5);

    let grads = gradients_by_name(&model, grads);
    for (name, shape) in tensor_names(&config) {
        let n: usize = shape.iter().product();
        for i in [0, n / 3, n / 2 + 5, n - 1] {
            // Tokens that occur make the embedding's gradient lively.
            let i = if name.contains("embed") { (i % 32) + 9 * 32 } else { i };
            let at = |delta: f32| {
                let mut moved = tensors.clone();
                let value = &mut moved.get_mut(&name).expect("named").data[i];
                *value += delta;
                let value = f64::from(*value);
                (reference::loss(&config, &moved, &rows(), &weights), value)
            };
            let ((up, high), (down, low)) = (at(1e-3), at(-1e-3));
            let want = (up - down) / (high - low);
            assert_close(&format!("d loss / d {name}[{i}]"), grads[&name].data[i], want, 2e-5 + 1e-3 * want.abs());
        }
    }
}

/// Layers that are computed again on the way back, against a graph over all of them.
#[test]
fn recomputed_layers_give_the_gradient_of_kept_ones() {
    assert_recomputed_is_kept(small_config());
    assert_recomputed_is_kept(untied_config());
}

fn assert_recomputed_is_kept(config: ModelConfig) {
    let device = Device::flex().autodiff();
    let model = Llama::from_tensors(&config, &lively_tensors(&config), &device).expect("model");
    let replicas = Replicas::new(&model, &device, &[]);
    let gradient = |recompute| {
        let (loss, grads) =
            micro::summed(&model, &replicas, recompute, [Batch::pack(&rows())], |model, device, tape, batch| {
                sft::token_logps_on(model, &batch, device, tape).square().mean()
            });
        (loss, gradients_by_name(&model, grads))
    };
    let (kept, again) = (gradient(false), gradient(true));
    assert_close("loss", again.0, kept.0, 1e-6);
    for (name, want) in &kept.1 {
        for (got, want) in again.1[name].data.iter().zip(&want.data) {
            assert_close(name, *got, f64::from(*want), 1e-5 * (1.0 + f64::from(want.abs())));
        }
    }
    let (_, pass) = model.pass(int_tensor(&[1, 9, 17], &device));
    assert_eq!(pass.inputs.len(), config.n_layers + 1, "an input a layer and one of the norm");
    assert!(pass.inputs.iter().all(|x| x.dims() == [3, 32] && !x.is_autodiff()), "no graph");
}

/// Gradients in the layout of [`Llama::to_tensors`].
fn gradients_by_name(model: &Llama, grads: GradientsParams) -> TensorMap {
    struct Replace(GradientsParams);
    impl burn::module::ModuleMapper for Replace {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let grad = self.0.remove::<D>(param.id).expect("every parameter has a gradient");
            Param::initialized(param.id, grad)
        }
    }
    model.clone().map(&mut Replace(grads)).to_tensors()
}

/// Logits after every token of a sequence.
fn logits_of(config: &ModelConfig, tensors: &TensorMap) -> Vec<f32> {
    let model = Llama::from_tensors(config, tensors, &Device::flex()).expect("model");
    let hidden = model.hidden(int_tensor(&[1, 9, 17, 3, 25, 33, 4], &Device::flex()));
    model.logits(hidden).into_data().try_into_vec().expect("f32")
}

#[test]
fn the_embedding_as_output_matrix_changes_no_bit_and_a_row_of_it_one_logit() {
    let mut tensors = lively_tensors(&small_config());
    let error = Llama::from_tensors(&untied_config(), &tensors, &Device::flex()).expect_err("no output matrix");
    assert_eq!(error, ModelError::Missing { name: OUTPUT.into() });
    let want = logits_of(&small_config(), &tensors);
    tensors.insert(OUTPUT.into(), tensors["model.embed_tokens.weight"].clone());
    assert_eq!(logits_of(&untied_config(), &tensors), want);
    let logps = |config: &ModelConfig| {
        let model = Llama::from_tensors(config, &tensors, &Device::flex()).expect("model");
        sft::logps_of(&model, &rows())
    };
    assert_eq!(logps(&untied_config()), logps(&small_config()));
    let output = tensors.get_mut(OUTPUT).expect("there");
    output.data[7 * 32..8 * 32].iter_mut().for_each(|x| *x += 0.5);
    for (i, (got, want)) in logits_of(&untied_config(), &tensors).iter().zip(&want).enumerate() {
        assert_eq!(got == want, i % 50 != 7, "logit {i}");
    }
    assert_eq!(logits_of(&small_config(), &tensors), want, "a tied network does not look at it");
    let model = Llama::from_tensors(&untied_config(), &tensors, &Device::flex()).expect("model");
    assert_eq!(model.to_tensors(), tensors);
}

/// Log-probabilities by the fused operation against matrix product and softmax, each differentiated.
#[test]
fn fused_and_composed_gradients_of_an_output_matrix_agree() {
    let config = untied_config();
    let device = Device::flex().autodiff();
    let model = Llama::from_tensors(&config, &lively_tensors(&config), &device).expect("model");
    let tokens = [1, 9, 17, 3, 25, 33];
    let targets = || Tensor::<1, Int>::from_data(TensorData::new(vec![9, 17, 3, 25, 33, 4], [6]), &device);
    let gradient = |loss: Tensor<1>| gradients_by_name(&model, GradientsParams::from_grads(loss.backward(), &model));
    let hidden = || -> Tensor<2> { model.hidden(int_tensor(&tokens, &device)).reshape([6, 32]) };
    let fused = gradient(model.token_logps(hidden(), targets()).square().sum());
    let logps = burn::tensor::activation::log_softmax(model.row_logits(hidden()), 1);
    let composed = gradient(logps.gather(1, targets().reshape([6, 1])).square().sum());
    assert!(fused[OUTPUT].data.iter().any(|x| x.abs() > 0.1), "a lively gradient");
    for (name, want) in &composed {
        for (got, want) in fused[name].data.iter().zip(&want.data) {
            assert_close(name, *got, f64::from(*want), 1e-4 * (1.0 + f64::from(want.abs())));
        }
    }
}

#[test]
fn the_output_matrix_learns_and_is_frozen_beside_adapters() {
    let config = untied_config();
    let device = Device::flex().autodiff();
    let tensors = lively_tensors(&config);
    let lora = beckon_shared::control::LoraConfig { rank: 2, ..Default::default() };
    let adapted = lora::attach(tensors.clone(), &config, &lora, 5);
    for (tensors, learns) in [(&tensors, true), (&adapted, false)] {
        let model = Llama::from_tensors(&config, tensors, &device).expect("model");
        let loss = sft::loss(&model, &Batch::pack(&rows()), &[1.0; 3], &device);
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        let learnt = AdamW::new(AdamWConfig::default()).step(model, grads, 1e-2, &|_| 1.0).0.to_tensors();
        assert!(learnt.keys().eq(tensors.keys()));
        assert_eq!(learnt[OUTPUT] != tensors[OUTPUT], learns);
        assert_eq!(learnt["model.embed_tokens.weight"] != tensors["model.embed_tokens.weight"], learns);
        assert!(learnt != *tensors, "something learns");
    }
}

#[test]
fn a_reward_model_reads_with_the_trunk_alone() {
    let config = untied_config();
    let policy = lively_tensors(&config);
    let model = RewardModel::init(&config, &policy, 0.0, 0.01, 5, &Device::flex()).expect("model");
    let tensors = model.to_tensors();
    assert!(!tensors.contains_key(OUTPUT), "it writes no words");
    RewardModel::from_tensors(&config, &tensors, 0.01, &Device::flex()).expect("none is asked for");
}

#[test]
fn initialisation_follows_from_the_seed_and_has_its_spread() {
    let config = Preset::Tiny.model();
    let model = Llama::init(&config, 3, &Device::flex()).expect("model");
    let tensors = model.to_tensors();
    assert_eq!(tensors, Llama::init(&config, 3, &Device::flex().autodiff()).expect("model").to_tensors());
    assert_ne!(tensors, Llama::init(&config, 4, &Device::flex()).expect("model").to_tensors());
    let untied = ModelConfig { tied_embedding: false, ..config.clone() };
    let mut untied = Llama::init(&untied, 3, &Device::flex()).expect("model").to_tensors();
    assert!(untied.remove(OUTPUT).is_some_and(|output| output != untied["model.embed_tokens.weight"]));
    assert_eq!(untied, tensors, "the output matrix is drawn last");
    let names: Vec<String> = tensor_names(&config).into_iter().map(|(name, _)| name).collect();
    assert!(tensors.len() == names.len() && names.iter().all(|n| tensors.contains_key(n)));
    let std = |name: &str| {
        let data = &tensors[name].data;
        (data.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / data.len() as f64).sqrt()
    };
    assert_close("embedding", std("model.embed_tokens.weight"), 0.02, 4e-4);
    assert_close("residual", std("model.layers.1.mlp.down_proj.weight"), 0.01, 3e-4);
    assert_close("norm", std("model.norm.weight"), 1.0, 0.0);
}

#[test]
fn tensors_come_back_as_they_went_and_wrong_ones_are_named() {
    let config = small_config();
    let mut tensors = lively_tensors(&config);
    let model = Llama::from_tensors(&config, &tensors, &Device::flex()).expect("model");
    assert_eq!(model.to_tensors(), tensors);
    let name = "model.layers.1.self_attn.k_proj.weight";
    let missing = tensors.remove(name).expect("there");
    let error = Llama::from_tensors(&config, &tensors, &Device::flex()).expect_err("missing");
    assert_eq!(error, ModelError::Missing { name: name.into() });
    tensors.insert(name.into(), DenseTensor::new(vec![missing.data.len()], missing.data));
    let error = Llama::from_tensors(&config, &tensors, &Device::flex()).expect_err("shape");
    assert_eq!(error, ModelError::Shape { name: name.into(), got: vec![512], want: vec![16, 32] });
    let bad = ModelConfig { n_kv_heads: 3, ..config };
    assert!(matches!(Llama::init(&bad, 0, &Device::flex()), Err(ModelError::Config(_))));
}
