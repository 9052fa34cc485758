//! Preview: a conversation, and what the engine in this page would suggest next, each suggestion with the
//! reward model's belief drawn beside it; two checkpoints side by side if wanted.

mod column;
pub mod conversation;
mod settings;

use crate::component::spread::{SpreadLegend, shared_axis};
use crate::engine_link::EngineLink;
use crate::platform::spawn;
use crate::wire::{Request, Side, Suggested};
use column::Column;
use conversation::{Conversation, Editor};
use leptos::prelude::*;
use settings::{Settings, SettingsForm};

/// What one side last answered.
#[derive(Clone, Copy)]
pub struct Answer {
    /// Suggestions.
    pub suggested: RwSignal<Option<Suggested>>,
    /// Why there are none.
    pub failure: RwSignal<Option<String>>,
    /// Whether the engine is at work.
    pub busy: RwSignal<bool>,
}

impl Answer {
    fn new() -> Self {
        Self { suggested: RwSignal::new(None), failure: RwSignal::new(None), busy: RwSignal::new(false) }
    }
}

/// The page.
#[component]
pub fn PreviewPage() -> impl IntoView {
    let engine = expect_context::<EngineLink>();
    let conversation = expect_context::<Conversation>();
    let settings = Settings::load();
    let answers = [Answer::new(), Answer::new()];
    let comparing = Signal::derive(move || engine.side(Side::B).pick.with(Option::is_some));
    let axis = Signal::derive(move || {
        let shown: Vec<Suggested> = answers.iter().filter_map(|a| a.suggested.get()).collect();
        shared_axis(shown.iter().flat_map(|s| &s.candidates).filter_map(|s| s.score))
    });
    let ask = move |side: Side| suggest(engine, side, answers[side.index()], conversation, settings);
    let ask_all = move || {
        ask(Side::A);
        if comparing.get_untracked() {
            ask(Side::B);
        }
    };
    // a chip that was taken is a new turn; the next suggestions follow by themselves
    let take = Callback::new(move |text: String| {
        conversation.add_user(text);
        ask_all();
    });
    let busy = move || answers.iter().any(|a| a.busy.get());
    view! {
        <div data-testid="preview-page" class="page">
            <h1 id="page-title" tabindex="-1">"Preview"</h1>
            <p class="lead">"A conversation, and what the model in this page would suggest next. Nothing leaves the browser."</p>
            <Editor conversation=conversation/>
            <section class="card">
                <div class="form-row">
                    <button class="primary" type="button" data-testid="suggest"
                        prop:disabled=move || busy() || conversation.is_empty()
                        on:click=move |_| ask_all()>
                        {move || if busy() { "Writing…" } else { "Suggest" }}
                    </button>
                    <SettingsForm settings=settings engine=engine/>
                </div>
                <SpreadLegend/>
            </section>
            <div class:columns=move || comparing.get()>
                <Column side=Side::A answer=answers[0] axis=axis settings=settings take=take/>
                <Show when=move || comparing.get()>
                    <Column side=Side::B answer=answers[1] axis=axis settings=settings take=take/>
                </Show>
            </div>
            <CompareButton comparing=comparing/>
        </div>
    }
}

#[component]
fn CompareButton(comparing: Signal<bool>) -> impl IntoView {
    let engine = expect_context::<EngineLink>();
    let toggle = move |_| {
        let b = engine.side(Side::B).pick;
        if comparing.get_untracked() {
            b.set(None);
        } else {
            // the second newest, else the same one with another executor or seed
            let a = engine.target(Side::A).map(|c| c.id);
            b.set(engine.other_checkpoint(a.as_deref()).or(a));
        }
    };
    view! {
        <button type="button" data-testid="compare" on:click=toggle>
            {move || if comparing.get() { "Stop comparing" } else { "Compare with another checkpoint" }}
        </button>
    }
}

/// Asks one side's engine, with the same prompt and seed for both.
fn suggest(engine: EngineLink, side: Side, answer: Answer, conversation: Conversation, settings: Settings) {
    let request = Request::Suggest {
        side,
        prompt: conversation.prompt(),
        n_candidates: settings.n_candidates(),
        max_new_tokens: settings.max_new_tokens(),
        sampling: settings.sampling(),
    };
    answer.busy.set(true);
    answer.failure.set(None);
    spawn(async move {
        let outcome = match engine.ready(side).await {
            Ok(_) => engine.suggest(side, request).await,
            Err(reason) => Err(reason),
        };
        match outcome {
            Ok(suggested) => answer.suggested.set(Some(suggested)),
            Err(reason) => answer.failure.set(Some(reason)),
        }
        answer.busy.set(false);
    });
}
