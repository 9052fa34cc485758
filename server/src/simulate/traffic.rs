//! Simulated users on a running experiment, through the same endpoints that a real site uses: assignment, exposures and
//! clicks. Everything that they do is labelled as simulated.
//!
//! In the loop: from suggestions to impressions and clicks. The checkpoints of the arms write here, on the CPU; an arm with a
//! template is answered by the simulator's own logging policy, since its model is the client's. Each arm writes its candidates
//! once for each conversation. A slate is drawn from them without replacement, by weights from the arm's selector mixed with
//! a little of everything ([`EXPLORATION`]), and stands in random order; so the propensity of each slot is exact, given the
//! candidates. Interleaved arms are drafted from their best candidates instead.

use super::logging::{draw_three, inclusion_of_three};
use super::visitor::Visitor;
use super::{EXAMINATION, World};
use crate::model::device::block_on;
use crate::model::threads;
use crate::remote::{Remote, RemoteError};
use beckon_shared::ab::interleave::{Team, propensities, team_draft};
use beckon_shared::checkpoint::{Checkpoint, CheckpointError};
use beckon_shared::control::command::segment;
use beckon_shared::control::experiment::{
    Arm, Assigned, ClickEvent, Exposure, IngestBatch, IngestEvent, IngestOutcome, Selector, ShownSlot, Source,
};
use beckon_shared::digest::sha256;
use beckon_shared::engine::{Engine, EngineError, Limits, SuggestRequest, Suggestion};
use beckon_shared::prompt::Prompt;
use beckon_shared::sampling::Sampling;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, HashMap};
use std::io::Read;

/// Slots of a slate.
const N_SLOTS: usize = EXAMINATION.len();
/// Share of a slate's weights that is the same for every candidate, so that no propensity is near 0.
const EXPLORATION: f64 = 0.1;
/// Events sent at once.
const BATCH: usize = 400;
/// Longest checkpoint that is fetched.
const MAX_CHECKPOINT_BYTES: u64 = 4 << 30;
const DAY_MILLIS: i64 = 86_400_000;

/// Who comes.
#[derive(Debug, Clone)]
pub struct Traffic {
    /// The experiment.
    pub experiment: String,
    /// People.
    pub n_users: usize,
    /// Slates that each of them sees.
    pub n_visits: usize,
    /// Different conversations.
    pub n_prompts: usize,
    /// Days over which they come, the last one ending now.
    pub n_days: usize,
    /// Of the people; the same seed brings the same people, whose events are then there already. On another experiment the
    /// same people have a past: they want the same things, and see and click anew.
    pub seed: u64,
    /// Of the world they live in.
    pub world_seed: u64,
}

/// What they did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Visits {
    /// People who came.
    pub n_users: usize,
    /// Those of them who do not take part.
    pub n_without_arm: usize,
    /// Slates shown and clicks made.
    pub n_exposures: usize,
    /// Exposures without any suggestion.
    pub n_empty: usize,
    /// Clicks.
    pub n_clicks: usize,
    /// Events that the server stored.
    pub n_accepted: usize,
    /// Events that it had already.
    pub n_duplicates: usize,
}

/// Why they stopped coming.
#[derive(Debug, thiserror::Error)]
pub enum TrafficError {
    /// The server.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// Nobody is assigned.
    #[error("experiment {experiment} takes nobody: {why}")]
    Closed {
        /// Which.
        experiment: String,
        /// Why.
        why: String,
    },
    /// An event was refused.
    #[error("experiment {experiment} refused an event: {why}")]
    Refused {
        /// Which.
        experiment: String,
        /// Why.
        why: String,
    },
    /// A checkpoint did not come whole.
    #[error("cannot read checkpoint {id}: {source}")]
    Broken {
        /// Which.
        id: String,
        /// What the connection said.
        source: std::io::Error,
    },
    /// A checkpoint that is damaged.
    #[error("checkpoint {id} cannot be used: {source}")]
    Checkpoint {
        /// Which.
        id: String,
        /// What is wrong.
        source: CheckpointError,
    },
    /// A checkpoint that cannot write.
    #[error("checkpoint {id} cannot write: {source}")]
    Engine {
        /// Which.
        id: String,
        /// What is wrong.
        source: EngineError,
    },
}

/// A text that an arm may show.
#[derive(Debug, Clone)]
struct Candidate {
    text: String,
    /// Probability to be drawn first.
    weight: f64,
}

/// Lets the users come. `intake` asks for assignments and reports events (the ingest key suffices), `viewer` fetches
/// checkpoints. `progress` is told after every batch.
///
/// # Errors
/// [`TrafficError`]; what was reported before it stays.
pub fn drive(
    intake: &Remote,
    viewer: &Remote,
    traffic: &Traffic,
    mut progress: impl FnMut(&Visits),
) -> Result<Visits, TrafficError> {
    let world = World::new(traffic.world_seed);
    let prompts = world.sample_prompts(traffic.n_prompts.max(1), traffic.world_seed);
    let mut site = Site { viewer, world: &world, writers: BTreeMap::new(), shown: HashMap::new() };
    let mut visits = Visits::default();
    let mut events = Vec::new();
    let path = format!("/api/experiments/{}", segment(&traffic.experiment));
    let end = crate::now_millis();
    for idx in 0..traffic.n_users {
        let mut visitor = Visitor::new(traffic.seed, idx);
        *visitor.rng() = chances(traffic.seed, &traffic.experiment, idx);
        let unit = segment(&visitor.unit);
        let assigned: Assigned = intake.get(&format!("{path}/assignment?unit={unit}"))?;
        visits.n_users += 1;
        if assigned.arm.is_none() {
            let why = assigned.why.unwrap_or_default();
            // a unit that is left out is no reason to stop; an experiment that does not run is
            if why.starts_with("the experiment") {
                return Err(TrafficError::Closed { experiment: traffic.experiment.clone(), why });
            }
            visits.n_without_arm += 1;
            continue;
        }
        let first = end - arrival_millis(traffic, idx);
        for visit in 0..traffic.n_visits {
            let prompt = &prompts[visitor.rng().random_range(0..prompts.len())];
            let slate = site.slate(&assigned, prompt, visitor.rng())?;
            let id = format!("simulated-{}-{idx}-{visit}", traffic.seed);
            // a few minutes between visits, and none in the future
            let time_millis = (first + visit as i64 * 180_000).min(end);
            see(&world, &mut visitor, &assigned, prompt, slate, (id, time_millis), &mut visits, &mut events);
        }
        if events.len() >= BATCH {
            report(intake, &path, traffic, &mut events, &mut visits)?;
            progress(&visits);
        }
    }
    report(intake, &path, traffic, &mut events, &mut visits)?;
    progress(&visits);
    Ok(visits)
}

/// What happens to person `idx` on an experiment: at every run the same, and on every experiment something else, since
/// what people did before says what they are like and not what they will draw.
fn chances(seed: u64, experiment: &str, idx: usize) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::from_seed(sha256(format!("{seed} {experiment}").as_bytes()));
    rng.set_stream(idx as u64);
    rng
}

/// How long before the end person `idx` first comes: evenly over the days.
fn arrival_millis(traffic: &Traffic, idx: usize) -> i64 {
    let total = DAY_MILLIS as f64 * traffic.n_days as f64;
    (total * (1.0 - idx as f64 / traffic.n_users.max(1) as f64)) as i64
}

/// One person looks at one slate.
#[expect(clippy::too_many_arguments, reason = "one showing has that many sides")]
fn see(
    world: &World,
    visitor: &mut Visitor,
    assigned: &Assigned,
    prompt: &Prompt,
    slate: Vec<ShownSlot>,
    (impression_id, time_millis): (String, i64),
    visits: &mut Visits,
    events: &mut Vec<IngestEvent>,
) {
    let clicks = visitor.clicks(world, prompt, slate.iter().map(|slot| slot.text.as_str()));
    let latency_millis = Some((60.0 + 80.0 * visitor.rng().random::<f64>()).round());
    visits.n_exposures += 1;
    visits.n_empty += usize::from(slate.is_empty());
    visits.n_clicks += clicks.len();
    events.push(IngestEvent::Exposure(Exposure {
        impression_id: impression_id.clone(),
        unit: visitor.unit.clone(),
        arm: assigned.arm.as_ref().map(|arm| arm.name.clone()).unwrap_or_default(),
        time_millis,
        prompt: Some(prompt.clone()),
        slate,
        latency_millis,
        device_tier: Some(visitor.device_tier.into()),
        browser: Some(visitor.browser.into()),
        simulated: true,
    }));
    events.extend(clicks.into_iter().map(|(slot, dwell_secs)| {
        let impression_id = impression_id.clone();
        IngestEvent::Click(ClickEvent {
            impression_id,
            slot,
            time_millis: time_millis + 2_000,
            dwell_secs: Some(dwell_secs),
        })
    }));
}

/// Sends what has gathered; a batch whose answer was lost is sent again, and counted once by the server.
fn report(
    intake: &Remote,
    path: &str,
    traffic: &Traffic,
    events: &mut Vec<IngestEvent>,
    visits: &mut Visits,
) -> Result<(), TrafficError> {
    for batch in std::mem::take(events).chunks(BATCH) {
        let outcome: IngestOutcome = intake.post(&format!("{path}/events"), &IngestBatch { events: batch.to_vec() })?;
        visits.n_accepted += outcome.n_accepted;
        visits.n_duplicates += outcome.n_duplicates;
        if let Some((_, why)) = outcome.rejects.into_iter().next() {
            return Err(TrafficError::Refused { experiment: traffic.experiment.clone(), why });
        }
    }
    Ok(())
}

/// The site that they visit: the models of the arms, and what each wrote.
struct Site<'a> {
    viewer: &'a Remote,
    world: &'a World,
    /// By checkpoint id.
    writers: BTreeMap<String, Engine>,
    /// By arm and conversation.
    shown: HashMap<(String, Prompt), Vec<Candidate>>,
}

impl Site<'_> {
    fn slate(
        &mut self,
        assigned: &Assigned,
        prompt: &Prompt,
        rng: &mut ChaCha8Rng,
    ) -> Result<Vec<ShownSlot>, TrafficError> {
        if let [a, b] = assigned.arms.as_slice() {
            let rankings = [self.candidates(a, prompt)?, self.candidates(b, prompt)?].map(ranked);
            let placed = team_draft(&rankings[0], &rankings[1], N_SLOTS, || rng.random());
            let propensities = propensities(&rankings[0], &rankings[1], &placed);
            let slot = |(placed, propensity): (beckon_shared::ab::interleave::Placed, f64)| {
                let arm = if placed.team == Team::A { &a.name } else { &b.name };
                ShownSlot { text: placed.text, propensity, visible: true, arm: Some(arm.clone()) }
            };
            return Ok(placed.into_iter().zip(propensities).map(slot).collect());
        }
        let Some(arm) = &assigned.arm else { return Ok(Vec::new()) };
        Ok(drawn(&self.candidates(arm, prompt)?, rng))
    }

    /// What the arm may show in this conversation; written once.
    fn candidates(&mut self, arm: &Arm, prompt: &Prompt) -> Result<Vec<Candidate>, TrafficError> {
        let key = (arm.name.clone(), prompt.clone());
        if let Some(there) = self.shown.get(&key) {
            return Ok(there.clone());
        }
        let candidates = match &arm.source {
            Source::Template(_) => of_logging_policy(self.world, prompt),
            Source::Checkpoint(id) => self.written(id, arm, prompt)?,
        };
        self.shown.insert(key, candidates.clone());
        Ok(candidates)
    }

    fn written(&mut self, id: &str, arm: &Arm, prompt: &Prompt) -> Result<Vec<Candidate>, TrafficError> {
        let failed = |source| TrafficError::Engine { id: id.to_owned(), source };
        if !self.writers.contains_key(id) {
            let engine = self.fetched(id)?;
            self.writers.insert(id.to_owned(), engine);
        }
        let Some(engine) = self.writers.get_mut(id) else { return Ok(Vec::new()) };
        let decoding = &arm.decoding;
        let sampling = Sampling {
            temperature: decoding.temperature as f32,
            top_k: 0,
            top_p: decoding.top_p as f32,
            // one draw of candidates, the same for everybody
            seed: 1,
        };
        let request = SuggestRequest {
            prompt: prompt.clone(),
            n_candidates: decoding.n_candidates,
            max_new_tokens: decoding.max_new_tokens,
            sampling,
        };
        let outcome = block_on(engine.suggest(&request, &|| 0.0)).map_err(failed)?;
        Ok(weighted(&outcome.suggestions, arm.selector))
    }

    /// The engine of a checkpoint, downloaded and verified.
    fn fetched(&self, id: &str) -> Result<Engine, TrafficError> {
        let mut bytes = Vec::new();
        let file = self.viewer.file(&format!("/api/checkpoints/{}/file", segment(id)))?;
        file.take(MAX_CHECKPOINT_BYTES)
            .read_to_end(&mut bytes)
            .map_err(|source| TrafficError::Broken { id: id.to_owned(), source })?;
        let checkpoint =
            Checkpoint::decode(&bytes).map_err(|source| TrafficError::Checkpoint { id: id.to_owned(), source })?;
        let limits = Limits::of(&checkpoint.manifest.model).fastest();
        threads::cpu_engine(&checkpoint, limits).map_err(|source| TrafficError::Engine { id: id.to_owned(), source })
    }
}

/// What the simulator's own policy shows in this conversation.
fn of_logging_policy(world: &World, prompt: &Prompt) -> Vec<Candidate> {
    let Some(situation) = world.situation(prompt) else { return Vec::new() };
    let weights = world.draw_table(situation).weights;
    let texts = world.suggestions(prompt).into_iter().map(str::to_owned);
    texts.zip(weights).map(|(text, weight)| Candidate { text, weight }).collect()
}

/// Finished, different texts with weights from the selector: softmax of the pessimistic reward or of the mean
/// log-probability, or none.
fn weighted(suggestions: &[Suggestion], selector: Selector) -> Vec<Candidate> {
    let mut kept: Vec<(&Suggestion, f64)> = Vec::new();
    for suggestion in suggestions.iter().filter(|s| s.finished && !s.text.trim().is_empty()) {
        let likelihood = suggestion.logps.iter().sum::<f32>() / suggestion.logps.len().max(1) as f32;
        let pessimistic = suggestion.score.map(|score| score.reward_mean - score.epistemic_std);
        let value = match selector {
            Selector::Random => 0.0,
            Selector::Likelihood => likelihood,
            Selector::Reward => pessimistic.unwrap_or(likelihood),
        };
        if kept.iter().all(|(other, _)| other.text != suggestion.text) {
            kept.push((suggestion, f64::from(value)));
        }
    }
    let largest = kept.iter().map(|(_, value)| *value).fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = kept.iter().map(|(_, value)| (value - largest).exp()).sum();
    let n = kept.len() as f64;
    let weight = |value: f64| (1.0 - EXPLORATION) * (value - largest).exp() / total + EXPLORATION / n;
    kept.iter().map(|(s, value)| Candidate { text: s.text.clone(), weight: weight(*value) }).collect()
}

/// Texts, the most wanted first.
fn ranked(mut candidates: Vec<Candidate>) -> Vec<String> {
    candidates.sort_by(|a, b| b.weight.total_cmp(&a.weight).then_with(|| a.text.cmp(&b.text)));
    candidates.into_iter().map(|candidate| candidate.text).collect()
}

/// A slate in random order: three drawn without replacement, or all where there are no more. A text stands in any one slot
/// with its probability to be drawn at all over the number of slots.
fn drawn(candidates: &[Candidate], rng: &mut ChaCha8Rng) -> Vec<ShownSlot> {
    let weights: Vec<f64> = candidates.iter().map(|candidate| candidate.weight).collect();
    let (mut chosen, inclusion) = match candidates.len() {
        0 => return Vec::new(),
        n if n <= N_SLOTS => ((0..n).collect(), vec![1.0; n]),
        _ => (draw_three(&weights, rng), inclusion_of_three(&weights)),
    };
    chosen.shuffle(rng);
    let n_slots = chosen.len() as f64;
    let slot = |i: usize| ShownSlot {
        text: candidates[i].text.clone(),
        propensity: (inclusion[i] / n_slots).clamp(f64::MIN_POSITIVE, 1.0),
        visible: true,
        arm: None,
    };
    chosen.into_iter().map(slot).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(text: &str, weight: f64) -> Candidate {
        Candidate { text: text.into(), weight }
    }

    #[test]
    fn a_propensity_is_how_often_a_text_stands_in_a_slot() {
        let candidates = [("a", 0.5), ("b", 0.2), ("c", 0.15), ("d", 0.1), ("e", 0.05)].map(|(t, w)| candidate(t, w));
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let n = 20_000;
        let mut in_first_slot: HashMap<String, (u32, f64)> = HashMap::new();
        for _ in 0..n {
            let first = drawn(&candidates, &mut rng).swap_remove(0);
            let entry = in_first_slot.entry(first.text).or_insert((0, first.propensity));
            entry.0 += 1;
        }
        let total: f64 = in_first_slot.values().map(|(_, propensity)| propensity).sum();
        assert!((total - 1.0).abs() <= 1e-9, "{total}");
        for (text, (count, propensity)) in in_first_slot {
            let rate = f64::from(count) / f64::from(n);
            assert!((rate - propensity).abs() <= 0.015, "{text}: {rate} against {propensity}");
        }
    }

    /// Else the past of simulated users would foretell their clicks as that of people never could.
    #[test]
    fn the_same_people_draw_anew_on_another_experiment() {
        let draws = |experiment: &str, idx: usize| {
            let mut rng = chances(1, experiment, idx);
            [(); 4].map(|()| rng.random::<u64>())
        };
        assert_eq!(draws("e1", 3), draws("e1", 3));
        assert_ne!(draws("e1", 3), draws("e2", 3));
        assert_ne!(draws("e1", 3), draws("e1", 4));
    }

    #[test]
    fn few_candidates_are_all_shown_and_none_is_an_empty_slate() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        assert!(drawn(&[], &mut rng).is_empty());
        let two = drawn(&[candidate("a", 0.9), candidate("b", 0.1)], &mut rng);
        assert_eq!(two.iter().map(|slot| slot.propensity).collect::<Vec<_>>(), [0.5, 0.5]);
    }

    #[test]
    fn unfinished_and_repeated_texts_are_left_out_and_the_selector_decides() {
        let written = |text: &str, finished, logp: f32| Suggestion {
            text: text.into(),
            tokens: vec![1],
            logps: vec![logp],
            finished,
            score: None,
        };
        let all =
            [written("a", true, -1.0), written("a", true, -2.0), written("b", false, -0.1), written("c", true, -3.0)];
        let likely = weighted(&all, Selector::Likelihood);
        assert_eq!(ranked(likely.clone()), ["a", "c"]);
        assert!(likely[0].weight > likely[1].weight);
        let even = weighted(&all, Selector::Random);
        assert!((even[0].weight - 0.5).abs() <= 1e-12 && (even[1].weight - 0.5).abs() <= 1e-12);
        assert!(weighted(&[], Selector::Reward).is_empty());
    }
}
