//! Whether a log can tell position from quality: a rank condition on who was shown where, checked before
//! anything is fitted. Method B.1.2 (identifiability), property test 7.
//!
//! With an outside option, position model and choice model are additive in the log: item plus slot. An item
//! that was shown in the slots k and l ties them: it measures `log θ_k - log θ_l` without knowing the item's
//! quality. Ties are rows `e_k - e_l`; all slot effects are identified up to the gauge iff the rows have rank
//! K - 1, K the slots in use. Without an outside option (shares of a pane's clicks) each pane has an unknown
//! level of its own, and only cycles of panes and shared items tie slots.
//!
//! Only items that were clicked count: one that never was has an estimated rate of 0 wherever it stood. This
//! says that an estimate exists, not that it is precise; that is what the intervals are for. It cannot see a
//! wrong model either.
//!
//! Dimension key: `K` slots.

use std::collections::BTreeMap;

/// Share of a row's norm below which what is left of it counts as rounding.
const RANK_TOLERANCE: f64 = 1e-9;

/// An incremental row basis, for ranks and for membership in the row space.
#[derive(Debug, Clone, Default)]
pub struct Basis {
    /// Orthonormal rows.
    rows: Vec<Vec<f64>>,
}

impl Basis {
    /// Adds a row; true where it was not in the span yet.
    pub fn insert(&mut self, row: &[f64]) -> bool {
        match self.residual(row) {
            Some(unit) => {
                self.rows.push(unit);
                true
            }
            None => false,
        }
    }

    /// Whether `row` is in the span.
    pub fn contains(&self, row: &[f64]) -> bool {
        self.residual(row).is_none()
    }

    /// Rank so far.
    pub fn rank(&self) -> usize {
        self.rows.len()
    }

    /// Unit vector of what the span lacks of `row`; two passes of Gram-Schmidt against rounding.
    fn residual(&self, row: &[f64]) -> Option<Vec<f64>> {
        let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
        let mut rest = row.to_vec();
        for _ in 0..2 {
            for unit in &self.rows {
                let dot: f64 = unit.iter().zip(&rest).map(|(u, r)| u * r).sum();
                rest.iter_mut().zip(unit).for_each(|(r, u)| *r -= dot * u);
            }
        }
        let left = norm(&rest);
        (left > RANK_TOLERANCE * norm(row)).then(|| rest.iter().map(|r| r / left).collect())
    }
}

/// What ties the slots of a log together.
#[derive(Debug, Clone)]
pub struct Ties {
    basis: Basis,
    /// Whether a slot is in use, `[K]`.
    used: Vec<bool>,
}

impl Ties {
    /// Ties of items with an outside option. `items` gives for each clicked item the slots that it was shown
    /// in; `used[k]` says whether slot k was shown at all.
    pub fn of_items<'a>(items: impl IntoIterator<Item = &'a [usize]>, used: Vec<bool>) -> Self {
        let mut basis = Basis::default();
        for slots in items {
            for pair in slots.windows(2) {
                basis.insert(&contrast(pair[0], pair[1], used.len()));
            }
        }
        Self { basis, used }
    }

    /// Ties of panes without an outside option: `panes[p]` lists (item, slot) of the clicked items of pane p.
    /// Where `u_i + b_k = c_p` in every cell, an item in the panes p and q gives `c_p - c_q = b_k - b_l`;
    /// around a cycle of panes the levels c cancel, and what is left is a tie of slots.
    pub fn of_panes(panes: &[Vec<(usize, usize)>], used: Vec<bool>) -> Self {
        let n_slots = used.len();
        let mut basis = Basis::default();
        // potential of each pane relative to its component's root, as a linear form in b, `[K]`
        let mut form: Vec<Option<(usize, Vec<f64>)>> = vec![None; panes.len()];
        let mut by_item: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
        for (pane, cells) in panes.iter().enumerate() {
            for &(item, slot) in cells {
                by_item.entry(item).or_default().push((pane, slot));
            }
        }
        for root in 0..panes.len() {
            if form[root].is_some() {
                continue;
            }
            form[root] = Some((root, vec![0.0; n_slots]));
            let mut open = vec![root];
            while let Some(p) = open.pop() {
                let Some((_, of_p)) = form[p].clone() else { continue };
                for &(item, k) in &panes[p] {
                    for &(q, l) in by_item.get(&item).map_or(&[][..], Vec::as_slice) {
                        // c_q = c_p - b_k + b_l
                        let mut of_q = of_p.clone();
                        of_q[k] -= 1.0;
                        of_q[l] += 1.0;
                        match &form[q] {
                            Some((_, known)) => {
                                let row: Vec<f64> = of_q.iter().zip(known).map(|(a, b)| a - b).collect();
                                basis.insert(&row);
                            }
                            None => {
                                form[q] = Some((root, of_q));
                                open.push(q);
                            }
                        }
                    }
                }
            }
        }
        Self { basis, used }
    }

    /// Independent slot contrasts that the log measures.
    pub fn rank(&self) -> usize {
        self.basis.rank()
    }

    /// Contrasts that have to be measured: slots in use minus one.
    pub fn needed(&self) -> usize {
        self.used.iter().filter(|used| **used).count().saturating_sub(1)
    }

    /// Whether every slot effect is identified up to the gauge.
    pub fn is_complete(&self) -> bool {
        self.rank() >= self.needed()
    }

    /// Slots in use, in sets within which every contrast is measured.
    pub fn groups(&self) -> Vec<Vec<usize>> {
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for slot in (0..self.used.len()).filter(|k| self.used[*k]) {
            let tied = |group: &&mut Vec<usize>| self.basis.contains(&contrast(group[0], slot, self.used.len()));
            match groups.iter_mut().find(tied) {
                Some(group) => group.push(slot),
                None => groups.push(vec![slot]),
            }
        }
        groups
    }
}

/// e_k - e_l, `[K]`.
fn contrast(k: usize, l: usize, n_slots: usize) -> Vec<f64> {
    let mut row = vec![0.0; n_slots];
    row[k] += 1.0;
    row[l] -= 1.0;
    row
}

#[cfg(test)]
mod tests;
