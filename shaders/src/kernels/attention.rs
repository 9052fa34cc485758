//! Grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245) over a cache whose first slots all
//! rows share.

use crate::kernel::{Access, KernelSpec};
use crate::math::{dot, dots, exp, larger, sum};
use crate::source::text;
use crate::weight::BLOCK;
use bytemuck::{Pod, Zeroable};
use std::ops::Range;

/// The kernel.
pub const SPEC: KernelSpec = KernelSpec {
    name: "attention",
    source: text!("threads.wgsl", "attention.wgsl"),
    // spans, qkv, keys, values, out
    bindings: &[Access::Read, Access::Read, Access::Read, Access::Read, Access::ReadWrite],
    params_bytes: size_of::<AttentionParams>(),
};

/// Slots whose scores are made at once.
const SLOTS: usize = 4;

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
    let n_groups = (params.n_rows * params.n_kv_heads) as usize;
    let n_values = (params.n_rows * params.n_heads * params.half_dim) as usize * 2;
    attention_of(params, 0..n_groups, spans, qkv, [keys, values], &mut out[..n_values]);
}

/// A part of [`attention`]: group i is row `i / G` and those of its heads that read key-value head `i % G`; out
/// `[groups, H / G · K]`. A group's values do not depend on the other groups.
///
/// # Panics
/// As [`attention`].
pub fn attention_of(
    params: &AttentionParams,
    groups: Range<usize>,
    spans: &[Span],
    qkv: &[f32],
    [keys, values]: [&[f32]; 2],
    out: &mut [f32],
) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the one feature that the function asks for
        #[allow(unsafe_code)]
        return unsafe { attention_avx2(params, groups, spans, qkv, [keys, values], out) };
    }
    attention_in_order(params, groups, spans, qkv, [keys, values], out);
}

/// The same code compiled for 256-bit registers; without fused multiply-add the bits are the same.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn attention_avx2(
    params: &AttentionParams,
    groups: Range<usize>,
    spans: &[Span],
    qkv: &[f32],
    cache: [&[f32]; 2],
    out: &mut [f32],
) {
    attention_in_order(params, groups, spans, qkv, cache, out);
}

#[inline(always)]
fn attention_in_order(
    params: &AttentionParams,
    groups: Range<usize>,
    spans: &[Span],
    qkv: &[f32],
    [keys, values]: [&[f32]; 2],
    out: &mut [f32],
) {
    let (h, g, k) = (params.n_heads as usize, params.n_kv_heads as usize, params.half_dim as usize * 2);
    let (width, kv_width, of_group) = ((h + 2 * g) * k, g * k, h / g);
    assert_eq!(out.len(), groups.len() * of_group * k, "attended values");
    let mut query = vec![0.0; k];
    let mut scores = Vec::new();
    for (group, out) in groups.zip(out.chunks_exact_mut(of_group * k)) {
        let (row, kv_head) = (group / g, group % g);
        let span = spans[row];
        let own = span.own_start as usize..(span.own_start + span.own_len) as usize;
        let shared = 0..span.shared_end as usize;
        // both runs of slots, from this head's first value on
        let runs_of = |cache| [shared.clone(), own.clone()].map(|run: Range<usize>| rows(cache, run, kv_width));
        let (keys, values) = (runs_of(keys), runs_of(values));
        for (head, out) in out.chunks_exact_mut(k).enumerate() {
            let at = row * width + (kv_head * of_group + head) * k;
            for (query, q) in query.iter_mut().zip(&qkv[at..at + k]) {
                *query = q * params.scale;
            }
            scores.clear();
            for run in keys {
                add_scores(&query, run, (kv_width, kv_head * k), &mut scores);
            }
            let mass = softmax_numerators(&mut scores);
            weighted_sum(&scores, values, (kv_width, kv_head * k), out);
            for out in out {
                *out /= mass;
            }
        }
    }
}

/// A run of slots of a cache.
#[inline(always)]
fn rows(cache: &[f32], run: Range<usize>, width: usize) -> &[f32] {
    &cache[run.start * width..run.end * width]
}

/// Scores of a run of slots, some slots at a time; a slot's keys for this head begin at `first`.
#[inline(always)]
fn add_scores<'a>(query: &[f32], run: &'a [f32], (width, first): (usize, usize), scores: &mut Vec<f32>) {
    let mut some = run.chunks_exact(SLOTS * width);
    let keys = |slots: &'a [f32], i: usize| &slots[i * width + first..][..query.len()];
    for slots in &mut some {
        scores.extend_from_slice(&dots::<SLOTS>(query, std::array::from_fn(|i| keys(slots, i))));
    }
    for slot in some.remainder().chunks_exact(width) {
        scores.push(dot(query, keys(slot, 0)));
    }
}

/// `out[i] = sum over slots of share · values[slot, first + i]`, in the order of the slots; as many columns at a
/// time as registers hold.
#[inline(always)]
fn weighted_sum(shares: &[f32], values: [&[f32]; 2], (width, first): (usize, usize), out: &mut [f32]) {
    let (wide, rest) = out.as_chunks_mut::<BLOCK>();
    let n_wide = wide.len() * BLOCK;
    for (i, out) in wide.iter_mut().enumerate() {
        columns(shares, values, (width, first + i * BLOCK), out);
    }
    let (middle, rest) = rest.as_chunks_mut::<8>();
    let n_middle = n_wide + middle.len() * 8;
    for (i, out) in middle.iter_mut().enumerate() {
        columns(shares, values, (width, first + n_wide + i * 8), out);
    }
    let (narrow, rest) = rest.as_chunks_mut::<2>(); // K is even
    for (i, out) in narrow.iter_mut().enumerate() {
        columns(shares, values, (width, first + n_middle + i * 2), out);
    }
    assert!(rest.is_empty(), "heads of an odd width");
}

/// [`weighted_sum`] of N columns.
#[inline(always)]
fn columns<const N: usize>(shares: &[f32], values: [&[f32]; 2], (width, at): (usize, usize), out: &mut [f32; N]) {
    let mut sums = [0.0f32; N];
    let mut shares = shares.iter();
    for run in values {
        for (slot, share) in run.chunks_exact(width).zip(&mut shares) {
            if let Some(values) = slot[at..].first_chunk::<N>() {
                for i in 0..N {
                    sums[i] += share * values[i];
                }
            }
        }
    }
    *out = sums;
}

/// Replaces scores with `exp(score - largest)` and gives their sum.
#[inline(always)]
fn softmax_numerators(scores: &mut [f32]) -> f32 {
    let largest = scores.iter().copied().fold(f32::MIN, larger);
    for score in scores.iter_mut() {
        *score = exp(*score - largest);
    }
    sum(scores)
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
