//! Data of an A/B test from outside, parsed once: counts of arms, rows of users, or our own click log. Nothing
//! is dropped in silence: a row that cannot be read ends the analysis, as leaving it out could favour an arm.
//!
//! | kind | columns (CSV header, or keys of one JSON object a line) |
//! | --- | --- |
//! | counts | `arm`, `impressions` or `users`, `clicks` |
//! | users | `user`, `arm`, `impressions`, `clicks`; optional `pre_impressions` and `pre_clicks`, `requests` and `no_suggestion`, `latency_millis_sum`, `day`, and strata: `device_tier`, `browser` or what the caller names |
//! | log | our own impressions, see [`crate::click::Impression`], of one experiment |
//!
//! A user may have several rows (one a day): they are summed. `day` is that of the first exposure and sorts as
//! text, as `2026-11-25` does. A user with rows in two arms is left out and counted. Not here: files, the
//! analysis.

mod log;
mod rows;
pub mod upworthy;

use super::moments::Totals;
pub use log::users_from_impressions;
use rows::{Cells, Layout, for_each_row};
use std::collections::HashMap;

/// Names of strata that need not be announced.
pub const USUAL_STRATA: [&str; 2] = ["device_tier", "browser"];

/// Where and why the data cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}{}: {problem}", column.as_ref().map(|name| format!(", column `{name}`")).unwrap_or_default())]
pub struct InputError {
    /// 1-based line.
    pub line: usize,
    /// Column, where it is one cell's fault.
    pub column: Option<String>,
    /// What is there and what was expected.
    pub problem: String,
}

impl InputError {
    fn new(line: usize, column: &str, problem: impl Into<String>) -> Self {
        Self { line, column: Some(column.to_owned()), problem: problem.into() }
    }

    fn whole(line: usize, problem: impl Into<String>) -> Self {
        Self { line, column: None, problem: problem.into() }
    }
}

/// What the totals of users are of.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Observed {
    /// Of what whoever made the rows chose.
    #[default]
    AsGiven,
    /// Of everything so far, which grows while users come back.
    SoFar {
        /// Users who did, later than [`RETURNED_AFTER_MILLIS`] after their first exposure.
        n_returned: u64,
    },
    /// Of a fixed time after the first exposure.
    Window {
        /// How long.
        hours: f64,
        /// Users who are left out, since their time is not over or was cut off by the end of the test.
        n_waiting: u64,
    },
}

/// A user who is shown something this long after the first exposure has come back, rather than gone on.
pub const RETURNED_AFTER_MILLIS: i64 = 3_600_000;

/// The observation window in milliseconds, at least one.
pub fn observation_millis(hours: f64) -> i64 {
    ((hours * 3_600_000.0).round() as i64).max(1)
}

/// Counts of one arm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArmCounts {
    /// Name.
    pub arm: String,
    /// Units: users, or impressions that are taken as independent.
    pub n_units: u64,
    /// Units with a click.
    pub n_clicks: u64,
}

/// Counts of all arms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Arms in the file's order.
    pub arms: Vec<ArmCounts>,
    /// Whether units are users; else they are impressions.
    pub units_are_users: bool,
}

/// One user, rows summed.
#[derive(Debug, Clone, PartialEq)]
pub struct User {
    /// Index into [`Users::arms`].
    pub arm: usize,
    /// Clicks over impressions, now and before the test.
    pub clicks: Totals,
    /// Requests for suggestions, and those that gave none.
    pub no_suggestion: Totals,
    /// Milliseconds over impressions.
    pub latency_millis: Totals,
    /// Day of the first exposure.
    pub day: Option<String>,
    /// One value a stratum of [`Users::strata`].
    pub strata: Vec<String>,
}

/// All users of a test.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Users {
    /// Arms in the order of their first row.
    pub arms: Vec<String>,
    /// Users in the order of their first row, those in two arms left out.
    pub users: Vec<User>,
    /// Names of strata.
    pub strata: Vec<String>,
    /// Whether there was a time before the test.
    pub has_past: bool,
    /// Whether requests were counted.
    pub has_requests: bool,
    /// Whether latency was measured.
    pub has_latency: bool,
    /// Whether each row has a day.
    pub has_days: bool,
    /// Users with rows in more than one arm; left out.
    pub n_crossovers: u64,
    /// Whether any of it comes from simulated users.
    pub is_simulated: bool,
    /// What their totals are of.
    pub observed: Observed,
}

/// A file's data.
#[derive(Debug, Clone, PartialEq)]
pub enum Table {
    /// Counts of arms.
    Counts(Counts),
    /// Rows of users.
    Users(Users),
}

/// What a file of counts or users holds, by its columns: users where there is a column `user`.
///
/// # Errors
/// [`InputError`] of the first row that cannot be read.
pub fn parse(bytes: &[u8], strata: &[String]) -> Result<Table, InputError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let layout = Layout::of(bytes)?;
    if layout.has("user") {
        return users(bytes, &layout, strata).map(Table::Users);
    }
    if layout.has("users") || layout.has("impressions") {
        return counts(bytes, &layout).map(Table::Counts);
    }
    Err(InputError::whole(
        1,
        "neither counts nor users: expected columns `arm`, `clicks` and `impressions` or `users`, or `user`, `arm`, \
         `impressions`, `clicks`",
    ))
}

fn counts(bytes: &[u8], layout: &Layout) -> Result<Counts, InputError> {
    let units = match (layout.has("users"), layout.has("impressions")) {
        (true, true) => {
            return Err(InputError::new(
                1,
                "impressions",
                "stands beside `users`; the variance of impressions over users needs one row a user, and a count of users \
                 who clicked needs `users` alone",
            ));
        }
        (true, false) => "users",
        _ => "impressions",
    };
    let mut arms: Vec<ArmCounts> = Vec::new();
    for_each_row(bytes, layout, &["arm", units, "clicks"], |cells| {
        let arm = cells.text(0)?;
        let (n_units, n_clicks) = (cells.count(1)?, cells.count(2)?);
        if n_clicks > n_units {
            return Err(cells.error(2, format!("{n_clicks} clicks of {n_units} {units}")));
        }
        match arms.iter_mut().find(|known| known.arm == arm) {
            Some(_) => return Err(cells.error(0, format!("`{arm}` stands in the file twice"))),
            None => arms.push(ArmCounts { arm: arm.to_owned(), n_units, n_clicks }),
        }
        Ok(())
    })?;
    Ok(Counts { arms, units_are_users: units == "users" })
}

/// Columns of users before the strata.
const USER_COLUMNS: [&str; 10] = [
    "user",
    "arm",
    "impressions",
    "clicks",
    "pre_impressions",
    "pre_clicks",
    "requests",
    "no_suggestion",
    "latency_millis_sum",
    "day",
];

fn users(bytes: &[u8], layout: &Layout, strata: &[String]) -> Result<Users, InputError> {
    let usual = USUAL_STRATA.iter().map(|name| (*name).to_owned()).filter(|name| layout.has(name));
    let mut strata: Vec<String> = usual.chain(strata.iter().cloned()).collect();
    let mut seen = std::collections::HashSet::new();
    strata.retain(|name| seen.insert(name.clone()));
    if let Some(missing) = strata.iter().find(|name| !layout.has(name)) {
        return Err(InputError::new(1, missing, "no such column; it was named as a stratum"));
    }
    for (one, other) in [("pre_impressions", "pre_clicks"), ("requests", "no_suggestion")] {
        if layout.has(one) != layout.has(other) {
            let missing = if layout.has(one) { other } else { one };
            return Err(InputError::new(1, missing, format!("missing; `{one}` and `{other}` go together")));
        }
    }
    let columns: Vec<&str> = USER_COLUMNS.iter().copied().chain(strata.iter().map(String::as_str)).collect();
    let mut gathered = Gathered::default();
    for_each_row(bytes, layout, &columns, |cells| gathered.take(cells))?;
    Ok(Users {
        has_past: layout.has("pre_impressions"),
        has_requests: layout.has("requests"),
        has_latency: layout.has("latency_millis_sum"),
        has_days: layout.has("day"),
        strata,
        ..gathered.finish()
    })
}

/// Users by name, while rows arrive.
#[derive(Default)]
struct Gathered {
    arms: Vec<String>,
    by_name: HashMap<String, usize>,
    users: Vec<(User, bool)>,
}

impl Gathered {
    fn arm(&mut self, name: &str) -> usize {
        if let Some(known) = self.arms.iter().position(|arm| arm == name) {
            return known;
        }
        self.arms.push(name.to_owned());
        self.arms.len() - 1
    }

    /// Adds what a user did; true in the second half marks a user of two arms. `None` where the user is new.
    fn entry(&mut self, name: &str, user: User) -> Option<&mut (User, bool)> {
        if let Some(at) = self.by_name.get(name) {
            let known = &mut self.users[*at];
            known.1 |= known.0.arm != user.arm;
            let sums = [
                (&mut known.0.clicks, user.clicks),
                (&mut known.0.no_suggestion, user.no_suggestion),
                (&mut known.0.latency_millis, user.latency_millis),
            ];
            for (sum, more) in sums {
                sum.numerator += more.numerator;
                sum.denominator += more.denominator;
            }
            known.0.day = known.0.day.take().min(user.day);
            return Some(known);
        }
        self.by_name.insert(name.to_owned(), self.users.len());
        self.users.push((user, false));
        None
    }

    fn take(&mut self, cells: &Cells) -> Result<(), InputError> {
        let (name, arm) = (cells.text(0)?, cells.text(1)?);
        let (impressions, clicks) = (cells.number(2)?, cells.number(3)?);
        if clicks > impressions {
            return Err(cells.error(3, format!("{clicks} clicks of {impressions} impressions")));
        }
        let optional = |i| cells.optional_number(i);
        let clicks = Totals {
            numerator: clicks,
            denominator: impressions,
            pre_numerator: optional(5)?,
            pre_denominator: optional(4)?,
        };
        if clicks.pre_numerator > clicks.pre_denominator {
            return Err(cells.error(5, "more clicks than impressions"));
        }
        let no_suggestion = Totals { numerator: optional(7)?, denominator: optional(6)?, ..Totals::default() };
        if no_suggestion.numerator > no_suggestion.denominator {
            return Err(cells.error(7, "more than requests"));
        }
        let latency_millis = Totals { numerator: optional(8)?, denominator: impressions, ..Totals::default() };
        let day = cells.optional_text(9).map(str::to_owned);
        let n_strata = cells.len() - USER_COLUMNS.len();
        let strata = (0..n_strata).map(|i| cells.text(USER_COLUMNS.len() + i).map(str::to_owned));
        let strata = strata.collect::<Result<Vec<_>, _>>()?;
        let user = User { arm: self.arm(arm), clicks, no_suggestion, latency_millis, day, strata: strata.clone() };
        let Some((known, _)) = self.entry(name, user) else { return Ok(()) };
        if let Some(i) = (0..n_strata).find(|&i| known.strata[i] != strata[i]) {
            let problem = format!("`{}` for a user who is `{}` above", strata[i], known.strata[i]);
            return Err(cells.error(USER_COLUMNS.len() + i, problem));
        }
        let past = |totals: &Totals| (totals.pre_numerator, totals.pre_denominator);
        if past(&known.clicks) != past(&clicks) {
            return Err(cells.error(4, "the past of a user must be the same in each row of the user"));
        }
        Ok(())
    }

    /// Users of one arm each.
    fn finish(self) -> Users {
        let n_crossovers = self.users.iter().filter(|(_, crossed)| *crossed).count() as u64;
        let users = self.users.into_iter().filter(|(_, crossed)| !crossed).map(|(user, _)| user).collect();
        Users { arms: self.arms, users, n_crossovers, ..Users::default() }
    }
}

#[cfg(test)]
mod tests;
