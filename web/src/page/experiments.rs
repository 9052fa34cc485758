//! Experiments: two arms or more on live traffic, from a draft to a decision.

use crate::api::{self, ApiError};
use crate::component::simulated::SimulatedBadge;
use crate::format;
use crate::live::{Fetched, Live};
use crate::platform::spawn;
use beckon_shared::ab::report::{Comparison, Report};
use beckon_shared::control::command::Command;
use beckon_shared::control::experiment::{
    ExperimentCommand, ExperimentState, ExperimentStatus, Preference, Results, Source,
};
use leptos::prelude::*;

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
            match api::command::<ExperimentStatus>(&command).await {
                Ok(_) => {
                    failure.set(None);
                    live.experiments_version.update(|version| *version += 1);
                }
                Err(error) => failure.set(Some(error.to_string())),
            }
        });
    });
    let body = move || match list.get() {
        Fetched::Waiting => view! { <p class="muted">"Reading experiments…"</p> }.into_any(),
        Fetched::Failed(reason) => view! { <p class="error" role="alert">{reason}</p> }.into_any(),
        Fetched::Here(list) if list.is_empty() => view! { <p class="muted">"No experiment yet."</p> }.into_any(),
        Fetched::Here(list) => list
            .into_iter()
            .map(|experiment| view! { <Experiment experiment=experiment act=act/> })
            .collect_view()
            .into_any(),
    };
    view! {
        <div data-testid="experiments-page" class="page">
            <h1 id="page-title" tabindex="-1">"Experiments"</h1>
            <p class="lead">"Which checkpoint do people prefer? Results may be looked at at any time without spoiling them."</p>
            {move || failure.get().map(|text| view! {
                <p class="error" role="alert" data-testid="experiments-error">{text}</p>
            })}
            <CreateForm act=act/>
            {body}
        </div>
    }
}

/// A test of two checkpoints with equal shares; anything else by `beckon experiment create FILE`.
#[component]
fn CreateForm(act: Callback<Command>) -> impl IntoView {
    let live = expect_context::<Live>();
    let name = RwSignal::new(String::new());
    let arms = [RwSignal::new(String::new()), RwSignal::new(String::new())];
    let origin = RwSignal::new(String::new());
    let create = move |ev: leptos::ev::SubmitEvent| {
        ev.prevent_default();
        let arm = |name: &str, signal: RwSignal<String>| serde_json::json!({ "name": name, "source": { "checkpoint": signal.get_untracked() } });
        let origin = origin.get_untracked();
        let origins: Vec<&str> = Some(origin.trim()).filter(|origin| !origin.is_empty()).into_iter().collect();
        act.run(Command::CreateExperiment {
            config: serde_json::json!({
                "name": name.get_untracked(),
                "arms": [arm("control", arms[0]), arm("treatment", arms[1])],
                "allowed_origins": origins,
            }),
        });
    };
    let pick = move |label: &'static str, signal: RwSignal<String>| {
        let options = move || {
            let list = live.checkpoints.with(|c| c.value().cloned().unwrap_or_default());
            list.into_iter()
                .map(|c| {
                    let shown = format!("{} ({})", c.name, c.id.get(..10).unwrap_or(&c.id));
                    let id = c.id.clone();
                    view! { <option value=c.id prop:selected=move || signal.get() == id>{shown}</option> }
                })
                .collect_view()
        };
        view! {
            <label>{label}
                <select required on:change=move |ev| signal.set(event_target_value(&ev))>
                    <option value="">"choose"</option>
                    {options}
                </select>
            </label>
        }
    };
    let text = move |label: &'static str, signal: RwSignal<String>, required: bool| {
        view! {
            <label>{label}
                <input type="text" required=required prop:value=move || signal.get()
                    on:input=move |ev| signal.set(event_target_value(&ev))/>
            </label>
        }
    };
    view! {
        <section class="card">
            <h2>"New experiment"</h2>
            <form class="form-row" data-testid="experiment-form" on:submit=create>
                {text("Name", name, true)}
                {pick("Control", arms[0])}
                {pick("Treatment", arms[1])}
                {text("Origin of the site, if it is another", origin, false)}
                <button type="submit" class="primary" data-testid="experiment-create">"Make a draft"</button>
            </form>
            <p class="muted">
                "The same checkpoint twice is an A/A test. More arms, shares, interleaving and designs: "
                <code>"beckon experiment create FILE"</code>
            </p>
        </section>
    }
}

#[component]
fn Experiment(experiment: ExperimentStatus, act: Callback<Command>) -> impl IntoView {
    let ExperimentStatus { id, config, state, aa, winner, .. } = experiment.clone();
    let shown = state_name(&experiment);
    let stored_id = StoredValue::new(id.clone());
    let key = RwSignal::new(None::<Result<String, ApiError>>);
    let results = RwSignal::new(None::<Result<Results, ApiError>>);
    let look = move || {
        spawn(async move {
            let answer = api::results(&stored_id.get_value()).await;
            results.set(Some(answer));
        });
    };
    if state != ExperimentState::Draft {
        look();
    }
    let new_key = move |_| {
        spawn(async move {
            let answer = api::new_key(&stored_id.get_value()).await;
            key.set(Some(answer));
        });
    };
    let steer = move |action: ExperimentCommand, winner: Option<String>| {
        let command =
            Command::SteerExperiment { experiment: stored_id.get_value(), action: action.name().to_owned(), winner };
        act.run(command);
    };
    let button = move |label: &'static str, testid: &'static str, action: ExperimentCommand| {
        let legal = beckon_shared::control::experiment::next(state, action).is_some();
        view! {
            <button type="button" data-testid=testid disabled=!legal on:click=move |_| steer(action, None)>{label}</button>
        }
    };
    let decide = decide_buttons(&experiment, Callback::new(move |arm| steer(ExperimentCommand::Decide, Some(arm))));
    let arms = config.arms.iter().map(|arm| format!("{}: {}", arm.name, source_text(&arm.source))).collect::<Vec<_>>();
    view! {
        <section class="card" data-testid="experiment-row" data-experiment=id.clone() data-state=shown>
            <h2>
                {format!("{id} · {} ", config.name)}
                <span class=format!("state state-{shown}")>{shown}</span>
                {aa.then(|| view! { " " <span class="badge">"A/A"</span> })}
                {winner.map(|winner| view! { " " <span class="badge">{format!("winner: {winner}")}</span> })}
            </h2>
            <p class="muted">{arms.join(" · ")}</p>
            <div class="form-row">
                {button("Start", "experiment-start", ExperimentCommand::Start)}
                {button("Stop", "experiment-stop", ExperimentCommand::Stop)}
                {button("Kill switch", "experiment-kill", ExperimentCommand::Kill)}
                {decide}
                <button type="button" data-testid="experiment-key" on:click=new_key>"New ingest key"</button>
                <button type="button" on:click=move |_| look()>"Look again"</button>
            </div>
            {move || key.get().map(|key| match key {
                Ok(key) => view! {
                    <p class="result">"Shown once: " <code>{key}</code></p>
                }.into_any(),
                Err(error) => view! { <p class="error" role="alert">{error.to_string()}</p> }.into_any(),
            })}
            {move || results.get().map(|results| match results {
                Ok(results) => view! { <ResultsView results=results/> }.into_any(),
                Err(error) => view! { <p class="error" role="alert">{error.to_string()}</p> }.into_any(),
            })}
        </section>
    }
}

/// One button an arm, that says it won.
fn decide_buttons(experiment: &ExperimentStatus, decide: Callback<String>) -> impl IntoView + use<> {
    let too_early = experiment.state != ExperimentState::Stopped;
    let names = experiment.config.arms.iter().map(|arm| arm.name.clone());
    let button = move |name: String| {
        let label = format!("{name} wins");
        view! {
            <button type="button" data-testid="experiment-decide" disabled=too_early
                on:click=move |_| decide.run(name.clone())>{label}</button>
        }
    };
    names.map(button).collect_view()
}

fn source_text(source: &Source) -> String {
    match source {
        Source::Checkpoint(id) => format!("checkpoint {}", id.get(..10).unwrap_or(id)),
        Source::Template(text) => format!("template {text}"),
    }
}

#[component]
fn ResultsView(results: Results) -> impl IntoView {
    let Results { n_exposures, n_clicks, simulated, report, preference, why, .. } = results;
    let counts = format!(
        "{}, {}",
        format::counted(n_exposures, "slate shown", "slates shown"),
        format::counted(n_clicks, "click", "clicks")
    );
    view! {
        <div data-testid="results" data-exposures=n_exposures.to_string()>
            <p>{counts} " " <SimulatedBadge n=u64::from(simulated) of=1/></p>
            {why.map(|why| view! { <p class="muted">{why}</p> })}
            {report.map(|report| view! { <ReportView report=report/> })}
            {preference.map(|preference| view! { <PreferenceView preference=preference/> })}
        </div>
    }
}

#[component]
fn ReportView(report: Report) -> impl IntoView {
    let arm_row = |arm: &beckon_shared::ab::report::ArmFigures| {
        let ctr = arm.ctr.map_or_else(|| "–".to_owned(), |ctr| format::percent(ctr, 2));
        let error = arm.ctr_std_error.map_or_else(|| "–".to_owned(), |error| format::percent(error, 2));
        view! {
            <tr>
                <th scope="row">{arm.arm.clone()}</th>
                <td class="num">{format::count(arm.n_units)}</td>
                <td class="num">{format!("{:.0}", arm.n_impressions)}</td>
                <td class="num">{ctr}</td>
                <td class="num">{error}</td>
            </tr>
        }
    };
    let comparison = |comparison: &Comparison| {
        let lift = comparison.lift.map(|lift| format!("; lift {}", format::percent(lift, 1))).unwrap_or_default();
        let evidence = comparison.always_valid.p_value().map(|p| format!("; always-valid p {}", format::value(p)));
        let text = format!(
            "{} against {}: {}{lift}{}",
            comparison.treatment,
            comparison.control,
            comparison.verdict.words(),
            evidence.unwrap_or_default()
        );
        view! { <li>{text}</li> }
    };
    view! {
        <div class="scroll"><table>
            <thead><tr>
                <th>"arm"</th><th class="num">"users"</th><th class="num">"slates"</th>
                <th class="num">"click rate"</th><th class="num">"std. error"</th>
            </tr></thead>
            <tbody>{report.arms.iter().map(arm_row).collect_view()}</tbody>
        </table></div>
        <ul>{report.comparisons.iter().map(comparison).collect_view()}</ul>
        {report.warnings.into_iter().map(|text| view! { <p class="error">{text}</p> }).collect_view()}
        <details>
            <summary>"What this rests on"</summary>
            <ul>{report.assumptions.into_iter().map(|text| view! { <li>{text}</li> }).collect_view()}</ul>
        </details>
    }
}

#[component]
fn PreferenceView(preference: Preference) -> impl IntoView {
    let Preference { a, b, net, std_error, n_users } = preference;
    view! {
        <p>{format!(
            "Net votes per click for {b} against {a}: {} (standard error {}), from {}",
            format::value(net),
            format::value(std_error),
            format::counted(n_users, "user", "users")
        )}</p>
    }
}
