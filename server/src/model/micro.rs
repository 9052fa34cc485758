//! A step's gradient in parts: as many as there are devices, and none larger than fits in memory.
//!
//! What a backward pass keeps of a batch grows with the batch's tokens. A micro-batch holds at most so many padded
//! tokens; its graph is gone before the next one's is made on the same device, and the gradients are added up, so that a step
//! is the same but for rounding. Where a loss couples rows, as that of a pair does, [`Features`] are read without a graph, the
//! loss gives each row its gradient, and the parts are read once more to bring these to the weights (arXiv 2101.06983).
//! What a backward pass keeps grows with the layers too: a [`Tape`] can keep their inputs alone.

use super::batch::{Batch, Sequence, plan_sorted};
use super::llama::{Llama, Pass};
use super::ops;
use super::parallel::Replicas;
use super::reward::RewardModel;
use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Gradients, Int, Tensor, TensorData};

/// Padded tokens of a rectangle of [`Features`]. A lesson of 32 pairs of the public sets is a third padding as one
/// rectangle and an eighth in these.
const RECTANGLE_TOKENS: usize = 512;

/// The passes through a network that a loss rests on.
///
/// Where activations are recomputed, the hidden states of a pass are leaves of the loss's graph, which then holds nothing of
/// the layers; their gradient is carried on by [`Llama::carry`].
pub struct Tape {
    recompute: bool,
    passes: Vec<(Tensor<3>, Pass)>,
}

impl Tape {
    /// Without `recompute` all activations are kept, and the tape does nothing.
    pub fn new(recompute: bool) -> Self {
        Self { recompute, passes: Vec::new() }
    }

    /// [`Llama::hidden`]: tokens `[B, T]` to `[B, T, D]`.
    pub fn hidden(&mut self, model: &Llama, tokens: Tensor<2, Int>) -> Tensor<3> {
        if !self.recompute {
            return model.hidden(tokens);
        }
        let (hidden, pass) = model.pass(tokens);
        let hidden = Tensor::from_inner(hidden).require_grad();
        self.passes.push((hidden.clone(), pass));
        hidden
    }

    /// Gradient of `loss` by the weights of `whole`, of which `trunk`, where the passes went through, is a part or all.
    fn gradients<M: Module>(self, loss: &Tensor<1>, whole: &M, trunk: &Llama) -> GradientsParams {
        let mut gradients = loss.backward();
        let carried = |(hidden, pass): (Tensor<3>, Pass)| Some((hidden.grad_remove(&mut gradients)?, pass));
        let carried: Vec<(Tensor<3>, Pass)> = self.passes.into_iter().filter_map(carried).collect();
        let of_loss = GradientsParams::from_grads(gradients, whole);
        if carried.is_empty() {
            return of_loss;
        }
        let mut sum = GradientsAccumulator::new();
        sum.accumulate(whole, of_loss);
        for (gradient, pass) in carried {
            trunk.carry(pass, gradient, &mut |part| sum.accumulate(whole, part));
        }
        sum.grads()
    }
}

/// Sum of the parts' losses, and the gradient of that sum. `loss` is told the weights to use, where they are, and the tape that
/// its hidden states come from.
pub fn summed<P>(
    model: &Llama,
    replicas: &Replicas<Llama>,
    recompute: bool,
    parts: impl IntoIterator<Item = P>,
    loss: impl Fn(&Llama, &Device, &mut Tape, P) -> Tensor<1>,
) -> (f64, GradientsParams) {
    let mut sum = GradientsAccumulator::new();
    let mut total = 0.0;
    let work = |weights: &Llama, device: &Device, part| {
        let mut tape = Tape::new(recompute);
        let loss = loss(weights, device, &mut tape, part);
        let gradients = tape.gradients(&loss, weights, weights);
        (loss, gradients)
    };
    replicas.each(model, parts, work, |(loss, gradients)| {
        sum.accumulate(model, gathered(gradients, model, replicas));
        total += f64::from(loss.into_scalar::<f32>());
    });
    (total, sum.grads())
}

/// Gradients on the device of the model that learns.
fn gathered<M: Module>(gradients: GradientsParams, model: &M, replicas: &Replicas<M>) -> GradientsParams {
    match replicas.n_devices() {
        1 => gradients,
        _ => gradients.to_device(&replicas.device().clone().inner(), model),
    }
}

/// Pooled features of sequences, for a loss that couples them.
pub struct Features {
    /// `[R, D]`, in the order of the sequences.
    pub rows: Tensor<2>,
    /// Of those sequences whose words were asked for; `None` where none were.
    pub spoken: Option<Spoken>,
    /// What has to be read again for the weights' gradient. Empty where the features are connected to the weights by
    /// themselves.
    unread: Vec<Part>,
    recompute: bool,
}

/// What the policy's head says of suggestions over the reward model's trunk, see [`RewardModel::read_on`].
pub struct Spoken {
    /// Which of the sequences, S numbers.
    pub of: Vec<usize>,
    /// log p of each one's suggestion given its prompt, nats, `[S]`.
    pub logps: Tensor<1>,
}

/// Sequences that are read together.
struct Part {
    /// Their numbers.
    rows: Vec<usize>,
    batch: Batch,
    /// Places among `rows` whose words are asked for.
    spoken: Vec<usize>,
}

impl Part {
    fn pack(rows: Vec<usize>, sequences: &[&Sequence], is_spoken: &[bool]) -> Self {
        let batch = Batch::pack(rows.iter().map(|&i| sequences[i]));
        let asked = |&place: &usize| is_spoken.get(rows[place]).is_some_and(|asked| *asked);
        let spoken = (0..rows.len()).filter(asked).collect();
        Self { rows, batch, spoken }
    }
}

/// Sequences whose words were asked for, in the order of the parts, with their log-probabilities behind one another.
fn spoken(parts: &[Part], logps: Vec<Tensor<1>>) -> Option<Spoken> {
    let of = parts.iter().flat_map(|part| part.spoken.iter().map(move |&place| part.rows[place])).collect();
    (!logps.is_empty()).then(|| Spoken { of, logps: Tensor::cat(logps, 0) })
}

impl Features {
    /// Reads `sequences`: with a graph where they are one part whose activations are kept, else without. `is_spoken` says of
    /// each whether its words are asked for; it may be empty.
    ///
    /// # Panics
    /// If there are none.
    pub fn read(
        model: &RewardModel,
        replicas: &Replicas<RewardModel>,
        sequences: &[&Sequence],
        is_spoken: &[bool],
        n_tokens: Option<usize>,
        recompute: bool,
    ) -> Self {
        let device = replicas.device();
        let lengths: Vec<usize> = sequences.iter().map(|s| s.tokens.len()).collect();
        let parts = replicas.split(&lengths, n_tokens);
        if parts.len() == 1 && !recompute {
            let (rows, spoken) = in_rectangles(model, sequences, is_spoken, &lengths, device);
            return Self { rows, spoken, unread: Vec::new(), recompute };
        }
        let unread: Vec<Part> = parts.into_iter().map(|rows| Part::pack(rows, sequences, is_spoken)).collect();
        let device = device.clone().inner();
        let (mut read, mut logps) = (Vec::new(), Vec::new());
        let work = |weights: &RewardModel, place: &Device, part: &Part| {
            weights.valid().read_on(&part.batch, &part.spoken, &place.clone().inner(), &mut Tape::new(false))
        };
        replicas.each(model, &unread, work, |(features, words)| {
            read.push(features.to_device(&device));
            logps.extend(words.map(|words| words.to_device(&device)));
        });
        let place = places(unread.iter().map(|part| &part.rows), sequences.len());
        let rows = Tensor::cat(read, 0).select(0, indices(&place, &device));
        let leaf = |found: Spoken| Spoken { logps: Tensor::from_inner(found.logps).require_grad(), ..found };
        let spoken = spoken(&unread, logps).map(leaf);
        Self { rows: Tensor::from_inner(rows).require_grad(), spoken, unread, recompute }
    }

    /// Brings the gradient of a loss of `rows` and `spoken` to the weights: added to `sum`.
    pub fn carry(
        &self,
        model: &RewardModel,
        replicas: &Replicas<RewardModel>,
        gradients: &Gradients,
        sum: &mut GradientsAccumulator<RewardModel>,
    ) {
        if self.unread.is_empty() {
            return;
        }
        let Some(gradient) = self.rows.grad(gradients) else { return };
        let of_words = self.spoken.as_ref().and_then(|spoken| spoken.logps.grad(gradients)); // [S]
        let work = |weights: &RewardModel, device: &Device, (part, first): (&Part, usize)| {
            let inner = device.clone().inner();
            let share = gradient.clone().select(0, indices(&part.rows, &gradient.device())).to_device(&inner);
            let mut tape = Tape::new(self.recompute);
            // words without a gradient are not read again
            let places = if of_words.is_some() { &part.spoken[..] } else { &[] };
            let (features, logps) = weights.read_on(&part.batch, places, device, &mut tape);
            let of_features = (features * Tensor::from_inner(share)).sum();
            let carried = match (logps, &of_words) {
                (Some(logps), Some(gradient)) => {
                    let share = gradient.clone().slice([first..first + places.len()]).to_device(&inner);
                    of_features + (logps * Tensor::from_inner(share)).sum()
                }
                _ => of_features,
            };
            tape.gradients(&carried, weights, weights.trunk())
        };
        let firsts = self.unread.iter().scan(0, |next, part| {
            let first = *next;
            *next += part.spoken.len();
            Some(first)
        });
        let parts = self.unread.iter().zip(firsts);
        replicas.each(model, parts, work, |part| sum.accumulate(model, gathered(part, model, replicas)));
    }
}

/// Features `[R, D]`, and the words that are asked for, connected to the weights. On a CPU, where time follows the tokens, rows
/// of like length share a rectangle; a GPU would rather have one large one.
fn in_rectangles(
    model: &RewardModel,
    sequences: &[&Sequence],
    is_spoken: &[bool],
    lengths: &[usize],
    device: &Device,
) -> (Tensor<2>, Option<Spoken>) {
    let mut plan = if ops::is_fused(device) { plan_sorted(lengths, RECTANGLE_TOKENS) } else { Vec::new() };
    if plan.len() < 2 {
        plan = vec![(0..sequences.len()).collect()];
    }
    let parts: Vec<Part> = plan.into_iter().map(|rows| Part::pack(rows, sequences, is_spoken)).collect();
    let (mut read, mut logps) = (Vec::new(), Vec::new());
    for part in &parts {
        let (features, words) = model.read_on(&part.batch, &part.spoken, device, &mut Tape::new(false));
        read.push(features);
        logps.extend(words);
    }
    let spoken = spoken(&parts, logps);
    if parts.len() == 1 {
        return (read.swap_remove(0), spoken);
    }
    let read = Tensor::cat(read, 0); // [R, D]
    let place = places(parts.iter().map(|part| &part.rows), sequences.len());
    (ops::rows(read, indices(&place, &device.clone().inner())), spoken)
}

/// Where each of `n` rows is found behind one another in the parts.
fn places<'a>(parts: impl IntoIterator<Item = &'a Vec<usize>>, n: usize) -> Vec<usize> {
    let mut places = vec![0; n];
    parts.into_iter().flatten().enumerate().for_each(|(k, &i)| places[i] = k);
    places
}

fn indices(rows: &[usize], device: &Device) -> Tensor<1, Int> {
    let rows: Vec<i32> = rows.iter().map(|&i| i as i32).collect();
    let n = rows.len();
    Tensor::from_data(TensorData::new(rows, [n]), device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::llama::Llama;
    use crate::model::optim::{AdamW, AdamWConfig};
    use beckon_shared::config::{ModelConfig, Preset};
    use beckon_shared::metrics::assert_close;

    #[test]
    fn rectangles_of_like_length_have_the_features_and_the_gradient_of_one() {
        let config = ModelConfig { vocab_size: 50, d_model: 32, n_layers: 1, ..Preset::Tiny.model() };
        let device = Device::flex().autodiff();
        let policy = Llama::init(&config, 3, &device).expect("network").to_tensors();
        let model = RewardModel::init(&config, &policy, 0.0, 0.01, 5, &device).expect("network");
        let sequence = |i: usize| {
            let tokens: Vec<u32> = (0..4 + i * 7 % 30).map(|k| ((k * 5 + i) % 50) as u32).collect();
            Sequence::new(&tokens[..2], &tokens[2..])
        };
        let sequences: Vec<Sequence> = (0..40).map(sequence).collect();
        let sequences: Vec<&Sequence> = sequences.iter().collect();
        let lengths: Vec<usize> = sequences.iter().map(|s| s.tokens.len()).collect();
        assert!(plan_sorted(&lengths, RECTANGLE_TOKENS).len() > 1, "more than one rectangle");

        let weights: Vec<f32> = (0..40 * 32).map(|i| (i as f32 * 0.7).sin()).collect();
        let read = |features: Tensor<2>| {
            let weights: Tensor<2> = Tensor::from_data(TensorData::new(weights.clone(), [40, 32]), &device);
            let grads = GradientsParams::from_grads((features.clone() * weights).sum().backward(), &model);
            // so large an epsilon makes the step the gradient, nearly
            let plain = AdamWConfig { epsilon: 1.0, weight_decay: 0.0, clip_norm: f64::MAX, ..AdamWConfig::default() };
            let (learnt, norm) = AdamW::new(plain).step(model.clone(), grads, 1.0, &|_| 1.0);
            (features.into_data().try_into_vec::<f32>().expect("f32"), norm, learnt.to_tensors())
        };
        let whole = read(model.features(&Batch::pack(sequences.iter().copied()), &device));
        let (parts, spoken) = in_rectangles(&model, &sequences, &[], &lengths, &device);
        assert!(spoken.is_none(), "nobody asked for words");
        let parts = read(parts);
        for (part, whole) in parts.0.iter().zip(&whole.0) {
            assert_close("feature", *part, f64::from(*whole), 1e-5);
        }
        assert_close("norm of the gradient", parts.1, whole.1, 1e-4 * whole.1);
        let embedding = "model.embed_tokens.weight";
        for (part, whole) in parts.2[embedding].data.iter().zip(&whole.2[embedding].data) {
            assert_close("a step", *part, f64::from(*whole), 1e-4);
        }
    }
}
