//! Rotary position embedding, half-split (Su et al. 2021, arXiv:2104.09864), and the write of keys and
//! values to the cache.

use crate::kernel::{Access, KernelSpec};
use crate::source::text;
use bytemuck::{Pod, Zeroable};

/// The kernel.
pub const SPEC: KernelSpec = KernelSpec {
    name: "rope_append",
    source: text!("rope_append.wgsl"),
    // rotary, slots, qkv, keys, values
    bindings: &[Access::Read, Access::Read, Access::ReadWrite, Access::ReadWrite, Access::ReadWrite],
    params_bytes: size_of::<RopeAppendParams>(),
};

/// Parameters of [`rope_append`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct RopeAppendParams {
    /// R.
    pub n_rows: u32,
    /// H.
    pub n_heads: u32,
    /// G.
    pub n_kv_heads: u32,
    /// K / 2.
    pub half_dim: u32,
}

const _: () = assert!(size_of::<RopeAppendParams>() == 16);

impl RopeAppendParams {
    /// Extent of the dispatch.
    pub fn workgroups(&self) -> [u32; 2] {
        [((self.n_heads + 2 * self.n_kv_heads) * self.half_dim).div_ceil(64), self.n_rows]
    }
}

/// Cosine and sine of the position times each frequency `[K / 2]`, `base^(-2i/K)` where they are plain, as [`rope_append`]
/// takes them.
///
/// Computed in f64 and rounded once, so that large positions lose nothing.
pub fn rotary_angles(position: u32, frequencies: &[f64]) -> impl Iterator<Item = [f32; 2]> {
    frequencies.iter().map(move |frequency| {
        let angle = f64::from(position) * frequency;
        [angle.cos() as f32, angle.sin() as f32]
    })
}

/// Rotates the queries of qkv `[R, (H + 2 G) K]` in place, and writes rotated keys and plain values to
/// rows `slots[r]` of keys and values `[S, G K]`. rotary is `[R, K / 2]`: cosine, sine.
///
/// # Panics
/// If a slice does not have its shape or a slot is outside the cache.
pub fn rope_append(
    params: &RopeAppendParams,
    rotary: &[[f32; 2]],
    slots: &[u32],
    qkv: &mut [f32],
    keys: &mut [f32],
    values: &mut [f32],
) {
    let (r, half) = (params.n_rows as usize, params.half_dim as usize);
    let (q_width, kv_width) = (params.n_heads as usize * 2 * half, params.n_kv_heads as usize * 2 * half);
    let width = q_width + 2 * kv_width;
    let rows = qkv[..r * width].chunks_exact_mut(width).zip(rotary[..r * half].chunks_exact(half));
    for ((row, angles), slot) in rows.zip(&slots[..r]) {
        let at = *slot as usize * kv_width;
        let (row_keys, row_values) = row[q_width..].split_at(kv_width);
        keys[at..at + kv_width].copy_from_slice(row_keys);
        values[at..at + kv_width].copy_from_slice(row_values);
        rotate(&mut row[..q_width], angles);
        rotate(&mut keys[at..at + kv_width], angles);
    }
}

/// Turns every head in `heads` by one position's angles.
fn rotate(heads: &mut [f32], angles: &[[f32; 2]]) {
    let half = angles.len();
    for head in heads.chunks_exact_mut(2 * half) {
        let (first, second) = head.split_at_mut(half);
        for ((a, b), [cos, sin]) in first.iter_mut().zip(second).zip(angles) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_turn_by_hand() {
        // one query head and one key head of width 4; pair 0 turns by 90 degrees, pair 1 not at all
        let params = RopeAppendParams { n_rows: 1, n_heads: 1, n_kv_heads: 1, half_dim: 2 };
        let mut qkv = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0];
        let (mut keys, mut values) = ([0.0; 8], [0.0; 8]);
        rope_append(&params, &[[0.0, 1.0], [1.0, 0.0]], &[1], &mut qkv, &mut keys, &mut values);
        assert_eq!(qkv[..4], [-3.0, 2.0, 1.0, 4.0]);
        assert_eq!(keys, [0.0, 0.0, 0.0, 0.0, -7.0, 6.0, 5.0, 8.0]);
        assert_eq!(values[4..], [9.0, 10.0, 11.0, 12.0]);
    }

    #[test]
    fn angles_fall_from_the_position_to_a_fraction() {
        let angles: Vec<[f32; 2]> = rotary_angles(3, &[1.0, 0.1]).collect();
        let want = [3.0f32, 0.3].map(|a| [a.cos(), a.sin()]).concat();
        crate::assert_all_close("angles", &angles.concat(), &want, 1e-6);
        assert_eq!(rotary_angles(0, &[1.0]).collect::<Vec<_>>(), [[1.0, 0.0]]);
    }
}
