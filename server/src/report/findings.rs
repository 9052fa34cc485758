//! The figures in sentences. A comparison is called a win only where its interval excludes zero; the
//! rest is said to be undecided or lost.

use super::{Judged, Report};
use crate::eval::reward::SourceFigures;

/// Share of steps averaged at either end of an RL curve.
const END_SHARE: f64 = 0.1;

/// One sentence a comparison, in the order of the report.
pub fn findings(report: &Report) -> Vec<String> {
    let mut all = vec![sft_sentence(report)];
    all.extend(report.garm.sources.iter().flat_map(garm_sentences));
    all.extend(rl_sentences(report));
    all
}

fn sft_sentence(report: &Report) -> String {
    let s = &report.sft;
    let better = |other: f64| if s.held_out_nll < other { "beats" } else { "does not beat" };
    format!(
        "SFT: {:.3} nats per held-out token (untrained {:.3}); it {} the trigram ({:.3}) and {} the trigram with prompt cache ({:.3}).",
        s.held_out_nll,
        s.held_out_nll_before,
        better(s.ngram_nll),
        s.ngram_nll,
        better(s.cached_ngram_nll),
        s.cached_ngram_nll
    )
}

fn garm_sentences(source: &SourceFigures) -> Vec<String> {
    let Some(garm) = source.models.first() else { return Vec::new() };
    let (low, high) = garm.accuracy_interval;
    let verdict = if low > 0.5 {
        "better than chance"
    } else if high < 0.5 {
        "worse than chance"
    } else {
        "not distinguishable from chance"
    };
    let mut sentences = vec![format!(
        "GaRM on {}: pair accuracy {:.3} ({low:.3} to {high:.3}) over {} held-out pairs, {verdict}.",
        source.source, garm.accuracy, source.n_pairs
    )];
    for c in &source.nll_differences {
        let verdict = if c.interval.1 < 0.0 {
            "better than"
        } else if c.interval.0 > 0.0 {
            "worse than"
        } else {
            "undecided against"
        };
        sentences.push(format!(
            "GaRM on {}: likelihood {verdict} {} ({:+.4} nats per pair, {:+.4} to {:+.4}).",
            source.source, c.against, c.difference, c.interval.0, c.interval.1
        ));
    }
    sentences
}

fn rl_sentences(report: &Report) -> Vec<String> {
    let ends = |name: &str| -> Option<(f64, f64)> {
        let points = &report.rl.curve(name)?.points;
        let n = ((points.len() as f64 * END_SHARE) as usize).max(1).min(points.len());
        let mean = |part: &[(usize, f64)]| part.iter().map(|p| p.1).sum::<f64>() / part.len() as f64;
        (!points.is_empty()).then(|| (mean(&points[..n]), mean(&points[points.len() - n..])))
    };
    let mut sentences = Vec::new();
    if let (Some(reward), Some(kl)) = (ends("reward_mean"), ends("kl_nats")) {
        let moved = if reward.1 > reward.0 { "rose" } else { "did not rise" };
        sentences.push(format!(
            "RL: the proxy reward {moved}, from {:.3} to {:.3}, at {:.2} nats of KL to the SFT policy.",
            reward.0, reward.1, kl.1
        ));
    }
    if let Some((before, after)) = ends("distinct_2").filter(|(before, after)| *after < 0.8 * before) {
        sentences.push(format!("RL: diversity fell; distinct-2 went from {before:.3} to {after:.3}."));
    }
    if let [before, after] = report.policies.as_slice() {
        let change = |what: &str, b: f64, a: f64| format!("{what} {b:.3} to {a:.3}");
        sentences.push(format!(
            "On held-out prompts, {} to {}: {}, {}, {}. The mean reward is the one RL was trained on, not an independent judge.",
            before.policy,
            after.policy,
            change("mean reward", before.reward_mean, after.reward_mean),
            change("gate failures", before.gate_failure_rate, after.gate_failure_rate),
            change("copies of the query", before.copy_rate, after.copy_rate)
        ));
    }
    sentences.extend(report.judged.map(judged_sentence));
    sentences
}

fn judged_sentence(judged: Judged) -> String {
    let (low, high) = judged.interval;
    let verdict = match () {
        () if low > 0.5 => "prefers RL",
        () if high < 0.5 => "prefers SFT",
        () => "sees no clear difference",
    };
    format!(
        "A judge of words, made of held-out pairs, {verdict}: P(RL over SFT) {:.3} ({low:.3} to {high:.3}) over {} prompts.",
        judged.rl_over_sft, judged.n_prompts
    )
}
