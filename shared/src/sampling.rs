//! Choosing the next token from logits: temperature, then top-k, then top-p, from one seeded stream a
//! candidate.
//!
//! In the loop: between the engine's logits and a suggestion, and in RL rollouts. Runs on the host in
//! f64, so the same logits and seed give the same tokens on every executor; only the log-probability that is told
//! comes from a sum in f32. Dimension key: `V` vocabulary.

use beckon_shaders::softmax;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// How tokens are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// 0 means greedy.
    pub temperature: f32,
    /// Keep the k most likely; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set with this mass; 1 keeps all.
    pub top_p: f32,
    /// Candidate `i` draws from ChaCha8 stream `i` of this seed.
    pub seed: u64,
}

impl Sampling {
    /// The most likely token at every step.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 };

    /// Draws from the policy's own distribution, as RL needs them.
    pub fn plain(seed: u64) -> Self {
        Self { temperature: 1.0, top_k: 0, top_p: 1.0, seed }
    }

    /// # Errors
    /// [`SamplingError::Setting`] naming the first field that cannot be.
    pub fn validate(&self) -> Result<(), SamplingError> {
        let check = |ok, field, value, expected| {
            if ok { Ok(()) } else { Err(SamplingError::Setting { field, value, expected }) }
        };
        check(
            self.temperature >= 0.0 && self.temperature <= 100.0,
            "temperature",
            self.temperature,
            "0 (greedy) to 100",
        )?;
        check(self.top_p > 0.0 && self.top_p <= 1.0, "top_p", self.top_p, "above 0, at most 1")
    }
}

/// Why no token can be drawn.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SamplingError {
    /// A setting that cannot be.
    #[error("sampling: {field} is {value}, expected {expected}")]
    Setting {
        /// Which field.
        field: &'static str,
        /// What it holds.
        value: f32,
        /// What it should hold.
        expected: &'static str,
    },
    /// The network gave something that is no logit.
    #[error("logit of token {token} is {value}")]
    Logit {
        /// First offending token.
        token: usize,
        /// NaN or positive infinity.
        value: f32,
    },
    /// No token has any probability.
    #[error("no token has a finite logit among {vocab_size}")]
    NothingLeft {
        /// V.
        vocab_size: usize,
    },
}

/// A drawn token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawn {
    /// Token id.
    pub token: u32,
    /// Its log-probability in nats under the network's own distribution: temperature 1, nothing cut off.
    pub logp: f32,
}

/// Draws the tokens of one candidate.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Sampling,
    rng: ChaCha8Rng,
}

impl Sampler {
    /// The sampler of candidate `stream`; its draws do not depend on other candidates.
    ///
    /// # Errors
    /// As [`Sampling::validate`].
    pub fn new(sampling: &Sampling, stream: u64) -> Result<Self, SamplingError> {
        sampling.validate()?;
        let mut rng = ChaCha8Rng::seed_from_u64(sampling.seed);
        rng.set_stream(stream);
        Ok(Self { sampling: *sampling, rng })
    }

    /// The uniform number in [0, 1) of the next draw: 53 bits of the candidate's stream. Who draws elsewhere takes one for
    /// each token.
    pub fn uniform(&mut self) -> f64 {
        (self.rng.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Draws from logits `[V]`.
    ///
    /// Order: divide by the temperature, keep the `top_k` largest, renormalise, keep the smallest set of
    /// largest probabilities whose sum reaches `top_p`, renormalise, draw. Equal logits rank by lower id.
    /// Temperature 0 takes the largest and draws nothing. A logit of negative infinity has probability 0.
    ///
    /// # Errors
    /// NaN or positive infinity among the logits, or none that is finite.
    pub fn draw(&mut self, logits: &[f32]) -> Result<Drawn, SamplingError> {
        let peaks = softmax::peaks(logits);
        let best = largest_below(logits, &peaks)?;
        let peak = logits[best];
        let token = if self.sampling.temperature == 0.0 { best } else { self.draw_below(logits, &peaks, peak.into()) };
        let mass = softmax::mass_in_f32(logits, peak);
        Ok(Drawn { token: token as u32, logp: (f64::from(logits[token]) - f64::from(peak) - mass.ln()) as f32 })
    }

    /// The drawn index, by inverting the cumulative distribution; `peaks` are those of the logits, `peak` the largest.
    fn draw_below(&mut self, logits: &[f32], peaks: &[f32], peak: f64) -> usize {
        let steepness = 1.0 / f64::from(self.sampling.temperature);
        let uniform = self.uniform();
        let (k, p) = (self.sampling.top_k, f64::from(self.sampling.top_p));
        let all = k == 0 || k >= logits.len();
        let mass = if all { softmax::mass(logits, peak, steepness) } else { 0.0 };
        if all && p >= 1.0 {
            return invert_all(uniform * mass, logits, peak, steepness);
        }
        let by_rank = |a: &usize, b: &usize| by_rank(logits, *a, *b);
        let mut kept: Vec<usize> = if all {
            // tokens below this weight have less than 1 - p of the mass together, so that none of them is in the
            // smallest sufficient set; half of it, against rounding
            let least = 0.5 * (1.0 - p) * mass / logits.len() as f64;
            let floor = peak + least.ln() / steepness;
            (0..logits.len()).filter(|i| f64::from(logits[*i]) >= floor).collect()
        } else {
            first_ranks(logits, peaks, k)
        };
        kept.sort_unstable_by(by_rank);
        let weight = |i: &usize| softmax::exp_of_negative((f64::from(logits[*i]) - peak) * steepness);
        let weights: Vec<f64> = kept.iter().map(weight).collect();
        let mass = if all { mass } else { weights.iter().sum() };
        let mut so_far = 0.0;
        let enough = weights.iter().position(|weight| {
            so_far += weight;
            so_far >= p * mass
        });
        let n_kept = enough.map_or(kept.len(), |last| last + 1);
        kept[invert(uniform, &weights[..n_kept])]
    }
}

/// Order of tokens by falling logit, then by id. No NaN here; the two zeros are equal.
fn by_rank(logits: &[f32], a: usize, b: usize) -> Ordering {
    logits[b].partial_cmp(&logits[a]).unwrap_or(Ordering::Equal).then(a.cmp(&b))
}

/// The `k` tokens that rank first, in any order; `k` is 1 to the number of tokens.
///
/// Tokens come by rising id, so one whose logit is not above the worst of `k` seen cannot be among the first, nor any of
/// a part whose peak is not: nearly all of a vocabulary is passed over a part at a time.
fn first_ranks(logits: &[f32], peaks: &[f32], k: usize) -> Vec<usize> {
    let mut kept: Vec<usize> = Vec::with_capacity(2 * k);
    let mut floor = f32::NEG_INFINITY;
    let keep_k = |kept: &mut Vec<usize>| {
        let (_, last, _) = kept.select_nth_unstable_by(k - 1, |a, b| by_rank(logits, *a, *b));
        let floor = logits[*last];
        kept.truncate(k);
        floor
    };
    for (part, (logits_of_part, peak)) in logits.chunks(softmax::PART).zip(peaks).enumerate() {
        if *peak <= floor && kept.len() >= k {
            continue;
        }
        for (i, logit) in logits_of_part.iter().enumerate() {
            if *logit > floor || kept.len() < k {
                kept.push(part * softmax::PART + i);
                if kept.len() == 2 * k {
                    floor = keep_k(&mut kept);
                }
            }
        }
    }
    keep_k(&mut kept);
    kept
}

/// The first index at which the running sum of all weights passes `threshold`, which is below their sum; a part
/// that does not reach it is passed over as a whole.
fn invert_all(threshold: f64, logits: &[f32], peak: f64, steepness: f64) -> usize {
    let mut so_far = 0.0;
    let mut last = 0;
    for (idx, part) in logits.chunks(softmax::PART).enumerate() {
        let weights = softmax::weights(part, peak, steepness);
        let sum = softmax::sum(&weights);
        if so_far + sum <= threshold {
            so_far += sum;
            continue;
        }
        for (i, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
            last = idx * softmax::PART + i;
            so_far += weight;
            if so_far > threshold {
                return last;
            }
        }
    }
    last
}

/// The first index at which the running sum of weights passes `uniform` times their sum.
fn invert(uniform: f64, weights: &[f64]) -> usize {
    let threshold = uniform * weights.iter().sum::<f64>();
    let mut so_far = 0.0;
    let mut last = 0;
    for (i, weight) in weights.iter().enumerate() {
        if *weight > 0.0 {
            last = i;
            so_far += weight;
            if so_far > threshold {
                break;
            }
        }
    }
    last
}

/// Index of the largest logit, the lowest where several are equal.
///
/// # Errors
/// As [`Sampler::draw`].
pub fn largest(logits: &[f32]) -> Result<usize, SamplingError> {
    largest_below(logits, &softmax::peaks(logits))
}

/// [`largest`] of logits whose peaks are known.
fn largest_below(logits: &[f32], peaks: &[f32]) -> Result<usize, SamplingError> {
    let peak = peaks.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if peak == f32::INFINITY
        && let Some(token) = logits.iter().position(|logit| !(*logit < f32::INFINITY))
    {
        return Err(SamplingError::Logit { token, value: logits[token] });
    }
    let is_peak = |logit: &f32| *logit == peak && peak.is_finite();
    let first = peaks.iter().position(is_peak).unwrap_or_default() * softmax::PART;
    let best = logits[first..].iter().position(is_peak);
    best.map(|i| first + i).ok_or(SamplingError::NothingLeft { vocab_size: logits.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [0.0, 2.0, 1.0, 2.0, -1.0];

    fn sampling(temperature: f32, top_k: usize, top_p: f32) -> Sampling {
        Sampling { temperature, top_k, top_p, seed: 11 }
    }

    /// Share of draws of each token.
    fn shares(sampling: &Sampling, logits: &[f32]) -> Vec<f64> {
        let n = 20_000;
        let mut sampler = Sampler::new(sampling, 0).unwrap();
        let mut shares = vec![0.0; logits.len()];
        for _ in 0..n {
            shares[sampler.draw(logits).unwrap().token as usize] += 1.0 / f64::from(n);
        }
        shares
    }

    #[test]
    fn the_first_ranks_are_those_of_a_whole_sort() {
        for n in [1, 2, 7, 100, 1000] {
            // many ties, infinities and both zeros among them
            let value = |i: usize| match i * 7919 % 23 {
                0 => f32::NEG_INFINITY,
                1 => -0.0,
                2 => 0.0,
                x => (x as f32 - 11.0) / 4.0,
            };
            for logits in [(0..n).map(value).collect::<Vec<_>>(), vec![f32::NEG_INFINITY; n], vec![1.0; n]] {
                let mut sorted: Vec<usize> = (0..n).collect();
                sorted.sort_by(|a, b| by_rank(&logits, *a, *b));
                for k in [1, 2, 3, 40, n / 2, n].into_iter().filter(|k| (1..=n).contains(k)) {
                    let mut first = first_ranks(&logits, &softmax::peaks(&logits), k);
                    first.sort_by(|a, b| by_rank(&logits, *a, *b));
                    assert_eq!(first, sorted[..k], "{k} of {n}");
                }
            }
        }
    }

    fn softmax(logits: &[f32], temperature: f64) -> Vec<f64> {
        let weights: Vec<f64> = logits.iter().map(|l| (f64::from(*l) / temperature).exp()).collect();
        let mass: f64 = weights.iter().sum();
        weights.iter().map(|w| w / mass).collect()
    }

    fn assert_shares(name: &str, got: &[f64], want: &[f64]) {
        // five standard errors of a share of 20,000 draws
        beckon_shaders::assert_all_close(name, got, want, 5.0 * (0.25f64 / 20_000.0).sqrt());
    }

    #[test]
    fn greedy_takes_the_largest_and_the_lower_id_of_equals() {
        let mut sampler = Sampler::new(&Sampling::GREEDY, 3).unwrap();
        let drawn = sampler.draw(&LOGITS).unwrap();
        assert_eq!(drawn.token, 1);
        crate::metrics::assert_close("logp", drawn.logp, softmax(&LOGITS, 1.0)[1].ln(), 1e-6);
    }

    #[test]
    fn draws_follow_the_distribution() {
        assert_shares("temperature 1", &shares(&sampling(1.0, 0, 1.0), &LOGITS), &softmax(&LOGITS, 1.0));
        assert_shares("temperature 0.5", &shares(&sampling(0.5, 0, 1.0), &LOGITS), &softmax(&LOGITS, 0.5));
    }

    #[test]
    fn top_k_keeps_the_lower_id_of_equals() {
        assert_shares("top 1", &shares(&sampling(1.0, 1, 1.0), &LOGITS), &[0.0, 1.0, 0.0, 0.0, 0.0]);
        assert_shares("top 2", &shares(&sampling(1.0, 2, 1.0), &LOGITS), &[0.0, 0.5, 0.0, 0.5, 0.0]);
    }

    #[test]
    fn top_p_keeps_the_smallest_sufficient_set() {
        // probabilities of 0.4, 0.3, 0.2, 0.1
        let logits = [0.4f32, 0.1, 0.3, 0.2].map(f32::ln);
        assert_shares("0.7", &shares(&sampling(1.0, 0, 0.69), &logits), &[4.0 / 7.0, 0.0, 3.0 / 7.0, 0.0]);
        assert_shares("tiny", &shares(&sampling(1.0, 0, 0.01), &logits), &[1.0, 0.0, 0.0, 0.0]);
        // after top 2 the shares are 4/7 and 3/7, so 0.5 keeps one
        assert_shares("top 2, 0.5", &shares(&sampling(1.0, 2, 0.5), &logits), &[1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn the_logp_is_that_of_the_untruncated_distribution() {
        let mut sampler = Sampler::new(&sampling(0.3, 2, 0.9), 0).unwrap();
        let p = softmax(&LOGITS, 1.0);
        for _ in 0..20 {
            let drawn = sampler.draw(&LOGITS).unwrap();
            crate::metrics::assert_close("logp", drawn.logp, p[drawn.token as usize].ln(), 1e-6);
        }
    }

    #[test]
    fn streams_differ_and_repeat() {
        let logits = [0.0f32; 64];
        let tokens = |stream| {
            let mut sampler = Sampler::new(&sampling(1.0, 0, 1.0), stream).unwrap();
            (0..16).map(|_| sampler.draw(&logits).unwrap().token).collect::<Vec<_>>()
        };
        assert_eq!(tokens(4), tokens(4));
        assert_ne!(tokens(4), tokens(5));
    }

    #[test]
    fn what_is_no_logit_is_an_error() {
        let mut sampler = Sampler::new(&sampling(1.0, 0, 0.9), 0).unwrap();
        assert!(matches!(sampler.draw(&[0.0, f32::NAN]), Err(SamplingError::Logit { token: 1, .. })));
        assert!(matches!(sampler.draw(&[f32::INFINITY, 0.0]), Err(SamplingError::Logit { token: 0, .. })));
        assert_eq!(sampler.draw(&[f32::NEG_INFINITY; 3]), Err(SamplingError::NothingLeft { vocab_size: 3 }));
        assert_eq!(sampler.draw(&[]), Err(SamplingError::NothingLeft { vocab_size: 0 }));
        assert_eq!(sampler.draw(&[f32::NEG_INFINITY, 0.0]).unwrap().token, 1);
        let extreme = sampler.draw(&[f32::MIN, f32::MAX]).unwrap();
        assert_eq!((extreme.token, extreme.logp), (1, 0.0));
    }

    #[test]
    fn settings_that_cannot_be_are_refused() {
        for bad in [sampling(-1.0, 0, 1.0), sampling(f32::NAN, 0, 1.0), sampling(1.0, 0, 0.0), sampling(1.0, 0, 1.1)] {
            assert!(Sampler::new(&bad, 0).is_err(), "{bad:?}");
        }
    }
}
