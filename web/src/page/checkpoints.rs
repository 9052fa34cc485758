//! Checkpoints: what was trained from what, how it measured, and which of it is in production.

mod tags;

use crate::api::{self, ApiError};
use crate::component::confirm::ConfirmButton;
use crate::component::field::failed;
use crate::component::simulated::SimulatedBadge;
use crate::component::table::table;
use crate::format;
use crate::live::{Fetched, Live};
use crate::page::train::form::run_form;
use crate::platform::http::{Body, encoded};
use crate::platform::{clock, spawn};
use beckon_shared::control::RunStatus;
use beckon_shared::control::command::Command;
use beckon_shared::control::registry::{PRODUCTION, Promotion, RegistryEntry, TagState};
use leptos::prelude::*;
use serde_json::Value;
use tags::tags_card;

/// The page.
#[component]
pub fn CheckpointsPage() -> impl IntoView {
    let live = expect_context::<Live>();
    let entries = RwSignal::new(Fetched::<Vec<RegistryEntry>>::Waiting);
    let lineage = RwSignal::new(None::<Result<Value, String>>);
    let tags = RwSignal::new(Fetched::<Vec<TagState>>::Waiting);
    let history = RwSignal::new(Fetched::<Vec<Promotion>>::Waiting);
    let failure = RwSignal::new(None::<String>);
    let said = RwSignal::new(None::<String>);
    Effect::new(move || {
        live.registry_version.track();
        spawn(async move {
            let answer = api::registry().await;
            entries.update(|entries| entries.take(answer));
            let answer = api::tags().await;
            tags.update(|tags| tags.take(answer));
            let answer = api::promotions().await;
            history.update(|history| history.take(answer));
        });
        api::call_list("/api/lineage", move |answer| lineage.set(Some(answer)));
    });
    let done = move |answer: Result<(), ApiError>, text: String| match answer {
        Ok(()) => {
            failure.set(None);
            live.announce(text.clone());
            said.set(Some(text));
            live.registry_version.update(|version| *version += 1);
        }
        Err(error) => {
            said.set(None);
            failure.set(Some(error.to_string()));
        }
    };
    let act = Callback::new(move |(command, said): (Command, String)| {
        let asked_at = live.run_events();
        spawn(async move {
            let answer = match &command {
                Command::Branch { .. } => {
                    api::command::<RunStatus>(&command).await.map(|run| live.answered(asked_at, run))
                }
                _ => api::order(&command).await.map(drop),
            };
            done(answer, said);
        });
    });
    view! {
        <div data-testid="checkpoints-page" class="page">
            <h1 id="page-title" tabindex="-1">"Checkpoints"</h1>
            <p class="lead">"Every model that was trained here, what it was made from, and how it measured."</p>
            {move || failure.get().map(|text| view! {
                <p class="error" role="alert" data-testid="checkpoints-error">{text}</p>
            })}
            {move || said.get().map(|text| view! { <p class="result" data-testid="checkpoints-said">{text}</p> })}
            {tags_card(tags, history, entries, act)}
            <Entries entries=entries act=act/>
            {move || lineage.get().map(|lineage| match lineage {
                Ok(lineage) => descent(&lineage),
                Err(error) => failed("lineage-failed", error),
            })}
        </div>
    }
}

/// All of them; one that changes does not disturb the others.
#[component]
fn Entries(entries: RwSignal<Fetched<Vec<RegistryEntry>>>, act: Callback<(Command, String)>) -> impl IntoView {
    let ids = Memo::new(move |_| {
        entries.with(|list| list.value().into_iter().flatten().map(|e| e.info.id.clone()).collect::<Vec<_>>())
    });
    let row = move |id: String| {
        let wanted = id.clone();
        let entry =
            Memo::new(move |_| entries.with(|list| list.value()?.iter().find(|e| e.info.id == wanted).cloned()));
        move || entry.get().map(|entry| view! { <Entry entry=entry act=act/> })
    };
    let note = move || {
        entries.with(|list| match list {
            Fetched::Waiting => Some(view! { <p class="muted">"Reading checkpoints…"</p> }.into_any()),
            Fetched::Failed(reason) => Some(view! { <p class="error" role="alert">{reason.clone()}</p> }.into_any()),
            Fetched::Here(list) if list.is_empty() => {
                Some(view! { <p class="muted">"No checkpoint yet; a run on the Train page makes one."</p> }.into_any())
            }
            Fetched::Here(_) => None,
        })
    };
    view! {
        {note}
        <For each=move || ids.get() key=|id| id.clone() children=row/>
    }
}

#[component]
fn Entry(entry: RegistryEntry, act: Callback<(Command, String)>) -> impl IntoView {
    let RegistryEntry { info, parent, adapter, data_hash, evaluation, tags, note } = entry;
    let id = StoredValue::new(info.id.clone());
    let in_production = tags.iter().any(|tag| tag == PRODUCTION);
    let send = move |command: fn(String) -> Command, said: &'static str| {
        move |_| act.run((command(id.get_value()), said.to_owned()))
    };
    let promote = send(|checkpoint| Command::Promote { checkpoint, tag: PRODUCTION.into() }, "Promoted to production");
    let branch = send(
        |checkpoint| Command::Branch { checkpoint, config: serde_json::json!({}) },
        "A run that starts from it is queued",
    );
    let delete = Callback::new(move |()| {
        act.run((Command::DeleteCheckpoint { checkpoint: id.get_value() }, "Checkpoint deleted".into()));
    });
    let why_kept = match (info.built_in, in_production) {
        (true, _) => "It is part of the program",
        (_, true) => "It is in production",
        _ => "Removes its file; refused while something needs it",
    };
    let made = match &info.run_id {
        Some(run) => format!("run {run}, {}", format::ago(info.created_millis, clock::now_millis())),
        None if info.built_in => "built in".to_owned(),
        None => "copied in".to_owned(),
    };
    let parent = parent.map_or_else(|| "none, from scratch".to_owned(), |parent| short(&parent));
    let adapter_link = adapter.is_some().then(|| {
        let href = api::adapter_url(&info.id);
        let file = format!("{}.adapter", short(&info.id));
        view! { <a class="button" data-testid="adapter-download" href=href download=file>"Download adapter"</a> }
    });
    let adapter = adapter.map_or_else(String::new, |a| format!(" · adapter {}", format::bytes(a.n_bytes)));
    view! {
        <section class="card" data-testid="checkpoint-row" data-checkpoint=info.id.clone() data-tags=tags.join(" ")>
            <h2>
                {info.name.clone()} " "
                {tags.iter().map(|tag| view! { <span class="badge">{tag.clone()}</span> " " }).collect_view()}
                <SimulatedBadge n=u64::from(info.simulated) of=1/>
            </h2>
            <p class="muted">
                <code title=info.id.clone()>{short(&info.id)}</code>
                {format!(" · {made} · {} · log {} · parent {parent}{adapter}", format::bytes(info.n_bytes), short(&data_hash))}
            </p>
            <Evaluation figures=evaluation.into_iter().collect()/>
            {note_form(id, note, act)}
            <div class="form-row">
                <button type="button" class="primary" data-testid="checkpoint-promote" disabled=in_production on:click=promote>
                    {if in_production { "In production" } else { "Promote to production" }}
                </button>
                <button type="button" on:click=branch disabled=info.built_in
                    title=if info.built_in { "The run that made it is not on this server" } else { "A run with the same settings that begins with it" }>
                    "Train on from here"
                </button>
                <ConfirmButton label="Delete" question="Delete its file?" testid="checkpoint-delete"
                    disabled=info.built_in || in_production title=why_kept.to_owned() act=delete/>
                <a class="button" href=api::checkpoint_url(&info.id) download=format!("{}.beckon", short(&info.id))>"Download"</a>
                {adapter_link}
            </div>
            {(!info.built_in).then(|| branch_form(id))}
            <OtherTag id=id act=act/>
        </section>
    }
}

fn note_form(id: StoredValue<String>, note: String, act: Callback<(Command, String)>) -> AnyView {
    let text = RwSignal::new(note);
    let annotate = move |ev: leptos::ev::SubmitEvent| {
        ev.prevent_default();
        let command = Command::Annotate { checkpoint: id.get_value(), text: text.get_untracked() };
        act.run((command, "Note kept".to_owned()));
    };
    view! {
        <form class="form-row" on:submit=annotate>
            <label class="grow">"Note"
                <input type="text" data-testid="checkpoint-note" prop:value=move || text.get()
                    on:input=move |ev| text.set(event_target_value(&ev))/>
            </label>
            <button type="submit">"Keep note"</button>
        </form>
    }
    .into_any()
}

/// A run that starts from it with other settings; what the run that made it had is read when it is opened.
fn branch_form(id: StoredValue<String>) -> AnyView {
    let made_with = RwSignal::new(None::<Result<Value, String>>);
    let read = move |_| {
        if made_with.with_untracked(|there| matches!(there, Some(Ok(_)))) {
            return;
        }
        let url = format!("/api/checkpoints/{}", encoded(&id.get_value()));
        api::call("GET", url, Body::None, move |answer| {
            made_with.set(Some(answer.map(|answer| answer.value["lineage"]["config"].clone())));
        });
    };
    view! {
        <details on:toggle=read data-testid="checkpoint-branch">
            <summary>"Train on from here with other settings"</summary>
            {move || made_with.get().map(|config| match config {
                Ok(config) => run_form(Some((id.get_value(), config))),
                Err(error) => failed("branch-failed", error),
            })}
        </details>
    }
    .into_any()
}

/// Any other tag, as `staging`.
#[component]
fn OtherTag(id: StoredValue<String>, act: Callback<(Command, String)>) -> impl IntoView {
    let tag = RwSignal::new(String::new());
    let set = move |ev: leptos::ev::SubmitEvent| {
        ev.prevent_default();
        let tag = tag.get_untracked().trim().to_owned();
        let said = format!("Tag {tag} points to it now");
        act.run((Command::Promote { checkpoint: id.get_value(), tag }, said));
    };
    view! {
        <details>
            <summary>"Another tag"</summary>
            <form class="form-row" on:submit=set>
                <label>"Tag"
                    <input type="text" required placeholder="staging" pattern=r"[a-z0-9\-]{1,40}" data-testid="checkpoint-tag"
                        title="1 to 40 lower-case letters, digits and dashes" prop:value=move || tag.get()
                        on:input=move |ev| tag.set(event_target_value(&ev))/>
                </label>
                <button type="submit">"Let it point here"</button>
            </form>
        </details>
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
fn descent(lineage: &Value) -> AnyView {
    let list = |name: &str| lineage[name].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (nodes, edges) = (list("nodes"), list("edges"));
    let name_of = |id: &Value| {
        let node = nodes.iter().find(|node| node["id"] == *id);
        let id = short(&text(id));
        match node {
            Some(node) if node["kind"] == "data" => format!("log {id}"),
            Some(node) => format!("{} ({id})", text(&node["name"])),
            None => id,
        }
    };
    let row = |node: &Value| {
        let from = edges.iter().filter(|edge| edge["to"] == node["id"]);
        let parts: Vec<String> = from.map(|edge| name_of(&edge["from"])).collect();
        let from = if parts.is_empty() { "not known here".to_owned() } else { parts.join(" and ") };
        vec![name_of(&node["id"]).into_any(), from.into_any()]
    };
    let rows = nodes.iter().filter(|node| node["kind"] == "checkpoint").map(row).collect();
    view! {
        <section class="card" data-testid="lineage">
            <h2>"Lineage"</h2>
            {table("lineage-table", &["checkpoint", "made from"], rows)}
        </section>
    }
    .into_any()
}

fn short(id: &str) -> String {
    id.get(..10).unwrap_or(id).to_owned()
}
