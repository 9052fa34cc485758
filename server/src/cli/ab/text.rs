//! Reports of A/B tests as text for a terminal, with intervals drawn on one scale.

use beckon_shared::ab::Interval;
use beckon_shared::ab::guardrail::GuardrailVerdict;
use beckon_shared::ab::path::PathPoint;
use beckon_shared::ab::plan::{Plan, Size};
use beckon_shared::ab::report::headlines::HeadlineReport;
use beckon_shared::ab::report::{AlwaysValid, Comparison, Design, Report};
use std::fmt::Write;

/// Columns of a drawn interval.
const WIDTH: usize = 41;
/// Rejected headline tests that are listed.
const LISTED_TESTS: usize = 20;

/// Writes into a String, which cannot fail.
macro_rules! line {
    ($to:expr, $($arg:tt)*) => {{ let _ = writeln!($to, $($arg)*); }};
}

fn percent(share: f64) -> String {
    format!("{:.2}%", 100.0 * share)
}

fn signed(share: f64) -> String {
    format!("{:+.2}%", 100.0 * share)
}

/// Points of a rate are not percent of it.
fn points(difference: f64) -> String {
    format!("{:+.3} points", 100.0 * difference)
}

fn optional(value: Option<f64>, shown: impl Fn(f64) -> String) -> String {
    value.map_or_else(|| "undefined".to_owned(), shown)
}

fn p_text(p: f64) -> String {
    if p < 1e-4 { format!("{p:.1e}") } else { format!("{p:.4}") }
}

/// `├───●──┤` on a scale from `low` to `high`, with `¦` at 0 where the scale holds it.
pub(super) fn draw(interval: Interval, estimate: f64, low: f64, high: f64) -> String {
    let place = |x: f64| (((x - low) / (high - low)).clamp(0.0, 1.0) * (WIDTH - 1) as f64).round() as usize;
    let mut cells = vec![' '; WIDTH];
    let (from, to) = (place(interval.low), place(interval.high));
    for cell in &mut cells[from.min(to)..=from.max(to)] {
        *cell = '─';
    }
    if low <= 0.0 && high >= 0.0 {
        cells[place(0.0)] = '¦';
    }
    cells[from] = if interval.low < low { '◂' } else { '├' };
    cells[to] = if interval.high > high { '▸' } else { '┤' };
    cells[place(estimate)] = '●';
    cells.into_iter().collect()
}

/// The smallest scale that holds 0 and all intervals.
fn scale(intervals: impl Iterator<Item = Interval>) -> (f64, f64) {
    let (low, high) = intervals.fold((0.0f64, 0.0f64), |(low, high), i| (low.min(i.low), high.max(i.high)));
    if low < high { (low, high) } else { (-1.0, 1.0) }
}

/// A whole report.
pub(super) fn report(report: &Report) -> String {
    let mut out = String::new();
    if report.simulated {
        line!(out, "SIMULATED users");
    }
    line!(
        out,
        "{:20} {:>10} {:>12} {:>10} {:>9}  standard error",
        "arm",
        format!("{}s", report.unit),
        "impressions",
        "clicks",
        "ctr"
    );
    for arm in &report.arms {
        let (ctr, error) = (optional(arm.ctr, percent), optional(arm.ctr_std_error, percent));
        let (n, shown, clicks) = (arm.n_units, arm.n_impressions, arm.n_clicks);
        let effect = arm.design_effect.map(|d| format!("  (design effect {d:.2})")).unwrap_or_default();
        line!(out, "{:20} {n:>10} {shown:>12} {clicks:>10} {ctr:>9}  {error}{effect}", arm.arm);
    }
    sample_ratio(&mut out, report);
    for comparison in &report.comparisons {
        line!(out, "");
        one_comparison(&mut out, report, comparison);
    }
    line!(out, "");
    for assumption in &report.assumptions {
        line!(out, "assumes: {assumption}");
    }
    for warning in &report.warnings {
        line!(out, "warning: {warning}");
    }
    out
}

fn sample_ratio(out: &mut String, report: &Report) {
    let ratio = &report.sample_ratio;
    let one_look = ratio.p_value.map_or_else(|| "too few".to_owned(), p_text);
    let verdict = if ratio.is_mismatch() { "MISMATCH" } else { "ok" };
    let running = p_text(ratio.always_valid_p_value);
    line!(
        out,
        "sample ratio: {verdict} (chi-square p {one_look} for one look, always-valid p {running}; stop below 0.0005)"
    );
    for breakdown in &report.sample_ratio_by {
        let suspicious = breakdown.strata.iter().filter(|stratum| stratum.p_holm < 0.01);
        for stratum in suspicious {
            let n = &stratum.ratio.n_users;
            line!(out, "  {} {}: {n:?} users, p {} by Holm", breakdown.by, stratum.stratum, p_text(stratum.p_holm));
        }
    }
}

fn one_comparison(out: &mut String, report: &Report, comparison: &Comparison) {
    let confidence = format!("{:.4}", 100.0 * (1.0 - report.level));
    let confidence = confidence.trim_end_matches('0').trim_end_matches('.');
    line!(out, "{} against {}: {}", comparison.treatment, comparison.control, comparison.verdict.words());
    let adjusted = comparison.cuped.filter(|cuped| cuped.is_used);
    let words = adjusted.map(|c| format!(", adjusted by the past ({} of the variance)", percent(c.variance_reduction)));
    let (difference, lift) = (optional(comparison.difference, points), optional(comparison.lift, signed));
    line!(out, "  difference {difference}, lift {lift}{}", words.unwrap_or_default());
    match &comparison.always_valid {
        AlwaysValid::Figures { p_value, p_holm, interval, lift_interval, n_looks, has_drifted, .. } => {
            line!(
                out,
                "  always-valid: p {} (Holm {}), {n_looks} looks; difference at {confidence}% {} to {}",
                p_text(*p_value),
                p_text(*p_holm),
                points(interval.low),
                points(interval.high)
            );
            if let Some(lift) = lift_interval {
                line!(out, "    lift {} to {} at this look", signed(lift.low), signed(lift.high));
            }
            if *has_drifted {
                line!(
                    out,
                    "    the effect changed while the test ran: intervals of different looks exclude each other"
                );
            }
        }
        AlwaysValid::BurnIn { n_clicks, needed } => {
            line!(out, "  always-valid: nothing before {needed} clicks in each arm ({n_clicks} so far)");
        }
        AlwaysValid::Undefined => line!(out, "  always-valid: undefined (no impressions, or no variance)"),
    }
    let fixed = &comparison.fixed_horizon;
    if report.settings.design == Design::Fixed || fixed.p_value.is_some() {
        let p = fixed.p_value.map_or_else(|| "undefined".to_owned(), p_text);
        let claim = if fixed.is_claim { "CLAIM" } else { "no claim" };
        line!(out, "  fixed horizon ({claim}): p {p}; valid only if {}", fixed.valid_when);
    }
    pictures(out, comparison);
    if let Some(posterior) = &comparison.posterior {
        line!(
            out,
            "  posterior (picture): P(treatment wins) {:.4}, lift lost on average if chosen wrongly {}",
            posterior.probability_to_win,
            percent(posterior.loss_of_treatment)
        );
    }
    for guardrail in &comparison.guardrails {
        let verdict = match guardrail.verdict {
            GuardrailVerdict::Passed => "passed",
            GuardrailVerdict::Violated => "VIOLATED",
            GuardrailVerdict::Undecided => "undecided",
        };
        let interval = guardrail.lift_interval.map(|i| format!("{} to {}", signed(i.low), signed(i.high)));
        let (name, margin) = (&guardrail.metric, signed(guardrail.margin));
        line!(
            out,
            "  guardrail {name}: {verdict} ({}; margin {margin})",
            interval.unwrap_or_else(|| "undefined".to_owned())
        );
    }
}

/// Both intervals on one scale, and the course of the test on another.
fn pictures(out: &mut String, comparison: &Comparison) {
    let Some(estimate) = comparison.difference else { return };
    let sequence = match &comparison.always_valid {
        AlwaysValid::Figures { interval, has_drifted: false, .. } => Some(*interval),
        _ => None,
    };
    let rows = [("always-valid", sequence), ("fixed horizon", comparison.fixed_horizon.interval)];
    let (low, high) = scale(rows.iter().filter_map(|(_, interval)| *interval));
    for (name, interval) in rows {
        if let Some(interval) = interval {
            line!(out, "    {name:14} {} ", draw(interval, estimate, low, high).trim_end());
        }
    }
    let days: Vec<(&PathPoint, Interval, f64)> =
        comparison.path.iter().filter_map(|point| Some((point, point.interval?, point.estimate?))).collect();
    let (low, high) = scale(days.iter().map(|(_, interval, _)| *interval));
    for (point, interval, estimate) in days {
        let p = point.p_value.map_or_else(String::new, |p| format!("p {}", p_text(p)));
        line!(out, "    {:14} {} {p}", point.label, draw(interval, estimate, low, high));
    }
}

/// Upworthy's tests: totals, and the tests that Holm rejects.
pub(super) fn headlines(report: &HeadlineReport) -> String {
    let mut out = String::new();
    let (tests, texts, tested) = (report.n_tests, report.n_headlines, report.n_tested);
    line!(out, "{tests} tests of {texts} headlines; {tested} have enough clicks for a test");
    line!(
        out,
        "headlines differ at {}: {} tests taken alone, {} by Holm over all",
        report.alpha,
        report.n_below_alpha,
        report.n_rejected
    );
    line!(out, "uneven impressions (sample ratio p < 0.0005): {} tests", report.n_sample_ratio_mismatches);
    let rejected = report.tests.iter().filter(|test| test.p_holm.is_some_and(|p| p <= report.alpha));
    for test in rejected.take(LISTED_TESTS) {
        line!(out, "\n{}: p {} by Holm", test.name, optional(test.p_holm, p_text));
        if test.sample_ratio.is_mismatch() {
            line!(out, "  impressions are uneven: the randomisation of this test is in doubt");
        }
        let (low, high) = scale(test.headlines.iter().map(|h| Interval { low: h.wilson.0, high: h.wilson.1 }));
        for h in &test.headlines {
            let picture = draw(Interval { low: h.wilson.0, high: h.wilson.1 }, h.ctr, low, high);
            line!(out, "  {picture} {:>7} of {:>6}  {}", percent(h.ctr), h.n_impressions, h.text);
        }
    }
    if report.n_rejected > LISTED_TESTS {
        line!(out, "\nand {} more; --json has all", report.n_rejected - LISTED_TESTS);
    }
    line!(out, "");
    for assumption in &report.assumptions {
        line!(out, "assumes: {assumption}");
    }
    out
}

fn size(size: &Size) -> String {
    let days = size.days.map(|days| format!(", {} days", days.ceil())).unwrap_or_default();
    format!("{} users in each arm, {} in all{days}", size.n_users_per_arm.ceil(), size.n_users.ceil())
}

/// A plan.
pub(super) fn plan(plan: &Plan) -> String {
    let (mut out, planned) = (String::new(), &plan.planned);
    let (from, to) = (percent(planned.base_rate), percent(plan.treatment_rate));
    line!(
        out,
        "to find {from} → {to} ({} lift) with power {} at level {}:",
        signed(planned.lift),
        planned.power,
        planned.alpha
    );
    line!(out, "  fixed horizon (one look, at the end):  {}", size(&plan.fixed_horizon));
    line!(out, "  always-valid (any number of looks):    at most {}", size(&plan.always_valid));
    line!(
        out,
        "    ends after {} users on average if the lift is true, by then with power {:.3}",
        plan.always_valid_users_mean.round(),
        plan.always_valid_power
    );
    line!(out, "    no claim before {} users in each arm (500 clicks)", plan.burn_in_users_per_arm.ceil());
    line!(out, "  analyse with: beckon ab analyze --planned-users {}", plan.always_valid.n_users_per_arm.ceil());
    line!(out, "assumes: {} impressions a user, design effect {}", planned.impressions_per_user, planned.design_effect);
    if planned.n_treatments > 1 {
        line!(out, "assumes: the level divided among {} treatments", planned.n_treatments);
    }
    out
}

/// Smallest lifts that some users detect.
pub(super) fn detectable(users: f64, fixed: Option<f64>, always_valid: Option<f64>) -> String {
    let shown = |lift: Option<f64>| lift.map_or_else(|| "none".to_owned(), signed);
    format!(
        "{users} users in each arm detect a lift of {} (fixed horizon) or {} (always-valid)\n",
        shown(fixed),
        shown(always_valid)
    )
}
