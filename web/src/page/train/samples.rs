//! What the policy of a run writes now, beside what it wrote at the first look: how suggestions change.

use crate::api;
use crate::component::table::table;
use crate::format;
use crate::live::{Live, stage_label};
use crate::platform::http::{Body, encoded};
use beckon_shared::control::sample::{Sample, SampledPrompt, SampledText, first_and_newest};
use leptos::prelude::*;

/// The first and the newest sample of the stage at work, or of the last one.
type Shown = Option<(Sample, Sample)>;

/// Samples of a run; read again whenever a run has said something. Nothing where there are none.
pub fn samples(id: &str) -> AnyView {
    let live = expect_context::<Live>();
    let url = format!("/api/runs/{}/samples", encoded(id));
    let shown = RwSignal::new(Shown::None);
    Effect::new(move || {
        live.lines_version.track();
        api::call("GET", url.clone(), Body::None, move |answer| {
            // what was read once stays; the log beside it says why nothing new can be read
            let samples = answer.ok().and_then(|answer| serde_json::from_value::<Vec<Sample>>(answer.value).ok());
            let new =
                samples.as_deref().and_then(first_and_newest).map(|(first, newest)| (first.clone(), newest.clone()));
            if new.is_some() && shown.try_with_untracked(|old| *old != new) == Some(true) {
                shown.set(new);
            }
        });
    });
    let title = move || shown.with(|shown| shown.as_ref().map(|(_, newest)| title(newest)));
    let rows = move || shown.with(|shown| shown.as_ref().map(|(first, newest)| rows(first, newest)));
    view! {
        <Show when=move || shown.with(Option::is_some)>
            <details open=true data-testid="run-samples">
                <summary>{title}</summary>
                {rows}
                <p class="muted">"The same prompts and draws at every look; none is chosen. Numbers: GaRM's mean ± spread."</p>
            </details>
        </Show>
    }
    .into_any()
}

fn title(newest: &Sample) -> String {
    format!("What it writes: {}, step {}", stage_label(newest.stage), format::count(newest.step as u64))
}

/// A row a prompt; the second column is left out while there is one look only.
fn rows(first: &Sample, newest: &Sample) -> AnyView {
    let head: &[&str] =
        if first.step == newest.step { &["prompt", "now"] } else { &["prompt", "now", "at the first look"] };
    let before = (first.step != newest.step).then_some(&first.prompts);
    let row = |(idx, now): (usize, &SampledPrompt)| {
        let mut cells = vec![now.prompt.clone().into_any(), suggestions(now)];
        cells.extend(before.and_then(|before| before.get(idx)).map(suggestions));
        cells
    };
    table("samples", head, newest.prompts.iter().enumerate().map(row).collect())
}

fn suggestions(of: &SampledPrompt) -> AnyView {
    let line = |written: &SampledText| {
        let text = if written.text.is_empty() { "(nothing)".to_owned() } else { written.text.clone() };
        let score = written.score.map(|score| {
            let mean = format::signed(f64::from(score.reward_mean), 2);
            format!(" {mean} ± {:.2}", score.reward_std())
        });
        view! { <div>{text}<span class="muted num">{score}</span></div> }
    };
    of.suggestions.iter().map(line).collect_view().into_any()
}
