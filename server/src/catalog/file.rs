//! One file of a checkpoint: read and verified, described, and brought into the folder so that it survives a power cut.

use super::bucket::Bucket;
use super::{CatalogError, HEADER_GUESS_BYTES, Object};
use beckon_shared::adapter::AdapterFile;
use beckon_shared::checkpoint::{Checkpoint, CheckpointError, Manifest, decode_header, header_bytes};
use beckon_shared::control::CheckpointInfo;
use beckon_shared::control::registry::AdapterInfo;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

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

/// Reads an adapter and checks all of its hashes, and that it was made beside `checkpoint`.
pub(super) fn read_adapter(path: &Path, checkpoint: &str) -> Result<AdapterInfo, CatalogError> {
    let bytes =
        std::fs::read(path).map_err(|source| CatalogError::Io { action: "read", source, path: path.to_owned() })?;
    let file = AdapterFile::decode(&bytes).map_err(|source| CatalogError::Adapter { source, path: path.to_owned() })?;
    if file.manifest.checkpoint != checkpoint {
        let (found, expected) = (file.manifest.checkpoint, checkpoint.to_owned());
        return Err(CatalogError::Other { found, expected, path: path.to_owned() });
    }
    Ok(AdapterInfo { id: file.id, base: file.manifest.base, n_bytes: bytes.len() as u64 })
}

/// Reads the header of an object, which is a checkpoint of this id and as long as its header says.
pub(super) fn read_header(
    bucket: &Bucket,
    object: &Object,
    id: &str,
) -> Result<(CheckpointInfo, Arc<Manifest>), CatalogError> {
    let path = || PathBuf::from(format!("{}/{}", bucket.url(), object.name));
    let refused = |source| CatalogError::Refused { source, path: path() };
    if object.n_bytes == 0 {
        return Err(refused(CheckpointError::Truncated { what: "the prefix", want: 1, got: 0 }));
    }
    let read = |range, bytes: &mut Vec<u8>| -> Result<(), CatalogError> {
        let read = bucket.read(&object.name, Some(range))?.read_to_end(bytes);
        read.map(drop).map_err(|source| CatalogError::Io { action: "read", source, path: path() })
    };
    let (mut bytes, guess) = (Vec::new(), object.n_bytes.min(HEADER_GUESS_BYTES));
    read(0..guess, &mut bytes)?;
    let end = header_bytes(&bytes).map_err(refused)? as u64;
    if end > guess && end <= object.n_bytes {
        read(guess..end, &mut bytes)?;
    }
    let header = decode_header(&bytes).map_err(refused)?;
    if header.id != id {
        return Err(CatalogError::Other { found: header.id, expected: id.to_owned(), path: path() });
    }
    let (want, got) = (header.file_bytes(), object.n_bytes);
    if want != got {
        return Err(refused(CheckpointError::Truncated { what: "the payload", want, got }));
    }
    // when it was made stands in no header: it is new here
    let info = describe(&header.id, &header.manifest, got, crate::now_millis());
    Ok((info, Arc::new(header.manifest)))
}

pub(super) fn describe(id: &str, manifest: &Manifest, n_bytes: u64, created_millis: i64) -> CheckpointInfo {
    CheckpointInfo {
        id: id.to_owned(),
        name: manifest.name.clone(),
        run_id: None,
        n_bytes,
        created_millis,
        simulated: manifest.lineage.simulated,
        built_in: false,
    }
}

pub(super) fn modified_millis(path: &Path) -> i64 {
    let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let since = modified.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Lets `write` make a file beside `target`, gives it its name once `read` found it whole, and gives what `read` gave; on an
/// error nothing is left behind.
pub(super) fn bring<T>(
    target: &Path,
    write: impl FnOnce(&Path) -> Result<(), CatalogError>,
    read: impl FnOnce(&Path) -> Result<T, CatalogError>,
) -> Result<T, CatalogError> {
    // of the id and the extension, so that checkpoint and adapter do not meet
    let partial = target.with_added_extension("partial");
    let renamed = |read| {
        let io = |source| CatalogError::Io { action: "write", source, path: target.to_owned() };
        std::fs::rename(&partial, target).map_err(io).map(|()| read)
    };
    let read = write(&partial).and_then(|()| read(&partial)).and_then(renamed).inspect_err(|_| {
        // a full disk leaves no half file behind
        let _ = std::fs::remove_file(&partial);
    })?;
    if let Some(dir) = target.parent() {
        sync_folder(dir);
    }
    Ok(read)
}

pub(super) fn copy_synced(from: &Path, to: &Path) -> Result<(), CatalogError> {
    let copied = || {
        let mut target = File::create(to)?;
        std::io::copy(&mut File::open(from)?, &mut target)?;
        target.flush()?;
        target.sync_all()
    };
    copied().map_err(|source| CatalogError::Io { action: "write", source, path: to.to_owned() })
}

/// Makes a rename survive a power cut. Only Unix can sync a folder; elsewhere the file system has to do.
pub(super) fn sync_folder(dir: &Path) {
    if cfg!(unix)
        && let Ok(folder) = File::open(dir)
    {
        let _ = folder.sync_all();
    }
}
