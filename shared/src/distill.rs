//! Distillation of a click log into suggestions to imitate (method B.1.5). Between preferences and SFT.
//!
//! Hindsight distillation: the teacher sees the conversation *and* what earned clicks in it, the student only
//! the conversation. A teacher here is any scorer; by default it is the click model's own opinion of a
//! suggestion, freed of position. Per context: pool the candidates (clicked suggestions, real next queries,
//! a teacher's samples), drop what breaks a hard rule ([`crate::reward::gate`]), score the rest
//!
//! `s = 0.5 z(logit of the lower bound of the click rate) + 0.3 z(teacher) + 0.2 z(relevance)`,
//!
//! and choose by statistical rejection sampling under a limit of similarity ([`rejection`]); weights follow the
//! click evidence ([`click_weight`]). Soft targets, where a teacher shares the vocabulary: [`soft_target`]. A teacher's
//! suggestions come from a checkpoint or from a file ([`samples`]).
//!
//! That click logs are distilled is the paper's; pool, score, selection and weights are our design (method
//! A.2). Not here: the student's loss on tokens (`server::stage::sft`).

pub mod rejection;
pub mod samples;
pub mod soft_target;

use crate::ctr::Beta;
use crate::preference::PreferenceConfigError;
use crate::prompt::Prompt;
use crate::reward::components::relevance;
use crate::reward::gate::{Candidate as Gated, Gate};
use crate::reward::self_contained::self_containedness;
use crate::special::logit;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Settings of the distillation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DistillConfig {
    /// K: suggestions chosen of one context.
    pub n_select: usize,
    /// beta_rs: temperature of the rejection sampling; small takes the best, large takes any.
    pub temperature: f64,
    /// Two chosen suggestions of one context are less similar than this (character trigrams).
    pub max_similarity: f64,
    /// Weight of the click evidence in the score.
    pub click_weight: f64,
    /// Weight of the teacher's score.
    pub teacher_weight: f64,
    /// Weight of relevance.
    pub relevance_weight: f64,
    /// Smallest self-containedness of a real next query that is imitated, 0 to 1; 0 takes all.
    pub min_self_containedness: f64,
}

impl Default for DistillConfig {
    fn default() -> Self {
        Self {
            n_select: 8,
            temperature: 0.5,
            max_similarity: 0.8,
            click_weight: 0.5,
            teacher_weight: 0.3,
            relevance_weight: 0.2,
            min_self_containedness: 0.5,
        }
    }
}

impl DistillConfig {
    /// Checks every number.
    ///
    /// # Errors
    /// The first key that is out of range.
    pub fn validate(&self) -> Result<(), PreferenceConfigError> {
        let within = |field, value: f64, low: f64, high: f64, expected| {
            let ok = value >= low && value <= high; // refuses NaN
            if ok { Ok(()) } else { Err(PreferenceConfigError { field, value, expected }) }
        };
        let n = self.n_select as f64;
        within("preferences.distill.n_select", n, 1.0, 1e6, "1 to 1,000,000")?;
        within("preferences.distill.temperature", self.temperature, 1e-6, 1e6, "above 0, at most 1,000,000")?;
        within("preferences.distill.max_similarity", self.max_similarity, 1e-6, 1.0 + 1e-9, "above 0, at most 1")?;
        for (field, weight) in [
            ("preferences.distill.click_weight", self.click_weight),
            ("preferences.distill.teacher_weight", self.teacher_weight),
            ("preferences.distill.relevance_weight", self.relevance_weight),
        ] {
            within(field, weight, 0.0, 1e3, "0 to 1,000")?;
        }
        within("preferences.distill.min_self_containedness", self.min_self_containedness, 0.0, 1.0, "0 to 1")
    }
}

/// Bounds of the click weights.
pub const WEIGHT_RANGE: (f64, f64) = (0.1, 5.0);

/// Where a candidate comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Somebody clicked it.
    Clicked,
    /// Somebody asked it next.
    NextQuery,
    /// A teacher wrote it.
    Teacher,
}

/// A candidate for imitation.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The suggestion.
    pub text: String,
    /// Where it comes from.
    pub origin: Origin,
    /// Clicks.
    pub clicks: f64,
    /// Expected examinations.
    pub examinations: f64,
    /// The teacher's score, any scale; `None` counts as the pool's mean.
    pub teacher: Option<f64>,
}

/// A suggestion that a teacher wrote for a conversation, given from outside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeacherSample {
    /// The conversation.
    pub prompt: Prompt,
    /// What the teacher wrote.
    pub text: String,
    /// Its score, on the teacher's own scale; 0 where a file says none.
    #[serde(default)]
    pub score: f64,
}

/// All candidates of one context.
#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    /// The conversation.
    pub prompt: Prompt,
    /// In any order.
    pub candidates: Vec<Candidate>,
}

/// A candidate that was chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// The candidate.
    pub candidate: Candidate,
    /// s.
    pub score: f64,
    /// Click evidence, before any mean is taken.
    pub weight: f64,
}

/// What happened to pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Distilled {
    /// Candidates pooled.
    pub n_candidates: usize,
    /// Broke a hard rule.
    pub n_gated: usize,
    /// Next queries that cannot be understood alone.
    pub n_not_self_contained: usize,
    /// Too similar to a chosen one, or not drawn.
    pub n_not_selected: usize,
    /// Chosen.
    pub n_chosen: usize,
}

impl Distilled {
    /// Adds another pool's.
    pub fn add(&mut self, other: Self) {
        self.n_candidates += other.n_candidates;
        self.n_gated += other.n_gated;
        self.n_not_self_contained += other.n_not_self_contained;
        self.n_not_selected += other.n_not_selected;
        self.n_chosen += other.n_chosen;
    }
}

/// exp(logit LCB - logit base): the odds of a click at the lower bound of its rate, above 0, as a multiple of those at `base`.
pub fn odds_ratio(lower_bound: f64, base: f64) -> f64 {
    (logit(lower_bound) - logit(base)).exp()
}

/// w = clip(exp((logit LCB - logit base)/beta), 0.1, 5) from [`odds_ratio`]. Not normalised: [`normalise_mean`] does that, over
/// whatever the weights are of.
pub fn click_weight(odds_ratio: f64, beta: f64) -> f64 {
    let (least, most) = WEIGHT_RANGE;
    odds_ratio.max(0.0).powf(1.0 / beta).clamp(least, most)
}

/// Divides by the mean, so that it is 1; leaves no weights and all zeros alone.
pub fn normalise_mean(weights: &mut [f64]) {
    let mean = weights.iter().sum::<f64>() / weights.len() as f64;
    if mean > 0.0 {
        weights.iter_mut().for_each(|w| *w /= mean);
    }
}

/// (x - mean)/std over the pool, n-1; zeros where all are alike.
pub fn z_scores(values: &[f64]) -> Vec<f64> {
    let (m, s) = (crate::reward::mean(values), crate::reward::std(values));
    values.iter().map(|v| if s > 0.0 { (v - m) / s } else { 0.0 }).collect()
}

/// Chooses from one pool. `prior` is the click rates' prior; the draw follows from `rng` alone, the order of
/// candidates changes nothing. Chosen ones come best first.
pub fn select(pool: &Pool, prior: Beta, config: &DistillConfig, rng: &mut ChaCha8Rng) -> (Vec<Chosen>, Distilled) {
    let mut told = Distilled { n_candidates: pool.candidates.len(), ..Distilled::default() };
    let candidates = allowed(pool, config, &mut told);
    let lower: Vec<f64> =
        candidates.iter().map(|c| prior.observe(c.clicks, c.examinations).lower().max(1e-9)).collect();
    let scores = scores(&pool.prompt, &candidates, &lower, config);
    let texts: Vec<&str> = candidates.iter().map(|c| c.text.as_str()).collect();
    let mut order = rejection::sample(&scores, &texts, config, rng);
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    told.n_chosen = order.len();
    told.n_not_selected = candidates.len() - order.len();
    let chosen = |i: usize| Chosen {
        candidate: candidates[i].clone(),
        score: scores[i],
        weight: odds_ratio(lower[i], prior.mean()),
    };
    (order.into_iter().map(chosen).collect(), told)
}

/// Candidates that break no hard rule, most clicks first (of two copies the better known one stays).
fn allowed(pool: &Pool, config: &DistillConfig, told: &mut Distilled) -> Vec<Candidate> {
    let mut candidates = pool.candidates.clone();
    candidates
        .sort_by(|a, b| b.clicks.total_cmp(&a.clicks).then_with(|| a.text.cmp(&b.text)).then(a.origin.cmp(&b.origin)));
    let gated: Vec<Gated> = candidates.iter().map(|c| Gated { text: &c.text, finished: true }).collect();
    let broken = Gate::SLATE.check(&pool.prompt, &gated);
    let understood =
        |c: &Candidate| c.origin != Origin::NextQuery || self_containedness(&c.text) >= config.min_self_containedness;
    let mut kept = Vec::with_capacity(candidates.len());
    for (candidate, broken) in candidates.into_iter().zip(broken) {
        if broken.is_some() {
            told.n_gated += 1;
        } else if !understood(&candidate) {
            told.n_not_self_contained += 1;
        } else {
            kept.push(candidate);
        }
    }
    kept
}

/// s of each candidate of a pool.
fn scores(prompt: &Prompt, candidates: &[Candidate], lower: &[f64], config: &DistillConfig) -> Vec<f64> {
    let clicks = z_scores(&lower.iter().map(|l| logit(*l)).collect::<Vec<_>>());
    let told: Vec<f64> = candidates.iter().filter_map(|c| c.teacher).collect();
    let unknown = crate::reward::mean(&told);
    let teacher = z_scores(&candidates.iter().map(|c| c.teacher.unwrap_or(unknown)).collect::<Vec<_>>());
    let relevance = z_scores(&candidates.iter().map(|c| relevance(&c.text, prompt)).collect::<Vec<_>>());
    (0..candidates.len())
        .map(|i| {
            config.click_weight * clicks[i]
                + config.teacher_weight * teacher[i]
                + config.relevance_weight * relevance[i]
        })
        .collect()
}

#[cfg(test)]
mod tests;
