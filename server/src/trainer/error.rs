//! What can keep a request to the trainer from being done.

use super::MAX_QUEUED;
use crate::model::device::DeviceError;
use crate::store::StoreError;
use beckon_shared::control::life::Refusal;
use beckon_shared::control::tuning::TuningError;
use std::path::PathBuf;

/// Why a request to the trainer was not done.
#[derive(Debug, thiserror::Error)]
pub enum TrainerError {
    /// [`MAX_QUEUED`] runs wait.
    #[error("{MAX_QUEUED} runs are waiting already; cancel one or try again when one has ended")]
    QueueFull,
    /// No run with this id.
    #[error("there is no run {id}")]
    Unknown {
        /// The id asked for.
        id: String,
    },
    /// The run's state does not allow it.
    #[error("run {id}: {refusal}")]
    NotPossible {
        /// Which run.
        id: String,
        /// Why, and what to do.
        refusal: Refusal,
    },
    /// The new values make no sense.
    #[error("run {id}: {source}")]
    Tuning {
        /// Which run.
        id: String,
        /// What is wrong with them.
        source: TuningError,
    },
    /// The folder of a run could not be removed.
    #[error("run {id} is deleted, but its folder is not: {source}: {path}")]
    Folder {
        /// Which run.
        id: String,
        /// What the system said.
        source: std::io::Error,
        /// Which folder.
        path: PathBuf,
    },
    /// The parent of a new run is not offered.
    #[error("there is no checkpoint {id} to start from")]
    NoParent {
        /// Id of the checkpoint.
        id: String,
    },
    /// The teacher of a new run is not offered.
    #[error("there is no checkpoint {id:?} to learn from: sft.teacher.id is one of GET /api/checkpoints")]
    NoTeacher {
        /// `sft.teacher.id`.
        id: String,
    },
    /// The run wants devices that are not there.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The server is stopping.
    #[error("the server is shutting down; ask again after its restart")]
    Stopping,
    /// The server only serves.
    #[error("this server only serves; steer runs at the one that trains")]
    Elsewhere,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
