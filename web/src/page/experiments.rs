//! Experiments: two arms or more on live traffic, from a draft to a decision.

mod analyze;
mod create;
mod plan;
mod results;

use crate::api::{self, ApiError};
use crate::component::all_settings::all_settings;
use crate::component::confirm::ConfirmButton;
use crate::component::field::{failed, shown_once};
use crate::format;
use crate::live::{Fetched, Live};
use crate::platform::http::{Body, encoded};
use crate::platform::{clock, spawn};
use analyze::analyzer;
use beckon_shared::control::command::Command;
use beckon_shared::control::experiment::{
    ExperimentCommand, ExperimentState, ExperimentStatus, Layout, Results, Source, next,
};
use create::create_form;
use leptos::prelude::*;
use plan::planner;
use results::ResultsView;

/// How often the results of a running experiment are read again.
const LOOK_EVERY_MILLIS: i32 = 5_000;

/// For people and for `data-state`.
fn state_name(experiment: &ExperimentStatus) -> &'static str {
    match experiment.state {
        ExperimentState::Draft => "draft",
        ExperimentState::Running => "running",
        ExperimentState::Stopped if experiment.killed => "switched off",
        ExperimentState::Stopped => "stopped",
        ExperimentState::Decided => "decided",
    }
}

/// The page.
#[component]
pub fn ExperimentsPage() -> impl IntoView {
    let live = expect_context::<Live>();
    let list = RwSignal::new(Fetched::<Vec<ExperimentStatus>>::Waiting);
    let failure = RwSignal::new(None::<String>);
    Effect::new(move || {
        live.experiments_version.track();
        spawn(async move {
            let answer = api::experiments().await;
            list.update(|list| list.take(answer));
        });
    });
    let act = Callback::new(move |command: Command| {
        spawn(async move {
            let said = match &command {
                Command::DeleteExperiment { experiment } => {
                    api::order(&command).await.map(|_| format!("Experiment {experiment} is deleted"))
                }
                _ => {
                    let answer = api::command::<ExperimentStatus>(&command).await;
                    answer.map(|experiment| format!("Experiment {} is {}", experiment.id, state_name(&experiment)))
                }
            };
            match said {
                Ok(said) => {
                    failure.set(None);
                    live.announce(said);
                    live.experiments_version.update(|version| *version += 1);
                }
                Err(error) => failure.set(Some(error.to_string())),
            }
        });
    });
    let ids = Memo::new(move |_| {
        list.with(|list| list.value().into_iter().flatten().map(|e| e.id.clone()).collect::<Vec<_>>())
    });
    let experiment = move |id: String| {
        let wanted = id.clone();
        let status = Memo::new(move |_| list.with(|list| list.value()?.iter().find(|e| e.id == wanted).cloned()));
        view! { <Experiment id=id status=status act=act/> }
    };
    let note = move || {
        list.with(|list| match list {
            Fetched::Waiting => Some(view! { <p class="muted">"Reading experiments…"</p> }.into_any()),
            Fetched::Failed(reason) => Some(failed("experiments-unread", reason.clone())),
            Fetched::Here(list) if list.is_empty() => Some(view! { <FirstSteps/> }.into_any()),
            Fetched::Here(_) => None,
        })
    };
    view! {
        <div data-testid="experiments-page" class="page">
            <h1 id="page-title" tabindex="-1">"Experiments"</h1>
            <p class="lead">"Which checkpoint do people prefer? Looking at results early or often does not spoil them."</p>
            {move || failure.get().map(|text| failed("experiments-error", text))}
            {create_form()}
            {planner()}
            {analyzer()}
            {note}
            <For each=move || ids.get() key=|id| id.clone() children=experiment/>
        </div>
    }
}

/// What an experiment is, where there is none yet.
#[component]
fn FirstSteps() -> impl IntoView {
    view! {
        <section class="card empty">
            <h2>"No experiment yet"</h2>
            <ol>
                <li>"Choose two checkpoints above; each user will see one of them, always the same."</li>
                <li>"Start it. Your site asks which arm a user is in, and reports what it showed and what was clicked."</li>
                <li>"Look as often as you like. Once a claim is made, stop it and name the winner."</li>
                <li>"Take what was clicked into the log: the next run learns from it."</li>
            </ol>
        </section>
    }
}

/// One experiment; its key and results stay while its state changes.
#[component]
fn Experiment(id: String, status: Memo<Option<ExperimentStatus>>, act: Callback<Command>) -> impl IntoView {
    let stored_id = StoredValue::new(id.clone());
    let results = RwSignal::new(None::<Result<Results, ApiError>>);
    let look = move || {
        spawn(async move {
            let answer = api::results(&stored_id.get_value()).await;
            // what has not changed is not drawn again
            if results.try_with_untracked(|old| old.as_ref() != Some(&answer)) == Some(true) {
                results.set(Some(answer));
            }
        });
    };
    let state = Memo::new(move |_| status.with(|e| e.as_ref().map_or(ExperimentState::Draft, |e| e.state)));
    Effect::new(move || {
        if state.get() != ExperimentState::Draft {
            look();
        }
    });
    spawn(async move {
        loop {
            clock::sleep(LOOK_EVERY_MILLIS).await;
            match state.try_get_untracked() {
                // the page shows something else by now
                None => return,
                Some(ExperimentState::Running) => look(),
                Some(_) => {}
            }
        }
    });
    let name = move || status.with(|e| e.as_ref().map_or("draft", state_name));
    let arms = move || {
        let arm = |arm: &beckon_shared::control::experiment::Arm| format!("{}: {}", arm.name, source_text(&arm.source));
        status.with(|e| e.as_ref().map(|e| e.config.arms.iter().map(arm).collect::<Vec<_>>().join(" · ")))
    };
    view! {
        <section class="card" data-testid="experiment-row" data-experiment=id.clone() data-state=name>
            <h2>
                {move || status.with(|e| e.as_ref().map(|e| format!("{} · {} ", e.id, e.config.name)))}
                <span class=move || format!("state state-{}", name().replace(' ', "-"))>{name}</span>
                {move || status.with(|e| badges(e.as_ref()?)).map(|badges| {
                    badges.into_iter().map(|text| view! { " " <span class="badge">{text}</span> }).collect_view()
                })}
            </h2>
            <p class="muted">{arms}</p>
            <Steering id=stored_id status=status act=act/>
            {move || (state.get() == ExperimentState::Running).then(|| view! { <TakePart id=stored_id/> })}
            {move || (state.get() != ExperimentState::Draft).then(|| results.get().map_or_else(
                || view! { <p class="muted">"Reading results…"</p> }.into_any(),
                |results| match results {
                    Ok(results) => view! { <ResultsView results=results/> }.into_any(),
                    Err(error) => failed("results-failed", error.to_string()),
                },
            ))}
            {move || (state.get() != ExperimentState::Draft).then(|| view! { <Harvest id=stored_id/> })}
            {all_settings("experiment-settings", format!("/api/experiments/{}", encoded(&stored_id.get_value())))}
        </section>
    }
}

fn badges(experiment: &ExperimentStatus) -> Option<Vec<String>> {
    let aa = experiment.aa.then(|| "A/A".to_owned());
    let layout = (experiment.config.layout == Layout::Interleaved).then(|| "interleaved".to_owned());
    let winner = experiment.winner.as_ref().map(|winner| format!("winner: {winner}"));
    Some([aa, layout, winner].into_iter().flatten().collect())
}

/// The buttons that are possible in its state.
#[component]
fn Steering(id: StoredValue<String>, status: Memo<Option<ExperimentStatus>>, act: Callback<Command>) -> impl IntoView {
    let steer = move |action: ExperimentCommand, winner: Option<String>| {
        act.run(Command::SteerExperiment { experiment: id.get_value(), action: action.name().to_owned(), winner });
    };
    let is_legal =
        move |action| status.with(|e| e.as_ref().is_some_and(|e| !e.killed && next(e.state, action).is_some()));
    let button = move |label: &'static str, testid: &'static str, title: &'static str, action: ExperimentCommand| {
        move || {
            is_legal(action).then(|| view! {
                <button type="button" data-testid=testid title=title on:click=move |_| steer(action, None)>{label}</button>
            })
        }
    };
    let kill = Callback::new(move |()| steer(ExperimentCommand::Kill, None));
    let delete = Callback::new(move |()| act.run(Command::DeleteExperiment { experiment: id.get_value() }));
    let can_delete = move || status.with(|e| e.as_ref().is_some_and(|e| e.state != ExperimentState::Running));
    let winners = move || {
        let legal = status.with(|e| e.as_ref().is_some_and(|e| next(e.state, ExperimentCommand::Decide).is_some()));
        let names =
            status.with(|e| e.as_ref().map(|e| e.config.arms.iter().map(|arm| arm.name.clone()).collect::<Vec<_>>()));
        let button = move |name: String| {
            let label = format!("{name} wins");
            view! {
                <button type="button" data-testid="experiment-decide"
                    on:click=move |_| steer(ExperimentCommand::Decide, Some(name.clone()))>{label}</button>
            }
        };
        names.filter(|_| legal).map(|names| names.into_iter().map(button).collect_view())
    };
    view! {
        <div class="form-row">
            {button("Start", "experiment-start", "Users are assigned from now on", ExperimentCommand::Start)}
            {button("Stop", "experiment-stop", "Nobody is assigned any more; clicks on what was shown still count", ExperimentCommand::Stop)}
            {move || is_legal(ExperimentCommand::Kill).then(|| view! {
                <ConfirmButton label="Kill switch" question="Switch off for good?" testid="experiment-kill" disabled=false
                    title="Everything that arrives from now on is refused, at once and for good" act=kill/>
            })}
            {winners}
            {move || can_delete().then(|| view! {
                <ConfirmButton label="Delete" question="Delete it with all it took in?" testid="experiment-delete" disabled=false
                    title="Forgets the experiment with what was shown and clicked in it; what was taken into the log stays" act=delete/>
            })}
        </div>
    }
}

/// How a site, or simulated users, take part.
#[component]
fn TakePart(id: StoredValue<String>) -> impl IntoView {
    let key = RwSignal::new(None::<Result<String, String>>);
    let new_key = Callback::new(move |()| {
        let url = format!("/api/experiments/{}/key", encoded(&id.get_value()));
        api::call("POST", url, Body::None, move |answer| {
            key.set(Some(answer.map(|answer| answer.value["key"].as_str().unwrap_or_default().to_owned())));
        });
    });
    let id = id.get_value();
    let path = format!("/api/experiments/{id}");
    view! {
        <details>
            <summary>"Let users take part"</summary>
            <ol>
                <li>
                    "Your site shows this experiment's ingest key as "<code>"Authorization: Bearer KEY"</code>
                    ". A new key ends the one before it."
                    <div class="form-row">
                        <ConfirmButton label="New ingest key" question="End the old key and make one?" testid="experiment-key"
                            disabled=false title="It opens assignment and events of this experiment only" act=new_key/>
                    </div>
                    {move || key.get().map(|key| shown_once("experiment-key-made", key))}
                </li>
                <li>"It asks which arm a user is in: "<code>{format!("GET {path}/assignment?unit=USER")}</code></li>
                <li>
                    "It reports what was shown and clicked: "<code>{format!("POST {path}/events")}</code>
                    " ("<a href="/docs" target="_blank" rel="noopener">"interface"</a>")"
                </li>
            </ol>
            <p class="muted">
                "To try it without people: "<code>{format!("beckon simulate --experiment {id} --users 2000")}</code>
                " sends simulated users, labelled as such everywhere."
            </p>
        </details>
    }
}

/// What was shown and clicked, back into the log.
#[component]
fn Harvest(id: StoredValue<String>) -> impl IntoView {
    let outcome = RwSignal::new(None::<Result<String, String>>);
    let busy = RwSignal::new(false);
    let harvest = move |_| {
        busy.set(true);
        let url = format!("/api/experiments/{}/harvest", encoded(&id.get_value()));
        api::call("POST", url, Body::None, move |answer| {
            busy.set(false);
            outcome.set(Some(answer.map(|answer| {
                let n = |name: &str| answer.value[name].as_u64().unwrap_or_default();
                let silent = match n("n_without_prompt") {
                    0 => String::new(),
                    n => format!("; {} without a conversation left out", format::count(n)),
                };
                let there = format::count(n("n_duplicates"));
                format!(
                    "{} new in the log, {there} there already{silent}",
                    format::counted(n("n_accepted"), "impression", "impressions")
                )
            })));
        });
    };
    let export = format!("/api/experiments/{}/export", id.get_value());
    view! {
        <div class="form-row">
            <button type="button" data-testid="experiment-harvest" prop:disabled=move || busy.get() on:click=harvest>
                "Take clicks into the log"
            </button>
            <a class="button" href=export download="experiment.jsonl">"Download as a log"</a>
        </div>
        {move || outcome.get().map(|outcome| match outcome {
            Ok(text) => view! { <p class="result" role="status" data-testid="harvest-outcome">{text}</p> }.into_any(),
            Err(text) => failed("harvest-failed", text),
        })}
    }
}

fn source_text(source: &Source) -> String {
    match source {
        Source::Checkpoint(id) => format!("checkpoint {}", format::short_id(id)),
        Source::Template(text) => format!("template {text}"),
    }
}
