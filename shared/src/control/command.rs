//! Typed commands and the request that each one is. The WebSocket at `/api/control` takes them as messages, `beckon --server`
//! sends them as requests; both come to the same route, so roles, audit and idempotency are the same.

use super::life::RunCommand;
use super::tuning::Tuning;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Longest idempotency key, bytes.
pub const MAX_KEY_BYTES: usize = 200;

/// Something asked of the server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Make a run; what `config` leaves out comes from its preset.
    CreateRun {
        /// Part of a `RunConfig`.
        #[schema(value_type = Object)]
        config: Value,
        /// Only make it; start it later.
        #[serde(default)]
        draft: bool,
    },
    /// Steer a run.
    SteerRun {
        /// Which.
        run: String,
        /// What.
        action: RunCommand,
    },
    /// Change values of a run that trains.
    TuneRun {
        /// Which.
        run: String,
        /// The values.
        tuning: Tuning,
    },
    /// Make a run that goes on from a checkpoint with other settings.
    Branch {
        /// Which.
        checkpoint: String,
        /// What differs from the configuration of the run that made it.
        #[schema(value_type = Object)]
        config: Value,
    },
    /// Write a note on a checkpoint.
    Annotate {
        /// Which.
        checkpoint: String,
        /// The note.
        text: String,
    },
    /// Let a tag point to a checkpoint.
    Promote {
        /// Which.
        checkpoint: String,
        /// The tag.
        tag: String,
    },
    /// Let a tag point to where it pointed before.
    RollBack {
        /// The tag.
        tag: String,
    },
    /// Delete a checkpoint that nothing needs.
    DeleteCheckpoint {
        /// Which.
        checkpoint: String,
    },
    /// Make an experiment.
    CreateExperiment {
        /// An `ExperimentConfig`.
        #[schema(value_type = Object)]
        config: Value,
    },
    /// Steer an experiment.
    SteerExperiment {
        /// Which.
        experiment: String,
        /// `start`, `stop`, `kill` or `decide`.
        action: String,
        /// The arm that won, for `decide`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        winner: Option<String>,
    },
    /// Forget an experiment that is not running, with everything that it took in.
    DeleteExperiment {
        /// Which.
        experiment: String,
    },
}

/// A request of the REST interface.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// HTTP method.
    pub method: &'static str,
    /// Path with query.
    pub path: String,
    /// JSON body.
    pub body: Option<Value>,
}

impl Command {
    /// The request that it is. Ids are percent-encoded, so none can lead to another path.
    pub fn call(&self) -> Call {
        let (method, path, body) = match self {
            Self::CreateRun { config, draft } => {
                ("POST", if *draft { "/api/runs?draft=true" } else { "/api/runs" }.to_owned(), Some(config.clone()))
            }
            Self::SteerRun { run, action: RunCommand::Delete } => {
                ("DELETE", format!("/api/runs/{}", segment(run)), None)
            }
            Self::SteerRun { run, action } => ("POST", format!("/api/runs/{}/{}", segment(run), action.name()), None),
            Self::TuneRun { run, tuning } => ("PATCH", format!("/api/runs/{}", segment(run)), Some(json!(tuning))),
            Self::Branch { checkpoint, config } => {
                ("POST", format!("/api/checkpoints/{}/branch", segment(checkpoint)), Some(config.clone()))
            }
            Self::Annotate { checkpoint, text } => {
                ("PUT", format!("/api/checkpoints/{}/note", segment(checkpoint)), Some(json!({ "text": text })))
            }
            Self::Promote { checkpoint, tag } => {
                ("POST", format!("/api/checkpoints/{}/promote", segment(checkpoint)), Some(json!({ "tag": tag })))
            }
            Self::RollBack { tag } => ("POST", format!("/api/tags/{}/roll-back", segment(tag)), None),
            Self::DeleteCheckpoint { checkpoint } => {
                ("DELETE", format!("/api/checkpoints/{}", segment(checkpoint)), None)
            }
            Self::CreateExperiment { config } => ("POST", "/api/experiments".to_owned(), Some(config.clone())),
            Self::SteerExperiment { experiment, action, winner } => {
                let path = format!("/api/experiments/{}/{}", segment(experiment), segment(action));
                ("POST", path, winner.as_ref().map(|winner| json!({ "winner": winner })))
            }
            Self::DeleteExperiment { experiment } => {
                ("DELETE", format!("/api/experiments/{}", segment(experiment)), None)
            }
        };
        Call { method, path, body }
    }
}

/// A part of a path: everything but letters, digits, `-`, `_` and `.` percent-encoded, and `.` too where there is nothing
/// else (so `..` leads nowhere).
pub fn segment(text: &str) -> String {
    use std::fmt::Write;
    let only_dots = text.bytes().all(|byte| byte == b'.');
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || (byte == b'.' && !only_dots);
        if plain {
            out.push(char::from(byte));
        } else {
            // writing to a string cannot fail
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// A message of a client of `/api/control`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Order {
    /// Comes back in the answer; also the idempotency key, so an order that is sent again is not done again.
    pub key: String,
    /// What to do.
    #[serde(flatten)]
    pub command: Command,
}

/// What the server says to a client of `/api/control`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Reply {
    /// The outcome of an order.
    Answer {
        /// Of the order; empty where it could not be read.
        key: String,
        /// HTTP status that the same request would have had.
        status: u16,
        /// The resulting state, or a `Problem`.
        body: Value,
    },
    /// Something happened.
    Event {
        /// Number of the event.
        seq: u64,
        /// The event, as on `/api/events`.
        event: Value,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Order {
        serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"))
    }

    #[test]
    fn each_command_is_a_request() {
        for (json, method, path) in [
            (
                r#"{"key":"k","command":"create_run","config":{"preset":"tiny"},"draft":true}"#,
                "POST",
                "/api/runs?draft=true",
            ),
            (r#"{"key":"k","command":"steer_run","run":"r1","action":"pause"}"#, "POST", "/api/runs/r1/pause"),
            (r#"{"key":"k","command":"steer_run","run":"r1","action":"delete"}"#, "DELETE", "/api/runs/r1"),
            (r#"{"key":"k","command":"tune_run","run":"r1","tuning":{"rl":{"kl_beta":0.2}}}"#, "PATCH", "/api/runs/r1"),
            (
                r#"{"key":"k","command":"promote","checkpoint":"ab","tag":"production"}"#,
                "POST",
                "/api/checkpoints/ab/promote",
            ),
            (r#"{"key":"k","command":"roll_back","tag":"production"}"#, "POST", "/api/tags/production/roll-back"),
            (
                r#"{"key":"k","command":"steer_experiment","experiment":"e1","action":"stop"}"#,
                "POST",
                "/api/experiments/e1/stop",
            ),
            (r#"{"key":"k","command":"delete_experiment","experiment":"e1"}"#, "DELETE", "/api/experiments/e1"),
        ] {
            let call = parse(json).command.call();
            assert_eq!((call.method, call.path.as_str()), (method, path), "{json}");
        }
    }

    #[test]
    fn no_id_leads_out_of_its_path() {
        let run = Command::SteerRun { run: "../../tokens?x#".into(), action: RunCommand::Pause };
        assert_eq!(run.call().path, "/api/runs/..%2F..%2Ftokens%3Fx%23/pause");
        assert_eq!(segment(".."), "%2E%2E");
    }

    #[test]
    fn unknown_commands_are_refused() {
        assert!(serde_json::from_str::<Order>(r#"{"key":"k","command":"explode"}"#).is_err());
        assert!(serde_json::from_str::<Order>(r#"{"command":"roll_back","tag":"x"}"#).is_err());
    }
}
