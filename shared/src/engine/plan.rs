//! Where each row's keys and values go in the fixed cache, and what the row attends to.
//!
//! The cache of a network has `prompt_tokens` slots that all candidates share, then `suffix_tokens` slots
//! a candidate. Both executors take their slots and spans from here, so neither knows of candidates.

use super::{EngineError, Limits, Row};
use beckon_shaders::kernels::attention::Span;
use beckon_shaders::kernels::rope_append::rotary_angles;
use std::ops::Range;

/// The rows of one forward call as the kernels take them. Dimension key: `R` rows, `K` head width.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Placement {
    /// Token ids `[R]`.
    pub ids: Vec<u32>,
    /// Cache slots `[R]`.
    pub slots: Vec<u32>,
    /// What each row attends to `[R]`.
    pub spans: Vec<Span>,
    /// Cosines and sines `[R, K / 2]`.
    pub rotary: Vec<[f32; 2]>,
    half_dim: usize,
}

impl Placement {
    /// A run of rows, at most one pass.
    pub fn rows(&self, rows: Range<usize>) -> PassRows<'_> {
        PassRows {
            ids: &self.ids[rows.clone()],
            slots: &self.slots[rows.clone()],
            spans: &self.spans[rows.clone()],
            rotary: &self.rotary[rows.start * self.half_dim..rows.end * self.half_dim],
        }
    }
}

/// The rows of one pass.
#[derive(Debug, Clone, Copy)]
pub(super) struct PassRows<'a> {
    pub ids: &'a [u32],
    pub slots: &'a [u32],
    pub spans: &'a [Span],
    pub rotary: &'a [[f32; 2]],
}

/// What the cache of one network holds.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    limits: Limits,
    vocab_size: u32,
    half_dim: usize,
    /// Radians a position, `[K / 2]`.
    frequencies: Vec<f64>,
    prompt_len: usize,
    suffix_lens: Vec<usize>,
    /// Angles of positions 0.. as far as they were needed, `[positions, K / 2]`.
    angles: Vec<[f32; 2]>,
}

impl Plan {
    pub fn new(limits: Limits, vocab_size: usize, frequencies: Vec<f64>) -> Self {
        Self {
            limits,
            vocab_size: vocab_size as u32,
            half_dim: frequencies.len(),
            frequencies,
            prompt_len: 0,
            suffix_lens: vec![0; limits.n_seqs],
            angles: Vec::new(),
        }
    }

    /// Slots of the cache.
    pub fn n_slots(limits: &Limits) -> usize {
        limits.prompt_tokens + limits.n_seqs * limits.suffix_tokens
    }

    /// Places the rows of one call, which are in order of computation.
    ///
    /// Prompt rows come first and run upwards from anywhere in the prompt so far; they end the prompt and
    /// empty every suffix. A candidate's rows run upwards from anywhere in its suffix so far and end it.
    ///
    /// # Errors
    /// [`EngineError::Row`] for a row that would leave a gap, overtake another or leave the cache, or whose
    /// token is not in the vocabulary. The cache is then as before.
    pub fn place(&mut self, rows: &[Row]) -> Result<Placement, EngineError> {
        let mut after = self.clone_lens();
        let mut placement = Placement { half_dim: self.half_dim, ..Placement::default() };
        for (row_idx, row) in rows.iter().enumerate() {
            let refuse = |reason| EngineError::Row { row_idx, reason };
            if row.token >= self.vocab_size {
                return Err(refuse("its token is not in the vocabulary"));
            }
            let (slot, span) = match row.seq {
                None => after.place_prompt(row.pos as usize, &self.limits),
                Some(seq) => after.place_suffix(seq as usize, row.pos as usize, &self.limits),
            }
            .map_err(refuse)?;
            placement.ids.push(row.token);
            placement.slots.push(slot as u32);
            placement.spans.push(span);
            self.grow_angles(row.pos);
            let at = row.pos as usize * self.half_dim;
            placement.rotary.extend_from_slice(&self.angles[at..at + self.half_dim]);
        }
        (self.prompt_len, self.suffix_lens) = (after.prompt_len, after.suffix_lens);
        Ok(placement)
    }

    fn clone_lens(&self) -> Lens {
        let untouched = vec![false; self.suffix_lens.len()];
        Lens {
            prompt_len: self.prompt_len,
            suffix_lens: self.suffix_lens.clone(),
            prompt_touched: false,
            suffix_touched: untouched,
        }
    }

    fn grow_angles(&mut self, position: u32) {
        let known = self.angles.len() / self.half_dim;
        for position in known as u32..=position {
            self.angles.extend(rotary_angles(position, &self.frequencies));
        }
    }
}

/// Lengths in the cache while a call is being placed.
struct Lens {
    prompt_len: usize,
    suffix_lens: Vec<usize>,
    prompt_touched: bool,
    suffix_touched: Vec<bool>,
}

impl Lens {
    fn place_prompt(&mut self, pos: usize, limits: &Limits) -> Result<(usize, Span), &'static str> {
        let in_order = if self.prompt_touched { pos == self.prompt_len } else { pos <= self.prompt_len };
        if !in_order {
            return Err("its position does not follow the prompt");
        }
        if self.suffix_touched.contains(&true) {
            return Err("it belongs to the prompt but comes after a candidate's");
        }
        if pos >= limits.prompt_tokens {
            return Err("the prompt is longer than the cache");
        }
        self.prompt_touched = true;
        self.prompt_len = pos + 1;
        self.suffix_lens.fill(0);
        Ok((pos, Span { shared_end: pos as u32 + 1, own_start: 0, own_len: 0, pad: 0 }))
    }

    fn place_suffix(&mut self, seq: usize, pos: usize, limits: &Limits) -> Result<(usize, Span), &'static str> {
        let Some(len) = self.suffix_lens.get_mut(seq) else {
            return Err("the cache has fewer candidates");
        };
        let Some(idx) = pos.checked_sub(self.prompt_len) else {
            return Err("its position lies in the prompt");
        };
        if if self.suffix_touched[seq] { idx != *len } else { idx > *len } {
            return Err("its position does not follow the candidate's tokens");
        }
        if idx >= limits.suffix_tokens {
            return Err("the candidate is longer than the cache");
        }
        self.suffix_touched[seq] = true;
        *len = idx + 1;
        let own_start = limits.prompt_tokens + seq * limits.suffix_tokens;
        let span =
            Span { shared_end: self.prompt_len as u32, own_start: own_start as u32, own_len: idx as u32 + 1, pad: 0 };
        Ok((own_start + idx, span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use beckon_shaders::KernelPath;

    const LIMITS: Limits = Limits {
        prompt_tokens: 4,
        suffix_tokens: 3,
        n_seqs: 2,
        rows_per_pass: 8,
        plain_bytes: 0,
        kernel_path: KernelPath::F32,
    };

    fn plan() -> Plan {
        Plan::new(LIMITS, 10, vec![1.0, 0.01])
    }

    fn rows(places: &[(Option<u32>, u32)]) -> Vec<Row> {
        places.iter().map(|(seq, pos)| Row { token: 1, seq: *seq, pos: *pos }).collect()
    }

    fn reason(plan: &mut Plan, places: &[(Option<u32>, u32)]) -> &'static str {
        match plan.place(&rows(places)) {
            Err(EngineError::Row { reason, .. }) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn prompt_rows_share_and_candidates_own() {
        let mut plan = plan();
        let placed = plan.place(&rows(&[(None, 0), (None, 1)])).unwrap();
        assert_eq!(placed.slots, [0, 1]);
        assert_eq!(placed.spans[1], Span { shared_end: 2, own_start: 0, own_len: 0, pad: 0 });
        let placed = plan.place(&rows(&[(Some(0), 2), (Some(1), 2), (Some(1), 3)])).unwrap();
        assert_eq!(placed.slots, [4, 7, 8]);
        assert_eq!(placed.spans[2], Span { shared_end: 2, own_start: 7, own_len: 2, pad: 0 });
        assert_eq!(placed.rotary.len(), 3 * 2);
        assert_eq!(placed.rotary[2], placed.rotary[0], "same position, same angles");
        assert_eq!(placed.rows(1..3).ids.len(), 2);
    }

    #[test]
    fn a_new_prompt_empties_the_suffixes_and_a_suffix_may_be_rewound() {
        let mut plan = plan();
        plan.place(&rows(&[(None, 0), (None, 1), (Some(0), 2), (Some(0), 3)])).unwrap();
        plan.place(&rows(&[(Some(0), 2), (Some(0), 3)])).unwrap();
        plan.place(&rows(&[(None, 1)])).unwrap();
        assert_eq!(plan.place(&rows(&[(Some(0), 2)])).unwrap().spans[0].own_len, 1);
        plan.place(&rows(&[(None, 0)])).unwrap();
        assert_eq!(plan.place(&rows(&[(Some(0), 1)])).unwrap().spans[0].shared_end, 1);
    }

    #[test]
    fn rows_that_do_not_fit_are_refused_and_change_nothing() {
        let mut plan = plan();
        plan.place(&rows(&[(None, 0), (None, 1), (Some(0), 2)])).unwrap();
        assert!(reason(&mut plan, &[(None, 3)]).contains("follow the prompt"));
        assert!(reason(&mut plan, &[(None, 1), (None, 1)]).contains("follow the prompt"));
        assert!(reason(&mut plan, &[(Some(1), 2), (None, 2)]).contains("after a candidate's"));
        assert!(reason(&mut plan, &[(None, 2), (None, 3), (None, 4)]).contains("longer than the cache"));
        assert!(reason(&mut plan, &[(Some(2), 2)]).contains("fewer candidates"));
        assert!(reason(&mut plan, &[(Some(0), 1)]).contains("lies in the prompt"));
        assert!(reason(&mut plan, &[(Some(0), 4)]).contains("follow the candidate's"));
        assert!(reason(&mut plan, &[(Some(0), 3), (Some(0), 4), (Some(0), 5)]).contains("longer than the cache"));
        assert!(matches!(
            plan.place(&[Row { token: 10, seq: None, pos: 0 }]),
            Err(EngineError::Row { row_idx: 0, .. })
        ));
        assert_eq!(plan.place(&rows(&[(Some(0), 3)])).unwrap().spans[0].own_len, 2);
    }
}
