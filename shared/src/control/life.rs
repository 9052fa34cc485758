//! Life of a run: which command is legal where, and what it does. One pure table that server, page and command line
//! read alike; the server alone acts on it.
//!
//! The states of [`RunState`] are what is stored. A [`Standing`] tells a little more: whether the run holds the device,
//! and whether it was asked for something that it does at its next step.

use super::RunState;
use serde::{Deserialize, Serialize};

/// What a person can ask of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RunCommand {
    /// Put a draft, or a run that failed, into the queue.
    Start,
    /// Stop at the next step and save.
    Pause,
    /// Go on.
    Resume,
    /// End for good.
    Cancel,
    /// Change values that may change while it trains.
    Tune,
    /// Forget it and its folder; its checkpoint stays.
    Delete,
}

impl RunCommand {
    /// All commands.
    pub const ALL: [Self; 6] = [Self::Start, Self::Pause, Self::Resume, Self::Cancel, Self::Tune, Self::Delete];

    /// The word used in paths and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Cancel => "cancel",
            Self::Tune => "tune",
            Self::Delete => "delete",
        }
    }

    /// The command with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|command| command.name() == name)
    }

    fn participle(self) -> &'static str {
        match self {
            Self::Start => "started",
            Self::Pause => "paused",
            Self::Resume => "resumed",
            Self::Cancel => "cancelled",
            Self::Tune => "tuned",
            Self::Delete => "deleted",
        }
    }
}

/// Something asked of a run at work that it does at its next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wish {
    /// Save and wait.
    Pause,
    /// Save and end.
    Cancel,
}

/// Where a run stands, as far as commands care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// Made, not asked to start.
    Draft,
    /// In the queue.
    Queued,
    /// Training.
    Running,
    /// Training, asked to pause.
    Pausing,
    /// Asked to end, at its next step.
    Cancelling,
    /// Paused, and still on the device.
    Held,
    /// Paused, on its way off the device because another run waits.
    PuttingAside,
    /// Paused, off the device.
    Paused,
    /// Ended by a person.
    Cancelled,
    /// Ended by an error.
    Failed,
    /// Done.
    Finished,
}

impl Standing {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Draft,
        Self::Queued,
        Self::Running,
        Self::Pausing,
        Self::Cancelling,
        Self::Held,
        Self::PuttingAside,
        Self::Paused,
        Self::Cancelled,
        Self::Failed,
        Self::Finished,
    ];

    /// Of a run that is not on the device.
    pub fn off_device(state: RunState) -> Self {
        match state {
            RunState::Draft => Self::Draft,
            RunState::Queued => Self::Queued,
            RunState::Running => Self::Running,
            RunState::Paused => Self::Paused,
            RunState::Cancelled => Self::Cancelled,
            RunState::Failed => Self::Failed,
            RunState::Finished => Self::Finished,
        }
    }

    /// Of the run on the device; `parked` says that it makes room for another.
    pub fn on_device(state: RunState, wish: Option<Wish>, parked: bool) -> Self {
        match (wish, state) {
            (Some(Wish::Cancel), _) => Self::Cancelling,
            (Some(Wish::Pause), RunState::Running) => Self::Pausing,
            (_, RunState::Paused) if parked => Self::PuttingAside,
            (_, RunState::Paused) => Self::Held,
            (_, state) => Self::off_device(state),
        }
    }

    /// For people: "run r1 is …".
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Draft => "a draft",
            Self::Queued => "waiting for its turn",
            Self::Running => "running",
            Self::Pausing => "about to pause",
            Self::Cancelling => "being cancelled",
            Self::Held | Self::Paused => "paused",
            Self::PuttingAside => "being put aside for a moment",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
            Self::Finished => "finished",
        }
    }
}

/// What a legal command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The state becomes this one at once.
    Become(RunState),
    /// The state stays, the wish is kept for the next step.
    Wish(Wish),
    /// The wish is taken back.
    Unwish,
    /// The state stays; values change at the next step.
    Tune,
    /// Run and folder go.
    Vanish,
}

/// A command that is not legal now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is {}, so it cannot be {}; {remedy}", standing.in_words(), command.participle())]
pub struct Refusal {
    /// Where the run stands.
    pub standing: Standing,
    /// What was asked.
    pub command: RunCommand,
    /// What can be done instead.
    pub remedy: &'static str,
}

/// The table: what `command` does to a run that stands at `standing`.
///
/// # Errors
/// [`Refusal`] where it is not legal, with what can be done instead.
pub fn step(standing: Standing, command: RunCommand) -> Result<Step, Refusal> {
    use RunCommand as C;
    use Standing as S;
    let remedy = match (standing, command) {
        (S::Draft | S::Failed, C::Start) => return Ok(Step::Become(RunState::Queued)),
        (S::Running | S::Pausing, C::Pause) => return Ok(Step::Wish(Wish::Pause)),
        (S::Queued, C::Pause) => return Ok(Step::Become(RunState::Paused)),
        (S::Pausing, C::Resume) => return Ok(Step::Unwish),
        (S::Held, C::Resume) => return Ok(Step::Become(RunState::Running)),
        (S::Paused, C::Resume) => return Ok(Step::Become(RunState::Queued)),
        (S::Running | S::Pausing | S::Held | S::PuttingAside, C::Cancel) => return Ok(Step::Wish(Wish::Cancel)),
        (S::Draft | S::Queued | S::Paused, C::Cancel) => return Ok(Step::Become(RunState::Cancelled)),
        (S::Draft | S::Queued | S::Running | S::Pausing | S::Held | S::PuttingAside | S::Paused, C::Tune) => {
            return Ok(Step::Tune);
        }
        (S::Draft | S::Cancelled | S::Failed | S::Finished, C::Delete) => return Ok(Step::Vanish),

        (S::Cancelling, _) => "wait until it has ended",
        (S::PuttingAside, _) => "ask again when it is off the device",
        (S::Draft, C::Pause | C::Resume) => "start or cancel it",
        (S::Failed, _) => "start it again (it goes on from its last saved state) or delete it",
        (S::Cancelled | S::Finished, _) => "delete it, or branch from its checkpoint",
        (S::Held | S::Paused, C::Start | C::Pause) => "resume or cancel it",
        (S::Held | S::Paused, _) => "cancel it first",
        (S::Queued, C::Delete) | (S::Running | S::Pausing, C::Delete) => "cancel it first",
        (S::Queued, _) => "pause or cancel it, or wait",
        (S::Running | S::Pausing, _) => "pause or cancel it",
    };
    Err(Refusal { standing, command, remedy })
}

/// Whether a run that stands here already has what the command would bring, so that a repeated command (one whose first
/// answer was lost with the process) has nothing left to do.
pub fn already(standing: Standing, command: RunCommand) -> bool {
    use RunCommand as C;
    use Standing as S;
    match command {
        C::Start => matches!(standing, S::Queued | S::Running | S::Finished),
        C::Pause => matches!(standing, S::Pausing | S::Held | S::PuttingAside | S::Paused),
        C::Resume => matches!(standing, S::Queued | S::Running | S::Finished),
        C::Cancel => matches!(standing, S::Cancelling | S::Cancelled),
        C::Tune | C::Delete => false,
    }
}

#[cfg(test)]
mod tests;
