//! The records themselves, page by page.

use crate::api;
use crate::format;
use crate::live::Live;
use crate::platform::{clock, spawn};
use beckon_shared::click::{Record, Sourced};
use leptos::prelude::*;

/// Records of one page.
const N_SHOWN: u64 = 10;

/// The list.
#[component]
pub fn Records() -> impl IntoView {
    let live = expect_context::<Live>();
    let offset = RwSignal::new(0_u64);
    let shown = RwSignal::new(Ok(Vec::<Sourced>::new()));
    let total = move || live.summary.with(|s| s.value().map_or(0, |s| s.n_records));
    Effect::new(move || {
        live.log_version.track();
        let from = offset.get();
        spawn(async move {
            let answer = api::records(None, from, N_SHOWN).await;
            // a later page may have been asked for meanwhile
            if offset.try_get_untracked() == Some(from) {
                shown.set(answer.map_err(|e| e.to_string()));
            }
        });
    });
    let list = move || match shown.get() {
        Err(reason) => view! { <p class="error" role="alert">{reason}</p> }.into_any(),
        Ok(records) => view! { <ul class="records">{records.into_iter().map(row).collect_view()}</ul> }.into_any(),
    };
    let at_end = move || offset.get() + N_SHOWN >= total();
    let range = move || {
        let (from, total) = (offset.get(), total());
        format!(
            "{} to {} of {}",
            format::count(from + 1),
            format::count((from + N_SHOWN).min(total)),
            format::count(total)
        )
    };
    view! {
        <Show when=move || { total() > 0 }>
            <section class="card" data-testid="records">
                <h2>"Records"</h2>
                {list}
                <div class="form-row">
                    <button
                        type="button"
                        data-testid="records-previous"
                        prop:disabled=move || offset.get() == 0
                        on:click=move |_| offset.update(|o| *o = o.saturating_sub(N_SHOWN))
                    >"Previous"</button>
                    <span class="num muted">{range}</span>
                    <button
                        type="button"
                        data-testid="records-next"
                        prop:disabled=at_end
                        on:click=move |_| offset.update(|o| *o += N_SHOWN)
                    >"Next"</button>
                </div>
            </section>
        </Show>
    }
}

/// A suggestion with what is known of it.
fn chip(text: String, note: String, clicked: bool) -> impl IntoView {
    view! { <span class="mini-chip" class:clicked=clicked>{text}<small>{note}</small></span> }
}

fn row(sourced: Sourced) -> impl IntoView {
    let (query, about, chips) = match sourced.record {
        Record::Impression(i) => {
            let about =
                format!("{}{}", clock::local_time(i.time_millis), if i.simulated { " · simulated" } else { "" });
            let of = |s: beckon_shared::click::Slot| {
                let note = if s.clicked { "clicked" } else { "" };
                chip(s.text, note.to_owned(), s.clicked).into_any()
            };
            (i.prompt.query().to_owned(), about, i.slate.into_iter().map(of).collect_view())
        }
        Record::Pane(p) => {
            let about = format!("engagement {} of 10", p.engagement_level);
            let of = |(text, share): (String, f64)| chip(text, format::percent(share, 0), share > 0.0).into_any();
            (p.prompt.query().to_owned(), about, p.options.into_iter().zip(p.conditional_ctr).map(of).collect_view())
        }
        Record::Counts(c) => {
            let about =
                format!("{} clicks in {} impressions", format::count(c.n_clicks), format::count(c.n_impressions));
            (
                c.prompt.query().to_owned(),
                about,
                vec![chip(c.text, String::new(), false).into_any()].into_iter().collect_view(),
            )
        }
        Record::Demonstration(d) => {
            let about = d.label.map_or_else(|| "no label".to_owned(), |label| format!("label {label} of 2"));
            let of = |text: String| chip(text, String::new(), false).into_any();
            (d.prompt.query().to_owned(), about, d.suggestions.into_iter().map(of).collect_view())
        }
    };
    view! {
        <li data-testid="record-row">
            <div class="record-head"><strong>{query}</strong><span class="muted">{sourced.source} " · " {about}</span></div>
            <div class="chips">{chips}</div>
        </li>
    }
}
