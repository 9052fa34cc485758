//! Whose a run's folder is: `run.json` holds what the run is a function of, and the version that wrote it.

use super::lineage::data_hash;
use super::{PipelineError, create_dir};
use crate::model::state::{program, write_atomic};
use beckon_shared::click::Sourced;
use beckon_shared::control::RunConfig;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io;
use std::path::{Path, PathBuf};

const FILE: &str = "run.json";
/// Version of a run's folder; raised where an older program would misread it. One that names none is of the first.
const FOLDER_VERSION: u64 = 1;

/// What a folder's run is a function of.
#[derive(PartialEq, Serialize, Deserialize)]
struct Identity {
    config: RunConfig,
    data_hash: String,
}

/// Makes the folder this run's, or checks that it is.
///
/// # Errors
/// [`PipelineError::OtherRun`], [`PipelineError::OtherVersion`], a damaged file, a disk that refuses.
pub fn claim(dir: &Path, config: &RunConfig, records: &[Sourced]) -> Result<(), PipelineError> {
    create_dir(dir)?;
    let path = dir.join(FILE);
    let identity = Identity { config: config.clone(), data_hash: data_hash(records) };
    match std::fs::read(&path) {
        Ok(bytes) => match read(&bytes, &path)? {
            there if there == identity => Ok(()),
            _ => Err(PipelineError::OtherRun { path }),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(write_atomic(&path, &written(&identity, &path)?)?),
        Err(source) => Err(PipelineError::io("read", &path, source)),
    }
}

fn written(identity: &Identity, path: &Path) -> Result<Vec<u8>, PipelineError> {
    let refused = |error| PipelineError::io("write", path, io::Error::other(error));
    let mut json = serde_json::to_value(identity).map_err(refused)?;
    json["version"] = FOLDER_VERSION.into();
    json["written_by"] = program().into();
    let text = serde_json::to_string_pretty(&json).map_err(refused)?;
    Ok(format!("{text}\n").into_bytes())
}

/// Settings that a folder of an older version does not name have their defaults.
fn read(bytes: &[u8], path: &Path) -> Result<Identity, PipelineError> {
    let path = || -> PathBuf { path.to_owned() };
    let damaged = |e: serde_json::Error| PipelineError::Damaged { reason: e.to_string(), path: path() };
    let json: Value = serde_json::from_slice(bytes).map_err(damaged)?;
    let wrote = json["written_by"].as_str().unwrap_or("of an earlier version").to_owned();
    let version = json["version"].as_u64().unwrap_or(FOLDER_VERSION);
    if version != FOLDER_VERSION {
        let reason = format!("the format of its runs is {version}, and that of this version {FOLDER_VERSION}");
        return Err(PipelineError::OtherVersion { wrote, reason, path: path() });
    }
    // whole JSON that is not understood was not cut by a crash: it is another version's
    serde_json::from_value(json).map_err(|e| PipelineError::OtherVersion { wrote, reason: e.to_string(), path: path() })
}
