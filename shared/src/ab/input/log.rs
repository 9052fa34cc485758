//! Users of an experiment out of our own click log.

use super::super::moments::Totals;
use super::{Gathered, Observed, RETURNED_AFTER_MILLIS, User, Users, observation_millis};
use crate::click::Impression;
use std::collections::HashMap;

/// The users of `experiment`: an impression counts where a slot was, or may have been, visible, and is clicked
/// where any of its slots is (the click rate of slates). Impressions without an arm do not belong to the test.
///
/// With `observation_hours` only the impressions of that time after a user's first one count, and only users for whom
/// it was over when the last impression of the test was shown. A log does not say when a click came, so the clicks of
/// such an impression all count.
pub fn users_from_impressions<'a>(
    impressions: impl IntoIterator<Item = &'a Impression>,
    experiment: &str,
    observation_hours: Option<f64>,
) -> Users {
    let of_test = |impression: &&Impression| {
        let exposed = impression.slate.iter().any(|slot| slot.visible != Some(false));
        impression.experiment.as_deref() == Some(experiment) && impression.arm.is_some() && exposed
    };
    let impressions: Vec<&Impression> = impressions.into_iter().filter(of_test).collect();
    let times = times_of_users(&impressions);
    let width = observation_hours.map(observation_millis);
    let end = impressions.iter().map(|impression| impression.time_millis).max().unwrap_or_default();
    let is_over = |first: i64| width.is_none_or(|width| first <= end.saturating_sub(width));
    let mut gathered = Gathered::default();
    for impression in &impressions {
        let Some(arm) = &impression.arm else { continue };
        // an arm is there even while none of its users counts
        let arm = gathered.arm(arm);
        let first = times[impression.user_hash.as_str()].0;
        let is_later = width.is_some_and(|width| impression.time_millis >= first.saturating_add(width));
        if is_later || !is_over(first) {
            continue;
        }
        let clicked = impression.slate.iter().any(|slot| slot.clicked);
        let clicks = Totals { numerator: f64::from(u8::from(clicked)), denominator: 1.0, ..Totals::default() };
        let user = User {
            arm,
            clicks,
            no_suggestion: Totals::default(),
            latency_millis: Totals::default(),
            day: Some(date(impression.time_millis.div_euclid(86_400_000))),
            strata: Vec::new(),
        };
        gathered.entry(&impression.user_hash, user);
    }
    let count = |of: &dyn Fn(i64, i64) -> bool| times.values().filter(|(first, last)| of(*first, *last)).count() as u64;
    let observed = match observation_hours {
        Some(hours) => Observed::Window { hours, n_waiting: count(&|first, _| !is_over(first)) },
        None => {
            Observed::SoFar { n_returned: count(&|first, last| last.saturating_sub(first) > RETURNED_AFTER_MILLIS) }
        }
    };
    let is_simulated = impressions.iter().any(|impression| impression.simulated);
    Users { has_days: true, is_simulated, observed, ..gathered.finish() }
}

/// First and last time of each user.
fn times_of_users<'a>(impressions: &[&'a Impression]) -> HashMap<&'a str, (i64, i64)> {
    let mut times: HashMap<&str, (i64, i64)> = HashMap::new();
    for impression in impressions {
        let time = impression.time_millis;
        let (first, last) = times.entry(&impression.user_hash).or_insert((time, time));
        (*first, *last) = (time.min(*first), time.max(*last));
    }
    times
}

/// The date (proleptic Gregorian, UTC) of a day counted from 1970-01-01, as `2026-11-25`; by years that begin
/// in March, so that the leap day comes last.
fn date(days: i64) -> String {
    let from_march_0000 = days + 719_468;
    let era = from_march_0000.div_euclid(146_097);
    let day_of_era = from_march_0000.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_by_the_calendar() {
        for (days, want) in [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (11_016, "2000-02-29"),
            (20_782, "2026-11-25"),
            (19_782, "2024-02-29"),
        ] {
            assert_eq!(date(days), want);
        }
    }
}
