//! Who may do what: roles, what a route needs, and the one table that joins them.
//!
//! The server knows a sender by its token ([`Role`]) or by the ingest key of one experiment; which route needs what stands
//! beside the route (`server/src/app.rs`).

use serde::{Deserialize, Serialize};

/// What the holder of a token may do; each may do what the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look.
    Viewer,
    /// Look; start and steer runs and experiments, import logs, promote checkpoints.
    Operator,
    /// Everything: also tokens, the audit log, backups.
    Admin,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    /// The word used in messages and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// The role with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// What a route needs of its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Need {
    /// Nothing: health, and the page without any data.
    Nothing,
    /// The ingest key of the experiment in its path; operators may too.
    Ingest,
    /// [`Role::Viewer`].
    View,
    /// [`Role::Operator`].
    Operate,
    /// [`Role::Admin`].
    Administer,
}

/// A sender as the server knows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Sender {
    /// No token.
    Anonymous,
    /// An ingest key.
    Ingest {
        /// The experiment that the key belongs to.
        experiment: String,
    },
    /// A token.
    Holder {
        /// Its role.
        role: Role,
        /// Its name, for the audit log.
        name: String,
    },
}

impl Sender {
    /// Name in the audit log.
    pub fn name(&self) -> String {
        match self {
            Self::Anonymous => "anonymous".into(),
            Self::Ingest { experiment } => format!("ingest key of {experiment}"),
            Self::Holder { name, .. } => name.clone(),
        }
    }

    /// Whether `need` is met. `experiment` is the one in the path, where there is one.
    pub fn may(&self, need: Need, experiment: Option<&str>) -> bool {
        match (need, self) {
            (Need::Nothing, _) => true,
            (_, Self::Anonymous) => false,
            (Need::Ingest, Self::Ingest { experiment: own }) => experiment == Some(own),
            (_, Self::Ingest { .. }) => false,
            (Need::View, Self::Holder { .. }) => true,
            (Need::Ingest | Need::Operate, Self::Holder { role, .. }) => *role >= Role::Operator,
            (Need::Administer, Self::Holder { role, .. }) => *role == Role::Admin,
        }
    }
}

#[cfg(test)]
mod tests;
