//! Rotary frequencies: by how much the pairs of a head turn from one position to the next, plain (Su et al. 2021) or
//! stretched so that a network reads more than it was first trained on.

use super::{ConfigError, ModelConfig};
use serde::{Deserialize, Serialize};
use std::f64::consts::TAU;

/// How frequencies are stretched; names and meaning as `rope_scaling` in a `config.json` of transformers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
pub enum RopeScaling {
    /// All of them divided by `factor` (Chen et al. 2023, position interpolation).
    Linear {
        /// Times the positions.
        factor: f32,
    },
    /// Llama 3.1: those that turn less than `low_freq_factor` times within the first training's positions are divided by
    /// `factor`, those that turn more than `high_freq_factor` times stay, and between the two it goes over evenly.
    Llama3 {
        /// Times the positions.
        factor: f32,
        /// Turns below which a frequency is divided.
        low_freq_factor: f32,
        /// Turns above which it stays.
        high_freq_factor: f32,
        /// Positions of the first training.
        original_max_position_embeddings: usize,
    },
    /// Each divided by its own factor, K/2 of them: what a GGUF file says of any stretching, as tensor `rope_freqs.weight`.
    Factors {
        /// One a pair.
        factors: Vec<f32>,
    },
}

impl RopeScaling {
    /// What the frequency of pair `i` is divided by; `plain` is that frequency.
    fn divisor(&self, i: usize, plain: f64) -> f64 {
        match self {
            Self::Linear { factor } => f64::from(*factor),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let turns = *original_max_position_embeddings as f64 * plain / TAU;
                let (factor, low, high) =
                    (f64::from(*factor), f64::from(*low_freq_factor), f64::from(*high_freq_factor));
                let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                1.0 / ((1.0 - kept) / factor + kept)
            }
            Self::Factors { factors } => factors.get(i).map_or(1.0, |factor| f64::from(*factor)),
        }
    }

    /// Checks every number, for heads of `head_dim`.
    ///
    /// # Errors
    /// Names the first that cannot be; what is no whole number is shown without its fraction.
    pub fn validate(&self, head_dim: usize) -> Result<(), ConfigError> {
        let fits = |factor: &f32| *factor > 0.0 && factor.is_finite();
        let check = |ok: bool, field, value: f32, expected| {
            if ok { Ok(()) } else { Err(ConfigError { field, value: value as usize, expected }) }
        };
        const POSITIVE: &str = "a number above 0";
        match self {
            Self::Linear { factor } => check(fits(factor), "rope_scaling.factor", *factor, POSITIVE),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                check(fits(factor), "rope_scaling.factor", *factor, POSITIVE)?;
                check(fits(low_freq_factor), "rope_scaling.low_freq_factor", *low_freq_factor, POSITIVE)?;
                let above = fits(high_freq_factor) && high_freq_factor > low_freq_factor;
                check(above, "rope_scaling.high_freq_factor", *high_freq_factor, "above low_freq_factor")?;
                let n = *original_max_position_embeddings;
                check(n > 0, "rope_scaling.original_max_position_embeddings", n as f32, "at least 1")
            }
            Self::Factors { factors } => {
                check(
                    factors.len() == head_dim / 2,
                    "rope_scaling.factors",
                    factors.len() as f32,
                    "one a pair of a head",
                )?;
                check(factors.iter().all(fits), "rope_scaling.factors", 0.0, "numbers above 0")
            }
        }
    }
}

impl ModelConfig {
    /// What `scaling` divides each frequency by, `[K / 2]`.
    pub fn rope_factors(&self, scaling: &RopeScaling) -> Vec<f32> {
        (0..self.head_dim / 2).map(|i| scaling.divisor(i, self.plain_frequency(i)) as f32).collect()
    }

    fn plain_frequency(&self, i: usize) -> f64 {
        f64::from(self.rope_base).powf(-(i as f64) / (self.head_dim / 2) as f64)
    }

    /// Radians from one position to the next of each pair of a head, `[K / 2]`: `base^(-2i/K)`, stretched.
    pub fn rope_frequencies(&self) -> Vec<f64> {
        let frequency = |i: usize| {
            let plain = self.plain_frequency(i);
            self.rope_scaling.as_ref().map_or(plain, |scaling| plain / scaling.divisor(i, plain))
        };
        (0..self.head_dim / 2).map(frequency).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Preset;
    use super::*;
    use crate::metrics::assert_close;

    fn config(rope_scaling: Option<RopeScaling>) -> ModelConfig {
        ModelConfig { head_dim: 8, rope_base: 10_000.0, rope_scaling, ..Preset::Tiny.model() }
    }

    fn llama3() -> RopeScaling {
        serde_json::from_str(
            r#"{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 1024}"#,
        )
        .expect("as transformers writes it")
    }

    /// 1024 positions of base 10,000 and 8 wide heads: 163, 16.3, 1.63 and 0.163 turns, of which the third is between 1 and 4.
    #[test]
    fn llama3_keeps_high_frequencies_divides_low_ones_and_goes_over_between() {
        let found = config(Some(llama3())).rope_frequencies();
        let kept = (1024.0 * 0.01 / TAU - 1.0) / 3.0;
        for (found, want) in found.iter().zip([1.0, 0.1, 0.01 * ((1.0 - kept) / 8.0 + kept), 0.001 / 8.0]) {
            assert_close("frequency", *found, want, 1e-12);
        }
        // as its `_compute_llama3_parameters` goes about it, by wavelengths
        assert_close("third", found[2], 0.003_086_760_967_011, 1e-14);
    }

    #[test]
    fn other_stretchings_divide_by_what_they_say() {
        let plain = config(None).rope_frequencies();
        assert_eq!(plain.len(), 4);
        assert_close("10,000^(-1/4)", plain[1], 0.1, 1e-15);
        let halved = config(Some(RopeScaling::Linear { factor: 2.0 })).rope_frequencies();
        assert!(halved.iter().zip(&plain).all(|(h, p)| *h == p / 2.0));
        let factors = vec![1.0, 2.0, 4.0, 8.0];
        let each = config(Some(RopeScaling::Factors { factors })).rope_frequencies();
        assert_close("third", each[2], 0.01 / 4.0, 1e-15);
    }

    #[test]
    fn what_cannot_be_is_named_and_a_plain_model_says_nothing() {
        let refused = |scaling: RopeScaling| config(Some(scaling)).validate().expect_err("refused").field;
        assert_eq!(refused(RopeScaling::Linear { factor: 0.0 }), "rope_scaling.factor");
        assert_eq!(refused(RopeScaling::Linear { factor: f32::NAN }), "rope_scaling.factor");
        assert_eq!(refused(RopeScaling::Factors { factors: vec![1.0; 3] }), "rope_scaling.factors");
        let RopeScaling::Llama3 { factor, high_freq_factor, original_max_position_embeddings, .. } = llama3() else {
            panic!("llama3");
        };
        let swapped =
            RopeScaling::Llama3 { factor, low_freq_factor: 4.0, high_freq_factor, original_max_position_embeddings };
        assert_eq!(refused(swapped), "rope_scaling.high_freq_factor");
        assert_eq!(config(Some(llama3())).validate(), Ok(()));
        let json = serde_json::to_string(&config(None)).expect("JSON");
        assert!(!json.contains("rope_scaling"), "ids of checkpoints stay what they are: {json}");
        let stretched = config(Some(llama3()));
        let json = serde_json::to_string(&stretched).expect("JSON");
        assert_eq!(serde_json::from_str::<ModelConfig>(&json).expect("back"), stretched);
    }
}
