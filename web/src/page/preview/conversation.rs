//! The conversation that suggestions are for, and its editor. It outlives a change of page.

use beckon_shared::prompt::{Prompt, Role, Turn};
use leptos::prelude::*;

/// Queries to begin with.
const SAMPLES: [&str; 6] = [
    "how to cook rice",
    "rust programming",
    "paris travel guide",
    "fitbit sync now",
    "best running shoes",
    "caesars atlantic city",
];

/// A turn under edit.
#[derive(Clone, Copy)]
struct EditedTurn {
    key: usize,
    role: Role,
    text: RwSignal<String>,
}

/// Turns, oldest first.
#[derive(Clone, Copy)]
pub struct Conversation {
    turns: RwSignal<Vec<EditedTurn>>,
    next_key: StoredValue<usize>,
}

impl Conversation {
    /// A conversation of one sample query.
    pub fn new() -> Self {
        let conversation = Self { turns: RwSignal::new(Vec::new()), next_key: StoredValue::new(0) };
        conversation.add(Role::User, SAMPLES[0].to_owned());
        conversation
    }

    /// Adds what the user says next.
    pub fn add_user(&self, text: String) {
        self.add(Role::User, text);
    }

    fn add(&self, role: Role, text: String) {
        let key = self.next_key.get_value();
        self.next_key.set_value(key + 1);
        self.turns.update(|turns| turns.push(EditedTurn { key, role, text: RwSignal::new(text) }));
    }

    fn remove(&self, key: usize) {
        self.turns.update(|turns| turns.retain(|turn| turn.key != key));
    }

    fn restart(&self, query: &str) {
        self.turns.set(Vec::new());
        self.add(Role::User, query.to_owned());
    }

    /// The turns that are not blank.
    pub fn prompt(&self) -> Prompt {
        let turns = self.turns.get_untracked();
        let turn = |t: EditedTurn| Turn { role: t.role, text: t.text.get_untracked().trim().to_owned() };
        Prompt { turns: turns.into_iter().map(turn).filter(|t| !t.text.is_empty()).collect() }
    }

    /// Whether nothing was said, tracked.
    pub fn is_empty(&self) -> bool {
        self.turns.with(|turns| turns.iter().all(|t| t.text.with(|text| text.trim().is_empty())))
    }
}

/// Turns with buttons to add and remove.
#[component]
pub fn Editor(conversation: Conversation) -> impl IntoView {
    let row = move |turn: EditedTurn| {
        let who = if turn.role == Role::User { "user" } else { "assistant" };
        let id = format!("turn-{}", turn.key);
        view! {
            <li class=format!("turn turn-{who}") data-testid="turn" data-role=who>
                <label for=id.clone()>{who}</label>
                <textarea
                    id=id
                    rows="1"
                    data-testid="turn-text"
                    prop:value=move || turn.text.get()
                    on:input=move |ev| turn.text.set(event_target_value(&ev))
                ></textarea>
                <button type="button" class="quiet" aria-label=format!("Remove this {who} turn")
                    on:click=move |_| conversation.remove(turn.key)>"×"</button>
            </li>
        }
    };
    let sample = move |query: &'static str| {
        view! {
            <button type="button" class="quiet" data-testid="sample-prompt" on:click=move |_| conversation.restart(query)>
                {query}
            </button>
        }
    };
    view! {
        <section class="card">
            <h2>"Conversation"</h2>
            <ol class="turns"><For each=move || conversation.turns.get() key=|t| t.key children=row/></ol>
            <div class="form-row">
                <button type="button" data-testid="add-user" on:click=move |_| conversation.add(Role::User, String::new())>"Add user turn"</button>
                <button type="button" data-testid="add-assistant" on:click=move |_| conversation.add(Role::Assistant, String::new())>
                    "Add assistant turn"
                </button>
            </div>
            <p class="muted samples">"Begin with: " {SAMPLES.map(sample).collect_view()}</p>
        </section>
    }
}
