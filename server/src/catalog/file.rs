//! One checkpoint file: read and verified, described, copied so that it survives a power cut.

use super::CatalogError;
use beckon_shared::checkpoint::Checkpoint;
use beckon_shared::control::CheckpointInfo;
use std::fs::File;
use std::io::Write;
use std::path::Path;

pub(super) fn stem(path: &Path) -> &str {
    path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default()
}

/// Reads a file and checks all of its hashes, and that it is the checkpoint `id`.
pub(super) fn read_verified(path: &Path, id: &str) -> Result<(Checkpoint, u64), CatalogError> {
    let bytes =
        std::fs::read(path).map_err(|source| CatalogError::Io { action: "read", source, path: path.to_owned() })?;
    let checkpoint =
        Checkpoint::decode(&bytes).map_err(|source| CatalogError::Refused { source, path: path.to_owned() })?;
    if checkpoint.id != id {
        let (found, expected) = (checkpoint.id, id.to_owned());
        return Err(CatalogError::Other { found, expected, path: path.to_owned() });
    }
    Ok((checkpoint, bytes.len() as u64))
}

pub(super) fn describe(checkpoint: &Checkpoint, n_bytes: u64, created_millis: i64) -> CheckpointInfo {
    CheckpointInfo {
        id: checkpoint.id.clone(),
        name: checkpoint.manifest.name.clone(),
        run_id: None,
        n_bytes,
        created_millis,
        simulated: checkpoint.manifest.lineage.simulated,
        built_in: false,
    }
}

pub(super) fn modified_millis(path: &Path) -> i64 {
    let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let since = modified.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

pub(super) fn copy_synced(from: &Path, to: &Path) -> std::io::Result<()> {
    let mut target = File::create(to)?;
    std::io::copy(&mut File::open(from)?, &mut target)?;
    target.flush()?;
    target.sync_all()
}

/// Makes a rename survive a power cut. Only Unix can sync a folder; elsewhere the file system has to do.
pub(super) fn sync_folder(dir: &Path) {
    if cfg!(unix)
        && let Ok(folder) = File::open(dir)
    {
        let _ = folder.sync_all();
    }
}
