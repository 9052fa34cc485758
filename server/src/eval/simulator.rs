//! The experiment that can be judged independently: a world with known truth, its log, the loop on that
//! log, and the gold CTR of every policy on the way. Method B.6.3.
//!
//! `beckon eval simulator`. Each seed is another world, another log and another run. Gold CTR is exact
//! ([`crate::simulate::gold`]), so the only spread is that between seeds.

use super::mean_and_t_interval;
use crate::model::batch::derived_seed;
use crate::model::lent::Lent;
use crate::model::llama::Llama;
use crate::model::reward::Scorer;
use crate::pipeline::recorder::curves;
use crate::pipeline::{self, Baseline, Options, PipelineError, Trained};
use crate::report::Curve;
use crate::simulate::World;
use crate::simulate::gold::Gold;
use crate::stage::Observer;
use crate::stage::sft::sequence_logps;
use beckon_shared::click::{Record, Sourced};
use beckon_shared::config::Preset;
use beckon_shared::control::{RlConfig, RunConfig, Stage};
use beckon_shared::garm::effective::EffectiveReward;
use beckon_shared::lexical::Judge;
use beckon_shared::metrics::{mean, spearman};
use beckon_shared::prompt::Prompt;
use beckon_shared::reward::fusion::Fusion;
use beckon_shared::tensor::TensorMap;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::fmt::Write;
use std::path::Path;
use std::time::Instant;

/// Size of the experiment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SimulatorConfig {
    /// Worlds; seeds 0, 1, ….
    pub n_seeds: usize,
    /// Model size.
    pub preset: Preset,
    /// Impressions in each log.
    pub n_impressions: usize,
    /// Users in each log.
    pub n_users: usize,
    /// Conversations that the gold CTR is a mean over.
    pub n_prompts: usize,
    /// Whether RL runs again without each of its parts, see [`ablations`].
    pub ablations: bool,
}

impl Default for SimulatorConfig {
    fn default() -> Self {
        Self { n_seeds: 5, preset: Preset::Tiny, n_impressions: 16_000, n_users: 800, n_prompts: 96, ablations: false }
    }
}

/// What one seed has shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeedFigures {
    /// Seed of world, log and run.
    pub seed: u64,
    /// Network with random weights.
    pub untrained: Gold,
    /// The policy that wrote the log.
    pub logging: Gold,
    /// After SFT.
    pub sft: Gold,
    /// After RL.
    pub rl: Gold,
    /// The highest possible gold CTR.
    pub best_ctr: f64,
    /// Spearman's correlation over suggestions of GaRM's mean with the true mean.
    pub reward_mean_spearman: f64,
    /// The same of its aleatoric standard deviation with the true one.
    pub aleatoric_std_spearman: f64,
    /// RL's proxy and truth as it went on: `watched_proxy`, `watched_truth`.
    pub rl_curves: Vec<Curve>,
    /// RL without one of its parts, where asked for.
    pub ablations: Vec<AblationFigures>,
    /// Seconds of training and judging.
    pub wall_secs: f64,
}

/// RL without one of its parts, from the same SFT policy and reward model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AblationFigures {
    /// Which part.
    pub name: String,
    /// The policy's gold figures at the end.
    pub gold: Gold,
    /// As [`SeedFigures::rl_curves`].
    pub curves: Vec<Curve>,
}

/// What RL is run without, by name: the full method of `rl` with one part taken away.
pub fn ablations(rl: &RlConfig) -> Vec<(&'static str, RlConfig)> {
    vec![
        ("no OOD term", RlConfig { epistemic_penalty: 0.0, veto_quantile: 1.0, ..rl.clone() }),
        ("single-stage fusion", RlConfig { fusion: Fusion::SumThenNormalise, ..rl.clone() }),
        ("point reward", RlConfig { effective: EffectiveReward::Mean, veto_quantile: 1.0, ..rl.clone() }),
    ]
}

/// The simulated users' true click rate.
struct Truth<'a>(&'a World);

impl Judge for Truth<'_> {
    fn values(&self, prompt: &Prompt, texts: &[String]) -> Vec<f64> {
        texts.iter().map(|text| self.0.true_ctr(prompt, text)).collect()
    }
}

/// All seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SimulatorFigures {
    /// Size.
    pub config: SimulatorConfig,
    /// A row a seed.
    pub seeds: Vec<SeedFigures>,
}

/// A policy's gold CTR over seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GoldRow {
    /// Which policy.
    pub policy: String,
    /// Mean over seeds.
    pub ctr: f64,
    /// 95% t-interval over seeds.
    pub interval: (f64, f64),
    /// Mean probability of writing something of the grammar.
    pub enumerated_mass: f64,
}

/// Runs the experiment in `dir`, one folder a seed; a seed that is there is not trained again.
///
/// # Errors
/// Those of [`pipeline::train`].
pub fn run(
    config: SimulatorConfig,
    dir: &Path,
    observer: &mut dyn Observer,
) -> Result<SimulatorFigures, PipelineError> {
    let mut seeds = Vec::new();
    for seed in 0..config.n_seeds as u64 {
        observer.log(&format!("simulator: seed {} of {}", seed + 1, config.n_seeds));
        let mut run_config = RunConfig { seed, name: format!("simulator-{seed}"), ..RunConfig::preset(config.preset) };
        // a simulated world does not change: splitting its time would only take data away
        run_config.preferences.split.latest_percent = 0;
        seeds.push(run_seed(config, &run_config, &dir.join(format!("seed-{seed}")), observer)?);
    }
    Ok(SimulatorFigures { config, seeds })
}

/// One seed with a configuration of its own.
///
/// # Errors
/// Those of [`pipeline::train`].
pub fn run_seed(
    config: SimulatorConfig,
    run_config: &RunConfig,
    dir: &Path,
    observer: &mut dyn Observer,
) -> Result<SeedFigures, PipelineError> {
    let begun = Instant::now();
    let world = World::new(run_config.seed);
    let log = world.generate_log(config.n_impressions, config.n_users, run_config.seed);
    let records: Vec<Sourced> =
        log.into_iter().map(|i| Sourced { source: "simulated".into(), record: Record::Impression(i) }).collect();
    let truth = Truth(&world);
    let options = Options { lent: &Lent::default(), baseline: Baseline::None, truth: Some(&truth) };
    let trained = pipeline::train(dir, run_config, &records, &options, observer)?;
    let prompts = world.sample_prompts(config.n_prompts, run_config.seed);
    let gold = |policy: &TensorMap| {
        let model = Llama::from_tensors(&trained.model, policy, &trained.devices.first)?;
        Ok::<_, PipelineError>(gold_of(&world, &prompts, &model, &trained))
    };
    // the network that SFT started from
    let init_seed = derived_seed(derived_seed(run_config.seed, 1), 1);
    let untrained = Llama::init(&trained.model, init_seed, &trained.devices.first)?;
    let (reward_mean_spearman, aleatoric_std_spearman) = against_truth(&world, &prompts, &trained)?;
    let mut without = Vec::new();
    for (name, rl) in ablations(&run_config.rl).into_iter().filter(|_| config.ablations) {
        observer.log(&format!("simulator: {name}"));
        let folder = format!("rl-{}", name.replace(' ', "-"));
        let truth = Truth(&world);
        let outcome = pipeline::rl_variant((dir, &folder), run_config, &rl, &trained, Some(&truth), observer)?;
        let curves = watched(&dir.join(folder))?;
        without.push(AblationFigures { name: name.to_owned(), gold: gold(&outcome.policy)?, curves });
    }
    let figures = SeedFigures {
        seed: run_config.seed,
        untrained: gold_of(&world, &prompts, &untrained, &trained),
        logging: world.gold_ctr_of_logging(&prompts),
        sft: gold(&trained.sft.policy)?,
        rl: gold(&trained.rl.policy)?,
        best_ctr: mean(&prompts.iter().map(|x| world.best_ctr(x)).collect::<Vec<_>>()),
        reward_mean_spearman,
        aleatoric_std_spearman,
        rl_curves: watched(&dir.join("rl"))?,
        ablations: without,
        wall_secs: begun.elapsed().as_secs_f64(),
    };
    for (name, gold) in [("gold_ctr_sft", figures.sft), ("gold_ctr_rl", figures.rl)] {
        observer.metric(Stage::Eval, 1, 1, name, gold.ctr);
    }
    Ok(figures)
}

/// Proxy and truth along a run of RL.
fn watched(dir: &Path) -> Result<Vec<Curve>, PipelineError> {
    Ok(curves(dir)?.into_iter().filter(|curve| curve.name.starts_with("watched_")).collect())
}

fn gold_of(world: &World, prompts: &[Prompt], model: &Llama, trained: &Trained) -> Gold {
    let answer = world.gold_ctr(prompts, |prompt, texts| {
        let items: Vec<(Prompt, String)> = texts.iter().map(|t| (prompt.clone(), (*t).to_owned())).collect();
        let logps = sequence_logps(model, &trained.tokenizer, &items, trained.model.max_seq_len);
        Ok::<_, Infallible>(logps.into_iter().map(|(sum, _)| sum).collect())
    });
    match answer {
        Ok(gold) => gold,
    }
}

/// Rank correlations of GaRM's mean and aleatoric spread with the truth, over every suggestion of some
/// prompts.
fn against_truth(world: &World, prompts: &[Prompt], trained: &Trained) -> Result<(f64, f64), PipelineError> {
    /// Prompts compared; each brings 57 suggestions.
    const N_PROMPTS: usize = 24;
    let scorer = Scorer::new(
        &trained.model,
        &trained.garm.reward,
        &trained.garm.config,
        &trained.tokenizer,
        &trained.devices.first,
    )?;
    let mut items = Vec::new();
    let (mut means, mut stds) = (Vec::new(), Vec::new());
    for prompt in prompts.iter().take(N_PROMPTS) {
        for text in world.suggestions(prompt) {
            // every listed suggestion has a utility
            let Some((mean, std)) = world.true_mean_and_std(prompt, text) else { continue };
            items.push((prompt.clone(), text.to_owned()));
            means.push(mean);
            stds.push(std);
        }
    }
    let scores = scorer.score(&items);
    let predicted_means: Vec<f64> = scores.iter().map(|s| f64::from(s.reward_mean)).collect();
    let predicted_stds: Vec<f64> = scores.iter().map(|s| f64::from(s.aleatoric_std)).collect();
    Ok((spearman(&predicted_means, &means), spearman(&predicted_stds, &stds)))
}

impl SimulatorFigures {
    /// A row a policy, in the order of the loop.
    pub fn rows(&self) -> Vec<GoldRow> {
        let row = |policy: &str, gold: &dyn Fn(&SeedFigures) -> Gold| {
            let of = |part: &dyn Fn(Gold) -> f64| self.seeds.iter().map(|s| part(gold(s))).collect::<Vec<f64>>();
            let (ctr, interval) = mean_and_t_interval(&of(&|g| g.ctr));
            GoldRow { policy: policy.into(), ctr, interval, enumerated_mass: mean(&of(&|g| g.enumerated_mass)) }
        };
        let mut rows = vec![
            row("untrained network", &|s| s.untrained),
            row("logging policy", &|s| s.logging),
            row("SFT", &|s| s.sft),
            row("RL", &|s| s.rl),
        ];
        let names = self.seeds.first().map_or(&[][..], |s| &s.ablations).iter().enumerate();
        rows.extend(names.map(|(i, ablation)| row(&format!("RL, {}", ablation.name), &|s| s.ablations[i].gold)));
        rows
    }

    /// Gold CTR of full RL minus that of each ablation, paired by seed, with its 95% t-interval.
    pub fn rl_minus_ablations(&self) -> Vec<(String, (f64, (f64, f64)))> {
        let names = self.seeds.first().map_or(&[][..], |s| &s.ablations).iter().enumerate();
        let difference = |i: usize| self.seeds.iter().map(|s| s.rl.ctr - s.ablations[i].gold.ctr).collect::<Vec<_>>();
        names.map(|(i, ablation)| (ablation.name.clone(), mean_and_t_interval(&difference(i)))).collect()
    }

    /// Gold CTR of RL minus that of SFT, paired by seed, with its 95% t-interval.
    pub fn rl_minus_sft(&self) -> (f64, (f64, f64)) {
        mean_and_t_interval(&self.seeds.iter().map(|s| s.rl.ctr - s.sft.ctr).collect::<Vec<_>>())
    }

    /// The result for a terminal.
    pub fn table(&self) -> String {
        let mut text = format!(
            "Gold CTR on simulated users, {} seeds, preset {:?}, {} impressions a log (all clicks simulated)\n\n",
            self.seeds.len(),
            self.config.preset,
            self.config.n_impressions
        );
        let _ = writeln!(text, "{:<26}{:>10}{:>24}{:>12}", "policy", "gold CTR", "95% over seeds", "in grammar");
        for row in self.rows() {
            let interval = format!("{:.4} to {:.4}", row.interval.0, row.interval.1);
            let _ = writeln!(text, "{:<26}{:>10.4}{interval:>24}{:>12.3}", row.policy, row.ctr, row.enumerated_mass);
        }
        let of = |part: &dyn Fn(&SeedFigures) -> f64| mean(&self.seeds.iter().map(part).collect::<Vec<_>>());
        let _ = writeln!(text, "{:<26}{:>10.4}", "best possible", of(&|s| s.best_ctr));
        let (difference, (low, high)) = self.rl_minus_sft();
        let _ = writeln!(text, "\nRL minus SFT, paired by seed: {difference:+.4} ({low:+.4} to {high:+.4})");
        for (name, (difference, (low, high))) in self.rl_minus_ablations() {
            let _ = writeln!(text, "RL minus RL with {name}: {difference:+.4} ({low:+.4} to {high:+.4})");
        }
        let _ = writeln!(
            text,
            "GaRM against the truth, rank correlation: mean {:.3}, aleatoric spread {:.3}",
            of(&|s| s.reward_mean_spearman),
            of(&|s| s.aleatoric_std_spearman)
        );
        text + "\nseed   logging       SFT        RL   seconds\n"
            + &self
                .seeds
                .iter()
                .map(|s| {
                    format!(
                        "{:>4}{:>10.4}{:>10.4}{:>10.4}{:>10.0}\n",
                        s.seed, s.logging.ctr, s.sft.ctr, s.rl.ctr, s.wall_secs
                    )
                })
                .collect::<String>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use beckon_shared::metrics::assert_close;

    fn gold(ctr: f64) -> Gold {
        Gold { ctr, satisfied_ctr: 0.0, enumerated_mass: 0.9, clickbait_mass: 0.0, n_prompts: 1 }
    }

    #[test]
    fn the_difference_is_paired_by_seed() {
        let seeds =
            [(0.10, 0.12), (0.30, 0.33), (0.20, 0.21)].into_iter().enumerate().map(|(i, (sft, rl))| SeedFigures {
                seed: i as u64,
                untrained: gold(0.0),
                logging: gold(0.08),
                sft: gold(sft),
                rl: gold(rl),
                best_ctr: 0.4,
                reward_mean_spearman: 0.5,
                aleatoric_std_spearman: 0.1,
                rl_curves: Vec::new(),
                ablations: vec![AblationFigures {
                    name: "point reward".into(),
                    gold: gold(rl - 0.01),
                    curves: Vec::new(),
                }],
                wall_secs: 1.0,
            });
        let figures = SimulatorFigures { config: SimulatorConfig::default(), seeds: seeds.collect() };
        let (difference, (low, high)) = figures.rl_minus_sft();
        assert_close("difference", difference, 0.02, 1e-12);
        // sd 0.01, over sqrt(3), times t = 4.303
        assert_close("low", low, 0.02 - 4.303 * 0.01 / 3f64.sqrt(), 1e-9);
        assert_close("high", high, 0.02 + 4.303 * 0.01 / 3f64.sqrt(), 1e-9);
        assert_close("SFT", figures.rows()[2].ctr, 0.2, 1e-12);
        assert!(figures.table().contains("RL minus SFT, paired by seed: +0.0200"));
        assert!(figures.table().contains("RL minus RL with point reward: +0.0100"), "{}", figures.table());
    }
}
