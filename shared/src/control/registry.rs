//! The registry of checkpoints: what is known of each beside its file, the graph of their descent, and which may go.

use super::CheckpointInfo;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The tag of the checkpoint that is in use.
pub const PRODUCTION: &str = "production";
/// Longest tag, bytes.
const MAX_TAG_BYTES: usize = 40;
/// Longest note, bytes.
pub const MAX_NOTE_BYTES: usize = 10_000;

/// A checkpoint with everything that the registry knows of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RegistryEntry {
    /// The checkpoint.
    pub info: CheckpointInfo,
    /// Checkpoint that its run branched from.
    pub parent: Option<String>,
    /// What its run learnt as factors over a checkpoint, where it trained adapters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterInfo>,
    /// SHA-256 over the records it was trained on, hex.
    pub data_hash: String,
    /// Evaluation results by name, as measured at the end of its run.
    pub evaluation: BTreeMap<String, f64>,
    /// Tags that point to it now.
    pub tags: Vec<String>,
    /// For people.
    pub note: String,
}

/// The adapter beside a checkpoint: what a client with the base fetches in place of the whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AdapterInfo {
    /// SHA-256 of the adapter file's header, hex.
    pub id: String,
    /// Checkpoint that it lies over.
    pub base: String,
    /// Size of the file.
    pub n_bytes: u64,
}

/// One time that a tag was moved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Promotion {
    /// The tag.
    pub tag: String,
    /// Where it points from then on.
    pub checkpoint: String,
    /// When, milliseconds since 1970 UTC.
    pub time_millis: i64,
    /// Who.
    pub by: String,
    /// Whether a roll back took it back since.
    #[serde(default)]
    pub undone: bool,
}

/// Where a tag points, and where it would point after a roll back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TagState {
    /// The promotion that holds now.
    #[serde(flatten)]
    pub now: Promotion,
    /// The checkpoint before it; `None` where there is nothing to roll back to.
    pub back_to: Option<String>,
}

/// A note on a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Note {
    /// Replaces the old text; at most 10,000 bytes.
    pub text: String,
}

/// Which tag to move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TagChoice {
    /// The tag; [`PRODUCTION`] where it is left out.
    #[serde(default = "production")]
    pub tag: String,
}

impl Default for TagChoice {
    fn default() -> Self {
        Self { tag: production() }
    }
}

fn production() -> String {
    PRODUCTION.into()
}

/// Whether a tag is a lower-case word with digits and dashes, so that it needs no escaping anywhere.
pub fn is_tag(tag: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !tag.is_empty() && tag.len() <= MAX_TAG_BYTES && tag.bytes().all(plain)
}

/// Descent of checkpoints, for drawing.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Lineage {
    /// Every data hash and checkpoint, roots first: an edge never leads to an earlier node.
    pub nodes: Vec<LineageNode>,
    /// From what something was made to what was made.
    pub edges: Vec<LineageEdge>,
}

/// A node of the graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LineageNode {
    /// Checkpoint id or data hash.
    pub id: String,
    /// `data` or `checkpoint`.
    pub kind: String,
    /// For people.
    pub name: String,
}

/// An edge of the graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LineageEdge {
    /// What something was made from.
    pub from: String,
    /// What was made.
    pub to: String,
    /// The run that made it, where known.
    pub run_id: Option<String>,
}

/// The graph of all entries. A parent that is not among them (deleted, or of another server) is a node of its own.
pub fn lineage(entries: &[RegistryEntry]) -> Lineage {
    let known: BTreeSet<&str> = entries.iter().map(|entry| entry.info.id.as_str()).collect();
    let mut nodes = Vec::new();
    let mut seen = BTreeSet::new();
    let mut add = |id: &str, kind: &str, name: String| {
        if seen.insert(id.to_owned()) {
            nodes.push(LineageNode { id: id.to_owned(), kind: kind.into(), name });
        }
    };
    for entry in entries {
        add(&entry.data_hash, "data", format!("log {}", entry.data_hash.get(..8).unwrap_or_default()));
        if let Some(parent) = entry.parent.as_ref().filter(|parent| !known.contains(parent.as_str())) {
            add(parent, "checkpoint", "not here".into());
        }
    }
    let mut edges = Vec::new();
    for entry in parents_first(entries) {
        add(&entry.info.id, "checkpoint", entry.info.name.clone());
        for from in entry.parent.iter().chain([&entry.data_hash]) {
            let (from, to) = (from.clone(), entry.info.id.clone());
            edges.push(LineageEdge { from, to, run_id: entry.info.run_id.clone() });
        }
    }
    Lineage { nodes, edges }
}

/// Oldest first, and each after its parent. A file cannot name a parent that did not exist, so there is no circle; were one
/// forged, its members would come last in any order.
fn parents_first(entries: &[RegistryEntry]) -> Vec<&RegistryEntry> {
    let mut rest: Vec<&RegistryEntry> = entries.iter().collect();
    rest.sort_by(|a, b| (a.info.created_millis, &a.info.id).cmp(&(b.info.created_millis, &b.info.id)));
    let mut ordered: Vec<&RegistryEntry> = Vec::with_capacity(rest.len());
    while !rest.is_empty() {
        let waits = |entry: &&RegistryEntry| {
            entry
                .parent
                .as_ref()
                .is_some_and(|parent| rest.iter().any(|other| other.info.id == *parent) && entry.info.id != *parent)
        };
        let (later, now): (Vec<_>, Vec<_>) = rest.iter().copied().partition(|entry| waits(entry));
        if now.is_empty() {
            ordered.extend(later);
            break;
        }
        ordered.extend(now);
        rest = later;
    }
    ordered
}

/// Why a checkpoint has to stay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Kept {
    /// Part of the program.
    #[error("checkpoint {id} is built in and cannot be deleted")]
    BuiltIn {
        /// Which.
        id: String,
    },
    /// A tag points to it.
    #[error("checkpoint {id} is tagged {tag}; promote another one first")]
    Tagged {
        /// Which.
        id: String,
        /// The tag.
        tag: String,
    },
    /// Another one was branched from it.
    #[error("checkpoint {id} is the parent of {child}; delete that one first")]
    Parent {
        /// Which.
        id: String,
        /// The other.
        child: String,
    },
    /// Something else needs it.
    #[error("checkpoint {id} is used by {user}")]
    Used {
        /// Which.
        id: String,
        /// A run or an experiment, in words.
        user: String,
    },
}

/// Whether `id` may be deleted. `users` are the checkpoints that runs and experiments need, with the user in words.
///
/// # Errors
/// [`Kept`] with the first reason found.
pub fn check_deletable(id: &str, entries: &[RegistryEntry], users: &[(String, String)]) -> Result<(), Kept> {
    let id_owned = || id.to_owned();
    if let Some(entry) = entries.iter().find(|entry| entry.info.id == id) {
        if entry.info.built_in {
            return Err(Kept::BuiltIn { id: id_owned() });
        }
        if let Some(tag) = entry.tags.first() {
            return Err(Kept::Tagged { id: id_owned(), tag: tag.clone() });
        }
    }
    if let Some(child) = entries.iter().find(|entry| entry.parent.as_deref() == Some(id)) {
        return Err(Kept::Parent { id: id_owned(), child: child.info.id.clone() });
    }
    match users.iter().find(|(used, _)| used == id) {
        Some((_, user)) => Err(Kept::Used { id: id_owned(), user: user.clone() }),
        None => Ok(()),
    }
}

/// The checkpoints that a retention of the newest `n_kept` lets go, oldest first. What is built in, tagged, a parent or used
/// stays and does not count.
pub fn expired(entries: &[RegistryEntry], users: &[(String, String)], n_kept: usize) -> Vec<String> {
    let mut free: Vec<&RegistryEntry> =
        entries.iter().filter(|entry| check_deletable(&entry.info.id, entries, users).is_ok()).collect();
    free.sort_by(|a, b| (a.info.created_millis, &a.info.id).cmp(&(b.info.created_millis, &b.info.id)));
    let n_gone = free.len().saturating_sub(n_kept);
    free.into_iter().take(n_gone).map(|entry| entry.info.id.clone()).collect()
}

#[cfg(test)]
mod tests;
