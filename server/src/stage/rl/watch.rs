//! Looks for reward hacking while the policy trains (method B.5.5): the same prompts with the same draws every so
//! many steps, the training reward beside a judge's that training never sees, and alarms in words.

use super::fuse::Calibration;
use super::rollout::Group;
use super::{RlInputs, StageContext};
use crate::stage::folder::Exact;
use beckon_shared::control::sample::{N_PROMPTS, SampledPrompt};
use beckon_shared::control::{RlConfig, Stage};
use beckon_shared::engine::Score;
use beckon_shared::lexical::Judge;
use beckon_shared::metrics::diversity::distinct_n;
use beckon_shared::metrics::{mean, mean_and_std_error};
use beckon_shared::reward::gate::is_not_a_copy;
use beckon_shared::reward::monitor::{Alarm, Baseline, Monitor, Reading, opening_share};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// Steps between two looks.
pub const LOOK_EVERY: usize = 25;
/// Fewest prompts that a look is at, where there are as many: gold is not to be decided on a handful.
const MIN_WATCHED: usize = 32;
/// Standard errors of a look by which the best gold must lie above the last one, for its policy to be the result.
const N_STD_ERRORS: f64 = 2.0;

/// One look at the policy; [`Reading`] in a form that a state file gives back bit for bit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Look {
    step: usize,
    proxy: Exact,
    /// Judge's mean for each prompt.
    gold: Option<Vec<Exact>>,
    truth: Option<Exact>,
    kl_share: Exact,
    distinct_2: Exact,
    n_tokens_mean: Exact,
    opening_share: Exact,
    copy_rate: Exact,
    epistemic_std_mean: Exact,
    epistemic_std_p99: Exact,
}

/// Prompts that a look is at: two batches of a step, at least 32, each of the `n_prompts` that there are once.
pub fn n_watched(batch_prompts: usize, n_prompts: usize) -> usize {
    (2 * batch_prompts).max(MIN_WATCHED).min(n_prompts)
}

/// What people see of a look: the first suggestions for the first prompts that they can tell apart.
pub fn shown(groups: &[Group], scores: &[Vec<Score>]) -> Vec<SampledPrompt> {
    let mut queries = HashSet::new();
    let both = groups.iter().zip(scores).filter(|(group, _)| queries.insert(group.prompt.query())).take(N_PROMPTS);
    let sampled = |(group, scores): (&Group, &Vec<Score>)| {
        let texts = group.texts.iter().map(String::as_str);
        SampledPrompt::new(&group.prompt, texts.zip(scores.iter().copied().map(Some)))
    };
    both.map(sampled).collect()
}

impl Look {
    /// Figures of suggestions for the watched prompts; `kl_share` is that of the steps before.
    pub fn at(
        step: usize,
        groups: &[Group],
        scores: &[Vec<Score>],
        kl_share: f64,
        inputs: &RlInputs,
        (calibration, config): (&Calibration, &RlConfig),
    ) -> Self {
        let fused = calibration.fuse(groups, scores, &config.weights.to_array(), config);
        let texts: Vec<&str> = groups.iter().flat_map(|g| g.texts.iter().map(String::as_str)).collect();
        let n_tokens: usize = groups.iter().flat_map(|g| &g.sequences).map(|s| s.tokens.len() - s.n_prompt).sum();
        let mut spreads: Vec<f64> = scores.iter().flatten().map(|s| f64::from(s.epistemic_std)).collect();
        spreads.sort_by(f64::total_cmp);
        let p99 = spreads.get(spreads.len() * 99 / 100).copied().unwrap_or(f64::INFINITY);
        let n_copies =
            groups.iter().flat_map(|g| g.texts.iter().filter(move |text| !is_not_a_copy(text, &g.prompt))).count();
        // draws of one prompt are alike: a prompt's mean is one observation
        let judged = |judge: &dyn Judge| -> Vec<Exact> {
            groups.iter().map(|g| Exact(mean(&judge.values(&g.prompt, &g.texts)))).collect()
        };
        Self {
            step,
            proxy: Exact(fused.mean_of_component(0)),
            gold: inputs.judge.map(judged),
            truth: inputs.truth.map(|truth| Exact(mean(&plain(&judged(truth))))),
            kl_share: Exact(kl_share),
            distinct_2: Exact(distinct_n(&texts, 2)),
            n_tokens_mean: Exact(n_tokens as f64 / texts.len() as f64),
            opening_share: Exact(opening_share(&texts)),
            copy_rate: Exact(n_copies as f64 / texts.len() as f64),
            epistemic_std_mean: Exact(mean(&spreads)),
            epistemic_std_p99: Exact(p99),
        }
    }

    fn reading(&self) -> Reading {
        Reading {
            step: self.step,
            proxy: self.proxy.0,
            gold: self.gold.as_deref().map(|gold| mean_and_std_error(&plain(gold))),
            kl_share: self.kl_share.0,
            distinct_2: self.distinct_2.0,
            n_tokens_mean: self.n_tokens_mean.0,
            opening_share: self.opening_share.0,
            epistemic_std_mean: self.epistemic_std_mean.0,
        }
    }

    fn baseline(&self) -> Baseline {
        Baseline {
            distinct_2: self.distinct_2.0,
            n_tokens_mean: self.n_tokens_mean.0,
            opening_share: self.opening_share.0,
            epistemic_std_p99: self.epistemic_std_p99.0,
        }
    }
}

/// What was seen so far; the first look is at the SFT policy.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Looks(Vec<Look>);

impl Looks {
    /// Takes a look, shows its figures, and raises what it finds.
    pub fn take(&mut self, look: Look, n_steps: usize, ctx: &mut StageContext) {
        let mut show = |name: &str, value: f64| ctx.observer.metric(Stage::Rl, look.step, n_steps, name, value);
        show("watched_proxy", look.proxy.0);
        if let Some(gold) = &look.gold {
            show("watched_gold", mean(&plain(gold)));
        }
        if let Some(truth) = look.truth {
            show("watched_truth", truth.0);
        }
        show("watched_opening_share", look.opening_share.0);
        show("watched_copy_rate", look.copy_rate.0);
        let step = look.step;
        self.0.push(look);
        for alarm in self.alarms() {
            ctx.observer.alarm(&format!("rl: step {step}: {}", alarm.in_words()));
        }
    }

    /// The alarms of the last look. The monitor is a pure function of the looks, so none of its state is kept.
    fn alarms(&self) -> Vec<Alarm> {
        let Some(first) = self.0.first() else { return Vec::new() };
        let mut monitor = Monitor::new(first.baseline());
        self.0.iter().map(|look| monitor.observe(&look.reading())).last().unwrap_or_default()
    }

    /// Whether the last look has the best gold yet: its policy is then worth keeping. The first, at SFT, does not
    /// count; without a judge nothing does.
    pub fn last_is_best(&self) -> bool {
        self.best().is_some_and(|best| self.0.last().is_some_and(|last| last.step == best.step))
    }

    /// The look whose policy is the result instead of the last one's: the best by gold, where the last has fallen
    /// below it by more than chance, prompt by prompt.
    pub fn better_than_last(&self) -> Option<usize> {
        let (best, last) = (self.best()?, self.0.last()?);
        let lost: Vec<f64> =
            best.gold.as_deref()?.iter().zip(last.gold.as_deref()?).map(|(high, low)| high.0 - low.0).collect();
        let (mean, error) = mean_and_std_error(&lost);
        (mean > N_STD_ERRORS * error && mean > 0.0).then_some(best.step)
    }

    fn best(&self) -> Option<&Look> {
        let judged = self.0.iter().skip(1).filter_map(|look| Some((mean(&plain(look.gold.as_deref()?)), look)));
        // of equal ones the earlier
        judged.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, look)| look)
    }
}

fn plain(values: &[Exact]) -> Vec<f64> {
    values.iter().map(|value| value.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(golds: &[f64]) -> Looks {
        let look = |(i, gold): (usize, &f64)| Look {
            step: i * LOOK_EVERY,
            proxy: Exact(i as f64),
            gold: Some([-0.2, 0.0, 0.2].map(|of_prompt| Exact(gold + of_prompt * (1.0 + i as f64))).to_vec()),
            truth: None,
            kl_share: Exact(0.5),
            distinct_2: Exact(0.5),
            n_tokens_mean: Exact(6.0),
            opening_share: Exact(0.2),
            copy_rate: Exact(0.0),
            epistemic_std_mean: Exact(0.1),
            epistemic_std_p99: Exact(0.3),
        };
        Looks(golds.iter().enumerate().map(look).collect())
    }

    #[test]
    fn a_look_is_at_enough_prompts_where_there_are_enough() {
        assert_eq!([(4, 500), (4, 20), (4, 6), (64, 500)].map(|(batch, n)| n_watched(batch, n)), [32, 20, 6, 128]);
    }

    #[test]
    fn the_best_policy_is_the_result_only_where_the_last_is_clearly_worse() {
        assert_eq!(looks(&[0.0, 1.0, 0.9]).better_than_last(), None, "0.1 of a standard error of 0.12");
        assert_eq!(looks(&[0.0, 1.0, 0.5]).better_than_last(), Some(25));
        assert_eq!(looks(&[5.0, 1.0, 1.0]).better_than_last(), None, "SFT is no result of RL");
        assert!(looks(&[0.0, 1.0, 1.2]).last_is_best() && !looks(&[0.0, 1.0, 1.0]).last_is_best());
        assert!(!Looks::default().last_is_best() && !looks(&[1.0]).last_is_best());
    }

    #[test]
    fn gold_that_falls_under_a_rising_proxy_is_an_alarm() {
        assert_eq!(looks(&[0.0, 0.5, 0.6]).alarms(), []);
        let fallen = looks(&[0.0, 2.0, 1.0, 0.0, -1.0, -2.0, -2.0]).alarms();
        assert_eq!(fallen, [Alarm::GoldFalls]);
    }
}
