//! Tokens in the store: names, roles and hashes, never the tokens themselves.

use super::{Store, StoreError};
use beckon_shared::control::access::Role;
use rusqlite::{OptionalExtension, Row, params};

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
    /// [`StoreError::Sqlite`].
    pub fn add_token(&self, token: &StoredToken) -> Result<bool, StoreError> {
        let sql = "INSERT INTO tokens (id, name, role, hash, created_millis, expires_millis) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING";
        let StoredToken { id, name, role, hash, created_millis, expires_millis } = token;
        let n = self.writer().prepare_cached(sql)?.execute(params![
            id,
            name,
            role.name(),
            hash,
            created_millis,
            expires_millis
        ])?;
        Ok(n == 1)
    }

    /// The token with this public part.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn token(&self, id: &str) -> Result<Option<StoredToken>, StoreError> {
        let reader = self.reader();
        let mut statement = reader.prepare_cached(&format!("{SELECT} WHERE id = ?1"))?;
        Ok(statement.query_row([id], parse).optional()?)
    }

    /// All tokens, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn tokens(&self) -> Result<Vec<StoredToken>, StoreError> {
        let reader = self.reader();
        let mut statement = reader.prepare_cached(&format!("{SELECT} ORDER BY created_millis, id"))?;
        let rows = statement.query_map([], parse)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Removes a token by name; `false` where there is none.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn remove_token(&self, name: &str) -> Result<bool, StoreError> {
        Ok(self.writer().prepare_cached("DELETE FROM tokens WHERE name = ?1")?.execute([name])? == 1)
    }
}

const SELECT: &str = "SELECT id, name, role, hash, created_millis, expires_millis FROM tokens";

fn parse(row: &Row<'_>) -> rusqlite::Result<StoredToken> {
    let role: String = row.get(2)?;
    let role = Role::from_name(&role).ok_or(rusqlite::Error::InvalidColumnName("role".into()))?;
    Ok(StoredToken {
        id: row.get(0)?,
        name: row.get(1)?,
        role,
        hash: row.get(3)?,
        created_millis: row.get(4)?,
        expires_millis: row.get(5)?,
    })
}
