//! Points at which a test lets the process die, to see what the next one makes of what it left.
//!
//! `BECKON_CRASH_AT=POINT` in the environment ends the process at that point, `POINT:N` when it is reached for the N-th time: at
//! once, with nothing saved or said to anyone, as `kill -9` does. It is for tests; without it a point costs a comparison.

use beckon_shared::control::Stage;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Variable of the environment that names the point.
pub const VARIABLE: &str = "BECKON_CRASH_AT";

/// Where the process can end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// A run is stored and queued, and who asked for it has no answer.
    Queued,
    /// A run is stored as running, and has done nothing.
    Starting,
    /// A figure of a training stage came.
    Training,
    /// A figure of the evaluation came.
    Evaluating,
    /// The checkpoint is in the run's folder.
    Checkpointing,
    /// The checkpoint's files are where it is served from, and no row says so.
    Delivered,
    /// The end of the run and its checkpoint are stored, and nobody was told.
    Recorded,
    /// A promotion is written and not committed.
    Promoting,
    /// A promotion is committed, and who asked for it has no answer.
    Promoted,
    /// A checkpoint's row is removed, and its files are there.
    Deleting,
}

impl Point {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Queued,
        Self::Starting,
        Self::Training,
        Self::Evaluating,
        Self::Checkpointing,
        Self::Delivered,
        Self::Recorded,
        Self::Promoting,
        Self::Promoted,
        Self::Deleting,
    ];

    /// The word in the variable.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Starting => "starting",
            Self::Training => "training",
            Self::Evaluating => "evaluating",
            Self::Checkpointing => "checkpointing",
            Self::Delivered => "delivered",
            Self::Recorded => "recorded",
            Self::Promoting => "promoting",
            Self::Promoted => "promoted",
            Self::Deleting => "deleting",
        }
    }

    /// Of a stage that has a figure to tell.
    pub fn of(stage: Stage) -> Option<Self> {
        match stage {
            Stage::Data => None,
            Stage::Sft | Stage::Garm | Stage::Rl => Some(Self::Training),
            Stage::Eval => Some(Self::Evaluating),
            Stage::Export => Some(Self::Checkpointing),
        }
    }
}

/// The point that the environment names, and how often it may still be reached.
static ARMED: LazyLock<Option<(Point, AtomicU64)>> = LazyLock::new(|| {
    let text = std::env::var(VARIABLE).ok()?;
    let armed = parse(&text);
    if armed.is_none() {
        tracing::error!("{VARIABLE}={text} names no point, so nothing happens");
    }
    armed.map(|(point, n)| (point, AtomicU64::new(n)))
});

/// Point and number, from `POINT` or `POINT:N`.
fn parse(text: &str) -> Option<(Point, u64)> {
    let (name, n) = text.split_once(':').unwrap_or((text, "1"));
    let point = Point::ALL.into_iter().find(|point| point.name() == name)?;
    Some((point, n.parse().ok().filter(|n| *n > 0)?))
}

/// Ends the process where the environment says so.
pub fn reach(point: Point) {
    if let Some((armed, left)) = &*ARMED
        && *armed == point
        && left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        eprintln!("the crash point {} is reached", point.name());
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_read_with_its_number() {
        for point in Point::ALL {
            assert_eq!(parse(point.name()), Some((point, 1)));
        }
        assert_eq!(parse("training:20"), Some((Point::Training, 20)));
        for none in ["", "train", "training:", "training:0", "training:-1", ":3"] {
            assert_eq!(parse(none), None, "{none:?}");
        }
    }
}
