//! The registry of checkpoints in the store: notes, evaluation results, tags and their history, and what needs a checkpoint.

use super::checkpoints::{self, hold, is_there, lock};
use super::experiments::checkpoints_in_use;
use super::runs::{self, StoredRun};
use super::sql::{Connection, Row, values};
use super::{Store, StoreError};
use crate::crash::{Point, reach};
use beckon_shared::control::life::{Standing, step};
use beckon_shared::control::registry::Promotion;
use beckon_shared::control::{RunCommand, RunState, RunStatus};
use std::collections::{BTreeMap, BTreeSet};

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
    /// The checkpoint that it pointed to before was deleted.
    Gone(String),
}

/// What needs checkpoints, as of one moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Needs {
    /// Where every tag points, by tag.
    pub tags: BTreeMap<String, Promotion>,
    /// Checkpoints that runs, experiments and roll backs need, with the user in words.
    pub users: Vec<(String, String)>,
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
        Ok(newest(&self.promotions(false)?))
    }

    /// Every time that a tag was moved, oldest first; with `undone` also those that were rolled back.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn promotions(&self, undone: bool) -> Result<Vec<Promotion>, StoreError> {
        promotions(&mut self.reader(), undone)
    }

    /// At most `limit` times that a tag was moved, with their numbers, which grow from one to the next: those after `seq`, oldest
    /// first, undone ones included.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn promotions_after(&self, seq: i64, limit: usize) -> Result<Vec<(i64, Promotion)>, StoreError> {
        let sql = "SELECT tag, checkpoint, time_millis, sender, undone, seq FROM promotions \
                   WHERE seq > ?1 ORDER BY seq LIMIT ?2";
        self.reader().rows(sql, values![seq, limit], |mut row| Ok((row.get(5)?, promotion(row)?)))
    }

    /// Where each tag would go by a roll back: checkpoint and tag. One that was deleted is left out.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn roll_back_targets(&self) -> Result<Vec<(String, String)>, StoreError> {
        self.reader().snapshot(|reader| {
            let mut there = Vec::new();
            for (checkpoint, tag) in before_newest(promotions(reader, false)?) {
                if is_there(reader, &checkpoint)? {
                    there.push((checkpoint, tag));
                }
            }
            Ok(there)
        })
    }

    /// Lets a tag point to a checkpoint; promoting the one it points to already changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Gone`] where the checkpoint was deleted, `Database`.
    pub fn promote(&self, to: &Promotion) -> Result<(), StoreError> {
        let promoted = self.writer().transaction(|transaction| {
            hold(transaction, [to.checkpoint.as_str()])?;
            transaction.lock_table("promotions")?;
            let now = transaction.first(CURRENT, values![&to.tag], promotion)?;
            if now.is_none_or(|now| now.checkpoint != to.checkpoint) {
                let sql = "INSERT INTO promotions (tag, checkpoint, time_millis, sender) VALUES (?1, ?2, ?3, ?4)";
                transaction.execute(sql, values![&to.tag, &to.checkpoint, to.time_millis, &to.by])?;
            }
            reach(Point::Promoting);
            Ok(())
        });
        promoted.inspect(|()| reach(Point::Promoted))
    }

    /// Lets a tag point to where it pointed before its last promotion, where that is still there.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn roll_back(&self, tag: &str) -> Result<RolledBack, StoreError> {
        self.writer().transaction(|transaction| {
            lock(transaction)?;
            transaction.lock_table("promotions")?;
            let newest = transaction.rows(CURRENT, values![tag], promotion)?;
            let target = match newest.as_slice() {
                [] => return Ok(RolledBack::NoTag),
                [_] => return Ok(RolledBack::NothingBefore),
                [_, before, ..] => before.clone(),
            };
            if !is_there(transaction, &target.checkpoint)? {
                return Ok(RolledBack::Gone(target.checkpoint));
            }
            let sql = "UPDATE promotions SET undone = 1 \
                       WHERE seq = (SELECT max(seq) FROM promotions WHERE tag = ?1 AND undone = 0)";
            transaction.execute(sql, values![tag])?;
            Ok(RolledBack::To(target))
        })
    }

    /// What needs checkpoints now.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn needs(&self) -> Result<Needs, StoreError> {
        self.reader().snapshot(needs)
    }

    /// Forgets a checkpoint's registration and note where `allow` lets it go, told what needs checkpoints at this moment and
    /// whether the store knows this one. Nothing can come to need it in between, or later. Its files have to be removed then,
    /// and [`Store::checkpoint_is_gone`] called.
    ///
    /// # Errors
    /// [`StoreError`]; inside, what `allow` refused with: then nothing has changed.
    pub fn forget_checkpoint<E>(
        &self,
        id: &str,
        allow: impl FnOnce(Needs, bool) -> Result<(), E>,
    ) -> Result<Result<(), E>, StoreError> {
        self.writer().transaction(|transaction| {
            lock(transaction)?;
            let is_known = checkpoints::is_known(transaction, id)?;
            match allow(needs(transaction)?, is_known) {
                Ok(()) => checkpoints::remove(transaction, id).map(Ok),
                Err(refusal) => Ok(Err(refusal)),
            }
        })
    }
}

/// What of a run keeps its checkpoints: a run that can still begin or go on reads them, and what a finished one made stands on its
/// parent for as long as it is there.
fn needs_of_run(run: RunStatus, registered: &BTreeSet<String>) -> Vec<(String, String)> {
    let RunStatus { id, state, config, checkpoint, .. } = run;
    let may_run = !state.is_final() || step(Standing::off_device(state), RunCommand::Start).is_ok();
    let made = checkpoint.filter(|made| state == RunState::Finished && registered.contains(made));
    let user = match made {
        _ if may_run => format!("run {id}"),
        Some(made) => format!("checkpoint {made}"),
        None => return Vec::new(),
    };
    let teacher = config.sft.teacher.filter(|_| may_run).map(|teacher| teacher.id);
    config.parent.into_iter().chain(teacher).map(|needed| (needed, user.clone())).collect()
}

fn needs(connection: &mut Connection) -> Result<Needs, StoreError> {
    // runs first: one that ends meanwhile is then seen as running, or with its checkpoint
    let runs = runs::all(connection)?;
    let (registered, arriving) = checkpoints::all_ids(connection)?;
    let registered: BTreeSet<String> = registered.into_iter().collect();
    let mut users: Vec<(String, String)> =
        runs.into_iter().flat_map(|StoredRun { status, .. }| needs_of_run(status, &registered)).collect();
    users.extend(arriving.into_iter().map(|id| (id, "a run that is about to end with it".to_owned())));
    users.extend(checkpoints_in_use(connection)?);
    let promotions = promotions(connection, false)?;
    let tags = newest(&promotions);
    let back = before_newest(promotions);
    users.extend(back.into_iter().map(|(checkpoint, tag)| (checkpoint, format!("the next roll back of {tag}"))));
    Ok(Needs { tags, users })
}

fn promotions(connection: &mut Connection, undone: bool) -> Result<Vec<Promotion>, StoreError> {
    let sql =
        "SELECT tag, checkpoint, time_millis, sender, undone FROM promotions WHERE ?1 = 1 OR undone = 0 ORDER BY seq";
    connection.rows(sql, values![undone], promotion)
}

/// Where every tag points, by tag, of promotions that are not undone.
fn newest(promotions: &[Promotion]) -> BTreeMap<String, Promotion> {
    // later ones replace earlier ones
    promotions.iter().map(|promotion| (promotion.tag.clone(), promotion.clone())).collect()
}

/// Checkpoint and tag of the promotions before the newest ones.
fn before_newest(promotions: Vec<Promotion>) -> Vec<(String, String)> {
    let mut by_tag: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for promotion in promotions {
        by_tag.entry(promotion.tag).or_default().push(promotion.checkpoint);
    }
    let before = |(tag, mut points): (String, Vec<String>)| {
        points.pop();
        points.pop().map(|checkpoint| (checkpoint, tag))
    };
    by_tag.into_iter().filter_map(before).collect()
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
