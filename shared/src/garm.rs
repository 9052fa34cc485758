//! Reference formulas of the Gaussian reward model, in f64: what server and tests compare Burn, the CPU
//! executor and the WGSL kernels with. Fourth arrow of the loop; method B.2 and B.3, oracles T1-T4.
//!
//! GaRM says of a suggestion not one number but a normal distribution N(mu, v) over its utility to the
//! users it is shown to: `mu` the `reward_mean`, `v` the squared `aleatoric_std` (users differ).
//! `v_ep`, the squared `epistemic_std`, is kept apart: it says how far the suggestion is from what the
//! reward model was trained on.
//!
//! | module | what | method |
//! | --- | --- | --- |
//! | [`normal`] | log Φ, inverse Mills ratio, log1mexp, Φ⁻¹ | B.2.2 |
//! | [`pair`] | Thurstone pair likelihood with unequal variances | B.2.1 |
//! | [`anchor`] | ordinal probit anchors | B.2.4 |
//! | [`prior`] | KL to the pessimistic prior of out-of-distribution text | B.3 (1) |
//! | [`epistemic`] | Mahalanobis distance and its variance | B.3 (2) |
//! | [`effective`] | one number out of a distribution: LCB, KL-DRO, quantile, ... | B.4.2 |
//! | [`slate`] | what a slate of scored suggestions is worth | B.2.7 |
//! | [`variants`] | likelihoods and regularisers of related work, for ablations | B.2.1, B.2.6 |
//!
//! The Gaussian form is Thurstone's; that the preference is a distribution is the paper's (PAPERS.md),
//! how it is parametrised, anchored and regularised is our design (method A.2).
//!
//! Dimensions: everything here is one pair, one suggestion or one feature vector `[D_f]`. Not here:
//! batches, autodiff and training (`server::model::reward`, `server::stage::garm`).

pub mod anchor;
pub mod effective;
pub mod epistemic;
pub mod normal;
pub mod pair;
pub mod prior;
pub mod probe;
pub mod slate;
pub mod variants;

/// N(mean, variance): GaRM's answer for one suggestion, on the scale that the anchors fix
/// (method B.2.4 A: thresholds 0 and 1).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gaussian {
    /// mu.
    pub mean: f64,
    /// v > 0.
    pub variance: f64,
}

impl Gaussian {
    /// N(mean, variance).
    pub fn new(mean: f64, variance: f64) -> Self {
        Self { mean, variance }
    }

    /// sigma = sqrt(v).
    pub fn std(self) -> f64 {
        self.variance.sqrt()
    }
}

#[cfg(test)]
mod tests;
