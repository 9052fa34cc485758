//! Data: what is in the log, click rate by slot, data sets, records, and the way to bring more in.

mod import;
mod records;

use crate::component::simulated::SimulatedBadge;
use crate::format;
use crate::interval;
use crate::live::{Fetched, Live};
use beckon_shared::control::{LogSummary, SlotSummary, SourceSummary};
use import::ImportForm;
use leptos::prelude::*;
use records::Records;

/// The page.
#[component]
pub fn DataPage() -> impl IntoView {
    let live = expect_context::<Live>();
    let body = move || match live.summary.get() {
        Fetched::Waiting => view! { <p class="muted">"Reading the log…"</p> }.into_any(),
        Fetched::Failed(reason) => view! { <p class="error" role="alert">{reason}</p> }.into_any(),
        Fetched::Here(summary) if summary.n_records == 0 => view! {
            <section class="card empty" data-testid="empty-log">
                <h2>"The log is empty"</h2>
                <p>
                    "Everything here begins with what was shown and what was clicked. Bring a log in below, or start \
                     the server with "<code>"beckon serve --demo"</code>" to get a simulated one."
                </p>
            </section>
        }
        .into_any(),
        Fetched::Here(summary) => view! { <Summary summary=summary/> }.into_any(),
    };
    view! {
        <div data-testid="data-page" class="page">
            <h1 id="page-title" tabindex="-1">"Data"</h1>
            <p class="lead">"What was shown, what was clicked, and the other evidence that training learns from."</p>
            {body}
            <ImportForm/>
            <Records/>
        </div>
    }
}

#[component]
fn Summary(summary: LogSummary) -> impl IntoView {
    let n_simulated: u64 = summary.sources.iter().map(|s| s.n_simulated).sum();
    let figure = |label: &'static str, n: u64, testid: &'static str| {
        view! {
            <div class="figure">
                <dt>{label}</dt>
                <dd class="num" data-testid=testid data-value=n.to_string()>{format::count(n)}</dd>
            </div>
        }
    };
    view! {
        <section class="card">
            <dl class="figures">
                {figure("records", summary.n_records, "n-records")}
                {figure("impressions", summary.n_impressions, "n-impressions")}
                {figure("users", summary.n_users, "n-users")}
                {figure("clicks", summary.n_clicks, "n-clicks")}
            </dl>
            <SimulatedBadge n=n_simulated of=summary.n_records/>
        </section>
        <div class="columns">
            <SlotChart slots=summary.slots/>
            <Sources sources=summary.sources/>
        </div>
    }
}

/// Click rate of each slot with its 95 % interval.
#[component]
#[expect(clippy::cast_precision_loss, reason = "counts")]
fn SlotChart(slots: Vec<SlotSummary>) -> impl IntoView {
    if slots.is_empty() {
        return view! { <section class="card"><h2>"Click rate by slot"</h2>
        <p class="muted">"No impressions with slots in the log."</p></section> }
        .into_any();
    }
    let top = slots.iter().map(|s| interval::wilson(s.n_clicks, s.n_impressions).1).fold(0.01, f64::max);
    let rows = slots.into_iter().map(|slot| {
        let share = slot.n_clicks as f64 / slot.n_impressions.max(1) as f64;
        let (low, high) = interval::wilson(slot.n_clicks, slot.n_impressions);
        let percent = |x: f64| format!("{:.2}%", x / top * 100.0);
        let title = format!(
            "{} clicks in {} impressions; 95 % interval {} to {}",
            format::count(slot.n_clicks),
            format::count(slot.n_impressions),
            format::percent(low, 1),
            format::percent(high, 1),
        );
        let spoken = title.clone();
        view! {
            <li class="bar-row" data-testid="slot-row" title=title>
                <span>{format!("slot {}", slot.slot)}</span>
                <span class="bar-track" aria-hidden="true">
                    <span class="bar-fill" style:width=percent(share)></span>
                    <span class="bar-whisker" style:left=percent(low) style:width=percent(high - low)></span>
                </span>
                <span class="num">{format::percent(share, 1)}<span class="visually-hidden">{spoken}</span></span>
            </li>
        }
    });
    view! {
        <section class="card" data-testid="slot-chart">
            <h2>"Click rate by slot"</h2>
            <ul class="bars">{rows.collect_view()}</ul>
            <p class="muted">"Line: 95 % Wilson interval. Earlier slots are looked at more; training corrects for it."</p>
        </section>
    }
    .into_any()
}

#[component]
fn Sources(sources: Vec<SourceSummary>) -> impl IntoView {
    let row = |s: SourceSummary| {
        view! {
            <tr>
                <th scope="row">{s.source}</th>
                <td>{s.kind}</td>
                <td class="num">{format::count(s.n_records)}</td>
                <td><SimulatedBadge n=s.n_simulated of=s.n_records/></td>
            </tr>
        }
    };
    view! {
        <section class="card" data-testid="sources">
            <h2>"Data sets"</h2>
            <div class="scroll"><table>
                <thead><tr><th>"data set"</th><th>"evidence"</th><th class="num">"records"</th><th></th></tr></thead>
                <tbody>{sources.into_iter().map(row).collect_view()}</tbody>
            </table></div>
        </section>
    }
}
