//! A click log as the click models see it: users, slots and items by number. Built once from impressions;
//! everything after it is arithmetic.
//!
//! Which impressions share an item decides what can be told: a model learns an item's quality only from
//! where and how often it was shown ([`ItemKey`]).

use super::{ContextKey, ItemKey};
use crate::click::{Impression, Slot};
use crate::reward::similarity::words;
use std::collections::HashMap;

/// One slot in view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// 0-based slot.
    pub slot: usize,
    /// Item.
    pub item: usize,
    /// Index of (item, slot) in [`ClickLog::cells`].
    pub cell: usize,
    /// Whether it was clicked.
    pub clicked: bool,
}

/// One impression: its slots in view, first slot first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slate {
    /// Who saw it.
    pub user: usize,
    /// Slots in view.
    pub shown: Vec<Shown>,
}

impl Slate {
    /// Clicks in it.
    pub fn n_clicks(&self) -> usize {
        self.shown.iter().filter(|s| s.clicked).count()
    }
}

/// Showings and clicks of one item in one slot; fractional under weights.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Cell {
    /// Item.
    pub item: usize,
    /// Slot.
    pub slot: usize,
    /// Times shown.
    pub shown: f64,
    /// Times clicked.
    pub clicked: f64,
}

/// A log by numbers.
#[derive(Debug, Clone, Default)]
pub struct ClickLog {
    /// Impressions with at least one slot in view.
    pub slates: Vec<Slate>,
    /// Users.
    pub n_users: usize,
    /// Items.
    pub n_items: usize,
    /// K: one more than the last slot in view.
    pub n_slots: usize,
    /// (item, slot) of each cell.
    places: Vec<(usize, usize)>,
}

/// Where an impression's slot is found in a log.
#[derive(Debug, Clone, Default)]
pub struct ItemIndex {
    items: HashMap<(String, String), usize>,
}

impl ItemIndex {
    /// The item of a suggestion in a context, where the log has it.
    pub fn get(&self, key: ItemKey, context: &str, text: &str) -> Option<usize> {
        self.items.get(&name(key, context, text)).copied()
    }
}

/// What makes two showings the same item.
fn name(key: ItemKey, context: &str, text: &str) -> (String, String) {
    match key {
        ItemKey::Suggestion => (context.to_owned(), words(text).join(" ")),
        ItemKey::Text => (String::new(), words(text).join(" ")),
        ItemKey::Context => (context.to_owned(), String::new()),
    }
}

/// Whether a slot counts as shown: known to be out of view does not.
pub fn in_view(slot: &Slot) -> bool {
    slot.visible != Some(false)
}

impl ClickLog {
    /// Numbers users, items and slots of `impressions`; impressions with nothing in view are left out.
    pub fn new(impressions: &[&Impression], key: ItemKey, context: ContextKey) -> (Self, ItemIndex) {
        let mut log = Self::default();
        let mut index = ItemIndex::default();
        let mut users: HashMap<&str, usize> = HashMap::new();
        let mut cells: HashMap<(usize, usize), usize> = HashMap::new();
        for impression in impressions {
            let of_context = context.of(&impression.prompt);
            let mut shown = Vec::with_capacity(impression.slate.len());
            for (slot, shown_slot) in impression.slate.iter().enumerate().filter(|(_, s)| in_view(s)) {
                let n = index.items.len();
                let item = *index.items.entry(name(key, &of_context, &shown_slot.text)).or_insert(n);
                let n = cells.len();
                let cell = *cells.entry((item, slot)).or_insert(n);
                if cell == log.places.len() {
                    log.places.push((item, slot));
                }
                log.n_slots = log.n_slots.max(slot + 1);
                shown.push(Shown { slot, item, cell, clicked: shown_slot.clicked });
            }
            if !shown.is_empty() {
                let n = users.len();
                let user = *users.entry(&impression.user_hash).or_insert(n);
                log.slates.push(Slate { user, shown });
            }
        }
        (log.n_users, log.n_items) = (users.len(), index.items.len());
        (log, index)
    }

    /// From numbered slates, for simulations: each is a user and (item, clicked) by slot.
    pub fn from_slates(slates: impl IntoIterator<Item = (usize, Vec<(usize, bool)>)>) -> Self {
        let mut log = Self::default();
        let mut cells: HashMap<(usize, usize), usize> = HashMap::new();
        for (user, slots) in slates {
            let mut shown = Vec::with_capacity(slots.len());
            for (slot, (item, clicked)) in slots.into_iter().enumerate() {
                let n = cells.len();
                let cell = *cells.entry((item, slot)).or_insert(n);
                if cell == log.places.len() {
                    log.places.push((item, slot));
                }
                log.n_items = log.n_items.max(item + 1);
                log.n_slots = log.n_slots.max(slot + 1);
                shown.push(Shown { slot, item, cell, clicked });
            }
            log.n_users = log.n_users.max(user + 1);
            log.slates.push(Slate { user, shown });
        }
        log
    }

    /// Showings and clicks by (item, slot), each slate weighted by its user's entry of `user_weights`.
    pub fn cells(&self, user_weights: &[f64]) -> Vec<Cell> {
        let mut cells: Vec<Cell> =
            self.places.iter().map(|&(item, slot)| Cell { item, slot, ..Cell::default() }).collect();
        for slate in &self.slates {
            let weight = user_weights[slate.user];
            for shown in &slate.shown {
                cells[shown.cell].shown += weight;
                cells[shown.cell].clicked += if shown.clicked { weight } else { 0.0 };
            }
        }
        cells
    }

    /// One for every user.
    pub fn equal_weights(&self) -> Vec<f64> {
        vec![1.0; self.n_users]
    }

    /// Clicks in the whole log.
    pub fn n_clicks(&self) -> usize {
        self.slates.iter().map(Slate::n_clicks).sum()
    }
}
