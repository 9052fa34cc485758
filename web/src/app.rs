//! The shell: header with the steps of the loop, the page of the current address, and what all pages
//! share. Addresses are those of [`Route`].
//!
//! Attributes `data-testid` that the browser test relies on:
//! - shell: `nav-data`, `nav-train`, `nav-checkpoints`, `nav-preview`, `nav-experiments`, `nav-server`, `connection` (`data-state` = `connecting` | `open` | `lost`),
//!   `announcer` (live region), `run-badge`
//! - Data: `data-page`, `n-records`, `n-impressions`, `simulated-badge`, `slot-chart`, `slot-row`, `sources`,
//!   `import-form`, `import-format`, `import-file`, `import-text`, `import-paste`, `import-result`
//!   (`data-accepted`, `data-duplicates`, `data-rejected`), `import-error`, `reject-row`, `records`, `record-row`,
//!   `records-next`, `records-previous`, `empty-log`
//! - Train: `train-page`, `run-form`, `run-preset`, `run-seed`, `run-name`, `run-device`, `run-start`, `run-draft`, `run-error`,
//!   `run-settings`, `setting-…`, `run-json`, `run-check`, `run-checked`, `run-json-error`, `run-tune`, `tune-…` (see `tune.rs`),
//!   `tune-send`, `tune-error`, `tune-changes`, `run-list`, `run-row` (`data-run`, `data-state`), `run-detail` (`data-run`,
//!   `data-state`, `data-stage`, `data-step`), `stage` (`data-stage`, `data-state`), `run-progress`, `run-eta`, `run-pause`,
//!   `run-resume`, `run-cancel`, `run-delete`, `run-alarm`, `run-samples`, `samples`, `run-log`, `run-lines`, `run-log-failed`, `run-config`, `figure`
//!   (`data-stage`, `data-name`), `run-failure`, `run-report`, `run-preview`, `chart` (`data-stage`, `data-name`, `data-points`,
//!   `data-last`)
//! - Checkpoints: `checkpoints-page`, `checkpoint-row` (`data-checkpoint`, `data-tags`), `checkpoint-promote`, `production`,
//!   `checkpoint-note`, `checkpoint-tag`, `checkpoint-delete`, `checkpoint-branch` (with a `run-form`), `adapter-download`,
//!   `roll-back`, `tags`, `tag-roll-back`, `promotions`, `lineage`, `checkpoints-error`, `checkpoints-said`
//! - Experiments: `experiments-page`, `experiment-form`, `experiment-name`, `experiment-control`, `experiment-treatment`,
//!   `experiment-origin`, `experiment-json`, `experiment-follow`, `experiment-refused`, `experiment-create`, `plan-base-rate`,
//!   `plan-lift`, … (see `plan.rs`), `plan-ask`, `plan-answer`, `plan-lifts`, `plan-error`, `analyze-file`, `analyze-format`,
//!   `analyze-experiment`, `analyze-strata`, `analyze-settings`, `analyze-looks`, `analyze-ask`, `analyze-report`,
//!   `analyze-looks-out`, `analyze-headlines`, `analyze-tests`, `analyze-error`, `experiment-row` (`data-experiment`,
//!   `data-state`), `experiment-settings`, `experiment-delete`, `experiment-start`, `experiment-stop`, `experiment-kill`, `experiment-decide`, `experiment-key`,
//!   `experiment-harvest`, `harvest-outcome`, `results` (`data-exposures`, `data-clicks`), `sample-ratio` (`data-state`),
//!   `comparison`, `verdict`, `experiments-error`
//! - Server: `server-page`, `sign-out`, `server-refused`, `tokens`, `tokens-failed`, `token-name`, `token-role`, `token-days`, `token-make`,
//!   `token-made`, `token-remove`, `audit-lines`, `audit-failed`, `audit-again`, `audit-older`
//! - Preview: `preview-page`, `turn` (`data-role`), `turn-text`, `add-user`, `add-assistant`, `sample-prompt`, `suggest`,
//!   `setting-candidates`, `setting-shown`, `setting-temperature`, `setting-top-p`, `setting-seed`, `setting-tokens`,
//!   `setting-executor`, `compare`, `column` (`data-side`), `checkpoint-pick`, `gguf-file`, `load-progress`, `engine-status`
//!   (`data-executor`, `data-checkpoint`, `data-fetched`), `adapter-status` (`data-base`, `data-adapter`), `engine-notice`,
//!   `executor-why`, `timings`, `context-full`, `chip` (`data-mean`, `data-aleatoric`,
//!   `data-epistemic`), `more-candidates`, `engine-failure`, `engine-retry`, `engine-whole`, `suggest-error`

use crate::embed;
use crate::engine_link::EngineLink;
use crate::live::{Connection, Live, stage_progress, stage_share};
use crate::page::checkpoints::CheckpointsPage;
use crate::page::experiments::ExperimentsPage;
use crate::page::preview::conversation::Conversation;
use crate::page::server::server_page;
use crate::page::{data::DataPage, preview::PreviewPage, train::TrainPage};
use crate::platform::dom;
use crate::route::Route;
use leptos::prelude::*;

/// The whole page.
#[component]
pub fn App() -> impl IntoView {
    let live = Live::start();
    let engine = EngineLink::new(live);
    let route = RwSignal::new(Route::parse(&dom::hash()));
    provide_context(live);
    provide_context(engine);
    provide_context(Conversation::new());
    embed::install(live, engine);

    dom::on_hash_change(move |hash| {
        let next = Route::parse(&hash);
        let same_page = route.with_untracked(|r| r.same_page(&next));
        route.set(next);
        if !same_page {
            dom::focus_soon("page-title");
        }
    });
    Effect::new(move || {
        let title = route.with(Route::title);
        dom::set_title(&format!("{title} · Beckon"));
        if title == Route::Preview.title() {
            engine.wanted.set(true);
        }
    });

    let page = Memo::new(move |_| route.with(Route::title));
    let run_id = Signal::derive(move || match route.get() {
        Route::Train(id) => id,
        _ => None,
    });
    view! {
        <a class="skip" href="#page-title" on:click=|ev| { ev.prevent_default(); dom::focus_soon("page-title"); }>
            "Skip to content"
        </a>
        <header class="top">
            <a class="brand" href=Route::Data.href()>
                <svg viewBox="0 0 32 32" aria-hidden="true">
                    <path d="M5 21 Q16 0 27 21"></path>
                    <circle cx="16" cy="24" r="3"></circle>
                </svg>
                "Beckon"
            </a>
            {steps(page)}
            <RunBadge/>
            <ConnectionBadge/>
            {page_link(&Route::Server, "nav-server", page)}
        </header>
        <main>
            {move || match page.get() {
                "Train" => view! { <TrainPage run_id=run_id/> }.into_any(),
                "Checkpoints" => view! { <CheckpointsPage/> }.into_any(),
                "Preview" => view! { <PreviewPage/> }.into_any(),
                "Experiments" => view! { <ExperimentsPage/> }.into_any(),
                "Server" => server_page(),
                _ => view! { <DataPage/> }.into_any(),
            }}
        </main>
        <div class="visually-hidden" aria-live="polite" data-testid="announcer">{move || live.announcement.get()}</div>
    }
}

/// A link to a page, marked while it is shown.
fn page_link(route: &Route, testid: &'static str, page: Memo<&'static str>) -> AnyView {
    let title = route.title();
    view! {
        <a class="page-link" href=route.href() data-testid=testid aria-current=move || (page.get() == title).then_some("page")>
            {title}
        </a>
    }
    .into_any()
}

/// The steps of the loop, in order.
fn steps(page: Memo<&'static str>) -> AnyView {
    let steps = [
        (Route::Data, "nav-data"),
        (Route::Train(None), "nav-train"),
        (Route::Checkpoints, "nav-checkpoints"),
        (Route::Preview, "nav-preview"),
        (Route::Experiments, "nav-experiments"),
    ];
    let step = |(route, testid)| view! { <li>{page_link(&route, testid, page)}</li> };
    view! {
        <nav aria-label="Steps of the loop">
            <ol class="steps">{steps.into_iter().map(step).collect_view()}</ol>
        </nav>
    }
    .into_any()
}

/// The run at work, wherever the user is.
#[component]
fn RunBadge() -> impl IntoView {
    let live = expect_context::<Live>();
    let active = Memo::new(move |_| {
        use beckon_shared::control::RunState;
        live.runs.with(|runs| {
            let mut runs = runs.value().into_iter().flatten();
            runs.find(|run| matches!(run.state, RunState::Running | RunState::Paused)).cloned()
        })
    });
    move || {
        active.get().map(|run| {
            let paused = run.state == beckon_shared::control::RunState::Paused;
            view! {
                <a class="run-badge" data-testid="run-badge" href=Route::Train(Some(run.id.clone())).href()>
                    <span class="run-badge-name">{run.config.name.clone()}</span>
                    <span class="run-badge-bar" aria-hidden="true">
                        <span style:width=format!("{:.1}%", stage_share(&run) * 100.0)></span>
                    </span>
                    <span class="run-badge-text">
                        {if paused { "paused".to_owned() } else { stage_progress(&run) }}
                    </span>
                </a>
            }
        })
    }
}

/// Whether the server is there.
#[component]
fn ConnectionBadge() -> impl IntoView {
    let live = expect_context::<Live>();
    let state = move || match live.connection.get() {
        Connection::Connecting => ("connecting", "Connecting…", "Waiting for the server."),
        Connection::Open => ("open", "Live", "Connected; the page follows the server."),
        Connection::Lost => {
            ("lost", "Server away", "The server does not answer; trying again. Preview works on with what is loaded.")
        }
    };
    view! {
        <span class="connection" data-testid="connection" data-state=move || state().0 title=move || state().2 role="status">
            <span class="dot" aria-hidden="true"></span>
            {move || state().1}
        </span>
    }
}
