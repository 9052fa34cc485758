//! A button for what cannot be undone: the first press asks, the second one does it. Going elsewhere takes the question back.

use leptos::prelude::*;

/// The button.
#[component]
pub fn ConfirmButton(
    /// What it does.
    label: &'static str,
    /// What it says once pressed.
    question: &'static str,
    /// For the browser test.
    testid: &'static str,
    /// Whether it can be pressed.
    #[prop(into)]
    disabled: Signal<bool>,
    /// Why it cannot, or what it will do.
    #[prop(into)]
    title: Signal<String>,
    /// Does it.
    act: Callback<()>,
) -> impl IntoView {
    let asked = RwSignal::new(false);
    let press = move |_| {
        if asked.get_untracked() {
            asked.set(false);
            act.run(());
        } else {
            asked.set(true);
        }
    };
    view! {
        <button type="button" data-testid=testid class:danger=move || asked.get() prop:disabled=move || disabled.get()
            title=move || title.get() on:click=press on:blur=move |_| asked.set(false)>
            <span aria-live="polite">{move || if asked.get() { question } else { label }}</span>
        </button>
    }
}
