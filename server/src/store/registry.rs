//! The registry of checkpoints in the store: notes, evaluation results, tags and their history.

use super::sql::{Row, values};
use super::{Store, StoreError};
use beckon_shared::control::registry::Promotion;
use std::collections::BTreeMap;

/// What the store knows of a checkpoint beside its description.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StoredNote {
    /// For people.
    pub note: String,
    /// Evaluation results by name.
    pub evaluation: BTreeMap<String, f64>,
}

/// Outcome of a roll back.
#[derive(Debug, Clone, PartialEq)]
pub enum RolledBack {
    /// The tag points to where it pointed before.
    To(Promotion),
    /// The tag has never been set.
    NoTag,
    /// It has pointed to one checkpoint only.
    NothingBefore,
}

const CURRENT: &str = "SELECT tag, checkpoint, time_millis, sender, undone FROM promotions \
                       WHERE tag = ?1 AND undone = 0 ORDER BY seq DESC LIMIT 2";

impl Store {
    /// Notes and evaluations of all checkpoints that have any, by id.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn checkpoint_notes(&self) -> Result<BTreeMap<String, StoredNote>, StoreError> {
        let sql = "SELECT id, note, evaluation FROM checkpoint_notes";
        let rows = self.reader().rows(sql, values![], |mut row| {
            let (id, note, evaluation): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let evaluation = serde_json::from_str(&evaluation)
                .map_err(|source| StoreError::Damaged { what: format!("the evaluation of {id}"), source })?;
            Ok((id, StoredNote { note, evaluation }))
        })?;
        Ok(rows.into_iter().collect())
    }

    /// Replaces the note on a checkpoint.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn set_note(&self, id: &str, note: &str) -> Result<(), StoreError> {
        let sql = "INSERT INTO checkpoint_notes (id, note) VALUES (?1, ?2) \
                   ON CONFLICT (id) DO UPDATE SET note = excluded.note";
        self.writer().execute(sql, values![id, note]).map(drop)
    }

    /// Stores evaluation results; values that are not finite are left out.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn set_evaluation(&self, id: &str, evaluation: &BTreeMap<String, f64>) -> Result<(), StoreError> {
        let finite: BTreeMap<&String, f64> =
            evaluation.iter().filter(|(_, value)| value.is_finite()).map(|(name, value)| (name, *value)).collect();
        let json = serde_json::to_string(&finite)
            .map_err(|source| StoreError::Damaged { what: format!("the evaluation of {id}"), source })?;
        let sql = "INSERT INTO checkpoint_notes (id, evaluation) VALUES (?1, ?2) \
                   ON CONFLICT (id) DO UPDATE SET evaluation = excluded.evaluation";
        self.writer().execute(sql, values![id, json]).map(drop)
    }

    /// Where every tag points now, by tag.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn tags(&self) -> Result<BTreeMap<String, Promotion>, StoreError> {
        let rows = self.promotions(false)?;
        // later ones replace earlier ones
        Ok(rows.into_iter().map(|promotion| (promotion.tag.clone(), promotion)).collect())
    }

    /// Every time that a tag was moved, oldest first; with `undone` also those that were rolled back.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn promotions(&self, undone: bool) -> Result<Vec<Promotion>, StoreError> {
        let sql = "SELECT tag, checkpoint, time_millis, sender, undone FROM promotions WHERE ?1 = 1 OR undone = 0 ORDER BY seq";
        self.reader().rows(sql, values![undone], promotion)
    }

    /// Where each tag would go by a roll back: checkpoint and tag.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn roll_back_targets(&self) -> Result<Vec<(String, String)>, StoreError> {
        let mut by_tag: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for promotion in self.promotions(false)? {
            by_tag.entry(promotion.tag).or_default().push(promotion.checkpoint);
        }
        let before = |(tag, mut points): (String, Vec<String>)| {
            points.pop();
            points.pop().map(|checkpoint| (checkpoint, tag))
        };
        Ok(by_tag.into_iter().filter_map(before).collect())
    }

    /// Lets a tag point to a checkpoint; promoting the one it points to already changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn promote(&self, to: &Promotion) -> Result<(), StoreError> {
        self.writer().transaction(|transaction| {
            transaction.lock_table("promotions")?;
            let now = transaction.first(CURRENT, values![&to.tag], promotion)?;
            if now.is_none_or(|now| now.checkpoint != to.checkpoint) {
                let sql = "INSERT INTO promotions (tag, checkpoint, time_millis, sender) VALUES (?1, ?2, ?3, ?4)";
                transaction.execute(sql, values![&to.tag, &to.checkpoint, to.time_millis, &to.by])?;
            }
            Ok(())
        })
    }

    /// Lets a tag point to where it pointed before its last promotion.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn roll_back(&self, tag: &str) -> Result<RolledBack, StoreError> {
        self.writer().transaction(|transaction| {
            transaction.lock_table("promotions")?;
            let newest = transaction.rows(CURRENT, values![tag], promotion)?;
            let target = match newest.as_slice() {
                [] => return Ok(RolledBack::NoTag),
                [_] => return Ok(RolledBack::NothingBefore),
                [_, before, ..] => before.clone(),
            };
            let sql = "UPDATE promotions SET undone = 1 \
                       WHERE seq = (SELECT max(seq) FROM promotions WHERE tag = ?1 AND undone = 0)";
            transaction.execute(sql, values![tag])?;
            Ok(RolledBack::To(target))
        })
    }

    /// Forgets a checkpoint's registration and note.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn remove_checkpoint(&self, id: &str) -> Result<(), StoreError> {
        self.writer().transaction(|transaction| {
            transaction.execute("DELETE FROM checkpoints WHERE id = ?1", values![id])?;
            transaction.execute("DELETE FROM checkpoint_notes WHERE id = ?1", values![id]).map(drop)
        })
    }
}

fn promotion(mut row: Row) -> Result<Promotion, StoreError> {
    Ok(Promotion {
        tag: row.get(0)?,
        checkpoint: row.get(1)?,
        time_millis: row.get(2)?,
        by: row.get(3)?,
        undone: row.get(4)?,
    })
}
