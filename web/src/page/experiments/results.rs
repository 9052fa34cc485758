//! Results of an experiment as they stand: click rates and differences with their intervals, the posterior of the lift, the
//! course over days, guardrails, and what may be claimed. All figures come from the server; here they are only drawn.

use crate::component::density::Density;
use crate::component::interval_plot::{IntervalPlot, IntervalRow};
use crate::component::simulated::SimulatedBadge;
use crate::format;
use crate::interval::Z_95;
use beckon_shared::ab::Interval;
use beckon_shared::ab::guardrail::GuardrailVerdict;
use beckon_shared::ab::report::verdict::Verdict;
use beckon_shared::ab::report::{AlwaysValid, ArmFigures, Comparison, GuardrailFigures, PosteriorFigures, Report};
use beckon_shared::control::experiment::{Preference, Results};
use leptos::prelude::*;

/// Days drawn of a course; the newest ones.
const MAX_DAYS: usize = 14;

fn percent(share: f64) -> String {
    format::percent(share, 1)
}

/// A difference of two shares, in percentage points.
fn points(difference: f64) -> String {
    format!("{} pp", format::signed(difference * 100.0, 2))
}

fn lift(share: f64) -> String {
    format!("{} %", format::signed(share * 100.0, 1))
}

fn pair(interval: Interval) -> (f64, f64) {
    (interval.low, interval.high)
}

/// Everything that is known.
#[component]
pub fn ResultsView(results: Results) -> impl IntoView {
    let Results { n_exposures, n_clicks, simulated, report, preference, why, .. } = results;
    let counts = format!(
        "{}, {}",
        format::counted(n_exposures, "slate shown", "slates shown"),
        format::counted(n_clicks, "click", "clicks")
    );
    let report = report.filter(|_| n_exposures > 0);
    view! {
        <div data-testid="results" data-exposures=n_exposures.to_string() data-clicks=n_clicks.to_string()>
            <p>{counts} " " <SimulatedBadge n=u64::from(simulated) of=1/></p>
            {(n_exposures == 0).then(|| view! { <p class="muted">"Results appear with the first slate that is shown."</p> })}
            {why.map(|why| view! { <p class="muted">{why}</p> })}
            {report.map(|report| view! { <ReportView report=report/> })}
            {preference.map(|preference| view! { <PreferenceView preference=preference/> })}
        </div>
    }
}

/// A report; of an experiment, or of a test that ran elsewhere.
#[component]
pub fn ReportView(
    /// As the server made it.
    report: Report,
) -> impl IntoView {
    let Report { unit, arms, sample_ratio, sample_ratio_by, comparisons, assumptions, warnings, .. } = report;
    let (units, of_users) = (format!("{unit}s"), unit == "user");
    let clicked = arms.iter().any(|arm| arm.n_clicks > 0.0);
    // without a click there is no difference to draw
    let comparisons = if clicked { comparisons } else { Vec::new() };
    let split = match (sample_ratio.is_mismatch(), of_users) {
        (true, true) => view! { <p class="error" role="alert" data-testid="sample-ratio" data-state="mismatch">
        "Users are missing from an arm, so nothing can be claimed: find out where they are lost." </p> }
        .into_any(),
        // impressions may differ for good reasons
        (true, false) => view! { <p class="notice" data-testid="sample-ratio" data-state="uneven">
        "Impressions are not split between the arms as planned." </p> }
        .into_any(),
        (false, _) => {
            let p = format::value(sample_ratio.always_valid_p_value);
            view! { <p class="muted" data-testid="sample-ratio" data-state="ok">
            {format!("The {units} are split between the arms as planned (always-valid p {p}).")}</p> }
            .into_any()
        }
    };
    let suspicious = sample_ratio_by.iter().flat_map(|by| {
        by.strata.iter().filter(|stratum| stratum.p_holm < beckon_shared::ab::sample_ratio::STOP_BELOW).map(|stratum| {
            format!("Users with {} {} are not split as planned.", by.by.replace('_', " "), stratum.stratum)
        })
    });
    let suspicious = suspicious.map(|text| view! { <p class="error">{text}</p> }).collect_view();
    view! {
        <h3>"Click rate"</h3>
        <IntervalPlot rows=arms.iter().map(|arm| arm_row(arm, &unit, &units)).collect() tick=percent zero=false/>
        {(!clicked).then(|| view! { <p class="muted">"Nobody has clicked yet."</p> })}
        <p class="muted">{format!("Clicks per impression, a slate as one; bars are ± 1.96 standard errors over {units}.")}</p>
        {split}
        {suspicious}
        {comparisons.into_iter().map(|comparison| view! { <ComparisonView comparison=comparison/> }).collect_view()}
        {warnings.into_iter().map(|text| view! { <p class="notice">{text}</p> }).collect_view()}
        <details>
            <summary>"What this rests on"</summary>
            <ul>{assumptions.into_iter().map(|text| view! { <li>{text}</li> }).collect_view()}</ul>
        </details>
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
fn arm_row(arm: &ArmFigures, unit: &str, units: &str) -> IntervalRow {
    let rate = arm.ctr.map_or_else(|| "–".to_owned(), |ctr| format::percent(ctr, 2));
    IntervalRow {
        label: arm.arm.clone(),
        mark: arm.ctr,
        interval: arm.ctr.zip(arm.ctr_std_error).map(|(ctr, error)| (ctr - Z_95 * error, ctr + Z_95 * error)),
        text: format!(
            "{rate} of {} · {}",
            format::count(arm.n_impressions as u64),
            format::counted(arm.n_units, unit, units)
        ),
        faint: false,
    }
}

#[component]
fn ComparisonView(comparison: Comparison) -> impl IntoView {
    let title = format!("{} against {}", comparison.treatment, comparison.control);
    let (tone, said) = match comparison.verdict {
        Verdict::TreatmentBetter => ("good", "treatment better"),
        Verdict::SampleRatioMismatch => ("bad", comparison.verdict.words()),
        Verdict::ControlBetter => ("bad", "control better"),
        other => ("", other.words()),
    };
    let rows = difference_rows(&comparison);
    let early = match comparison.always_valid {
        AlwaysValid::BurnIn { n_clicks, needed } => Some(format!(
            "{} of the {} clicks that each arm needs before anything is claimed.",
            format::count(n_clicks),
            format::count(needed)
        )),
        AlwaysValid::Figures { has_drifted: true, .. } => {
            Some("The effect changed while the test ran: intervals of different looks exclude each other.".to_owned())
        }
        _ => None,
    };
    let Comparison { posterior, guardrails, path, .. } = comparison;
    let days: Vec<IntervalRow> = path
        .iter()
        .skip(path.len().saturating_sub(MAX_DAYS))
        .map(|point| IntervalRow {
            label: point.label.clone(),
            mark: point.estimate,
            interval: point.interval.map(pair),
            text: format!("{} users", format::count(point.n_units as u64)),
            faint: false,
        })
        .collect();
    let days = (days.len() > 1).then(|| {
        view! { <h4>"Difference by day, all users so far"</h4><IntervalPlot rows=days tick=points zero=true/> }
    });
    view! {
        <section class="comparison" data-testid="comparison">
            <h3>{title} " " <span class=format!("verdict {tone}") data-testid="verdict">{said}</span></h3>
            {early.map(|text| view! { <p class="muted">{text}</p> })}
            <h4>"Difference in click rate"</h4>
            <IntervalPlot rows=rows tick=points zero=true/>
            {days}
            {posterior.map(|posterior| view! { <PosteriorView posterior=posterior/> })}
            {(!guardrails.is_empty()).then(|| view! { <h4>"Guardrails"</h4> })}
            {guardrails.into_iter().map(|guardrail| view! { <Guardrail guardrail=guardrail/> }).collect_view()}
        </section>
    }
}

/// The interval of each design; the one that is the claim first and firm.
fn difference_rows(comparison: &Comparison) -> Vec<IntervalRow> {
    let mark = comparison.difference;
    let said = |interval: (f64, f64), p: Option<f64>| {
        let p = p.map(|p| format!(", p {}", format::value(p))).unwrap_or_default();
        format!("{} to {}{p}", points(interval.0), points(interval.1))
    };
    let estimate = mark.map_or_else(|| "–".to_owned(), points);
    let lift = comparison.lift.map(|share| format!(", lift {}", lift(share))).unwrap_or_default();
    let mut rows = Vec::new();
    match &comparison.always_valid {
        AlwaysValid::Figures { is_claim, p_holm, interval, .. } => {
            let interval = pair(*interval);
            let text = said(interval, Some(*p_holm));
            let label = "at any look".to_owned();
            rows.push(IntervalRow { label, mark, interval: Some(interval), text, faint: !is_claim });
        }
        AlwaysValid::BurnIn { .. } | AlwaysValid::Undefined => {}
    }
    let fixed = &comparison.fixed_horizon;
    if let Some(interval) = fixed.interval.map(pair) {
        let text = said(interval, fixed.p_holm);
        rows.push(IntervalRow {
            label: "for one look".to_owned(),
            mark,
            interval: Some(interval),
            text,
            faint: !fixed.is_claim,
        });
    }
    let text = format!("{estimate}{lift}");
    rows.insert(0, IntervalRow { label: "estimate".to_owned(), mark, interval: None, text, faint: false });
    rows
}

#[component]
fn PosteriorView(posterior: PosteriorFigures) -> impl IntoView {
    let PosteriorFigures { probability_to_win, loss_of_treatment, loss_of_control, interval, density } = posterior;
    let win = format::percent(probability_to_win, 1);
    let range = format!("{} to {}", lift(interval.low), lift(interval.high));
    let summary = format!("Posterior of the lift: most between {range}; above zero with probability {win}.");
    let text = format!(
        "Above zero with probability {win}; most of it between {range}. Lost on average by taking the treatment {}, by \
         keeping the control {} of lift. A picture, no claim: looking often at it keeps no error rate.",
        format::percent(loss_of_treatment, 2),
        format::percent(loss_of_control, 2),
    );
    view! {
        <h4>"Lift, as a Bayesian sees it"</h4>
        <Density points=density tick=lift summary=summary/>
        <p class="muted">{text}</p>
    }
}

#[component]
fn Guardrail(guardrail: GuardrailFigures) -> impl IntoView {
    let is_latency = guardrail.metric.starts_with("latency");
    let name = if is_latency { "mean latency" } else { "requests without a suggestion" };
    let shown = |value: Option<f64>| match value {
        Some(millis) if is_latency => format::millis(millis / 1e3),
        Some(share) => format::percent(share, 2),
        None => "–".to_owned(),
    };
    let (class, word) = match guardrail.verdict {
        GuardrailVerdict::Passed => ("muted", "passed"),
        GuardrailVerdict::Undecided => ("muted", "not decided yet"),
        GuardrailVerdict::Violated => ("error", "violated"),
    };
    let text = format!(
        "{name}: {} against {} of the control; may rise by {}: {word}",
        shown(guardrail.treatment),
        shown(guardrail.control),
        format::percent(guardrail.margin, 0),
    );
    view! { <p class=class>{text}</p> }
}

#[component]
fn PreferenceView(preference: Preference) -> impl IntoView {
    let Preference { a, b, net, std_error, n_users } = preference;
    let row = IntervalRow {
        label: format!("{b} against {a}"),
        mark: Some(net),
        interval: Some((net - Z_95 * std_error, net + Z_95 * std_error)),
        text: format!("{} ± {}", format::signed(net, 3), format::value(Z_95 * std_error)),
        faint: false,
    };
    view! {
        <h3>"Net votes per click"</h3>
        <IntervalPlot rows=vec![row] tick=format::value zero=true/>
        <p class="muted">
            {format!("Above zero where {b} is preferred; ± 1.96 standard errors, from {}. Holds for one look.",
                format::counted(n_users, "user", "users"))}
        </p>
    }
}
