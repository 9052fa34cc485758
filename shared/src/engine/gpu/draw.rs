//! Decode steps whose tokens are drawn on the device: the drawn token is the next step's row, and the host reads back
//! once for several steps.

use super::{End, GpuExecutor, Network, Row};
use crate::engine::EngineError;
use crate::engine::forward::Pass;
use crate::sampling::{Drawn, Sampling, SamplingError};
use beckon_shaders::kernels::sample::{Draw, NO_TOKEN, SampleParams};

/// Steps between two readings: a finished candidate is noticed that late, and computes on until then.
pub(in crate::engine) const STEPS: usize = 8;

/// Words of a draw.
pub(super) const DRAW_WORDS: usize = size_of::<Draw>() / 4;

/// Steepest distribution that is told from a greedy one; keeps 1 / temperature finite.
const MAX_STEEPNESS: f32 = 1e30;

/// A draw that ends a pass, of all its rows.
pub(super) struct Sample<'a> {
    pub sampling: &'a Sampling,
    /// Where the first row's uniform number and draw stand.
    pub first_draw: usize,
}

impl Sample<'_> {
    /// The kernel's parameters.
    pub fn params(&self, n_rows: usize, vocab_size: usize) -> SampleParams {
        let Sampling { temperature, top_k, top_p, .. } = *self.sampling;
        SampleParams {
            n_rows: n_rows as u32,
            vocab_size: vocab_size as u32,
            top_k: top_k.min(vocab_size) as u32,
            first_draw: self.first_draw as u32,
            top_p,
            steepness: if temperature == 0.0 { 0.0 } else { (1.0 / temperature).min(MAX_STEEPNESS) },
        }
    }
}

impl GpuExecutor {
    /// Steps of the policy from `rows` on, each candidate a row; draws `[steps, R]` with `uniforms` `[steps, R]`, which
    /// are rounded to f32.
    ///
    /// # Errors
    /// Rows without a place, more steps than [`STEPS`], logits that are none, or a failure of the device.
    pub(in crate::engine) async fn draw(
        &mut self,
        rows: &[Row],
        uniforms: &[f64],
        sampling: &Sampling,
    ) -> Result<Vec<Drawn>, EngineError> {
        self.gpu.check()?;
        let n_steps = uniforms.len() / rows.len().max(1);
        if rows.len() > self.limits.n_seqs || n_steps > STEPS {
            return Err(EngineError::Row { row_idx: rows.len(), reason: "more draws than the device has room for" });
        }
        let rounded: Vec<f32> = uniforms.iter().map(|uniform| *uniform as f32).collect();
        self.gpu.queue.write_buffer(&self.buffers.uniforms, 0, bytemuck::cast_slice(&rounded));
        let mut rows = rows.to_vec();
        for step in 0..n_steps {
            let placement = self.policy.plan.place(&rows)?;
            let pass = Pass { rows: 0..rows.len(), selected: (0..rows.len() as u32).collect() };
            let sample = Sample { sampling, first_draw: step * rows.len() };
            self.submit(Network::Policy, placement.rows(0..rows.len()), &pass, End::Draw(sample))?;
            rows.iter_mut().for_each(|row| row.pos += 1);
        }
        let n_draws = n_steps * rows.len();
        let words = self.gpu.read_f32(&self.buffers.readback, n_draws * DRAW_WORDS).await?;
        self.gpu.check()?;
        let words: Vec<u32> = words.into_iter().map(f32::to_bits).collect();
        words
            .as_chunks::<DRAW_WORDS>()
            .0
            .iter()
            .map(|draw| drawn(bytemuck::cast(*draw), self.config.vocab_size))
            .collect()
    }
}

fn drawn(draw: Draw, vocab_size: usize) -> Result<Drawn, EngineError> {
    let Draw { token, logp_bits, strange_bits, strange_token } = draw;
    if token != NO_TOKEN {
        return Ok(Drawn { token, logp: f32::from_bits(logp_bits) });
    }
    Err(EngineError::Sampling(match strange_token {
        NO_TOKEN => SamplingError::NothingLeft { vocab_size },
        token => SamplingError::Logit { token: token as usize, value: f32::from_bits(strange_bits) },
    }))
}
