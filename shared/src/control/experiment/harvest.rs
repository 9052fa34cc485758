//! From what an experiment took in back to the click log: the arrow that closes the loop.
//!
//! An exposure that kept its conversation becomes an [`Impression`] with its clicks, its arm and the arm's checkpoint.
//! Propensities stay as they were reported, given the arm: the arm's policy is the one that logged it, and an estimate over
//! impressions of several arms is unbiased with the propensity of each one's own policy.

use super::{ClickEvent, ExperimentStatus, Exposure, Layout, Source};
use crate::click::{Impression, Slot};
use serde::{Deserialize, Serialize};

/// What a harvest did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HarvestOutcome {
    /// Impressions that are in the log now and were not before.
    pub n_accepted: u64,
    /// There already, from an earlier harvest.
    pub n_duplicates: u64,
    /// Exposures whose conversation was not kept, which teach nothing.
    pub n_without_prompt: u64,
}

/// The exposure as a line of the log; `None` where its conversation was not kept or nothing was shown. Its id is the
/// experiment's and its own, so a second harvest finds duplicates. Interleaved slates have no one checkpoint and no one arm.
pub fn impression(experiment: &ExperimentStatus, exposure: &Exposure, clicks: &[ClickEvent]) -> Option<Impression> {
    let prompt = exposure.prompt.clone().filter(|prompt| !prompt.query().is_empty())?;
    let is_split = experiment.config.layout == Layout::Split;
    let arm = experiment.config.arms.iter().find(|arm| is_split && arm.name == exposure.arm);
    let checkpoint = arm.and_then(|arm| match &arm.source {
        Source::Checkpoint(id) => Some(id.clone()),
        Source::Template(_) => None,
    });
    let slot = |(idx, shown): (usize, &super::ShownSlot)| {
        let click = clicks.iter().find(|click| click.slot == idx);
        Slot {
            text: shown.text.clone(),
            propensity: Some(shown.propensity),
            visible: Some(shown.visible),
            clicked: click.is_some(),
            dwell_secs: click.and_then(|click| click.dwell_secs),
            followed_up: None,
        }
    };
    let slate: Vec<Slot> = exposure.slate.iter().enumerate().map(slot).collect();
    (!slate.is_empty()).then(|| Impression {
        impression_id: format!("{}/{}", experiment.id, exposure.impression_id),
        user_hash: exposure.unit.clone(),
        time_millis: exposure.time_millis,
        prompt,
        slate,
        policy: Some(arm.map_or_else(|| "interleaved".to_owned(), |arm| arm.name.clone())),
        checkpoint,
        experiment: Some(experiment.id.clone()),
        arm: arm.map(|arm| arm.name.clone()),
        simulated: exposure.simulated,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::experiment::{ExperimentConfig, ExperimentState};
    use serde_json::{from_value, json};

    fn status(layout: &str) -> ExperimentStatus {
        let config: ExperimentConfig = from_value(json!({
            "name": "n", "layout": layout,
            "arms": [{"name": "a", "source": {"checkpoint": "c1"}}, {"name": "b", "source": {"template": "t"}}],
        }))
        .expect("a configuration");
        ExperimentStatus {
            id: "e3".into(),
            config,
            state: ExperimentState::Running,
            killed: false,
            winner: None,
            aa: false,
            created_millis: 0,
            started_millis: None,
            stopped_millis: None,
        }
    }

    fn exposure(arm: &str) -> Exposure {
        from_value(json!({
            "impression_id": "i1", "unit": "u1", "arm": arm, "time_millis": 5, "simulated": true,
            "prompt": [{"role": "user", "text": "rust"}],
            "slate": [{"text": "x", "propensity": 0.25, "visible": true}, {"text": "y", "propensity": 0.5, "visible": false}],
        }))
        .expect("an exposure")
    }

    #[test]
    fn an_exposure_becomes_an_impression_with_its_clicks_arm_and_checkpoint() {
        let click = ClickEvent { impression_id: "i1".into(), slot: 0, time_millis: 9, dwell_secs: Some(3.0) };
        let got = impression(&status("split"), &exposure("a"), &[click]).expect("an impression");
        assert_eq!((got.impression_id.as_str(), got.user_hash.as_str(), got.time_millis), ("e3/i1", "u1", 5));
        let named = (got.checkpoint.as_deref(), got.arm.as_deref(), got.experiment.as_deref(), got.simulated);
        assert_eq!(named, (Some("c1"), Some("a"), Some("e3"), true));
        let slot =
            |i: usize| (got.slate[i].clicked, got.slate[i].propensity, got.slate[i].dwell_secs, got.slate[i].visible);
        assert_eq!(slot(0), (true, Some(0.25), Some(3.0), Some(true)));
        assert_eq!(slot(1), (false, Some(0.5), None, Some(false)));
        let template = impression(&status("split"), &exposure("b"), &[]).expect("an impression");
        assert_eq!((template.checkpoint, template.arm.as_deref()), (None, Some("b")));
    }

    #[test]
    fn an_interleaved_slate_belongs_to_no_one_arm() {
        let got = impression(&status("interleaved"), &exposure("a"), &[]).expect("an impression");
        assert_eq!((got.checkpoint, got.arm, got.policy.as_deref()), (None, None, Some("interleaved")));
    }

    #[test]
    fn without_a_conversation_or_a_slate_there_is_nothing_to_learn_from() {
        let silent = Exposure { prompt: None, ..exposure("a") };
        let empty = Exposure { slate: Vec::new(), ..exposure("a") };
        assert!(impression(&status("split"), &silent, &[]).is_none());
        assert!(impression(&status("split"), &empty, &[]).is_none());
    }
}
