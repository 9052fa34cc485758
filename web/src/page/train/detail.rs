//! One run: where it stands, what it said, its settings and curves, and what can be asked of it.

use super::log::run_log;
use super::samples::samples;
use super::state_name;
use super::tune::tune;
use crate::api;
use crate::component::all_settings::all_settings;
use crate::component::chart::Chart;
use crate::component::confirm::ConfirmButton;
use crate::component::progress::Progress;
use crate::curve::{self, CurveKey};
use crate::format;
use crate::live::{Live, stage_label, stage_progress, stage_share};
use crate::platform::http::encoded;
use crate::platform::spawn;
use crate::route::Route;
use beckon_shared::control::{RunCommand, RunState, RunStatus, Stage};
use leptos::prelude::*;

/// The card of one run.
#[component]
pub fn RunDetail(id: String) -> impl IntoView {
    let live = expect_context::<Live>();
    live.open_curves(id.clone());
    let run = {
        let id = id.clone();
        Memo::new(move |_| live.runs.with(|runs| runs.value()?.iter().find(|r| r.id == id).cloned()))
    };
    let shown_id = id.clone();
    let said = run_log(&id, run);
    let written = samples(&id);
    let settings = all_settings("run-config", format!("/api/runs/{}", encoded(&id)));
    let text = move |f: fn(&RunStatus) -> String| move || run.with(|r| r.as_ref().map(f));
    view! {
        <section
            class="card"
            data-testid="run-detail"
            data-run=shown_id
            data-state=text(|r| state_name(r.state).to_owned())
            data-stage=text(|r| r.stage.map(|s| s.name().to_owned()).unwrap_or_default())
            data-step=text(|r| r.step.to_string())
        >
            <h2>
                {text(|r| format!("Run {} · {} ", r.id, r.config.name))}
                <span class=move || run.with(|r| format!("state state-{}", r.as_ref().map_or("queued", |r| state_name(r.state))))>
                    {text(|r| state_name(r.state).to_owned())}
                </span>
            </h2>
            <p class="muted">{text(|r| {
                let device = r.device.clone().map(|d| format!(" · {d}")).unwrap_or_default();
                format!("seed {}{device}", r.config.seed)
            })}</p>
            <Stepper run=run/>
            <Progresses run=run/>
            <Controls run=run/>
            {move || run.with(|r| r.as_ref()?.error.clone()).map(|error| view! {
                <p class="error" role="alert" data-testid="run-failure">{error}</p>
            })}
            {written}
            {said}
            {settings}
            {tune(run)}
            <Curves id=id run=run/>
        </section>
    }
}

/// The stages in order, with what is done.
#[component]
fn Stepper(run: Memo<Option<RunStatus>>) -> impl IntoView {
    let item = move |stage: Stage| {
        let state = move || {
            run.with(|r| match r {
                Some(r) if r.state == RunState::Finished => "done",
                Some(r) => match r.stage {
                    Some(now) if stage < now => "done",
                    Some(now) if stage == now => "current",
                    _ => "waiting",
                },
                None => "waiting",
            })
        };
        view! {
            <li data-testid="stage" data-stage=stage.name() data-state=state
                aria-current=move || (state() == "current").then_some("step")>
                {stage_label(stage)}
            </li>
        }
    };
    view! { <ol class="stepper">{Stage::ALL.map(item).collect_view()}</ol> }
}

#[component]
fn Progresses(run: Memo<Option<RunStatus>>) -> impl IntoView {
    let live = expect_context::<Live>();
    let active =
        move || run.with(|r| r.as_ref().is_some_and(|r| matches!(r.state, RunState::Running | RunState::Paused)));
    let label = Signal::derive(move || run.with(|r| r.as_ref().map(stage_progress).unwrap_or_default()));
    let share = Signal::derive(move || run.with(|r| r.as_ref().filter(|r| r.n_steps > 0).map(stage_share)));
    let eta = move || {
        let (stage, step, n_steps) = run.with(|r| r.as_ref().and_then(|r| Some((r.stage?, r.step, r.n_steps))))?;
        if step >= n_steps {
            return None;
        }
        let secs = live.rate.with(|rate| rate.secs_left(stage, step, n_steps))?;
        Some(format!("about {} left in this stage", format::duration(secs)))
    };
    view! {
        <Show when=active>
            <Progress label=label share=share testid="run-progress"/>
            <p class="muted num" data-testid="run-eta">{eta}</p>
        </Show>
    }
}

#[component]
fn Controls(run: Memo<Option<RunStatus>>) -> impl IntoView {
    let live = expect_context::<Live>();
    let failure = RwSignal::new(None::<String>);
    let busy = RwSignal::new(false);
    let ask = move |command: RunCommand| {
        let Some(id) = run.with_untracked(|r| r.as_ref().map(|r| r.id.clone())) else { return };
        busy.set(true);
        failure.set(None);
        let asked_at = live.run_events();
        spawn(async move {
            match api::command_run(&id, command).await {
                // the answer is its last state; an event has taken it off the list
                Ok(_) if command == RunCommand::Delete => live.forget_run(&id),
                Ok(status) => live.answered(asked_at, status),
                Err(error) => failure.set(Some(error.to_string())),
            }
            busy.set(false);
        });
    };
    let is = move |states: &'static [RunState]| run.with(|r| r.as_ref().is_some_and(|r| states.contains(&r.state)));
    let button = move |label: &'static str, testid: &'static str, command: RunCommand, states: &'static [RunState]| {
        move || {
            is(states).then(|| view! {
                <button type="button" data-testid=testid prop:disabled=move || busy.get() on:click=move |_| ask(command)>
                    {label}
                </button>
            })
        }
    };
    const OPEN: &[RunState] = &[RunState::Draft, RunState::Queued, RunState::Running, RunState::Paused];
    const ENDED: &[RunState] = &[RunState::Cancelled, RunState::Failed, RunState::Finished];
    let cancel = Callback::new(move |()| ask(RunCommand::Cancel));
    let delete = Callback::new(move |()| ask(RunCommand::Delete));
    let links = move || {
        run.with(|r| r.as_ref().filter(|r| r.state == RunState::Finished).map(|r| r.id.clone())).map(|id| {
            view! {
                <a class="button" data-testid="run-report" href=api::report_url(&id) target="_blank" rel="noopener">"Report"</a>
                <a class="button primary" data-testid="run-preview" href=Route::Preview.href()>"Try it in Preview"</a>
            }
        })
    };
    view! {
        <div class="form-row">
            {button("Start", "run-start-again", RunCommand::Start, &[RunState::Draft, RunState::Failed])}
            {button("Pause", "run-pause", RunCommand::Pause, &[RunState::Running, RunState::Queued])}
            {button("Resume", "run-resume", RunCommand::Resume, &[RunState::Paused])}
            {move || is(OPEN).then(|| view! {
                <ConfirmButton label="Cancel" question="End it for good?" testid="run-cancel" disabled=busy
                    title="Ends the run for good; what it saved stays until it is deleted".to_owned() act=cancel/>
            })}
            {move || is(ENDED).then(|| view! {
                <ConfirmButton label="Delete" question="Delete run and curves?" testid="run-delete" disabled=busy
                    title="Forgets the run with its folder and curves; its checkpoint stays".to_owned() act=delete/>
            })}
            {links}
        </div>
        {move || failure.get().map(|text| view! { <p class="error" role="alert">{text}</p> })}
    }
}

/// Curves by stage, the newest stage first.
#[component]
fn Curves(id: String, run: Memo<Option<RunStatus>>) -> impl IntoView {
    let live = expect_context::<Live>();
    let keys = {
        let id = id.clone();
        Memo::new(move |_| live.curves.with(|curves| curves.keys(&id)))
    };
    let stages = Memo::new(move |_| {
        let mut stages: Vec<Stage> = keys.with(|keys| keys.iter().map(|(stage, _)| *stage).collect());
        stages.dedup();
        stages.reverse();
        stages
    });
    let chart = move |id: String, key: CurveKey| {
        let (stage, name) = key.clone();
        let curve =
            Signal::derive(move || live.curves.with(|curves| curves.get(&id, &key).cloned().unwrap_or_default()));
        let n_steps = Signal::derive(move || {
            run.with(|r| r.as_ref().filter(|r| r.stage == Some(stage)).map_or(0, |r| r.n_steps))
        });
        // a figure taken once is a number, not a curve
        if matches!(stage, Stage::Data | Stage::Eval | Stage::Export) {
            let value = move || curve.with(|c| c.last().map(|(_, value)| format::value(value)));
            return view! {
                <p class="once" data-testid="figure" data-stage=stage.name() data-name=name.clone()>
                    <span class="muted">{curve::label(&name)}</span> " " <strong class="num">{value}</strong>
                    <span class="muted">{format!(" {}", curve::unit(stage, &name))}</span>
                </p>
            }
            .into_any();
        }
        view! {
            <Chart title=curve::label(&name) unit=curve::unit(stage, &name) key_names=(stage.name(), name) curve=curve n_steps=n_steps/>
        }
        .into_any()
    };
    let charts = move |stage: Stage| {
        let id = id.clone();
        let of_stage = move || {
            let keys = keys.get();
            keys.into_iter().filter(|(s, _)| *s == stage).collect::<Vec<CurveKey>>()
        };
        view! {
            <section class="curves">
                <h3>{stage_label(stage)}</h3>
                <div class="charts">
                    <For each=of_stage key=|key| key.clone() children=move |key| chart(id.clone(), key)/>
                </div>
            </section>
        }
    };
    view! {
        <For each=move || stages.get() key=|stage| *stage children=charts/>
        <Show when=move || keys.with(Vec::is_empty) && run.with(|r| r.as_ref().is_some_and(|r| !r.state.is_final()))>
            <p class="muted">"Curves appear with the first step."</p>
        </Show>
    }
}
