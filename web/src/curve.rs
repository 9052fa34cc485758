//! Curves of a run: storage that merges history with live values, and what a chart needs of them
//! (thinning, smoothing, axis ticks, names and units). Pure.

use beckon_shared::control::{Metric, Stage};
use std::collections::BTreeMap;

/// Points kept of one curve; beyond it every second one goes.
pub const MAX_POINTS: usize = 8_192;
/// Points drawn of one curve.
const MAX_DRAWN: usize = 400;
/// From this many points on a curve is drawn smoothed, with the single steps faint behind it.
pub const SMOOTH_FROM: usize = 40;

/// One curve: `(step, value)`, steps ascending.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Curve {
    points: Vec<(usize, f64)>,
}

impl Curve {
    /// Adds a value; a step that is there already is replaced (a resumed run repeats steps). Values
    /// that are not finite are left out: the server ends a run that diverges and says so.
    pub fn insert(&mut self, step: usize, value: f64) {
        if !value.is_finite() {
            return;
        }
        match self.points.last() {
            Some(&(last, _)) if step <= last => match self.points.binary_search_by_key(&step, |p| p.0) {
                Ok(i) => self.points[i].1 = value,
                Err(i) => self.points.insert(i, (step, value)),
            },
            _ => self.points.push((step, value)),
        }
        if self.points.len() > MAX_POINTS {
            let mut i = 0;
            self.points.retain(|_| {
                i += 1;
                i % 2 == 1
            });
        }
    }

    /// All points.
    pub fn points(&self) -> &[(usize, f64)] {
        &self.points
    }

    /// Newest value.
    pub fn last(&self) -> Option<(usize, f64)> {
        self.points.last().copied()
    }

    /// Point nearest to a step.
    pub fn nearest(&self, step: f64) -> Option<(usize, f64)> {
        #[expect(clippy::cast_precision_loss, reason = "step counts")]
        let distance = |p: &&(usize, f64)| (p.0 as f64 - step).abs();
        self.points.iter().min_by(|a, b| distance(a).total_cmp(&distance(b))).copied()
    }

    /// Points for drawing: at most [`MAX_DRAWN`], keeping the smallest and largest of each stretch so
    /// that spikes stay visible.
    pub fn drawn(&self) -> Vec<(usize, f64)> {
        if self.points.len() <= MAX_DRAWN {
            return self.points.clone();
        }
        let stretch = self.points.len().div_ceil(MAX_DRAWN / 2);
        let mut out = Vec::with_capacity(MAX_DRAWN + 2);
        for part in self.points.chunks(stretch) {
            let low = part.iter().min_by(|a, b| a.1.total_cmp(&b.1));
            let high = part.iter().max_by(|a, b| a.1.total_cmp(&b.1));
            let (Some(&low), Some(&high)) = (low, high) else { continue };
            if low.0 == high.0 {
                out.push(low);
            } else if low.0 < high.0 {
                out.extend([low, high]);
            } else {
                out.extend([high, low]);
            }
        }
        out
    }

    /// Exponential moving average over about `n` points (weight `2/(n+1)`), thinned for drawing.
    #[expect(clippy::cast_precision_loss, reason = "window length")]
    pub fn smoothed(&self, n: usize) -> Vec<(usize, f64)> {
        let alpha = 2.0 / (n as f64 + 1.0);
        let mut mean = None;
        let every = self.points.len().div_ceil(MAX_DRAWN).max(1);
        let mut out = Vec::with_capacity(MAX_DRAWN + 1);
        for (i, &(step, value)) in self.points.iter().enumerate() {
            let now = mean.map_or(value, |m: f64| m + alpha * (value - m));
            mean = Some(now);
            if i % every == 0 || i + 1 == self.points.len() {
                out.push((step, now));
            }
        }
        out
    }

    /// Window of [`Self::smoothed`]: a twentieth of the points, 5 at least.
    pub fn window(&self) -> usize {
        (self.points.len() / 20).max(5)
    }

    /// Smallest and largest value.
    pub fn range(&self) -> Option<(f64, f64)> {
        let mut values = self.points.iter().map(|p| p.1);
        let first = values.next()?;
        Some(values.fold((first, first), |(low, high), v| (low.min(v), high.max(v))))
    }
}

/// Key of a curve within a run.
pub type CurveKey = (Stage, String);

/// Curves of the runs that the page looks at.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Curves {
    runs: BTreeMap<String, BTreeMap<CurveKey, Curve>>,
}

impl Curves {
    /// Adds one value.
    pub fn insert(&mut self, metric: &Metric) {
        self.runs
            .entry(metric.run_id.clone())
            .or_default()
            .entry((metric.stage, metric.name.clone()))
            .or_default()
            .insert(metric.step, metric.value);
    }

    /// Keys of a run's curves, in order of stage.
    pub fn keys(&self, run_id: &str) -> Vec<CurveKey> {
        self.runs.get(run_id).map(|curves| curves.keys().cloned().collect()).unwrap_or_default()
    }

    /// One curve.
    pub fn get(&self, run_id: &str, key: &CurveKey) -> Option<&Curve> {
        self.runs.get(run_id)?.get(key)
    }

    /// Runs with curves.
    pub fn run_ids(&self) -> Vec<String> {
        self.runs.keys().cloned().collect()
    }

    /// Forgets all runs but the named ones, so that a page left open for days does not grow.
    pub fn keep_only(&mut self, run_ids: &[&str]) {
        self.runs.retain(|id, _| run_ids.contains(&id.as_str()));
    }
}

/// Round values that cover `[low, high]`, about `n` of them: multiples of 1, 2 or 5 times a power of ten.
pub fn ticks(low: f64, high: f64, n: usize) -> Vec<f64> {
    if !(low.is_finite() && high.is_finite()) || high <= low || n == 0 {
        return Vec::new();
    }
    #[expect(clippy::cast_precision_loss, reason = "a handful of ticks")]
    let rough = (high - low) / n as f64;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= rough * 0.999).unwrap_or(power);
    let first = (low / step - 1e-9).ceil();
    let mut out = Vec::new();
    let mut i = first;
    while i * step <= high + step * 1e-9 && out.len() <= 2 * n + 2 {
        out.push(if i == 0.0 { 0.0 } else { i * step });
        i += 1.0;
    }
    out
}

/// Axis that holds `[low, high]` with a little room; a flat curve gets a band around it.
pub fn axis(low: f64, high: f64) -> (f64, f64) {
    let span = high - low;
    if span > 0.0 {
        (low - 0.06 * span, high + 0.06 * span)
    } else {
        let half = if low == 0.0 { 1.0 } else { low.abs() * 0.1 };
        (low - half, high + half)
    }
}

/// Name for people of a curve.
pub fn label(name: &str) -> String {
    let whole = match name {
        "n_bytes" => "Size of the checkpoint",
        "n_sft_examples" => "Examples to imitate",
        "vocab_size" => "Vocabulary",
        "kl_beta" => "KL weight",
        "bc_loss" => "Imitation loss",
        "watched_proxy" => "Reward on the same prompts",
        "watched_gold" => "Judge on the same prompts",
        "rollout_gap" => "Engine against network",
        "grad_norm" => "Gradient norm",
        "reward_mean_sft" => "Reward mean after SFT",
        "reward_mean_rl" => "Reward mean after RL",
        _ => "",
    };
    if !whole.is_empty() {
        return whole.to_owned();
    }
    // a count says of what
    let mut words = name.strip_prefix("n_").unwrap_or(name).replace('_', " ");
    for (short, long) in [
        ("kl nats", "KL to the reference"),
        ("nll", "negative log-likelihood"),
        ("ece", "calibration error (ECE)"),
        ("lr", "learning rate"),
        ("tokens per sec", "speed"),
        ("tokens mean", "suggestion length"),
        ("loss", "loss"),
        ("bt ", "Bradley–Terry "),
    ] {
        if words == short || (short.ends_with(' ') && words.starts_with(short)) {
            words = words.replacen(short, long, 1);
        }
    }
    let words = words.strip_suffix(" nats").map_or(words.clone(), str::to_owned);
    let mut chars = words.chars();
    chars.next().map_or(String::new(), |first| first.to_uppercase().collect::<String>() + chars.as_str())
}

/// Unit of a curve, from its name (statistic last, unit before it; see the naming table).
pub fn unit(stage: Stage, name: &str) -> &'static str {
    if name.contains("per_sec") {
        return if name.contains("token") { "tokens/s" } else { "1/s" };
    }
    if name.contains("nats") || name == "entropy" || name == "rollout_gap" {
        return "nats";
    }
    if name.contains("rate") && !name.contains("learning") {
        return "share";
    }
    match name {
        "loss" | "validation_loss" | "held_out_loss" | "held_out_nll" | "nll" | "train_nll" => match stage {
            Stage::Sft => "nats/token",
            Stage::Garm => "nats/pair",
            _ => "",
        },
        "accuracy" | "held_out_accuracy" | "pair_accuracy" | "ece" => "share",
        "n_tokens_mean" | "n_tokens" => "tokens",
        "n_bytes" => "bytes",
        _ if name.ends_with("_secs") => "s",
        _ if name.ends_with("_millis") => "ms",
        "watched_proxy" => "reward units",
        _ if name.contains("reward") || name.contains("_std") => "reward units",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(values: impl IntoIterator<Item = f64>) -> Curve {
        let mut c = Curve::default();
        for (i, v) in values.into_iter().enumerate() {
            c.insert(i, v);
        }
        c
    }

    #[test]
    fn repeated_steps_replace() {
        let mut c = curve([3.0, 2.0, 1.0]);
        c.insert(1, 9.0);
        c.insert(2, f64::NAN);
        assert_eq!(c.points(), [(0, 3.0), (1, 9.0), (2, 1.0)]);
        assert_eq!(c.nearest(1.4), Some((1, 9.0)));
        assert_eq!(c.range(), Some((1.0, 9.0)));
    }

    #[test]
    fn late_history_is_merged_in_order() {
        let mut c = Curve::default();
        c.insert(10, 1.0);
        c.insert(5, 2.0);
        c.insert(7, 3.0);
        assert_eq!(c.points(), [(5, 2.0), (7, 3.0), (10, 1.0)]);
    }

    #[test]
    fn a_long_curve_is_thinned_and_keeps_its_spike() {
        let mut c = curve((0..5_000).map(|_| 0.0));
        c.insert(2_500, 7.0);
        let drawn = c.drawn();
        assert!(drawn.len() <= MAX_DRAWN + 2, "{}", drawn.len());
        assert!(drawn.contains(&(2_500, 7.0)));
        assert!(drawn.is_sorted_by_key(|p| p.0));
        let long = curve((0..20_000).map(f64::from));
        assert!(long.points().len() <= MAX_POINTS);
        assert!(long.smoothed(20).len() <= MAX_DRAWN + 1);
    }

    #[test]
    fn smoothing_starts_at_the_first_value_and_approaches_the_level() {
        let c = curve([10.0].into_iter().chain((0..50).map(|_| 0.0)));
        let s = c.smoothed(5);
        assert_eq!(s[0], (0, 10.0));
        assert!(s.last().is_some_and(|p| p.1 > 0.0 && p.1 < 1e-3));
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 10.0, 5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(ticks(0.3, 1.1, 4), [0.4, 0.6000000000000001, 0.8, 1.0]);
        assert!(ticks(1.0, 1.0, 5).is_empty());
        assert!(ticks(f64::NAN, 1.0, 5).is_empty());
        assert!(ticks(-1e-9, 1e-9, 3).contains(&0.0));
    }

    #[test]
    fn axis_of_a_flat_curve_has_height() {
        assert_eq!(axis(0.0, 0.0), (-1.0, 1.0));
        let (low, high) = axis(5.0, 5.0);
        assert!(low < 5.0 && high > 5.0);
    }

    #[test]
    fn names_and_units() {
        assert_eq!(label("reward_mean"), "Reward mean");
        assert_eq!(label("kl_nats"), "KL to the reference");
        assert_eq!(label("n_tokens_mean"), "Suggestion length");
        assert_eq!(label("n_pairs"), "Pairs");
        assert_eq!(label("watched_gold"), "Judge on the same prompts");
        assert_eq!((unit(Stage::Rl, "watched_proxy"), unit(Stage::Rl, "rollout_gap")), ("reward units", "nats"));
        assert_eq!(unit(Stage::Sft, "loss"), "nats/token");
        assert_eq!(unit(Stage::Rl, "gate_failure_rate"), "share");
        assert_eq!(unit(Stage::Sft, "tokens_per_sec"), "tokens/s");
        assert_eq!(unit(Stage::Sft, "learning_rate"), "");
    }

    #[test]
    fn curves_of_other_runs_can_go() {
        let mut curves = Curves::default();
        for run_id in ["r1", "r2"] {
            curves.insert(&Metric {
                run_id: run_id.into(),
                stage: Stage::Sft,
                step: 0,
                name: "loss".into(),
                value: 1.0,
            });
        }
        curves.keep_only(&["r2"]);
        assert!(curves.keys("r1").is_empty());
        assert_eq!(curves.keys("r2").len(), 1);
    }
}
