//! Grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245) over a cache whose first slots all
//! rows share.

use crate::kernel::{Access, KernelSpec};
use crate::math::{dot, exp};
use bytemuck::{Pod, Zeroable};

/// The kernel.
pub const SPEC: KernelSpec = KernelSpec {
    name: "attention",
    source: include_str!("attention.wgsl"),
    // spans, qkv, keys, values, out
    bindings: &[Access::Read, Access::Read, Access::Read, Access::Read, Access::ReadWrite],
    params_bytes: size_of::<AttentionParams>(),
};

/// Parameters of [`attention`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct AttentionParams {
    /// R.
    pub n_rows: u32,
    /// H.
    pub n_heads: u32,
    /// G, divides H.
    pub n_kv_heads: u32,
    /// K / 2, at most 128.
    pub half_dim: u32,
    /// Factor of the scores, 1 / sqrt(K).
    pub scale: f32,
}

const _: () = assert!(size_of::<AttentionParams>() == 20);

impl AttentionParams {
    /// Extent of the dispatch.
    pub fn workgroups(&self) -> [u32; 2] {
        [self.n_heads, self.n_rows]
    }
}

/// The slots that a row attends to: `[0, shared_end)` and `[own_start, own_start + own_len)`. At least one.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Span {
    /// End of the slots that all rows share.
    pub shared_end: u32,
    /// First slot of the row's own.
    pub own_start: u32,
    /// Number of the row's own.
    pub own_len: u32,
    /// Unused; makes the span a vec4.
    pub pad: u32,
}

/// `out[r, h] = softmax(scale * q[r, h] · keys) values` over the slots of `spans[r]`.
///
/// qkv is `[R, (H + 2 G) K]` (queries first), keys and values `[S, G K]`, out `[R, H K]`; head h reads
/// key-value head `h / (H / G)`. The largest score is subtracted before the exponential.
///
/// # Panics
/// If a slice does not have its shape or a span leaves the cache.
pub fn attention(params: &AttentionParams, spans: &[Span], qkv: &[f32], keys: &[f32], values: &[f32], out: &mut [f32]) {
    let (r, h, g) = (params.n_rows as usize, params.n_heads as usize, params.n_kv_heads as usize);
    let k = params.half_dim as usize * 2;
    let (width, kv_width) = ((h + 2 * g) * k, g * k);
    let mut query = vec![0.0; k];
    let mut scores = Vec::new();
    for (row, span) in spans[..r].iter().enumerate() {
        let own = span.own_start..span.own_start + span.own_len;
        let slots = (0..span.shared_end).chain(own).map(|slot| slot as usize * kv_width);
        for head in 0..h {
            let head_at = head / (h / g) * k;
            for (query, q) in query.iter_mut().zip(&qkv[row * width + head * k..][..k]) {
                *query = q * params.scale;
            }
            scores.clear();
            scores.extend(slots.clone().map(|at| dot(&query, &keys[at + head_at..][..k])));
            let mass = softmax_numerators(&mut scores);
            let out = &mut out[(row * h + head) * k..][..k];
            out.fill(0.0);
            for (at, share) in slots.clone().zip(&scores) {
                for (out, value) in out.iter_mut().zip(&values[at + head_at..][..k]) {
                    *out += share * value;
                }
            }
            for out in out {
                *out /= mass;
            }
        }
    }
}

/// Replaces scores with `exp(score - largest)` and gives their sum.
fn softmax_numerators(scores: &mut [f32]) -> f32 {
    let largest = scores.iter().copied().fold(f32::MIN, f32::max);
    for score in scores.iter_mut() {
        *score = exp(*score - largest);
    }
    scores.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_by_hand() {
        // two query heads on one key-value head of width 2; slots 0 and 3 are seen, 1 and 2 are not
        let params = AttentionParams { n_rows: 1, n_heads: 2, n_kv_heads: 1, half_dim: 1, scale: 1.0 };
        let spans = [Span { shared_end: 1, own_start: 3, own_len: 1, pad: 0 }];
        let qkv = [0.0, 0.0, 3.0f32.ln(), 0.0, 7.0, 7.0, 7.0, 7.0];
        let keys = [0.0, 5.0, 9.0, 9.0, 9.0, 9.0, 1.0, 5.0];
        let values = [4.0, 0.0, 99.0, 99.0, 99.0, 99.0, 8.0, 2.0];
        let mut out = [0.0; 4];
        attention(&params, &spans, &qkv, &keys, &values, &mut out);
        // head 0: equal shares; head 1: scores 0 and ln 3, shares 1/4 and 3/4
        crate::assert_all_close("out", &out, &[6.0, 1.0, 7.0, 1.5], 1e-6);
    }
}
