//! Tags: what is in production, since when and by whom, where the others point, the way back of each, and every move.

use super::short;
use crate::component::confirm::ConfirmButton;
use crate::component::field::failed;
use crate::component::table::table;
use crate::format;
use crate::live::Fetched;
use crate::platform::clock;
use beckon_shared::control::command::Command;
use beckon_shared::control::registry::{PRODUCTION, Promotion, RegistryEntry, TagState};
use leptos::prelude::*;

/// The card.
pub(super) fn tags_card(
    tags: RwSignal<Fetched<Vec<TagState>>>,
    history: RwSignal<Fetched<Vec<Promotion>>>,
    entries: RwSignal<Fetched<Vec<RegistryEntry>>>,
    act: Callback<(Command, String)>,
) -> AnyView {
    let name_of = Callback::new(move |id: String| {
        let name = entries.with(|list| {
            list.value().into_iter().flatten().find(|entry| entry.info.id == id).map(|entry| entry.info.name.clone())
        });
        format!("{} ({})", name.unwrap_or_else(|| "not here".into()), short(&id))
    });
    let state =
        Memo::new(move |_| tags.with(|tags| tags.value()?.iter().find(|tag| tag.now.tag == PRODUCTION).cloned()));
    let now = move || match (state.get(), &*tags.read()) {
        (Some(TagState { now, .. }), _) => format!("{}.", points_to(&now, name_of)),
        (None, Fetched::Waiting) => "Reading what is in production…".to_owned(),
        (None, Fetched::Failed(reason)) => reason.clone(),
        (None, Fetched::Here(_)) => {
            "Nothing is in production yet. Promote a checkpoint: the tag says which one your site should use."
                .to_owned()
        }
    };
    let back_to = Memo::new(move |_| state.get().and_then(|state| state.back_to));
    let title = Signal::derive(move || way_back(back_to.get(), name_of));
    let roll_back = Callback::new(move |()| {
        act.run((Command::RollBack { tag: PRODUCTION.into() }, "Production is rolled back".into()));
    });
    view! {
        <section class="card" data-testid="production">
            <h2>"In production"</h2>
            <p>{now}</p>
            <div class="form-row">
                <ConfirmButton label="Roll production back" question="Roll back now?" testid="roll-back"
                    disabled=Signal::derive(move || back_to.get().is_none()) title=title act=roll_back/>
                <span class="muted">{move || title.get()}</span>
            </div>
            {other_tags(tags, name_of, act)}
            <details>
                <summary>"Every time that a tag was moved"</summary>
                {moves(history, name_of)}
            </details>
        </section>
    }
    .into_any()
}

/// A checkpoint, since when a tag points to it, and who let it.
fn points_to(now: &Promotion, name_of: Callback<String, String>) -> String {
    let (time, ago) = (clock::local_time(now.time_millis), format::ago(now.time_millis, clock::now_millis()));
    format!("{} since {time} ({ago}), by {}", name_of.run(now.checkpoint.clone()), now.by)
}

fn way_back(to: Option<String>, name_of: Callback<String, String>) -> String {
    match to {
        Some(id) => format!("Back to {}", name_of.run(id)),
        None => "There is nothing before it to go back to".to_owned(),
    }
}

/// Every tag but production, with its way back.
fn other_tags(
    tags: RwSignal<Fetched<Vec<TagState>>>,
    name_of: Callback<String, String>,
    act: Callback<(Command, String)>,
) -> AnyView {
    let others = Memo::new(move |_| {
        let of = |tags: &Fetched<Vec<TagState>>| {
            let others = tags.value().into_iter().flatten().filter(|tag| tag.now.tag != PRODUCTION);
            others.cloned().collect::<Vec<_>>()
        };
        tags.with(of)
    });
    let row = move |TagState { now, back_to }: TagState| {
        let (name, shown, disabled) = (now.tag.clone(), points_to(&now, name_of), back_to.is_none());
        let title = way_back(back_to, name_of);
        let roll_back = Callback::new(move |()| {
            let said = format!("Tag {} is rolled back", now.tag);
            act.run((Command::RollBack { tag: now.tag.clone() }, said));
        });
        let button = view! {
            <ConfirmButton label="Roll back" question="Roll back now?" testid="tag-roll-back" disabled=disabled
                title=title.clone() act=roll_back/>
        };
        vec![name.into_any(), shown.into_any(), button.into_any(), title.into_any()]
    };
    let shown = move || {
        let rows: Vec<_> = others.get().into_iter().map(row).collect();
        (!rows.is_empty()).then(|| table("tags", &["other tags", "point to", "", ""], rows))
    };
    view! { {shown} }.into_any()
}

/// Every move of a tag, newest first.
fn moves(history: RwSignal<Fetched<Vec<Promotion>>>, name_of: Callback<String, String>) -> AnyView {
    let move_of = move |moved: Promotion| {
        let then = if moved.undone { ", rolled back since" } else { "" };
        let time = clock::local_time(moved.time_millis);
        [time, moved.tag, name_of.run(moved.checkpoint) + then, moved.by].map(IntoAny::into_any).into()
    };
    let shown = move || {
        if let Some(reason) = history.read().failure() {
            return failed("promotions-failed", reason.to_owned());
        }
        let rows = history.get().value().into_iter().flatten().rev().cloned().map(move_of).collect();
        table("promotions", &["when", "tag", "to", "by"], rows)
    };
    view! { {shown} }.into_any()
}
