//! The form that makes an experiment: two checkpoints with equal shares by four fields, everything else as JSON.

use crate::api;
use crate::component::field::{failed, select_field, text_field};
use crate::experiment_form;
use crate::format;
use crate::live::Live;
use crate::platform::http::Body;
use leptos::prelude::*;

/// The form. What stands under "All settings" follows the fields until it is edited, and is what is sent.
pub fn create_form() -> AnyView {
    let live = expect_context::<Live>();
    let field = || RwSignal::new(String::new());
    let (name, control, treatment, origin) = (field(), field(), field(), field());
    let edited = RwSignal::new(None::<String>);
    let failure = RwSignal::new(None::<String>);
    let text = move || {
        edited
            .get()
            .unwrap_or_else(|| experiment_form::text(&name.get(), [&control.get(), &treatment.get()], &origin.get()))
    };
    let create = move |ev: leptos::ev::SubmitEvent| {
        ev.prevent_default();
        let body = Body::Json(untrack(text));
        api::call("POST", "/api/experiments".to_owned(), body, move |answer| {
            if answer.is_ok() {
                edited.set(None);
                live.announce("The draft is made");
                live.experiments_version.update(|version| *version += 1);
            }
            failure.set(answer.err());
        });
    };
    let checkpoints = move || {
        let list = live.checkpoints.with(|c| c.value().cloned().unwrap_or_default());
        let named = list.into_iter().map(|c| {
            let shown = format!("{} ({})", c.name, format::short_id(&c.id));
            (c.id, shown)
        });
        std::iter::once((String::new(), "choose".to_owned())).chain(named).collect()
    };
    view! {
        <section class="card">
            <h2>"New experiment"</h2>
            <form data-testid="experiment-form" novalidate=move || edited.with(Option::is_some) on:submit=create>
                <div class="form-row">
                    {text_field("Name", "experiment-name", "text", name, true)}
                    {select_field("Control", "experiment-control", control, Box::new(checkpoints))}
                    {select_field("Treatment", "experiment-treatment", treatment, Box::new(checkpoints))}
                    {text_field("Origin of your site (optional)", "experiment-origin", "text", origin, false)}
                </div>
                <p class="muted">
                    "The same checkpoint twice is an A/A test, which should find nothing. The origin, as "<code>"https://example.com"</code>
                    ", lets pages of that site report in."
                </p>
                <details>
                    <summary>"All settings"</summary>
                    {keys()}
                    <textarea class="json" rows="12" spellcheck="false" aria-label="All settings as JSON" data-testid="experiment-json"
                        prop:value=text on:input=move |ev| edited.set(Some(event_target_value(&ev)))></textarea>
                    {move || edited.with(Option::is_some).then(|| view! {
                        <p class="notice">"Edited by hand: the fields above count no more. "
                            <button type="button" class="quiet" data-testid="experiment-follow" on:click=move |_| edited.set(None)>
                                "Follow the fields again"</button>
                        </p>
                    })}
                </details>
                {move || failure.get().map(|text| failed("experiment-refused", text))}
                <button type="submit" class="primary" data-testid="experiment-create">"Make a draft"</button>
            </form>
        </section>
    }
    .into_any()
}

/// What the less plain keys mean.
fn keys() -> AnyView {
    view! {
        <p class="muted">
            "This is what is sent; it follows the fields above until you edit it. 2 to 8 arms, the first is the control; "
            <code>"weight"</code>" is an arm's share; "<code>"source"</code>" may be "<code>"{\"template\": TEXT}"</code>"; "
            <code>"layout"</code>" is split or interleaved; "<code>"traffic"</code>" [0, 0.1] is the first tenth of the "
            <code>"layer"</code>"'s users. Margins are the relative rises that the guardrails accept; "
            <code>"shares"</code>" stays empty, as weights say it. Every key: "
            <a href="/docs" target="_blank" rel="noopener">"interface"</a>"."
        </p>
    }
    .into_any()
}
