//! Tokens in the store: names, roles and hashes, never the tokens themselves.

use super::sql::{Row, values};
use super::{Store, StoreError};
use beckon_shared::control::access::Role;

/// A token as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredToken {
    /// Public part of the token.
    pub id: String,
    /// For people; unique.
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// SHA-256 of the secret part.
    pub hash: [u8; 32],
    /// When it was made, milliseconds since 1970 UTC.
    pub created_millis: i64,
    /// When it ends; `None`: never.
    pub expires_millis: Option<i64>,
}

impl Store {
    /// Adds a token; `false` where the name is taken.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn add_token(&self, token: &StoredToken) -> Result<bool, StoreError> {
        let sql = "INSERT INTO tokens (id, name, role, hash, created_millis, expires_millis) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING";
        let StoredToken { id, name, role, hash, created_millis, expires_millis } = token;
        let values = values![id, name, role.name(), hash, *created_millis, *expires_millis];
        Ok(self.writer().execute(sql, values)? == 1)
    }

    /// The token with this public part.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn token(&self, id: &str) -> Result<Option<StoredToken>, StoreError> {
        self.reader().first(&format!("{SELECT} WHERE id = ?1"), values![id], parse)
    }

    /// All tokens, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn tokens(&self) -> Result<Vec<StoredToken>, StoreError> {
        self.reader().rows(&format!("{SELECT} ORDER BY created_millis, id"), values![], parse)
    }

    /// Removes a token by name; `false` where there is none.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn remove_token(&self, name: &str) -> Result<bool, StoreError> {
        Ok(self.writer().execute("DELETE FROM tokens WHERE name = ?1", values![name])? == 1)
    }
}

const SELECT: &str = "SELECT id, name, role, hash, created_millis, expires_millis FROM tokens";

fn parse(mut row: Row) -> Result<StoredToken, StoreError> {
    let role: String = row.get(2)?;
    let role = Role::from_name(&role).ok_or(StoreError::Column { column: 2, want: "a role" })?;
    Ok(StoredToken {
        id: row.get(0)?,
        name: row.get(1)?,
        role,
        hash: row.get(3)?,
        created_millis: row.get(4)?,
        expires_millis: row.get(5)?,
    })
}
