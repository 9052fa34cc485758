//! Train: start a run, watch it, pause, resume, cancel.

mod detail;
pub mod form;
mod log;
mod samples;
mod tune;

use crate::format;
use crate::live::{Fetched, Live, stage_progress};
use crate::platform::clock;
use crate::route::Route;
use beckon_shared::control::{RunState, RunStatus};
use detail::RunDetail;
use form::run_form;
use leptos::prelude::*;

/// For people and for `data-state`.
pub fn state_name(state: RunState) -> &'static str {
    match state {
        RunState::Draft => "draft",
        RunState::Queued => "queued",
        RunState::Running => "running",
        RunState::Paused => "paused",
        RunState::Cancelled => "cancelled",
        RunState::Failed => "failed",
        RunState::Finished => "finished",
    }
}

/// The page; without an id it shows the newest run.
#[component]
pub fn TrainPage(run_id: Signal<Option<String>>) -> impl IntoView {
    let live = expect_context::<Live>();
    let shown = Memo::new(move |_| {
        let wanted = run_id.get();
        live.runs.with(|runs| {
            let list = runs.value()?;
            let at_work = |r: &&RunStatus| !r.state.is_final();
            match wanted {
                Some(id) => list.iter().find(|r| r.id == id).map(|r| r.id.clone()),
                None => list.iter().find(at_work).or_else(|| list.first()).map(|r| r.id.clone()),
            }
        })
    });
    let detail = move || {
        shown.get().map(|id| view! { <RunDetail id=id/> }.into_any()).or_else(|| {
            let id = run_id.get()?;
            let here = live.runs.with(|runs| runs.value().is_some());
            here.then(|| view! { <p class="error" role="alert">{format!("There is no run {id}.")}</p> }.into_any())
        })
    };
    view! {
        <div data-testid="train-page" class="page">
            <h1 id="page-title" tabindex="-1">"Train"</h1>
            <p class="lead">"From the log to a new checkpoint: imitate clicks, learn what people prefer, improve on it."</p>
            {detail}
            {run_form(None)}
            <RunList shown=shown/>
        </div>
    }
}

#[component]
fn RunList(shown: Memo<Option<String>>) -> impl IntoView {
    let live = expect_context::<Live>();
    let row = move |run: RunStatus| {
        let id = run.id.clone();
        view! {
            <tr data-testid="run-row" data-run=run.id.clone() data-state=state_name(run.state)
                aria-current=move || (shown.get().as_ref() == Some(&id)).then_some("true")>
                <th scope="row"><a href=Route::Train(Some(run.id.clone())).href()>{run.id.clone()}</a></th>
                <td>{run.config.name.clone()}</td>
                <td><span class=format!("state state-{}", state_name(run.state))>{state_name(run.state)}</span></td>
                <td class="num">{if run.state.is_final() { String::new() } else { stage_progress(&run) }}</td>
                <td class="muted">{format::ago(run.created_millis, clock::now_millis())}</td>
            </tr>
        }
    };
    let body = move || {
        match live.runs.get() {
        Fetched::Waiting => view! { <p class="muted">"Reading runs…"</p> }.into_any(),
        Fetched::Failed(reason) => view! { <p class="error" role="alert">{reason}</p> }.into_any(),
        Fetched::Here(list) if list.is_empty() => {
            view! { <p class="muted">"No run yet. Tiny takes about a minute or two on two cores; nano about half an hour."</p> }.into_any()
        }
        Fetched::Here(list) => view! {
            <div class="scroll"><table>
                <thead><tr><th>"run"</th><th>"name"</th><th>"state"</th><th class="num">"step"</th><th>"begun"</th></tr></thead>
                <tbody>{list.into_iter().map(row).collect_view()}</tbody>
            </table></div>
        }
        .into_any(),
    }
    };
    view! {
        <section class="card" data-testid="run-list">
            <h2>"Runs"</h2>
            {body}
        </section>
    }
}
