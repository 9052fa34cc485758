//! What the trainer's thread does with a run, and how that can end.

use crate::model::lent::Lent;
use crate::pipeline::lineage::Origin;
use crate::pipeline::{self, PipelineError};
use crate::stage::Observer;
use beckon_shared::click::Sourced;
use beckon_shared::control::{CheckpointInfo, RunConfig};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

/// What a run is made from.
pub struct Job {
    /// Folder of the run's state and results.
    pub dir: PathBuf,
    /// Configuration.
    pub config: RunConfig,
    /// The log as it was when the run was asked for.
    pub records: Vec<Sourced>,
    /// For the checkpoint's lineage.
    pub origin: Origin,
    /// Devices that it may borrow.
    pub lent: Lent,
}

/// What a run that reached its end made.
pub struct Product {
    /// The checkpoint file, inside the run's folder.
    pub checkpoint_path: PathBuf,
    /// Its description.
    pub checkpoint: CheckpointInfo,
    /// Evaluation results by name.
    pub evaluation: BTreeMap<String, f64>,
}

/// How a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The observer said so; state is saved.
    #[error("cancelled")]
    Cancelled,
    /// Anything else, in words for people.
    #[error("{0}")]
    Failed(String),
}

/// Runs a whole run on the calling thread; [`run_pipeline`] in the product, something quick in tests.
pub type Runner = dyn FnMut(&Job, &mut dyn Observer) -> Result<Product, RunError> + Send;

/// Runs the real thing, [`crate::pipeline::run`].
///
/// # Errors
/// [`RunError`].
pub fn run_pipeline(job: &Job, observer: &mut dyn Observer) -> Result<Product, RunError> {
    match pipeline::run_as(&job.dir, &job.config, &job.records, &job.origin, &job.lent, observer) {
        Ok(outcome) => Ok(Product {
            checkpoint_path: outcome.checkpoint_path,
            checkpoint: outcome.checkpoint,
            evaluation: outcome.report.key_figures(),
        }),
        Err(PipelineError::Cancelled) => Err(RunError::Cancelled),
        Err(error) => Err(RunError::Failed(error.to_string())),
    }
}

/// A panic of a run as its error. The run's own state is on disk and written atomically, so nothing half-done survives it.
///
/// # Errors
/// What `run` fails with, or its panic in words.
pub fn guarded<T>(run: impl FnOnce() -> Result<T, RunError>) -> Result<T, RunError> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| Err(RunError::Failed(panic_text(&*panic))))
}

/// Graphics drivers have no other way than a panic of Burn's to say that memory is out, and lent devices to say that they are gone.
fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    let text = text.unwrap_or("a panic without a text");
    let folded = text.to_lowercase().replace([' ', '_'], "");
    if ["outofmemory", "notenoughmemory"].iter().any(|sign| folded.contains(sign)) {
        return format!(
            "the device has no memory left: set or lower micro_batch_tokens, train adapters of a base (lora), or choose \
             device cpu ({text})"
        );
    }
    if folded.contains("failedtoreadtensor") {
        return format!(
            "a lent device was lost: see whether `beckon device lend` still runs there, then start the run again, it goes on from \
             its saved state ({text})"
        );
    }
    format!("internal error (please report it): {text}")
}
