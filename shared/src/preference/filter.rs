//! Impressions that say nothing about preference: not seen, a machine's, or the same showing again.
//! Method B.1.1.

use super::config::FilterConfig;
use crate::click::Impression;
use crate::click_model::log::in_view;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Users from which the quantile rule applies: below, the busiest one is simply the busiest.
const MIN_USERS_FOR_QUANTILE: usize = 1_000;
const MINUTE_MILLIS: i64 = 60_000;

/// Impressions left out, by reason; an impression counts under the first that applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Filtered {
    /// Kept.
    pub n_kept: usize,
    /// No slot was in view.
    pub n_not_visible: usize,
    /// Another record has the same id.
    pub n_same_id: usize,
    /// The user is a bot.
    pub n_bot: usize,
    /// Users taken for bots.
    pub n_bot_users: usize,
    /// The same slate again within moments.
    pub n_refresh: usize,
}

/// Keeps what a person may have looked at. The order of `impressions` changes nothing but that of the answer,
/// which is by user, time and id.
pub fn kept<'a>(impressions: &[&'a Impression], config: &FilterConfig) -> (Vec<&'a Impression>, Filtered) {
    let mut filtered = Filtered::default();
    let mut by_user: BTreeMap<&str, Vec<&Impression>> = BTreeMap::new();
    let mut ordered: Vec<&Impression> = impressions.to_vec();
    ordered.sort_by_cached_key(|i| (i.user_hash.clone(), i.time_millis, i.impression_id.clone()));
    let mut ids = HashSet::new();
    for impression in ordered {
        if !impression.slate.iter().any(in_view) {
            filtered.n_not_visible += 1;
        } else if !ids.insert(&impression.impression_id) {
            filtered.n_same_id += 1;
        } else {
            by_user.entry(&impression.user_hash).or_default().push(impression);
        }
    }
    let busiest: BTreeMap<&str, usize> =
        by_user.iter().map(|(user, of_user)| (*user, busiest_minute(of_user))).collect();
    let limit = bot_limit(&busiest.values().copied().collect::<Vec<_>>(), config);
    let mut kept = Vec::new();
    for (user, of_user) in by_user {
        if busiest[user] > limit {
            filtered.n_bot += of_user.len();
            filtered.n_bot_users += 1;
            continue;
        }
        let n = of_user.len();
        let shown = without_refreshes(of_user, config.refresh_secs);
        filtered.n_refresh += n - shown.len();
        kept.extend(shown);
    }
    filtered.n_kept = kept.len();
    (kept, filtered)
}

/// Most clicks that fall within one minute; `of_user` is in order of time.
fn busiest_minute(of_user: &[&Impression]) -> usize {
    let clicks: Vec<(i64, usize)> =
        of_user.iter().map(|i| (i.time_millis, i.slate.iter().filter(|s| s.clicked).count())).collect();
    let (mut first, mut within, mut most) = (0, 0, 0);
    for &(time, n) in &clicks {
        within += n;
        while time - clicks[first].0 > MINUTE_MILLIS {
            within -= clicks[first].1;
            first += 1;
        }
        most = most.max(within);
    }
    most
}

/// Clicks in a minute above which a user is a bot.
fn bot_limit(busiest: &[usize], config: &FilterConfig) -> usize {
    if busiest.len() < MIN_USERS_FOR_QUANTILE {
        return config.bot_clicks_per_minute;
    }
    let mut sorted = busiest.to_vec();
    sorted.sort_unstable();
    let rank = ((config.bot_quantile * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len());
    // an ordinary busy minute is not suspicious, however few people have one
    sorted[rank - 1].max(config.bot_clicks_per_minute / 5).min(config.bot_clicks_per_minute)
}

/// Of showings of one slate that follow each other within `secs`, the one with the most clicks stays, the
/// first among equals. `of_user` is in order of time.
fn without_refreshes(of_user: Vec<&Impression>, secs: f64) -> Vec<&Impression> {
    let window = (secs * 1_000.0) as i64;
    let n_clicks = |i: &Impression| i.slate.iter().filter(|s| s.clicked).count();
    let mut kept: Vec<&Impression> = Vec::with_capacity(of_user.len());
    // last showing of each slate: its time, and where it is in `kept`
    let mut last: HashMap<(String, Vec<&str>), (i64, usize)> = HashMap::new();
    for impression in of_user {
        let texts = impression.slate.iter().map(|s| s.text.as_str()).collect();
        let key = (super::key(&impression.prompt), texts);
        match last.get_mut(&key) {
            Some((time, at)) if impression.time_millis - *time <= window => {
                *time = impression.time_millis;
                if n_clicks(impression) > n_clicks(kept[*at]) {
                    kept[*at] = impression;
                }
            }
            _ => {
                last.insert(key, (impression.time_millis, kept.len()));
                kept.push(impression);
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests;
