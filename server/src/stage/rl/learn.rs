//! From rollouts and their advantages to a policy: losses, gradients, and one or several updates on one batch.
//!
//! Dimension key: `N` suggestion tokens of a part.

use super::part::Part;
use super::rollout::Group;
use super::{BC, ROLLOUTS_PER_BC, State, Trainer, host, passes};
use crate::model::batch::{Batch, Sequence, derived_seed};
use crate::model::llama::Llama;
use crate::model::micro;
use crate::stage::StageError;
use crate::stage::sft::{token_logps, token_logps_on};
use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Tensor, TensorData};

/// Padded tokens of one part of a step.
const PART_TOKENS: usize = 2_048;

/// What the policy learns of a batch of rollouts.
pub struct Lesson<'a> {
    /// A of every rollout.
    pub advantages: &'a [f64],
    /// beta of the KL term in the loss.
    pub beta: f64,
    /// Learning rate.
    pub rate: f64,
}

/// Figures of a batch's updates: those of the first, on-policy one, and how far the others went.
pub struct Learnt {
    pub loss: f64,
    /// What behaviour cloning has of the loss before its weight.
    pub bc: Option<f64>,
    /// Of the gradient, before clipping.
    pub norm: f64,
    /// Share of tokens whose gradient the ratio's clip stopped; `None` with one update a batch.
    pub clipped_share: Option<f64>,
}

/// The policy's loss, what behaviour cloning has of it before its weight, and the gradient of the whole.
struct Losses {
    total: f64,
    bc: Option<f64>,
    grads: GradientsParams,
}

impl Trainer<'_> {
    /// All rollouts in batches of like length, with their log-probabilities under policy and reference. A
    /// long conversation would otherwise pad every other prompt of the step to its length.
    pub(super) fn parts(&self, state: &State, groups: &[Group]) -> Vec<Part> {
        let sequences: Vec<&Sequence> = groups.iter().flat_map(|g| &g.sequences).collect();
        let drawn: Vec<&Vec<f32>> = groups.iter().flat_map(|g| &g.logps).collect();
        let lengths: Vec<usize> = sequences.iter().map(|s| s.tokens.len()).collect();
        let n_tokens = self.micro_batch_tokens.unwrap_or(PART_TOKENS).min(PART_TOKENS);
        let unread = |rows: Vec<usize>| Part {
            batch: Batch::pack(rows.iter().map(|&i| sequences[i])),
            rollout: rows.iter().flat_map(|&i| drawn[i]).copied().collect(),
            rows,
            now: Vec::new(),
            old: None,
            logps: None,
            reference: Vec::new(),
        };
        let plan = state.replicas.split(&lengths, Some(n_tokens));
        let mut parts = self.read(state, plan.into_iter().map(unread).collect());
        let device = self.device.clone().inner();
        for part in &mut parts {
            part.reference = host(token_logps(&self.reference, &part.batch, &device)); // [N]
        }
        parts
    }

    /// The log-probabilities of parts under the policy as it is. The graphs of all wait until the gradient's turn
    /// comes, unless memory is short.
    fn read(&self, state: &State, parts: Vec<Part>) -> Vec<Part> {
        let short = self.micro_batch_tokens.is_some() || self.checkpoint_activations;
        let bare = short.then(|| state.model.valid());
        let inner = self.device.clone().inner();
        let mut found = Vec::with_capacity(parts.len());
        let work = |weights: &Llama, place: &Device, part: Part| {
            let logps = match &bare {
                Some(bare) => token_logps(bare, &part.batch, &inner),
                None => token_logps(weights, &part.batch, place),
            };
            (part, logps)
        };
        state.replicas.each(&state.model, parts, work, |(part, logps)| {
            let (now, logps) = match &bare {
                Some(_) => (host(logps), None),
                None => (host(logps.clone().inner()), Some(logps)),
            };
            found.push(Part { now, logps, ..part });
        });
        found
    }

    /// The updates of one batch. The first is on-policy; each other reads the rollouts again under what the one before
    /// has made.
    ///
    /// # Errors
    /// [`StageError::Diverged`].
    pub(super) fn learn(
        &self,
        mut state: State,
        mut parts: Vec<Part>,
        lesson: &Lesson,
    ) -> Result<(State, Learnt), StageError> {
        let step = state.progress.step;
        let diverged = |what| StageError::Diverged { stage: "rl", step, what };
        let n_updates = self.config.updates_per_batch;
        let mut first: Option<Learnt> = None;
        let (mut n_clipped, mut n_weighed) = (0, 0);
        for update in 0..n_updates {
            let again: Vec<Part> =
                if update + 1 < n_updates { parts.iter().map(Part::again).collect() } else { Vec::new() };
            if update > 0 {
                let clipped = |part: &Part| part.n_clipped(self.config.advantage, lesson.advantages);
                n_clipped += parts.iter().map(clipped).sum::<usize>();
                n_weighed += parts.iter().map(|part| part.now.len()).sum::<usize>();
            }
            let Losses { total, bc, grads } = self.losses(&state, parts, lesson, step * n_updates + update);
            if !total.is_finite() {
                return Err(diverged("loss"));
            }
            let (model, norm) = state.optimizer.step(state.model, grads, lesson.rate, &|_| 1.0);
            if !norm.is_finite() {
                return Err(diverged("gradient norm"));
            }
            state.replicas.refresh(&model);
            state.model = model;
            first.get_or_insert(Learnt { loss: total, bc, norm, clipped_share: None });
            parts = self.read(&state, again);
        }
        // a configuration has one update at least
        let learnt = first.unwrap_or(Learnt { loss: f64::NAN, bc: None, norm: f64::NAN, clipped_share: None });
        let clipped_share = (n_weighed > 0).then(|| n_clipped as f64 / n_weighed as f64);
        Ok((state, Learnt { clipped_share, ..learnt }))
    }

    /// -Σ_i w_i Σ_t c_it A_i log pi(y_it), plus the k2 term where the KL stands in the loss, plus eta times the
    /// cross-entropy of logged examples, of which update `update` of the run has its own. w is the algorithm's
    /// normaliser, by default 1/(n G L_max): a mean over a rollout's own length would make long bad ones cheap.
    fn losses(&self, state: &State, parts: Vec<Part>, lesson: &Lesson, update: usize) -> Losses {
        let State { model, replicas, .. } = state;
        let &Lesson { advantages, beta, .. } = lesson;
        let mut lengths = vec![0; advantages.len()];
        for part in &parts {
            part.rows.iter().zip(&part.batch.spans).for_each(|(&i, span)| lengths[i] = span.len());
        }
        let normaliser = self.config.advantage.token_weights(&lengths, self.config.max_new_tokens);
        let recompute = self.checkpoint_activations;
        let (mut total, mut grads) = micro::summed(model, replicas, recompute, parts, |weights, device, tape, part| {
            let constants = |values: Vec<f32>| {
                let n = values.len();
                Tensor::<1>::from_data(TensorData::new(values, [n]), device).inner()
            };
            let of_tokens = |value: &dyn Fn(usize) -> f64| {
                part.batch.per_target(&part.rows.iter().map(|&i| value(i) as f32).collect::<Vec<f32>>()) // [N]
            };
            let scale = of_tokens(&|i| -advantages[i] * normaliser[i]);
            let weighed = part.weights(self.config.advantage, advantages);
            let scale = scale.iter().zip(weighed).map(|(s, c)| s * c).collect();
            let mut of_kl = of_tokens(&|i| 0.5 * beta * normaliser[i]);
            if let Some(ratios) = part.token_ratios() {
                of_kl.iter_mut().zip(ratios).for_each(|(w, rho)| *w *= rho as f32);
            }
            let logps = part.logps.unwrap_or_else(|| token_logps_on(weights, &part.batch, device, tape));
            let loss = (logps.clone() * constants(scale)).sum();
            if beta == 0.0 {
                return loss;
            }
            // k2 = ½ (log pi - log pi_ref)²
            let distance = logps - constants(part.reference);
            loss + (distance.clone() * distance * constants(of_kl)).sum()
        });
        if self.bc.is_empty() || self.config.bc_weight == 0.0 {
            return Losses { total, bc: None, grads };
        }
        let n_bc = advantages.len().div_ceil(ROLLOUTS_PER_BC);
        let rows = passes(self.bc.len(), derived_seed(self.seed, BC), update * n_bc, n_bc);
        let lengths: Vec<usize> = rows.iter().map(|&i| self.bc[i].tokens.len()).collect();
        let n_targets: usize = rows.iter().map(|&i| self.bc[i].n_suggestion()).sum();
        let share = -self.config.bc_weight / n_targets as f64;
        let parts = replicas.split(&lengths, self.micro_batch_tokens);
        let (weighted, of_bc) = micro::summed(model, replicas, recompute, parts, |weights, device, tape, part| {
            let batch = Batch::pack(part.iter().map(|&k| &self.bc[rows[k]]));
            token_logps_on(weights, &batch, device, tape).sum().mul_scalar(share)
        });
        total += weighted;
        let mut sum = GradientsAccumulator::new();
        [grads, of_bc].into_iter().for_each(|part| sum.accumulate(model, part));
        grads = sum.grads();
        Losses { total, bc: Some(weighted / self.config.bc_weight), grads }
    }
}
