//! Checkpoints: what was trained from what, how it measured, and which of it is in production.

use crate::api::{self, ApiError};
use crate::component::simulated::SimulatedBadge;
use crate::format;
use crate::live::{Fetched, Live};
use crate::platform::{clock, spawn};
use beckon_shared::control::RunStatus;
use beckon_shared::control::command::Command;
use beckon_shared::control::registry::{Lineage, PRODUCTION, RegistryEntry};
use leptos::prelude::*;

/// The page.
#[component]
pub fn CheckpointsPage() -> impl IntoView {
    let live = expect_context::<Live>();
    let entries = RwSignal::new(Fetched::<Vec<RegistryEntry>>::Waiting);
    let lineage = RwSignal::new(None::<Lineage>);
    let failure = RwSignal::new(None::<String>);
    Effect::new(move || {
        live.registry_version.track();
        spawn(async move {
            let answer = api::registry().await;
            entries.update(|entries| entries.take(answer));
            lineage.set(api::lineage().await.ok());
        });
    });
    let done = move |answer: Result<(), ApiError>, said: String| match answer {
        Ok(()) => {
            failure.set(None);
            live.announce(said);
            live.registry_version.update(|version| *version += 1);
        }
        Err(error) => failure.set(Some(error.to_string())),
    };
    let roll_back = move |_| {
        spawn(async move {
            let command = Command::RollBack { tag: PRODUCTION.into() };
            let answer = api::command::<RegistryEntry>(&command).await.map(drop);
            done(answer, "Production is rolled back".into());
        });
    };
    let act = Callback::new(move |(command, said): (Command, String)| {
        let asked_at = live.run_events();
        spawn(async move {
            let answer = match &command {
                Command::Branch { .. } => {
                    api::command::<RunStatus>(&command).await.map(|run| live.answered(asked_at, run))
                }
                Command::DeleteCheckpoint { .. } => api::command::<()>(&command).await,
                _ => api::command::<RegistryEntry>(&command).await.map(drop),
            };
            done(answer, said);
        });
    });
    let body = move || match entries.get() {
        Fetched::Waiting => view! { <p class="muted">"Reading checkpoints…"</p> }.into_any(),
        Fetched::Failed(reason) => view! { <p class="error" role="alert">{reason}</p> }.into_any(),
        Fetched::Here(list) => {
            list.into_iter().map(|entry| view! { <Entry entry=entry act=act/> }).collect_view().into_any()
        }
    };
    view! {
        <div data-testid="checkpoints-page" class="page">
            <h1 id="page-title" tabindex="-1">"Checkpoints"</h1>
            <p class="lead">"Every model that was trained here, what it was made from, and how it measured."</p>
            {move || failure.get().map(|text| view! {
                <p class="error" role="alert" data-testid="checkpoints-error">{text}</p>
            })}
            <div class="form-row">
                <button type="button" data-testid="roll-back" on:click=roll_back>"Roll production back"</button>
            </div>
            {body}
            {move || lineage.get().map(|lineage| view! { <Descent lineage=lineage/> })}
        </div>
    }
}

#[component]
fn Entry(entry: RegistryEntry, act: Callback<(Command, String)>) -> impl IntoView {
    let RegistryEntry { info, parent, data_hash, evaluation, tags, note } = entry;
    let id = StoredValue::new(info.id.clone());
    let text = RwSignal::new(note);
    let in_production = tags.iter().any(|tag| tag == PRODUCTION);
    let send = move |command: fn(String) -> Command, said: &'static str| {
        move |_| act.run((command(id.get_value()), said.to_owned()))
    };
    let promote = send(|checkpoint| Command::Promote { checkpoint, tag: PRODUCTION.into() }, "Promoted to production");
    let branch = send(
        |checkpoint| Command::Branch { checkpoint, config: serde_json::json!({}) },
        "A run that starts from it is queued",
    );
    let delete = send(|checkpoint| Command::DeleteCheckpoint { checkpoint }, "Checkpoint deleted");
    let annotate = move |ev: leptos::ev::SubmitEvent| {
        ev.prevent_default();
        let command = Command::Annotate { checkpoint: id.get_value(), text: text.get_untracked() };
        act.run((command, "Note kept".to_owned()));
    };
    let made = match &info.run_id {
        Some(run) => format!("run {run}, {}", format::ago(info.created_millis, clock::now_millis())),
        None if info.built_in => "built in".to_owned(),
        None => "copied in".to_owned(),
    };
    let parent = parent.map_or_else(|| "none, from scratch".to_owned(), |parent| short(&parent));
    view! {
        <section class="card" data-testid="checkpoint-row" data-checkpoint=info.id.clone() data-tags=tags.join(" ")>
            <h2>
                {info.name.clone()} " "
                {tags.iter().map(|tag| view! { <span class="badge">{tag.clone()}</span> " " }).collect_view()}
                <SimulatedBadge n=u64::from(info.simulated) of=1/>
            </h2>
            <p class="muted">
                <code title=info.id.clone()>{short(&info.id)}</code>
                {format!(" · {made} · {} · log {} · parent {parent}", format::bytes(info.n_bytes), short(&data_hash))}
            </p>
            <Evaluation figures=evaluation.into_iter().collect()/>
            <form class="form-row" on:submit=annotate>
                <label class="grow">"Note"
                    <input type="text" data-testid="checkpoint-note" prop:value=move || text.get()
                        on:input=move |ev| text.set(event_target_value(&ev))/>
                </label>
                <button type="submit">"Keep note"</button>
                <button type="button" class="primary" data-testid="checkpoint-promote" disabled=in_production on:click=promote>
                    "Promote to production"
                </button>
                <button type="button" on:click=branch disabled=info.built_in>"Train on from here"</button>
                <button type="button" data-testid="checkpoint-delete" disabled=info.built_in || in_production on:click=delete>
                    "Delete"
                </button>
            </form>
        </section>
    }
}

#[component]
fn Evaluation(figures: Vec<(String, f64)>) -> impl IntoView {
    let row = |(name, value): (String, f64)| {
        view! { <tr><th scope="row">{name.replace('_', " ")}</th><td class="num">{format::value(value)}</td></tr> }
    };
    (!figures.is_empty()).then(|| {
        view! {
            <details>
                <summary>"Evaluation at the end of its run"</summary>
                <div class="scroll"><table><tbody>{figures.into_iter().map(row).collect_view()}</tbody></table></div>
            </details>
        }
    })
}

/// The graph as a list that reads downwards: each thing with what it was made from.
#[component]
fn Descent(lineage: Lineage) -> impl IntoView {
    let name_of = |id: &str| {
        let node = lineage.nodes.iter().find(|node| node.id == id);
        node.map_or_else(|| short(id), |node| format!("{} ({})", node.name, short(id)))
    };
    let made: Vec<_> = lineage.nodes.iter().filter(|node| node.kind == "checkpoint").collect();
    let row = |node: &&beckon_shared::control::registry::LineageNode| {
        let from = lineage.edges.iter().filter(|edge| edge.to == node.id);
        let parts: Vec<String> = from.map(|edge| name_of(&edge.from)).collect();
        let from = if parts.is_empty() { "not known here".to_owned() } else { parts.join(" and ") };
        view! { <tr><th scope="row">{name_of(&node.id)}</th><td>{from}</td></tr> }
    };
    view! {
        <section class="card" data-testid="lineage">
            <h2>"Lineage"</h2>
            <div class="scroll"><table>
                <thead><tr><th>"checkpoint"</th><th>"made from"</th></tr></thead>
                <tbody>{made.iter().map(row).collect_view()}</tbody>
            </table></div>
        </section>
    }
}

fn short(id: &str) -> String {
    id.get(..10).unwrap_or(id).to_owned()
}
