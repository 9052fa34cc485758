//! Reading an [`Event`]. What is derived for a tag beside its content reads the content of either order, each type twice; here it
//! is a JSON value first, like everything that the page reads ([`crate::json`]).

use super::Event;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, from_value};

#[derive(Deserialize)]
struct Tagged {
    kind: String,
    data: Value,
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Tagged { kind, mut data } = Tagged::deserialize(deserializer)?;
        let event = match kind.as_str() {
            "run" => from_value(data).map(Self::Run),
            "metric" => from_value(data).map(Self::Metric),
            "sample" => from_value(data).map(Self::Sample),
            "checkpoint" => from_value(data).map(Self::Checkpoint),
            "experiment" => from_value(data).map(Self::Experiment),
            "run_deleted" => field(&mut data, "id").map(|id| Self::RunDeleted { id }),
            "experiment_deleted" => field(&mut data, "id").map(|id| Self::ExperimentDeleted { id }),
            "registry" => registry(&mut data),
            "line" => line(&mut data),
            "alarm" => alarm(&mut data),
            "log_changed" => field(&mut data, "n_records").map(|n_records| Self::LogChanged { n_records }),
            "missed" => field(&mut data, "n_events").map(|n_events| Self::Missed { n_events }),
            _ => Err(serde_json::Error::custom(format!("unknown kind of event {kind:?}"))),
        };
        event.map_err(D::Error::custom)
    }
}

fn registry(data: &mut Value) -> serde_json::Result<Event> {
    Ok(Event::Registry { id: field(data, "id")?, entry: field(data, "entry")? })
}

fn line(data: &mut Value) -> serde_json::Result<Event> {
    Ok(Event::Line { run_id: field(data, "run_id")?, text: field(data, "text")? })
}

fn alarm(data: &mut Value) -> serde_json::Result<Event> {
    Ok(Event::Alarm { run_id: field(data, "run_id")?, text: field(data, "text")? })
}

/// A field of an object; one that is not there reads as `null`.
fn field<T: DeserializeOwned>(data: &mut Value, name: &str) -> serde_json::Result<T> {
    from_value(data.get_mut(name).map_or(Value::Null, Value::take))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;
    use crate::control::{CheckpointInfo, RunConfig};
    use serde_json::json;

    #[test]
    fn every_event_reads_back_and_others_are_refused() {
        let info = CheckpointInfo {
            id: "ab".into(),
            name: "one".into(),
            run_id: None,
            n_bytes: 7,
            created_millis: 1,
            simulated: true,
            built_in: false,
        };
        let registry = json!({"kind": "registry", "data": {"id": "ab", "entry": {"info": info, "parent": null,
            "data_hash": "", "evaluation": {}, "tags": [], "note": ""}}});
        let run = json!({"id": "r1", "config": RunConfig::preset(Preset::Tiny), "state": "running", "stage": "sft", "step": 1,
            "n_steps": 2, "created_millis": 3, "device": null, "checkpoint": null, "error": null});
        let metric = json!({"run_id": "r1", "stage": "rl", "step": 1, "name": "loss", "value": 0.5});
        let score = json!({"reward_mean": 0.5, "aleatoric_std": 0.25, "epistemic_std": 0.125});
        let prompts = json!([{"prompt": "p", "suggestions": [{"text": "a"}, {"text": "b", "score": score}]}]);
        let events = [
            json!({"kind": "run", "data": run}),
            json!({"kind": "metric", "data": metric}),
            json!({"kind": "sample", "data": {"run_id": "r1", "stage": "rl", "step": 25, "prompts": prompts}}),
            json!({"kind": "checkpoint", "data": info}),
            json!({"kind": "run_deleted", "data": {"id": "r1"}}),
            json!({"kind": "experiment_deleted", "data": {"id": "e1"}}),
            registry,
            json!({"kind": "registry", "data": {"id": "ab", "entry": null}}),
            json!({"kind": "line", "data": {"run_id": "r1", "text": "t"}}),
            json!({"kind": "alarm", "data": {"run_id": null, "text": "t"}}),
            json!({"kind": "log_changed", "data": {"n_records": 3}}),
            json!({"kind": "missed", "data": {"n_events": 4}}),
        ];
        for json in events {
            let event: Event = from_value(json.clone()).unwrap_or_else(|e| panic!("{json}: {e}"));
            assert_eq!(serde_json::to_value(&event).ok(), Some(json));
        }
        for bad in
            [json!({"kind": "run_deleted", "data": {}}), json!({"kind": "other", "data": {}}), json!({"kind": "line"})]
        {
            assert!(from_value::<Event>(bad.clone()).is_err(), "{bad}");
        }
    }
}
