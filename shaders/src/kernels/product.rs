//! How the products with a weight matrix are cut into workgroups; host half of `product.wgsl`.

use crate::packed::TILE;

/// Values of the overrides `ROWS`, `OUTPUTS` and `LANES`: what an invocation makes, and how many share an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiling {
    /// Rows of an invocation: 1, 4 or 8.
    pub rows: u32,
    /// Outputs of an invocation, each in a tile of its own: 1, 2, 4 or 8.
    pub outputs: u32,
    /// Invocations that share the inputs of an output, at most 8.
    pub lanes: u32,
}

impl Tiling {
    /// Every number of rows, ascending, for an adapter that is a CPU: one lane, because a barrier costs more
    /// than it gains, and many outputs, because loads cost more than arithmetic.
    pub const SERIAL: [Self; 3] = [
        Self { rows: 1, outputs: 4, lanes: 1 },
        Self { rows: 4, outputs: 8, lanes: 1 },
        Self { rows: 8, outputs: 8, lanes: 1 },
    ];

    /// The same for a GPU: workgroups of 256, one output each where there is one row.
    pub const PARALLEL: [Self; 3] = [
        Self { rows: 1, outputs: 1, lanes: 8 },
        Self { rows: 4, outputs: 4, lanes: 8 },
        Self { rows: 8, outputs: 4, lanes: 8 },
    ];

    /// Those for an adapter.
    pub fn for_adapter(is_software: bool) -> [Self; 3] {
        if is_software { Self::SERIAL } else { Self::PARALLEL }
    }

    /// The first of `tilings` (ascending rows) that takes `n_rows` in one workgroup, else the last.
    ///
    /// # Panics
    /// If there is none.
    pub fn choose(tilings: &[Self], n_rows: usize) -> &Self {
        tilings.iter().find(|tiling| n_rows <= tiling.rows as usize).unwrap_or(&tilings[tilings.len() - 1])
    }

    /// The same with at least two outputs, for a kernel that makes gate and up together.
    pub fn paired(self) -> Self {
        Self { outputs: self.outputs.max(2), ..self }
    }

    /// The override constants.
    pub fn constants(&self) -> [(&'static str, f64); 3] {
        [("ROWS", self.rows.into()), ("OUTPUTS", self.outputs.into()), ("LANES", self.lanes.into())]
    }

    /// Extent of the dispatch that makes `n_outputs` of `n_rows`, `outputs` tiles a workgroup.
    pub(super) fn workgroups(&self, n_rows: u32, n_outputs: u32, outputs: u32) -> [u32; 2] {
        [n_outputs.div_ceil(TILE as u32 * outputs), n_rows.div_ceil(self.rows)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_output_and_row_is_in_a_workgroup() {
        let tiling = Tiling { rows: 4, outputs: 8, lanes: 1 };
        assert_eq!(tiling.workgroups(1, 256, 8), [1, 1]);
        assert_eq!(tiling.workgroups(4, 257, 8), [2, 1]);
        assert_eq!(tiling.workgroups(5, 1, 8), [1, 2]);
        assert_eq!([1, 2, 4, 5, 64].map(|n| Tiling::choose(&Tiling::SERIAL, n).rows), [1, 4, 4, 8, 8]);
    }

    #[test]
    fn a_workgroup_stays_within_the_guaranteed_limits() {
        for tiling in Tiling::SERIAL.into_iter().chain(Tiling::PARALLEL) {
            assert!(tiling.lanes * TILE as u32 <= 256, "{tiling:?}");
        }
    }
}
