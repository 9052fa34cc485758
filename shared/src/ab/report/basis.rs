//! What the claims of a report rest on, and what is odd about its data, in words.

use super::comparison::{ArmData, Comparison};
use super::{DEFAULT_PLANNED_USERS, Design, Settings};
use crate::ab::BURN_IN_CLICKS;
use crate::ab::input::{Observed, Table};

/// What must hold for the claims to.
pub(super) fn assumptions(table: &Table, settings: &Settings) -> Vec<String> {
    let mut said = vec![match table {
        Table::Users(_) => "unit: the user; users are independent of each other and each saw one arm".to_owned(),
        Table::Counts(counts) if counts.units_are_users => {
            "unit: the user; a click counts once a user, users are independent of each other".to_owned()
        }
        Table::Counts(_) => "unit: the impression, taken as independent; if users have several impressions the true \
                             intervals are wider or narrower than these. Give one row a user instead"
            .to_owned(),
    }];
    said.extend(totals(table, settings.design));
    match settings.design {
        Design::Sequential => {
            let planned = settings.planned_users_per_arm.unwrap_or(DEFAULT_PLANNED_USERS);
            said.push(format!(
                "asymptotic in the number of users: nothing is claimed before {BURN_IN_CLICKS} clicks in each arm"
            ));
            said.push(format!("tuned for {planned} users in each arm, which was decided before the first look"));
        }
        Design::Fixed => said.push("looked at once, at the planned size, which was decided before the test".to_owned()),
    }
    if settings.cuped {
        said.push(format!(
            "adjusted by the time before the test{}; this was decided before the first look",
            known_before(table).unwrap_or_default()
        ));
    }
    said
}

/// Of how many users that time is known.
fn known_before(table: &Table) -> Option<String> {
    let Table::Users(users) = table else { return None };
    let n = users.users.iter().filter(|user| user.clicks.pre_denominator > 0.0).count();
    Some(format!(", which is known of {n} of {} users", users.users.len()))
}

/// What the totals of a user are of. A confidence sequence is over users in the order in which they are counted, so a
/// term of its sum must not move once it is in; one look needs no such thing.
fn totals(table: &Table, design: Design) -> Option<String> {
    let observed = match table {
        Table::Users(users) => users.observed,
        Table::Counts(_) => Observed::AsGiven,
    };
    match (observed, design) {
        (Observed::AsGiven, Design::Sequential) => Some(
            "the totals of a user are those of a fixed time after the first exposure, so that they do not change once \
             the user was counted"
                .to_owned(),
        ),
        (Observed::AsGiven, Design::Fixed) => None,
        (Observed::SoFar { .. }, Design::Sequential) => Some(
            "users count with everything so far. The always-valid figures are exact only if the totals of a user no \
             longer change once a look has counted the user, so only if nobody comes back; `observation_hours` would \
             make sure of that"
                .to_owned(),
        ),
        (Observed::SoFar { .. }, Design::Fixed) => {
            Some("users count with everything up to the look; those who came early had more time".to_owned())
        }
        (Observed::Window { hours, n_waiting }, _) => Some(format!(
            "users count with the {hours} hours after their first exposure, once these are over; what is later is left \
             out, and so are {n_waiting} users whose hours are not over or were cut off by the end of the test. Times \
             are those that clients report, and a report of those hours that comes late still counts"
        )),
    }
}

/// What is odd about the data.
pub(super) fn warnings(
    table: &Table,
    settings: &Settings,
    arms: &[ArmData],
    comparisons: &[Comparison],
) -> Vec<String> {
    let mut odd = Vec::new();
    if let Table::Users(users) = table {
        if users.n_crossovers > 0 {
            let n = users.n_crossovers;
            odd.push(format!("{n} users have rows in more than one arm and are left out; assignment may be broken"));
        }
        if let Observed::SoFar { n_returned: n @ 1.. } = users.observed
            && settings.design == Design::Sequential
        {
            odd.push(format!(
                "{n} of {} users came back more than an hour after their first exposure: where a look had counted them \
                 before, the always-valid p-value and interval are approximate, and a false claim may be more likely \
                 than {}. Set `observation_hours` before a test begins, or choose the fixed design",
                users.users.len(),
                settings.alpha
            ));
        }
        if users.is_simulated {
            odd.push("simulated users: their clicks say nothing about people".to_owned());
        }
    }
    if let Table::Counts(counts) = table
        && !counts.units_are_users
    {
        odd.push(
            "impressions, not users, are compared with the planned shares; users may be split as planned even where \
                  these are not"
                .to_owned(),
        );
    }
    if settings.cuped && arms.iter().any(|arm| arm.n_units() > 0) {
        let plain = comparisons.iter().filter(|comparison| comparison.cuped.is_none());
        odd.extend(plain.map(|Comparison { treatment, control, .. }| {
            format!(
                "`{treatment}` against `{control}` is not adjusted, though `cuped` is set: no past is known of users \
                 of both arms, or it explains nothing. The figures hold; they are only no narrower"
            )
        }));
    }
    let empty = arms.iter().filter(|arm| arm.figures().n_clicks == 0.0);
    odd.extend(empty.map(|arm| format!("arm `{}` has no clicks", arm.name)));
    odd
}
