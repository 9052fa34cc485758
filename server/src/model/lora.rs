//! Low-rank adaptation: a frozen network learns through a product of two thin matrices beside each weight
//! (Hu et al. 2021, arXiv 2106.09685).
//!
//! In the loop: how SFT, GaRM and RL train a pretrained model on two cores. `y = x·W + s·(x·A)·B` with `A [in, r]`
//! normal, `B [r, out]` zero at first and `s = alpha / r`. Adapters are tensors beside the weights' own
//! ([`attach`]); [`Llama::from_tensors`](super::llama::Llama::from_tensors) finds them there and freezes the rest.
//! What a stage hands on is merged ([`merge`]), so nothing behind it knows of adapters.
//!
//! What is frozen gets no gradient and no update, so it can lie on the device in half precision ([`HALF`],
//! [`ops::half`](super::ops::half)); the network keeps the values it was given on the host, and those are what is saved and merged.

use super::batch::derived_seed;
use super::llama::normals;
use beckon_shared::adapter::add_product;
use beckon_shared::config::{ModelConfig, tensor_names};
use beckon_shared::control::{BasePrecision, LoraConfig, LoraTargets};
use beckon_shared::engine::LowRank;
use beckon_shared::tensor::{DenseTensor, TensorMap};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::borrow::Cow;

/// s, `[1]`; its presence means that there are adapters.
pub const SCALE: &str = "lora.scale";
/// `[1]`; its presence means that the layers' matrices are frozen and held in half precision.
pub const HALF: &str = "lora.base_f16";
/// Behind a weight's name without `weight`: A as `[r, in]` and B as `[out, r]`, as PEFT keeps them.
pub const A: &str = "lora_A.weight";
/// See [`A`].
pub const B: &str = "lora_B.weight";

const ATTENTION: [&str; 4] = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"];
const FEED_FORWARD: [&str; 3] = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"];

/// Weights in the adapters of a network.
pub fn n_adapter_weights(model: &ModelConfig, lora: &LoraConfig) -> usize {
    let adapted = |name: &str| {
        let within = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
        within(&ATTENTION) || (lora.targets == LoraTargets::All && within(&FEED_FORWARD))
    };
    let ends = |(name, shape): (String, Vec<usize>)| if adapted(&name) { shape.iter().sum() } else { 0 };
    lora.rank * tensor_names(model).into_iter().map(ends).sum::<usize>()
}

/// Puts fresh adapters beside the weights of a network: they change nothing yet.
///
/// # Panics
/// If a weight of the configuration is missing.
pub fn attach(mut tensors: TensorMap, model: &ModelConfig, lora: &LoraConfig, seed: u64) -> TensorMap {
    let feed_forward = if lora.targets == LoraTargets::All { &FEED_FORWARD[..] } else { &[] };
    let mut rng = ChaCha8Rng::seed_from_u64(derived_seed(seed, 1));
    for layer in 0..model.n_layers {
        for part in ATTENTION.iter().chain(feed_forward) {
            let name = format!("model.layers.{layer}.{part}.");
            let [n_out, n_in] = tensors[&format!("{name}weight")].shape[..] else { panic!("{name}weight is a matrix") };
            let a = normals(&mut rng, lora.rank * n_in, 1.0 / (n_in as f64).sqrt());
            tensors.insert(format!("{name}{A}"), DenseTensor::new(vec![lora.rank, n_in], a));
            tensors
                .insert(format!("{name}{B}"), DenseTensor::new(vec![n_out, lora.rank], vec![0.0; n_out * lora.rank]));
        }
    }
    let scale = (lora.alpha / lora.rank as f64) as f32;
    tensors.insert(SCALE.into(), DenseTensor::new(vec![1], vec![scale]));
    if lora.base_precision == BasePrecision::F16 {
        tensors.insert(HALF.into(), DenseTensor::new(vec![1], vec![1.0]));
    }
    tensors
}

/// The tensors of a network that stays as it is beside one with adapters: held in the same precision, so that the two
/// differ by the adapters alone and not by rounding.
pub fn frozen(tensors: &TensorMap, lora: Option<LoraConfig>) -> Cow<'_, TensorMap> {
    if lora.is_none_or(|lora| lora.base_precision == BasePrecision::F32) {
        return Cow::Borrowed(tensors);
    }
    let mut tensors = tensors.clone();
    tensors.insert(HALF.into(), DenseTensor::new(vec![1], vec![1.0]));
    Cow::Owned(tensors)
}

/// A copy of a network's tensors, with fresh adapters where `lora` asks for them.
///
/// # Panics
/// As [`attach`].
pub fn with_adapters(tensors: &TensorMap, model: &ModelConfig, lora: Option<LoraConfig>, seed: u64) -> TensorMap {
    match lora {
        Some(lora) => attach(tensors.clone(), model, &lora, seed),
        None => tensors.clone(),
    }
}

/// The same network with its adapters folded into the weights: `W + s·B·A`. Without adapters nothing changes.
pub fn merge(mut tensors: TensorMap) -> TensorMap {
    tensors.remove(HALF);
    let Some(scale) = tensors.remove(SCALE) else { return tensors };
    let names: Vec<String> = tensors.keys().filter_map(|name| Some(name.strip_suffix(A)?.to_owned())).collect();
    for name in names {
        let take = |tensors: &mut TensorMap, part: &str| tensors.remove(&format!("{name}{part}"));
        let (Some(a), Some(b)) = (take(&mut tensors, A), take(&mut tensors, B)) else { continue };
        if let Some(weight) = tensors.get_mut(&format!("{name}weight")) {
            add_product(weight, &LowRank { a, b, scale: scale.data[0] });
        }
    }
    tensors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::llama::Llama;
    use crate::model::optim::{AdamW, AdamWConfig};
    use beckon_shared::config::Preset;
    use beckon_shared::metrics::assert_close;
    use burn::optim::GradientsParams;
    use burn::tensor::{Device, Int, Tensor};

    fn lora(targets: LoraTargets) -> LoraConfig {
        LoraConfig { rank: 4, alpha: 8.0, targets, ..LoraConfig::default() }
    }

    fn logits(model: &Llama, device: &Device) -> Tensor<3> {
        let tokens = Tensor::<2, Int>::from_data([[1, 5, 9, 2, 7]], device);
        model.logits(model.hidden(tokens))
    }

    fn values(tensor: Tensor<3>) -> Vec<f32> {
        tensor.into_data().try_into_vec().expect("f32")
    }

    #[test]
    fn adapters_alone_learn_and_merging_changes_no_output() {
        let config = ModelConfig { vocab_size: 40, d_model: 32, n_layers: 2, ..Preset::Tiny.model() };
        for targets in [LoraTargets::Attention, LoraTargets::All] {
            let device = Device::flex().autodiff();
            let base = Llama::init(&config, 3, &device).expect("network").to_tensors();
            let tensors = attach(base.clone(), &config, &lora(targets), 5);
            let mut model = Llama::from_tensors(&config, &tensors, &device).expect("network");
            let plain = Llama::from_tensors(&config, &base, &Device::flex()).expect("network");
            let before = values(logits(&model, &device).inner());
            assert_eq!(before, values(logits(&plain, &Device::flex())), "fresh adapters change nothing");
            let mut optimizer = AdamW::new(AdamWConfig { weight_decay: 0.0, ..AdamWConfig::default() });
            for _ in 0..3 {
                let loss = logits(&model, &device).square().mean();
                let grads = GradientsParams::from_grads(loss.backward(), &model);
                model = optimizer.step(model, grads, 1e-2, &|_| 1.0).0;
            }
            let learnt = model.to_tensors();
            assert!(base.iter().all(|(name, tensor)| learnt[name] == *tensor), "the base is frozen");
            let n_adapters = learnt.keys().filter(|name| name.ends_with(A)).count();
            assert_eq!(n_adapters, if targets == LoraTargets::All { 14 } else { 8 });
            let after = values(logits(&model, &device).inner());
            assert!(after.iter().zip(&before).any(|(a, b)| (a - b).abs() > 1e-3), "adapters learn");
            let merged = merge(learnt.clone());
            assert!(merged.keys().eq(base.keys()));
            let merged = Llama::from_tensors(&config, &merged, &Device::flex()).expect("network");
            for (a, b) in values(logits(&merged, &Device::flex())).iter().zip(&after) {
                assert_close("merged", f64::from(*a), f64::from(*b), 1e-5);
            }
            let again = Llama::from_tensors(&config, &learnt, &device).expect("network");
            assert_eq!(values(logits(&again, &device).inner()), after, "a saved state comes back");
        }
    }

    /// On the CPU, where a run would be refused, with Burn's own products.
    #[test]
    fn a_base_in_half_precision_is_saved_and_merged_as_it_came() {
        let config = ModelConfig { vocab_size: 40, d_model: 32, n_layers: 2, ..Preset::Tiny.model() };
        let (device, plain) = (Device::flex().autodiff(), Device::flex());
        let half = LoraConfig { base_precision: BasePrecision::F16, ..lora(LoraTargets::All) };
        let base = Llama::init(&config, 3, &plain).expect("network").to_tensors();
        let tensors = attach(base.clone(), &config, &half, 5);
        let mut model = Llama::from_tensors(&config, &tensors, &device).expect("network");
        let of = |tensors: &TensorMap| {
            let network = Llama::from_tensors(&config, tensors, &plain).expect("network");
            values(logits(&network, &plain))
        };
        let close = |a: &[f32], b: &[f32]| {
            let size = b.iter().fold(0f32, |m, x| m.max(x.abs()));
            assert!(a != b, "one of them is rounded");
            assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-2 * size), "{a:?} and {b:?}");
        };
        let before = values(logits(&model, &device).inner());
        close(&before, &of(&base));
        assert_eq!(before, of(&frozen(&base, Some(half))), "a network beside it rounds alike");
        assert_eq!(of(&frozen(&base, Some(lora(LoraTargets::All)))), of(&base), "f32 stays f32");
        let mut optimizer = AdamW::new(AdamWConfig { weight_decay: 0.0, ..AdamWConfig::default() });
        for _ in 0..3 {
            let grads = GradientsParams::from_grads(logits(&model, &device).square().mean().backward(), &model);
            model = optimizer.step(model, grads, 1e-2, &|_| 1.0).0;
        }
        assert!(optimizer.to_tensors().keys().all(|path| path.contains("adapter")), "the base has no gradient");
        let learnt = model.to_tensors();
        assert!(base.iter().all(|(name, tensor)| learnt[name] == *tensor), "saved as it came, to the bit");
        let after = values(logits(&model, &device).inner());
        assert!(after.iter().zip(&before).any(|(a, b)| (a - b).abs() > 1e-3), "adapters learn");
        let again = Llama::from_tensors(&config, &learnt, &device).expect("network");
        assert_eq!(values(logits(&again, &device).inner()), after, "a saved state comes back");
        let merged = merge(learnt);
        assert!(merged.keys().eq(base.keys()));
        close(&after, &of(&merged));
    }

    #[test]
    fn without_adapters_nothing_is_merged() {
        let tensors = TensorMap::from([("a.weight".to_owned(), DenseTensor::new(vec![1, 1], vec![2.0]))]);
        assert_eq!(merge(tensors.clone()), tensors);
    }
}
