//! Drawing a token for each row of logits: temperature, top-k, top-p, and log-probability.
//!
//! The order is that of the host's sampler: divide by the temperature, keep the `top_k` largest, keep the shortest prefix of
//! what is left whose mass reaches `top_p`, draw by inverting the cumulative distribution with one uniform number. Equal
//! logits rank by lower id. Where everything is kept the cumulative distribution runs by id, else by rank.
//! The kernel sums in f32: where the uniform number lies within about 1e-5 of a token's edge it may draw the neighbour.

use crate::kernel::{Access, KernelSpec};
use crate::source::text;
use bytemuck::{Pod, Zeroable};
use std::ops::Range;

/// The kernel.
pub const SPEC: KernelSpec = KernelSpec {
    name: "sample",
    source: text!("sample.wgsl"),
    bindings: &[Access::Read, Access::Read, Access::ReadWrite, Access::ReadWrite], // logits, uniforms, ids, draws
    params_bytes: size_of::<SampleParams>(),
};

/// What stands for a token that could not be drawn.
pub const NO_TOKEN: u32 = u32::MAX;

/// Parameters of [`sample`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct SampleParams {
    /// R.
    pub n_rows: u32,
    /// V.
    pub vocab_size: u32,
    /// Keep the k most likely; 0 keeps all.
    pub top_k: u32,
    /// Where row 0's uniform number and draw stand.
    pub first_draw: u32,
    /// Keep the smallest set with this mass; 1 keeps all.
    pub top_p: f32,
    /// 1 / temperature; 0 takes the largest logit.
    pub steepness: f32,
}

const _: () = assert!(size_of::<SampleParams>() == 24);

impl SampleParams {
    /// Extent of the dispatch.
    pub fn workgroups(&self) -> [u32; 2] {
        [self.n_rows, 1]
    }
}

/// A row's draw.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Draw {
    /// The token; [`NO_TOKEN`] where a logit is NaN or positive infinity, or none is finite.
    pub token: u32,
    /// Bits of its log-probability (f32, nats) at temperature 1 and untruncated.
    pub logp_bits: u32,
    /// Bits of the first logit that is none; meaningless where there is no such.
    pub strange_bits: u32,
    /// Its token, or [`NO_TOKEN`].
    pub strange_token: u32,
}

/// `ids[r]` and `draws[first_draw + r]` from logits `[R, V]` and `uniforms[first_draw + r]` in [0, 1].
///
/// # Panics
/// If a slice does not have its shape.
pub fn sample(params: &SampleParams, logits: &[f32], uniforms: &[f32], ids: &mut [u32], draws: &mut [Draw]) {
    let v = params.vocab_size as usize;
    for (row, logits) in logits[..params.n_rows as usize * v].chunks_exact(v).enumerate() {
        let at = params.first_draw as usize + row;
        let strange = logits.iter().position(|logit| !(*logit < f32::INFINITY));
        let ranked = ranked(logits);
        let peak = f64::from(logits[ranked[0]]);
        let token = match strange {
            None if peak.is_finite() => drawn(params, logits, f64::from(uniforms[at])) as u32,
            _ => NO_TOKEN,
        };
        let mass: f64 = logits.iter().map(|logit| (f64::from(*logit) - peak).exp()).sum();
        let logp = logits.get(token as usize).map_or(f64::NAN, |logit| f64::from(*logit) - peak - mass.ln());
        ids[row] = token;
        draws[at] = Draw {
            token,
            logp_bits: (logp as f32).to_bits(),
            strange_bits: logits[strange.unwrap_or(0)].to_bits(),
            strange_token: strange.map_or(NO_TOKEN, |token| token as u32),
        };
    }
}

/// The part of [0, 1) in which a uniform number draws `token`; empty where it is not kept.
pub fn interval(params: &SampleParams, logits: &[f32], token: usize) -> Range<f64> {
    let kept = kept(params, logits);
    let mass: f64 = kept.iter().map(|(_, weight)| weight).sum();
    let Some(place) = kept.iter().position(|(kept, _)| *kept == token) else { return 0.0..0.0 };
    let before: f64 = kept[..place].iter().map(|(_, weight)| weight).sum();
    before / mass..(before + kept[place].1) / mass
}

fn drawn(params: &SampleParams, logits: &[f32], uniform: f64) -> usize {
    let kept = kept(params, logits);
    let enough = uniform * kept.iter().map(|(_, weight)| weight).sum::<f64>();
    let mut running = 0.0;
    let passes = |(_, weight): &&(usize, f64)| {
        running += weight;
        running > enough
    };
    let found = kept.iter().find(passes).or_else(|| kept.iter().rfind(|(_, weight)| *weight > 0.0));
    found.map_or(0, |(token, _)| *token)
}

/// Tokens by falling logit, equal ones by id.
fn ranked(logits: &[f32]) -> Vec<usize> {
    let mut ranked: Vec<usize> = (0..logits.len()).collect();
    ranked.sort_by(|a, b| logits[*b].partial_cmp(&logits[*a]).unwrap_or(std::cmp::Ordering::Equal));
    ranked
}

/// Tokens that may be drawn with their weights, in the order of the cumulative distribution.
fn kept(params: &SampleParams, logits: &[f32]) -> Vec<(usize, f64)> {
    let ranked = ranked(logits);
    if params.steepness == 0.0 {
        return vec![(ranked[0], 1.0)];
    }
    let peak = f64::from(logits[ranked[0]]);
    let weight = |token: usize| ((f64::from(logits[token]) - peak) * f64::from(params.steepness)).exp();
    let k = if params.top_k == 0 { logits.len() } else { logits.len().min(params.top_k as usize) };
    let mut kept: Vec<(usize, f64)> = ranked[..k].iter().map(|token| (*token, weight(*token))).collect();
    if params.top_p < 1.0 {
        let enough = f64::from(params.top_p) * kept.iter().map(|(_, weight)| weight).sum::<f64>();
        let mut running = 0.0;
        let last = kept.iter().position(|(_, weight)| {
            running += weight;
            running >= enough
        });
        kept.truncate(last.map_or(kept.len(), |last| last + 1));
    } else if k == logits.len() {
        kept.sort_by_key(|(token, _)| *token);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [0.0, 2.0, 1.0, 2.0, -1.0];

    fn token(top_k: u32, top_p: f32, steepness: f32, uniform: f32) -> u32 {
        let params = SampleParams { n_rows: 1, vocab_size: 5, top_k, first_draw: 1, top_p, steepness };
        let (mut ids, mut draws) = ([9], [Draw::zeroed(); 2]);
        sample(&params, &LOGITS, &[0.5, uniform], &mut ids, &mut draws);
        assert_eq!((ids[0], draws[0]), (draws[1].token, Draw::zeroed()));
        ids[0]
    }

    #[test]
    fn by_id_where_all_is_kept_and_by_rank_where_not() {
        // weights 1, 7.39, 2.72, 7.39, 0.37: sum 18.87
        assert_eq!([0.0, 0.06, 0.5, 0.9, 0.99].map(|u| token(0, 1.0, 1.0, u)), [0, 1, 2, 3, 4]);
        assert_eq!([0.0, 0.49, 0.51, 1.0].map(|u| token(2, 1.0, 1.0, u)), [1, 1, 3, 3]);
        assert_eq!([0.0, 0.9, 1.0].map(|u| token(0, 0.9, 1.0, u)), [1, 2, 2]);
        assert_eq!(token(0, 1.0, 0.0, 0.9), 1);
    }

    #[test]
    fn an_interval_is_where_its_token_is_drawn() {
        let params = SampleParams { n_rows: 1, vocab_size: 5, top_k: 3, first_draw: 0, top_p: 1.0, steepness: 0.7 };
        let edges: Vec<f64> = [1, 3, 2].iter().map(|token| interval(&params, &LOGITS, *token).end).collect();
        assert!(edges[0] < edges[1] && edges[1] < edges[2] && (edges[2] - 1.0).abs() < 1e-12, "{edges:?}");
        assert!(interval(&params, &LOGITS, 0).is_empty());
    }

    #[test]
    fn what_is_no_logit_is_named() {
        let params = SampleParams { n_rows: 2, vocab_size: 2, top_k: 0, first_draw: 0, top_p: 1.0, steepness: 1.0 };
        let (mut ids, mut draws) = ([0; 2], [Draw::zeroed(); 2]);
        let none = f32::NEG_INFINITY;
        sample(&params, &[0.0, f32::NAN, none, none], &[0.5; 2], &mut ids, &mut draws);
        assert_eq!((draws[0].token, draws[0].strange_token), (NO_TOKEN, 1));
        assert_eq!((draws[1].token, draws[1].strange_token), (NO_TOKEN, NO_TOKEN));
    }
}
