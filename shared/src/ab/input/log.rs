//! Users of an experiment out of our own click log.

use super::super::moments::Totals;
use super::{Gathered, User, Users};
use crate::click::Impression;

/// The users of `experiment`: an impression counts where a slot was, or may have been, visible, and is clicked
/// where any of its slots is (the click rate of slates). Impressions without an arm do not belong to the test.
pub fn users_from_impressions<'a>(impressions: impl IntoIterator<Item = &'a Impression>, experiment: &str) -> Users {
    let mut gathered = Gathered::default();
    let mut is_simulated = false;
    for impression in impressions {
        let Some(arm) = &impression.arm else { continue };
        let exposed = impression.slate.iter().any(|slot| slot.visible != Some(false));
        if impression.experiment.as_deref() != Some(experiment) || !exposed {
            continue;
        }
        is_simulated |= impression.simulated;
        let clicked = impression.slate.iter().any(|slot| slot.clicked);
        let clicks = Totals { numerator: f64::from(u8::from(clicked)), denominator: 1.0, ..Totals::default() };
        let user = User {
            arm: gathered.arm(arm),
            clicks,
            no_suggestion: Totals::default(),
            latency_millis: Totals::default(),
            day: Some(date(impression.time_millis.div_euclid(86_400_000))),
            strata: Vec::new(),
        };
        gathered.entry(&impression.user_hash, user);
    }
    Users { has_days: true, is_simulated, ..gathered.finish() }
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
