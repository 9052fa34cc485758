//! Time left in a stage, from the steps seen so far. Pure; the caller brings the clock.

use beckon_shared::control::Stage;
use std::collections::VecDeque;

/// Samples kept: about the last minute at one sample a second.
const N_SAMPLES: usize = 64;

/// Rate of steps of the stage at work.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepRate {
    stage: Option<Stage>,
    samples: VecDeque<(f64, usize)>,
}

impl StepRate {
    /// Takes note that `step` of `stage` was done at `now_secs`. A new stage, or a step backwards,
    /// starts afresh.
    pub fn observe(&mut self, stage: Stage, step: usize, now_secs: f64) {
        let went_back = self.samples.back().is_some_and(|&(_, last)| step < last);
        if self.stage != Some(stage) || went_back {
            self.stage = Some(stage);
            self.samples.clear();
        }
        if self.samples.back().is_some_and(|&(_, last)| step == last) {
            return;
        }
        if self.samples.len() == N_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back((now_secs, step));
    }

    /// Forgets the samples, as after a pause.
    pub fn reset(&mut self) {
        self.samples.clear();
    }

    /// Steps per second over the kept samples; `None` before two of them.
    #[expect(clippy::cast_precision_loss, reason = "step counts")]
    pub fn steps_per_sec(&self) -> Option<f64> {
        let (&(t0, s0), &(t1, s1)) = (self.samples.front()?, self.samples.back()?);
        (t1 > t0 && s1 > s0).then(|| (s1 - s0) as f64 / (t1 - t0))
    }

    /// Seconds until step `n_steps` of `stage`; `None` where the rate is not known yet.
    #[expect(clippy::cast_precision_loss, reason = "step counts")]
    pub fn secs_left(&self, stage: Stage, step: usize, n_steps: usize) -> Option<f64> {
        if self.stage != Some(stage) {
            return None;
        }
        Some(n_steps.saturating_sub(step) as f64 / self.steps_per_sec()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_steps_a_second() {
        let mut rate = StepRate::default();
        rate.observe(Stage::Sft, 0, 0.0);
        assert_eq!(rate.secs_left(Stage::Sft, 0, 100), None);
        rate.observe(Stage::Sft, 20, 2.0);
        assert_eq!(rate.secs_left(Stage::Sft, 20, 100), Some(8.0));
        assert_eq!(rate.secs_left(Stage::Rl, 20, 100), None);
    }

    #[test]
    fn a_new_stage_starts_afresh() {
        let mut rate = StepRate::default();
        rate.observe(Stage::Sft, 0, 0.0);
        rate.observe(Stage::Sft, 20, 2.0);
        rate.observe(Stage::Garm, 1, 3.0);
        assert_eq!(rate.steps_per_sec(), None);
        rate.observe(Stage::Garm, 2, 4.0);
        assert_eq!(rate.secs_left(Stage::Garm, 2, 4), Some(2.0));
    }

    #[test]
    fn samples_are_bounded() {
        let mut rate = StepRate::default();
        for i in 0..1000_u32 {
            rate.observe(Stage::Rl, i as usize, f64::from(i));
        }
        assert_eq!(rate.samples.len(), N_SAMPLES);
    }
}
