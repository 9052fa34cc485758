//! What is shipped inside the program: the built-in checkpoint and the sample log.
//!
//! Both are files of `server/assets` that the product's own commands make (`beckon loop`, `beckon simulate`), so a clone
//! in which one is not made yet still builds; `build.rs` then leaves it out, and what needs it says so.

include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// A file that this build was made without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this beckon was built without {file}; {remedy}, then build again")]
pub struct MissingAsset {
    /// Path in the repository.
    pub file: &'static str,
    /// How it is made.
    pub remedy: &'static str,
}

/// The checkpoint that ships with the product.
///
/// # Errors
/// [`MissingAsset`] in a build without it.
pub fn built_in_checkpoint() -> Result<&'static [u8], MissingAsset> {
    let remedy = "make it with `beckon loop --preset nano` and copy its checkpoint there";
    NANO.ok_or(MissingAsset { file: "server/assets/nano.beckon", remedy })
}

/// The sample log as our own JSONL: every impression in it is simulated and says so.
///
/// # Errors
/// [`MissingAsset`] in a build without it.
pub fn sample_log() -> Result<&'static [u8], MissingAsset> {
    let remedy = "make it with `beckon simulate`";
    SAMPLE.ok_or(MissingAsset { file: "server/assets/sample.jsonl", remedy })
}
